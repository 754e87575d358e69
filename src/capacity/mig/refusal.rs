//! Why needs do not fit on a GPU, and what does.

use std::fmt;

use super::{
    board::{Board, ProfileId},
    layout::{Instance, Layout, Task},
    need::InstanceNeed,
    occupied::Occupied,
    search::{Group, fit, largest_parts},
};
use crate::model::{PoolName, pools_in_words};

/// How many layouts are proposed.
const MOST_PROPOSED: usize = 3;

/// How many instances in use are looked at one by one to find those in the way. No board of
/// NVIDIA's has more than seven instances.
const MOST_LOOKED_AT: usize = 10;

/// The needs of pools that a GPU cannot fulfil.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct DoesNotFit {
    /// The reason.
    pub reason: Reason,
    /// The layouts with the fewest needs left out; best first.
    pub nearest: Vec<Nearest>,
}

/// Why needs do not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The GPU has no such profile.
    NoProfile {
        /// The pools that need it.
        pools: Vec<PoolName>,
        /// The profile.
        profile: ProfileId,
    },
    /// More instances of one profile than the GPU can have.
    TooMany {
        /// The pools that need them.
        pools: Vec<PoolName>,
        /// The profile's name.
        profile: String,
        /// How many they need.
        needed: u32,
        /// How many the GPU can have.
        most: u32,
    },
    /// All would fit if these were not in use, or had not been created by others.
    InTheWay {
        /// As few instances as possible, with names of their profiles.
        instances: Vec<(String, Instance)>,
    },
    /// They do not fit beside each other.
    Together {
        /// How many of which profile.
        needed: Vec<(u32, String)>,
    },
}

/// A layout that fits, and what is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    /// The layout.
    pub layout: Layout,
    /// How many instances of which profile it has for pools, present ones included.
    pub included: Vec<(u32, String)>,
    /// What is left out.
    pub left_out: Vec<NotIncluded>,
}

/// Instances that a layout does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotIncluded {
    /// The pools.
    pub pools: Vec<PoolName>,
    /// The profile's name.
    pub profile: String,
    /// How many.
    pub instances: u32,
}

/// What no GPU of this model could have, whatever is on it.
pub(super) fn impossible(board: &Board, needs: &[InstanceNeed]) -> Option<Reason> {
    for need in needs {
        let Some(profile) = board.index(need.profile) else {
            return Some(Reason::NoProfile {
                pools: need.pools.clone(),
                profile: need.profile,
            });
        };
        let alike = needs.iter().filter(|other| other.profile == need.profile);
        let needed = alike
            .clone()
            .map(|need| need.instances)
            .fold(0, u32::saturating_add);
        let most = Occupied::NOTHING.fitting(board, profile);
        if needed > most {
            return Some(Reason::TooMany {
                pools: alike.flat_map(|need| need.pools.clone()).collect(),
                profile: board.name(need.profile),
                needed,
                most,
            });
        }
    }
    None
}

