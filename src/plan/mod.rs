//! Which device a domain gets, or why it gets none: a function of the requests,
//! the pools, what the host offers and what is in use. It asks the host through
//! [`HostSupply`] only, so a plan can be made on a fixture, in memory, or under the
//! lock of a live host, and is the same everywhere.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    capacity::Placement,
    config::Pool,
    device::{numa::NumaTopology, parameters::Parameters, step::Step, topology::Place},
    model::{
        DeviceName, DomainName, Handle, MdevTypeId, MdevUuid, NumaNode, ParentName, PciAddress,
        PoolName, Together,
    },
};

mod answers;
mod failed;
mod feasible;
mod planner;
mod pools_taking;
mod refusal;
mod supply;
mod survey;

use planner::{Boards, Planner, Taken};

pub use crate::kind::{Announced, Candidate, Detail, Idle, MadeAs, Placeholder, Rejection};
pub use answers::Answers;
pub use failed::Failed;
pub use pools_taking::pools_taking;
pub use refusal::{Obstacle, Refusal, RefusalKind};
pub use supply::{AllPools, HostSupply, Rivals, Standing};
pub use survey::{Surveyed, in_order, survey};

/// A device to plan for.
#[derive(Debug, Clone)]
pub struct PlanRequest<'a> {
    /// The request's name.
    pub device: &'a DeviceName,
    /// The fixed UUID of the request, for mediated devices.
    pub uuid: MdevUuid,
    /// The placeholder in the domain XML.
    pub placeholder: Placeholder,
    /// The pool it comes from.
    pub pool: &'a Pool,
    /// Devices of the pool in all claims now, over all domains.
    pub pool_in_use: u32,
    /// Its parameters.
    pub parameters: Parameters,
    /// What its device should share with those of the domain's other requests that say
    /// the same. This never refuses a request.
    pub together: Option<Together>,
}

/// The NUMA nodes of the domain's memory and CPUs, and the devices that it has.
#[derive(Debug, Clone, Default)]
pub struct Nearness {
    /// The nodes that the domain is bound to; empty when it is not bound.
    pub nodes: Vec<NumaNode>,
    /// The host's layout, needed only with nodes.
    pub topology: NumaTopology,
    /// The places of devices outside of the plan with which devices of the plan should
    /// share something.
    pub beside: Vec<(Together, Place)>,
}

impl Nearness {
    /// Distance from the nearest of the domain's nodes. A device without a node is
    /// farther than any device with a node. If the domain is not bound, all distances
    /// are equal.
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
    /// The UUID of the device.
    pub uuid: MdevUuid,
    /// How libvirt and the kernel identify it.
    #[serde(skip)]
    pub handle: Handle,
    /// How it is made, for the claim.
    #[serde(skip)]
    pub made_as: MadeAs,
    /// Its parent.
    pub parent: ParentName,
    /// The parent's board, if the plan has looked for it.
    #[serde(skip)]
    pub board: ParentName,
    /// Other PCI functions that it takes along.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub along: Vec<PciAddress>,
    /// Why the host needs it, if a rule with `allow-critical` takes it all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_host: Option<String>,
    /// Whether a rule with `allow-critical` takes it, needed or not.
    #[serde(skip)]
    pub may_be_critical: bool,
    /// Its type.
    #[serde(rename = "type")]
    pub type_id: MdevTypeId,
    /// Its place in its GPU's memory, if the plan chose one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Its parameters that make it impossible to save or migrate the VM.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub against_migration: Vec<&'static str>,
    /// The reason for the choice, for people.
    pub reason: String,
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

impl Plan {
    /// The first assignment for which a GPU instance has to be made. The plan is then no plan to
    /// carry out: afterwards there is another one, in the GPU instance that was made.
    #[must_use]
    pub fn needs_new_instance(&self) -> Option<usize> {
        self.assignments.iter().position(|one| {
            one.placement
                .is_some_and(crate::capacity::Placement::needs_new_instance)
        })
    }
}

/// Plans devices for all the requests, or for none.
///
/// # Errors
/// A refusal that names every candidate of the pool and why it could not serve.
pub fn plan(
    domain: &DomainName,
    wanted: &[PlanRequest<'_>],
    supply: &HostSupply<'_>,
    nearness: &Nearness,
    failed: &Failed,
) -> Result<Plan, Refusal> {
    Planner {
        domain,
        wanted,
        supply,
        nearness,
        failed,
        choices: BTreeMap::new(),
        taken: Taken::beside(supply.view().announced()),
        boards: Boards::default(),
        within: BTreeMap::new(),
    }
    .run()
}
