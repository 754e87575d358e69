//! Brings devices together that should share a PCIe bridge or a NUMA node.
//!
//! The plan without this preference comes first. Then the same planner looks for a plan in which
//! the devices are within one place, one place after the other, the nearest places first.
//! So the preference refuses no request: without such a plan, the first one stays. It also stays
//! if the other devices would be farther from the VM's own NUMA nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Ask, AskKey, Choices, Planner};
use crate::{
    config,
    device::topology::{self, Common, Place},
    model::{ParentName, PciAddress, Together},
    plan::{Assignment, Plan},
};

/// Devices that should share something.
#[derive(Debug)]
struct Group {
    together: Together,
    /// The numbers of their requests.
    members: Vec<usize>,
    /// The places of such devices outside of the plan.
    beside: Vec<Place>,
}

/// How much devices share, the nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Degree {
    Bridge,
    Node,
    Nothing,
}

impl Degree {
    fn of(common: Option<&Common>) -> Self {
        match common {
            Some(Common::Board(_) | Common::Bridge(_)) => Self::Bridge,
            Some(Common::Node(_)) => Self::Node,
            None => Self::Nothing,
        }
    }
}

impl<'a> Planner<'a> {
    /// The plan, or a better one in which devices share what they should.
    pub(super) fn bring_together(&mut self, plan: Plan) -> Plan {
        let groups = self.groups();
        if groups.is_empty() {
            return plan;
        }
        self.locate();
        let mut best = plan;
        for group in &groups {
            best = self.nearer(group, best);
        }
        best
    }

    /// The groups of more than one device.
    fn groups(&self) -> Vec<Group> {
        let group = |together| {
            let says_it = |number: &usize| self.wanted[*number].together == Some(together);
            let beside = self.nearness.beside.iter();
            Group {
                together,
                members: (0..self.wanted.len()).filter(says_it).collect(),
                beside: beside
                    .filter(|(of, _)| *of == together)
                    .map(|(_, place)| place.clone())
                    .collect(),
            }
        };
        let groups = Together::ALL.into_iter().map(group);
        groups
            .filter(|one| !one.members.is_empty() && one.members.len() + one.beside.len() > 1)
            .collect()
    }

    /// Finds out where all candidates are. The functions of a board are at one place, so
    /// each board is looked up once.
    fn locate(&mut self) {
        let sysfs = self.supply.view().sysfs();
        let mut bridges: BTreeMap<ParentName, Vec<PciAddress>> = BTreeMap::new();
        for Choices {
            candidates, places, ..
        } in self.choices.values_mut()
        {
            let place = |one: &super::Candidate| {
                let above = bridges.entry(one.board.clone());
                let above = above.or_insert_with(|| topology::bridges_above(sysfs, &one.board));
                Place {
                    board: one.board.clone(),
                    bridges: above.clone(),
                    node: one.node,
                }
            };
            *places = candidates.iter().map(place).collect();
        }
    }

    /// Whether the candidate is within the place to which the request is restricted.
    pub(super) fn is_within(&self, ask: Ask<'a>, position: usize) -> bool {
        let Some(common) = ask.together.and_then(|one| self.within.get(&one)) else {
            return true;
        };
        let Choices {
            candidates, places, ..
        } = &self.choices[&ask.key()];
        let candidate = &candidates[position];
        // Such boards are a last choice, which nearness is not worth.
        places.get(position).is_some_and(|place| common.has(place))
            && !self.has_refused(candidate)
            && !self.is_mixed(ask.pool, candidate)
    }

    /// The plan, or one in which the devices of the group share more. What they share then
    /// is kept for the groups that follow.
    fn nearer(&mut self, group: &Group, plan: Plan) -> Plan {
        let now = self.shared(group, &plan);
        let degree = Degree::of(now.as_ref());
        let distance = self.total_distance(&plan);
        for common in self.possible(group) {
            if Degree::of(Some(&common)) >= degree {
                break;
            }
            self.within.insert(group.together, common);
            let attempt = self.attempt().ok();
            if let Some(nearer) = attempt.filter(|one| self.total_distance(one) <= distance) {
                return nearer;
            }
        }
        match now {
            Some(common) => self.within.insert(group.together, common),
            None => self.within.remove(&group.together),
        };
        plan
    }

    /// What the group's devices share in the plan.
    fn shared(&self, group: &Group, plan: &Plan) -> Option<Common> {
        let planned = group.members.iter();
        let planned = planned.filter_map(|&number| {
            let assignment = plan.assignments.get(number)?;
            self.place_of(number, assignment)
        });
        let places: Vec<&Place> = planned.chain(&group.beside).collect();
        match group.together {
            Together::PcieRoot => Common::of(places),
            Together::Numa => Common::node_of(places),
        }
    }

    /// What the group's devices could share, in the order in which it is tried: bridges
    /// before nodes, and those of better candidates for the first request before others.
    fn possible(&mut self, group: &Group) -> Vec<Common> {
        self.taken.planned.clear();
        self.within.remove(&group.together);
        let keys: Vec<AskKey<'a>> = group
            .members
            .iter()
            .map(|&number| Ask::of(&self.wanted[number]).key())
            .collect();
        let Some(first) = group.members.first().map(|&one| Ask::of(&self.wanted[one])) else {
            return Vec::new();
        };
        let is_possible = |common: &Common| {
            let has_candidate = |key| {
                let mut places = self.choices[key].places.iter();
                places.any(|place| common.has(place))
            };
            group.beside.iter().all(|place| common.has(place)) && keys.iter().all(has_candidate)
        };
        let (mut bridges, mut nodes) = (Vec::new(), Vec::new());
        let places = &self.choices[&first.key()].places;
        for position in self.order(first) {
            let Some(place) = places.get(position) else {
                continue;
            };
            if group.together == Together::PcieRoot {
                let mut near: Vec<Common> = Common::near(place).collect();
                // Behind the root port there are more boards to spread over.
                if first.pool.placement == config::Placement::Spread {
                    near.reverse();
                }
                bridges.extend(near);
            }
            nodes.extend(place.node.map(Common::Node));
        }
        let mut seen = BTreeSet::new();
        let different = bridges.into_iter().chain(nodes);
        let different = different.filter(|common| seen.insert(common.clone()));
        different.filter(is_possible).collect()
    }

    fn place_of(&self, number: usize, assignment: &Assignment) -> Option<&Place> {
        let choices = &self.choices[&Ask::of(self.wanted.get(number)?).key()];
        let mut candidates = choices.candidates.iter();
        let is_its = |one: &super::Candidate| one.parent.name == assignment.parent;
        choices.places.get(candidates.position(is_its)?)
    }

    /// The distances of all devices from the VM's NUMA nodes.
    fn total_distance(&self, plan: &Plan) -> u64 {
        let assignments = plan.assignments.iter().enumerate();
        let distances = assignments.map(|(number, assignment)| {
            let place = self.place_of(number, assignment);
            u64::from(self.nearness.distance(place.and_then(|place| place.node)))
        });
        distances.sum()
    }
}