impl Task<'_> {
    /// Why needs that are possible in themselves do not fit.
    pub fn why_not(&self) -> Reason {
        if let Some(found) = self.in_the_way() {
            let named = |one: &Instance| (self.board.name(one.profile), one.clone());
            return Reason::InTheWay {
                instances: found.into_iter().map(named).collect(),
            };
        }
        Reason::Together {
            needed: self.in_words(|group| group.instances),
        }
    }

    /// The fewest instances that would have to go; None: it does not fit without them
    /// either. Those that pools need would have to be created again.
    fn in_the_way(&self) -> Option<Vec<&Instance>> {
        let looked_at = self.fixed.len().min(MOST_LOOKED_AT);
        let mut choices: Vec<u32> = (1..1 << looked_at).collect();
        choices.sort_by_key(|choice: &u32| choice.count_ones());
        choices.into_iter().find_map(|choice| {
            let goes = |at: usize| at < looked_at && choice & (1 << at) != 0;
            let numbered = || self.fixed.iter().copied().enumerate();
            let stay = numbered().filter(|(at, _)| !goes(*at)).map(|(_, one)| one);
            let taken = Occupied::by(self.board, stay);
            let gone = || numbered().filter(|(at, _)| goes(*at)).map(|(_, one)| one);
            let groups = self.with_again(gone());
            fit(self.board, taken, &groups).then(|| gone().collect())
        })
    }

    /// The groups, and the needed ones of these instances.
    fn with_again<'i>(&self, gone: impl Iterator<Item = &'i Instance>) -> Vec<Group> {
        let mut groups = self.groups.clone();
        for one in gone.filter(|one| self.is_needed_now(one)) {
            let Some(profile) = self.board.index(one.profile) else {
                continue;
            };
            match groups.iter_mut().find(|group| group.profile == profile) {
                Some(group) => group.instances += 1,
                None => groups.push(Group {
                    profile,
                    instances: 1,
                    idle: Vec::new(),
                }),
            }
        }
        groups
    }

    /// With the layouts that are the nearest.
    pub fn refused(&self, reason: Reason, needs: &[InstanceNeed]) -> Box<DoesNotFit> {
        let mut parts = largest_parts(self.board, self.taken(), &self.groups);
        // Of the same number of instances, the larger ones.
        parts.sort_by_cached_key(|part| std::cmp::Reverse((self.slots_of(part), part.clone())));
        parts.truncate(MOST_PROPOSED);
        let nearest = parts
            .into_iter()
            .filter_map(|part| self.nearest(&part, needs));
        Box::new(DoesNotFit {
            reason,
            nearest: nearest.collect(),
        })
    }

    fn slots_of(&self, part: &[u32]) -> u32 {
        let groups = self.groups.iter().zip(part);
        groups
            .map(|(group, instances)| self.board.profiles()[group.profile].size * instances)
            .sum()
    }

    /// The layout with that many instances of each group.
    fn nearest(&self, part: &[u32], needs: &[InstanceNeed]) -> Option<Nearest> {
        let mut smaller = self.clone();
        for (group, &instances) in smaller.groups.iter_mut().zip(part) {
            group.instances = instances;
        }
        let mut left_out = Vec::new();
        for (group, &instances) in self.groups.iter().zip(part) {
            let profile = self.board.profiles()[group.profile].id;
            // The pools that come last get nothing.
            let mut missing = group.instances - instances;
            for need in needs.iter().rev().filter(|need| need.profile == profile) {
                let its = missing.min(need.instances);
                missing -= its;
                if its > 0 {
                    left_out.push(NotIncluded {
                        pools: need.pools.clone(),
                        profile: self.board.name(profile),
                        instances: its,
                    });
                }
            }
        }
        let unknown = needs
            .iter()
            .filter(|need| self.board.index(need.profile).is_none());
        let unknown = unknown.filter(|need| need.instances > 0);
        left_out.extend(unknown.map(|need| NotIncluded {
            pools: need.pools.clone(),
            profile: self.board.name(need.profile),
            instances: need.instances,
        }));
        Some(Nearest {
            layout: smaller.layout()?,
            included: smaller.in_words(|group| group.instances),
            left_out,
        })
    }

    /// All instances that pools need now: those to find places for, counted so, and those
    /// that cannot go.
    fn in_words(&self, counted: impl Fn(&Group) -> u32) -> Vec<(u32, String)> {
        let profiles = self.board.profiles().iter().enumerate();
        let counts = profiles.map(|(at, profile)| {
            let fixed = self
                .fixed
                .iter()
                .filter(|one| one.profile == profile.id && self.is_needed_now(one));
            let group = self.groups.iter().find(|group| group.profile == at);
            let count = u32::try_from(fixed.count()).unwrap_or(u32::MAX);
            (count + group.map_or(0, &counted), profile.name.clone())
        });
        counts.filter(|(count, _)| *count > 0).collect()
    }
}

impl fmt::Display for DoesNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)?;
        for (at, nearest) in self.nearest.iter().enumerate() {
            f.write_str(if at == 0 { "; what fits: " } else { "; or: " })?;
            nearest.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProfile { pools, profile } => write!(
                f,
                "{} GPU instance profile {profile}, which this GPU does not have",
                pools_need(pools)
            ),
            Self::TooMany {
                pools,
                profile,
                needed,
                most,
            } => write!(
                f,
                "{} {needed} × {profile}, and this GPU can have {most}",
                pools_need(pools)
            ),
            Self::InTheWay { instances } => {
                f.write_str("in the way: ")?;
                let told = instances.iter().map(|(name, one)| {
                    let whose = match one.users.as_slice() {
                        [] => "not created by virt-vgpu".to_owned(),
                        users => format!("in use by {}", users.join(", ")),
                    };
                    format!("GPU instance {} ({name} at {}, {whose})", one.id, one.slots)
                });
                f.write_str(&told.collect::<Vec<_>>().join(", "))
            }
            Self::Together { needed } => {
                write!(f, "{} do not fit on one GPU", counts_in_words(needed))
            }
        }
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.included.as_slice() {
            [] => f.write_str("nothing")?,
            included => f.write_str(&counts_in_words(included))?,
        }
        let left_out = self.left_out.iter().map(|one| {
            let NotIncluded {
                pools,
                profile,
                instances,
            } = one;
            format!("{instances} × {profile} of {}", pools_in_words(pools))
        });
        let left_out: Vec<String> = left_out.collect();
        if left_out.is_empty() {
            return Ok(());
        }
        write!(f, " (without {})", left_out.join(" and "))
    }
}

fn pools_need(pools: &[PoolName]) -> String {
    let verb = if pools.len() == 1 { "needs" } else { "need" };
    format!("{} {verb}", pools_in_words(pools))
}

fn counts_in_words(counts: &[(u32, String)]) -> String {
    let counts = counts.iter().map(|(count, name)| match count {
        1 => name.clone(),
        count => format!("{count} × {name}"),
    });
    counts.collect::<Vec<_>>().join(" + ")
}
