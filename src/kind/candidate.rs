//! What may serve a request, as the planner sees it whatever its kind.

use serde::Serialize;

use crate::{
    capacity::Placement,
    device::{mdev::Parent, parameters::Parameters},
    model::{Handle, MdevTypeId, MdevUuid, NumaNode, ParentName, PciAddress},
};

/// What stands for a device in the domain XML.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Placeholder {
    /// A mediated device, made anywhere under the UUID of the request.
    Mdev,
    /// This PCI function and no other.
    Function(PciAddress),
    /// A PCI function, whichever is free: the XML is changed on the way.
    Functions,
    /// Nothing yet: whatever the pool's drivers make, the XML is written after the
    /// plan.
    Any,
}

impl From<Handle> for Placeholder {
    fn from(handle: Handle) -> Self {
        match handle {
            Handle::Mdev(_) => Self::Mdev,
            Handle::Pci(function) => Self::Function(function),
        }
    }
}

impl Placeholder {
    /// Whether a device that the candidate gives can stand there.
    #[must_use]
    pub fn takes(&self, candidate: &Candidate) -> bool {
        match self {
            Self::Mdev => candidate.device.is_none(),
            Self::Function(_) | Self::Functions => candidate.device.is_some(),
            Self::Any => true,
        }
    }
}

/// A parent that may serve a pool, if the pool's rules take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The parent; a device that is there already is its own.
    pub parent: Parent,
    /// The device that it is itself; None for what makes mediated devices, each under the
    /// UUID of its request.
    pub device: Option<Handle>,
    /// Its board: the physical function, or itself.
    pub board: ParentName,
    /// Where its memory is near, if it says so.
    pub node: Option<NumaNode>,
    /// Devices in use on its board, whoever made them.
    pub in_use: u32,
    /// Whether a mediated device of the parent itself is there.
    pub has_device: bool,
}

impl Candidate {
    /// What libvirt and the kernel will know the device by, where the request has that
    /// UUID.
    #[must_use]
    pub fn handle(&self, uuid: MdevUuid) -> Handle {
        self.device.unwrap_or(Handle::Mdev(uuid))
    }

    /// The PCI function that it is itself.
    #[must_use]
    pub fn function(&self) -> Option<PciAddress> {
        self.device.and_then(Handle::pci)
    }
}

/// A device that is to be made on a candidate.
#[derive(Debug, Clone)]
pub struct ToMake<'a> {
    /// As what.
    pub type_id: &'a MdevTypeId,
    /// Under which UUID, where devices have one.
    pub uuid: MdevUuid,
    /// Where on its board, if the plan says so.
    pub placement: Option<Placement>,
    /// What it is given beyond its type.
    pub parameters: &'a Parameters,
}

/// What is to be known of a device for as long as it is there, besides its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeAs {
    /// The word for how it is made.
    pub word: &'static str,
    /// While this path is there the kernel is not about to take the device away.
    pub rests_on: String,
    /// Whether a QEMU that is killed early may leave it unusable until it is renewed.
    pub can_wedge: bool,
}

/// Where on its board a device goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlacementChoice {
    /// Sizes are not mixed there, or nobody tells the places: the driver chooses.
    Anywhere,
    /// There.
    At(Placement),
    /// Other devices, those of the plan among them, cover every place.
    Nowhere,
}

/// A candidate, or what should be one, and why it does not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// Its name.
    pub candidate: ParentName,
    /// Why it cannot serve.
    pub reason: String,
}

/// What the rules of a pool take and what makes nothing for it as the host stands: no
/// candidate stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    /// The device, and why it makes nothing.
    pub rejection: Rejection,
    /// Whether it is only not set up yet: 'virt-vgpu host apply' is for that.
    pub is_unready: bool,
}

/// What will be compared, so that no more than that is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Detail {
    /// NUMA nodes: the domain is bound to some.
    pub nodes: bool,
    /// The boards of unused virtual functions too: several devices are planned
    /// at once, or a person wants to see them.
    pub boards: bool,
    /// No mdev parents: all that is planned for are named virtual functions.
    pub functions_only: bool,
    /// How many candidates behind the one that is chosen are asked too: others may be
    /// faster with that one. Of functions that are alike one a PCI bus is asked.
    pub ahead: usize,
    /// Whether no driver is asked any more. One function of a board then answers for
    /// the others.
    pub is_settled: bool,
}

/// A device that is announced in another domain's claim and not made yet, as far as the
/// host shows: its parent and its board have that much less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Where it is made.
    pub parent: ParentName,
    /// The parent's board.
    pub board: ParentName,
    /// As what.
    pub type_id: MdevTypeId,
    /// Where in the memory of its board, if somebody has chosen that.
    pub placement: Option<Placement>,
}
