//! The layout of a GPU: which of its GPU instances stay, which are destroyed and which are
//! created where.

use super::{
    board::{Board, InstanceId, ProfileId, Slots},
    need::InstanceNeed,
    occupied::Occupied,
    refusal::{self, DoesNotFit},
    search::{Group, best_places},
    usefulness::{Later, Usefulness},
};

/// A GPU instance that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its number.
    pub id: InstanceId,
    /// Its profile.
    pub profile: ProfileId,
    /// Where it lies, as read back: the driver may have chosen.
    pub slots: Slots,
    /// Whether we created it. Others are never destroyed.
    pub ours: bool,
    /// Whether vGPUs are in it: then it counts for what pools need, whoever created it.
    pub has_vgpus: bool,
    /// The domains or other users of it. The driver destroys an instance whose vGPU types
    /// are set but not running, so whoever fills this in counts those as well.
    pub users: Vec<String>,
}

impl Instance {
    /// Whether it may be destroyed.
    #[must_use]
    pub fn is_idle_and_ours(&self) -> bool {
        self.ours && self.users.is_empty()
    }
}

/// A GPU instance to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewInstance {
    /// Its profile.
    pub profile: ProfileId,
    /// Where: the driver's own choice may keep others from fitting.
    pub slots: Slots,
}

/// A GPU instance to destroy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destroyed {
    /// The instance.
    pub instance: Instance,
    /// The reason.
    pub why: Why,
}

/// Why an instance is destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No pool needs it.
    NotNeeded,
    /// It lies where another instance has to be; it is created again elsewhere.
    InTheWay,
}

/// What becomes of a GPU's instances. Each list is in the order of the slots, except
/// `created`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Stay, and are needed.
    pub kept: Vec<Instance>,
    /// In the order of creation: large ones first.
    pub created: Vec<NewInstance>,
    /// Idle ones of ours.
    pub destroyed: Vec<Destroyed>,
    /// Not needed, but in use or not ours: they stay, and take space.
    pub blocked: Vec<Instance>,
}

impl Layout {
    /// The layout that fulfils the needs: what is in use or not ours stays where it is; so
    /// does what is needed, as far as all needs fit then; what is new is placed so that
    /// the free part is the most useful for what pools may still want.
    ///
    /// # Errors
    /// When the needs do not fit: why, and what does.
    pub fn plan(
        board: &Board,
        existing: &[Instance],
        needs: &[InstanceNeed],
    ) -> Result<Self, Box<DoesNotFit>> {
        let task = Task::new(board, existing, needs);
        if let Some(reason) = refusal::impossible(board, needs) {
            return Err(task.refused(reason, needs));
        }
        task.layout().ok_or_else(|| {
            let reason = task.why_not();
            task.refused(reason, needs)
        })
    }

    /// Whether nothing has to be done.
    #[must_use]
    pub fn is_as_it_should_be(&self) -> bool {
        self.created.is_empty() && self.destroyed.is_empty()
    }

    /// What is taken when the layout is there.
    #[must_use]
    pub fn occupied(&self, board: &Board) -> Occupied {
        let mut occupied = Occupied::by(board, self.kept.iter().chain(&self.blocked));
        for new in &self.created {
            occupied.add(board, new.profile, new.slots);
        }
        occupied
    }
}

/// The needs of a GPU, sorted out by profile.
#[derive(Debug, Clone)]
pub(super) struct Task<'a> {
    pub board: &'a Board,
    pub existing: &'a [Instance],
    /// What has to be found places for, in the board's order.
    pub groups: Vec<Group>,
    /// What cannot go.
    pub fixed: Vec<&'a Instance>,
    /// Of those, the ones that pools need, now or later.
    needed: Vec<&'a Instance>,
    /// Of those, the ones that they need now.
    needed_now: Vec<&'a Instance>,
    later: Vec<Later>,
}

