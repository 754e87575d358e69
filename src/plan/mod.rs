//! Which device a domain gets, or why it gets none: a function of the requests,
//! the pools, what the host offers and what is in use. It asks the host through
//! [`Supply`] only, so a plan can be made on a fixture, in memory, or under the
//! lock of a live host, and is the same everywhere.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    capacity::Placement,
    config::Pool,
    device::{
        gpu::GpuState,
        mdev::{Offer, Parent},
        numa::NumaTopology,
        nvml::Placements,
        parameters::Parameters,
        step::Step,
    },
    model::{
        DeviceName, DomainName, Handle, MdevTypeId, MdevUuid, NumaNode, ParentName, PciAddress,
        PoolName,
    },
};

mod failed;
mod feasible;
mod idle;
mod planner;
mod pools_taking;
mod refusal;
mod supply;
mod survey;

use planner::Planner;

pub use failed::Failed;
pub use idle::Idle;
pub use pools_taking::pools_taking;
pub use refusal::{Refusal, RefusalKind, Rejection};
pub use supply::{Detail, HostSupply, Standing};
pub use survey::{Surveyed, survey};

/// What stands for a device in the domain XML.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A mediated device, made anywhere under the UUID of the request.
    Mdev,
    /// This virtual function and no other.
    Function(PciAddress),
    /// A virtual function, whichever is free: the XML is changed on the way.
    Functions,
    /// Nothing yet: whatever the pool's drivers make, the XML is written after the
    /// plan.
    Any,
}

/// A device to plan for.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The request's name.
    pub device: &'a DeviceName,
    /// The UUID that the request always has; a mediated device's.
    pub uuid: MdevUuid,
    /// What the domain XML names.
    pub source: Source,
    /// The pool it comes from.
    pub pool: &'a Pool,
    /// Devices of the pool that claims hold now, over all domains.
    pub pool_in_use: u32,
    /// What it is given beyond its type.
    pub parameters: Parameters,
}

/// What the host has for a pool.
pub trait Supply {
    /// The parents that there are for pools of this kind, in ascending order of
    /// address. Whether the pool's rules take one is the first question of [`Self::offer`],
    /// because to answer it costs reading: a start asks in order of preference
    /// and stops at the first parent with room.
    ///
    /// # Errors
    /// A text, when the host cannot be read at all.
    fn candidates(&self, pool: &Pool, source: &Source) -> Result<Vec<Candidate>, String>;

    /// What one of them has for the pool, as of now; None when the pool's rules
    /// do not take it.
    fn offer(&self, pool: &Pool, candidate: &Candidate) -> Option<Offer>;

    /// The names of all types of the candidate's GPU and the places that they can
    /// have now, where sizes are mixed; empty where nobody tells.
    fn places(&self, candidate: &Candidate) -> Vec<(String, Placements)>;

    /// The GPU that the candidate is or belongs to, as it stands: what several
    /// devices that are planned at once share. None where nothing is known of the
    /// board as a whole, which is so for every driver but NVIDIA's.
    fn gpu(&self, candidate: &Candidate) -> Option<GpuState>;

    /// What the candidate's board is: its PCI ids. Names of types do not tell, for two
    /// boards may share one (`DC`). None where it does not say.
    fn model(&self, candidate: &Candidate) -> Option<String>;

    /// The same of the NVIDIA vGPUs that the domain has already: one VM has vGPUs of one
    /// board type.
    fn model_beside(&self) -> Option<String>;

    /// Devices that other domains are about to have and that the host does not show.
    fn announced(&self) -> &[Announced] {
        &[]
    }

    /// What the pool's rules take and no candidate for `source` stands for, each with
    /// the reason: asked for a refusal only.
    fn idle(&self, pool: &Pool, source: &Source) -> Vec<Rejection> {
        let _ = (pool, source);
        Vec::new()
    }
}

/// How a candidate makes a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// It is the parent of mediated devices.
    Mdev,
    /// It is this virtual function, which becomes a vGPU itself.
    VendorVfio(PciAddress),
}

/// A parent that may serve a pool, if the pool's rules take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The parent; a virtual function is its only device's own.
    pub parent: Parent,
    /// How it makes one.
    pub interface: Interface,
    /// Its board: the physical function, or itself.
    pub board: ParentName,
    /// Where its memory is near, if it says so.
    pub node: Option<NumaNode>,
    /// Mediated devices on its board, whoever made them.
    pub in_use: u32,
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

/// Where the domain's memory and CPUs are.
#[derive(Debug, Clone, Default)]
pub struct Nearness {
    /// The nodes that the domain is bound to; empty when it is not bound.
    pub nodes: Vec<NumaNode>,
    /// The host's layout, needed only with nodes.
    pub topology: NumaTopology,
}

impl Nearness {
    /// Distance from the nearest of the domain's nodes. A device without a node
    /// is farther than any that has one; without a preference all are equal.
    fn distance(&self, node: Option<NumaNode>) -> u32 {
        if self.nodes.is_empty() {
            return 0;
        }
        let Some(node) = node else { return u32::MAX };
        let known = self
            .nodes
            .iter()
            .filter_map(|&from| self.topology.distance(from, node))
            .min();
        known.unwrap_or(if self.nodes.contains(&node) {
            10
        } else {
            u32::MAX - 1
        })
    }
}

/// One request's device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assignment {
    /// The request's name.
    pub device: DeviceName,
    /// Its pool.
    pub pool: PoolName,
    /// The UUID it is made under.
    pub uuid: MdevUuid,
    /// How it is made.
    #[serde(skip)]
    pub interface: Interface,
    /// What it is to libvirt and the kernel.
    #[serde(skip)]
    pub handle: Handle,
    /// What a claim says of the way it is made.
    #[serde(skip)]
    pub made_as: MadeAs,
    /// Where it is made.
    pub parent: ParentName,
    /// The parent's board, as far as the plan has looked.
    #[serde(skip)]
    pub board: ParentName,
    /// As what it is made.
    #[serde(rename = "type")]
    pub type_id: MdevTypeId,
    /// Where in its GPU's memory, if the plan says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Its parameters that keep the VM from being saved and migrated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub against_migration: Vec<&'static str>,
    /// Why there, for people.
    pub reason: String,
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

/// Devices for all of a domain's requests and the steps that make them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// In the order of the requests.
    pub assignments: Vec<Assignment>,
    /// In the order of the assignments.
    pub steps: Vec<Step>,
    /// The assignment that each step is for.
    #[serde(skip)]
    pub owners: Vec<usize>,
}

/// Plans devices for all the requests, or for none.
///
/// # Errors
/// A refusal that names every candidate of the pool that could not serve.
pub fn plan(
    domain: &DomainName,
    wanted: &[Wanted<'_>],
    supply: &dyn Supply,
    nearness: &Nearness,
    failed: &Failed,
) -> Result<Plan, Refusal> {
    Planner {
        domain,
        wanted,
        supply,
        nearness,
        failed,
        markets: BTreeMap::new(),
        taken: Vec::new(),
        boards: planner::Boards::default(),
    }
    .run()
}
