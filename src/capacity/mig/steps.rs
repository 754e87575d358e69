//! The steps from the present instances to a layout.

use super::{
    board::{Board, ProfileId, Slots},
    layout::Layout,
};

/// A step. An instance is named by its profile and slots: its id is known only when it has
/// been created, and one that is created again gets another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutStep {
    /// Destroy the instance that lies there; before it, its compute instances: the driver
    /// refuses otherwise.
    Destroy {
        /// Its profile.
        profile: ProfileId,
        /// Where it lies.
        slots: Slots,
        /// Whether it has a compute instance of ours.
        compute_instance: bool,
    },
    /// Create an instance at exactly these slots.
    Create {
        /// Its profile.
        profile: ProfileId,
        /// Where.
        slots: Slots,
        /// Whether it gets one compute instance as large as itself.
        compute_instance: bool,
    },
}

impl LayoutStep {
    /// The step that leaves what was before.
    #[must_use]
    pub fn undo(self) -> Self {
        match self {
            Self::Destroy {
                profile,
                slots,
                compute_instance,
            } => Self::Create {
                profile,
                slots,
                compute_instance,
            },
            Self::Create {
                profile,
                slots,
                compute_instance,
            } => Self::Destroy {
                profile,
                slots,
                compute_instance,
            },
        }
    }
}

impl Layout {
    /// First everything that goes, then everything new, large instances first.
    #[must_use]
    pub fn steps(&self, board: &Board) -> Vec<LayoutStep> {
        let compute_instance = board.compute_instances();
        let destroyed = self.destroyed.iter().map(|one| LayoutStep::Destroy {
            profile: one.instance.profile,
            slots: one.instance.slots,
            compute_instance,
        });
        let created = self.created.iter().map(|new| LayoutStep::Create {
            profile: new.profile,
            slots: new.slots,
            compute_instance,
        });
        destroyed.chain(created).collect()
    }
}