impl<'a> Task<'a> {
    pub fn new(board: &'a Board, existing: &'a [Instance], needs: &[InstanceNeed]) -> Self {
        let fixed = existing.iter().filter(|one| !one.is_idle_and_ours());
        let mut task = Self {
            board,
            existing,
            groups: Vec::new(),
            fixed: fixed.collect(),
            needed: Vec::new(),
            needed_now: Vec::new(),
            later: Vec::new(),
        };
        // Those in use count first: they are needed in any case.
        task.fixed
            .sort_by_key(|one| (one.users.is_empty(), one.slots));
        for (profile, its) in board.profiles().iter().enumerate() {
            let its_needs = || needs.iter().filter(|need| need.profile == its.id);
            let sum = |count: fn(&InstanceNeed) -> u32| {
                its_needs().map(count).fold(0, u32::saturating_add)
            };
            let (instances, later) = (sum(|need| need.instances), sum(|need| need.later));
            let alike = task
                .fixed
                .iter()
                .copied()
                .filter(|one| one.profile == its.id && (one.ours || one.has_vgpus));
            let (mut missing, mut more) = (instances, later);
            for one in alike.collect::<Vec<_>>() {
                if missing > 0 {
                    missing -= 1;
                    task.needed_now.push(one);
                } else if more > 0 {
                    more -= 1;
                } else {
                    continue;
                }
                task.needed.push(one);
            }
            task.later.push(Later {
                profile: its.id,
                instances: more,
                weight: sum(|need| need.weight),
            });
            if missing > 0 {
                task.groups.push(Group {
                    profile,
                    instances: missing,
                    idle: existing
                        .iter()
                        .filter(|one| one.is_idle_and_ours() && one.profile == its.id)
                        .map(|one| one.slots)
                        .collect(),
                });
            }
        }
        task
    }

    pub fn taken(&self) -> Occupied {
        Occupied::by(self.board, self.fixed.iter().copied())
    }

    /// Whether it cannot go, and one of the needed instances of today.
    pub fn is_needed_now(&self, one: &Instance) -> bool {
        self.needed_now.iter().any(|needed| needed.id == one.id)
    }

    /// The layout; None if the needs do not fit.
    pub fn layout(&self) -> Option<Layout> {
        let mut usefulness = Usefulness::new(self.board, &self.later);
        let found = best_places(self.taken(), &self.groups, &mut usefulness)?;
        let mut layout = Layout::default();
        for one in &self.fixed {
            let is_needed = self.needed.iter().any(|needed| needed.id == one.id);
            let list = match is_needed {
                true => &mut layout.kept,
                false => &mut layout.blocked,
            };
            list.push((*one).clone());
        }
        let mut places = found.places;
        for one in self.existing.iter().filter(|one| one.is_idle_and_ours()) {
            let profile = self.board.index(one.profile);
            let its = places
                .iter()
                .position(|(found, slots)| Some(*found) == profile && *slots == one.slots);
            if let Some(its) = its {
                places.remove(its);
                layout.kept.push(one.clone());
            } else {
                layout.destroyed.push(Destroyed {
                    instance: one.clone(),
                    why: Why::NotNeeded,
                });
            }
        }
        for (profile, slots) in places {
            let Some(profile) = self.board.profiles().get(profile) else {
                continue;
            };
            layout.created.push(NewInstance {
                profile: profile.id,
                slots,
            });
            // A needed one that goes is one of those that are created again.
            let moved = layout.destroyed.iter_mut().find(|destroyed| {
                destroyed.why == Why::NotNeeded && destroyed.instance.profile == profile.id
            });
            if let Some(moved) = moved {
                moved.why = Why::InTheWay;
            }
        }
        layout.kept.sort_by_key(|one| one.slots);
        layout.blocked.sort_by_key(|one| one.slots);
        layout.destroyed.sort_by_key(|one| one.instance.slots);
        Some(layout)
    }
}
