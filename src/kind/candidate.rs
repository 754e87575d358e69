//! The candidates for a request, in the form that the planner sees for every kind.

use serde::Serialize;

use crate::{
    capacity::Placement,
    device::{mdev::Parent, parameters::Parameters},
    model::{Handle, MdevTypeId, MdevUuid, NumaNode, ParentName, PciAddress},
};

/// The placeholder for a device in the domain XML.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Placeholder {
    /// A mediated device, made on any parent with the UUID of the request.
    Mdev,
    /// This PCI function and no other.
    Function(PciAddress),
    /// Any free PCI function: the hook changes the XML.
    Functions,
    /// Nothing yet: the XML is written after the plan, for whatever device the pool's
    /// drivers make.
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
    /// Whether the candidate's device fits the placeholder.
    #[must_use]
    pub fn takes(&self, candidate: &Candidate) -> bool {
        match self {
            Self::Mdev => candidate.device.is_none(),
            Self::Function(_) | Self::Functions => candidate.device.is_some(),
            Self::Any => true,
        }
    }
}

/// A parent that may serve a request for a pool, if the pool's rules take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The parent; a device that exists already is its own parent.
    pub parent: Parent,
    /// The device, if the candidate is the device itself; None for parents of mediated
    /// devices, which get the UUID of their request.
    pub device: Option<Handle>,
    /// Its board: the physical function, or the parent itself.
    pub board: ParentName,
    /// The NUMA node of its memory, if known.
    pub node: Option<NumaNode>,
    /// The number of devices in use on its board, ours or not.
    pub in_use: u32,
    /// Whether a mediated device of the parent itself is there.
    pub has_device: bool,
}

impl Candidate {
    /// How libvirt and the kernel will identify the device, if the request has that
    /// UUID.
    #[must_use]
    pub fn handle(&self, uuid: MdevUuid) -> Handle {
        self.device.unwrap_or(Handle::Mdev(uuid))
    }

    /// The PCI function, if the candidate is one itself.
    #[must_use]
    pub fn function(&self) -> Option<PciAddress> {
        self.device.and_then(Handle::pci)
    }
}

/// A device that is to be made on a candidate.
#[derive(Debug, Clone)]
pub struct ToMake<'a> {
    /// The type to make.
    pub type_id: &'a MdevTypeId,
    /// The UUID, for devices that have one.
    pub uuid: MdevUuid,
    /// The place on its board, if the plan says so.
    pub placement: Option<Placement>,
    /// Its parameters.
    pub parameters: &'a Parameters,
    /// PCI functions that earlier devices of the plan are or take along.
    pub along: &'a [PciAddress],
}

/// Facts about a device that stay the same as long as it exists, other than its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeAs {
    /// The word for the framework that makes it.
    pub word: &'static str,
    /// As long as this path exists, the kernel is not about to remove the device.
    pub rests_on: String,
    /// Whether a QEMU that is killed early can leave the device unusable until it is
    /// recreated.
    pub can_wedge: bool,
}

/// The place on its board for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlacementChoice {
    /// Sizes are not mixed there, or the places are unknown: the driver chooses.
    Anywhere,
    /// This place.
    At(Placement),
    /// Other devices, including those of the plan, have every place.
    Nowhere,
}

/// A candidate, or a device that should be one, and why it cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// Its name.
    pub candidate: ParentName,
    /// Why it cannot serve.
    pub reason: String,
}

/// A device that a pool's rules take but that makes nothing for the pool now, so that
/// it is not a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    /// The device, and why it makes nothing.
    pub rejection: Rejection,
    /// Whether it only needs to be set up with 'virt-vgpu host apply'.
    pub is_unready: bool,
}

/// The facts that a plan compares, so that nothing else is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Detail {
    /// NUMA nodes: the domain is bound to NUMA nodes.
    pub nodes: bool,
    /// Also the boards of unused virtual functions: several devices are planned at
    /// once, or a person wants to see them.
    pub boards: bool,
    /// Skip mdev parents: all requests name virtual functions.
    pub functions_only: bool,
    /// How many candidates are asked in addition to the chosen one, because another start
    /// may be faster. Of functions that are alike, one on each PCI bus is asked.
    pub ahead: usize,
    /// Whether GPU instances that a start would make do not count.
    pub existing_instances_only: bool,
    /// Whether drivers are not asked any more. The answer of one function then counts
    /// for all functions of its board.
    pub is_settled: bool,
}

/// A device that another domain's claim announces but that does not exist yet. Its
/// parent and its board have that much less space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Its parent.
    pub parent: ParentName,
    /// The parent's board.
    pub board: ParentName,
    /// Its type.
    pub type_id: MdevTypeId,
    /// Its place in the memory of its board, if one was chosen.
    pub placement: Option<Placement>,
}
