//! What a real host, or a directory that looks like one, has for pools.

use std::{cell::OnceCell, collections::BTreeMap, io};

use super::{Candidate, Supply};
use crate::{
    config::Pool,
    device::{
        Sysfs,
        mdev::{MdevHost, Offer, Parent},
        optional,
        pci::{DeviceFields, PciNames},
    },
    model::{NumaNode, ParentName},
    rule::{Verdict, evaluate},
};

/// Where a parent stands towards a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The parent.
    pub parent: Parent,
    /// The verdict of the pool's rules.
    pub verdict: Verdict,
}

/// What will be compared, so that no more than that is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Detail {
    /// NUMA nodes: the domain is bound to some.
    pub nodes: bool,
    /// The boards of unused virtual functions too: several devices are planned
    /// at once, or a person wants to see them.
    pub boards: bool,
}

/// The supply of a host. It remembers what it has read, so it is made anew
/// under the lock for every plan.
pub struct HostSupply<'a> {
    mdev: MdevHost<'a>,
    names: &'a dyn PciNames,
    detail: Detail,
    usage: OnceCell<Usage>,
}

/// Devices by board, and the boards of the parents that matter.
#[derive(Debug, Default)]
struct Usage {
    boards: BTreeMap<ParentName, ParentName>,
    in_use: BTreeMap<ParentName, u32>,
}

impl std::fmt::Debug for HostSupply<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostSupply")
            .field("mdev", &self.mdev)
            .finish_non_exhaustive()
    }
}

impl<'a> HostSupply<'a> {
    /// Finds the parents.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn discover(
        sysfs: &'a dyn Sysfs,
        names: &'a dyn PciNames,
        detail: Detail,
    ) -> io::Result<Self> {
        let mdev = MdevHost::discover(sysfs)?;
        Ok(Self {
            mdev,
            names,
            detail,
            usage: OnceCell::new(),
        })
    }

    /// The mediated devices behind it.
    #[must_use]
    pub fn mdev(&self) -> &MdevHost<'a> {
        &self.mdev
    }

    /// Every parent of the host with the verdict of the pool's rules.
    #[must_use]
    pub fn standings(&self, pool: &Pool) -> Vec<Standing> {
        let standing = |parent: &Parent| Standing {
            parent: parent.clone(),
            verdict: self.verdict(pool, parent),
        };
        self.mdev.parents().iter().map(standing).collect()
    }

    /// How many mediated devices the host has, whoever made them.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn devices(&self) -> io::Result<u32> {
        Ok(self.usage()?.in_use.values().sum())
    }

    fn verdict(&self, pool: &Pool, parent: &Parent) -> Verdict {
        let fields = DeviceFields {
            sysfs: self.mdev.sysfs(),
            names: self.names,
            name: parent.name.as_str(),
            path: &parent.path(),
        };
        evaluate(&pool.rules, &fields)
    }

    fn usage(&self) -> io::Result<&Usage> {
        if let Some(usage) = self.usage.get() {
            return Ok(usage);
        }
        let mut usage = Usage::default();
        for (_, name) in self.mdev.parents_in_use()? {
            let board = self.board_in_use(&mut usage, name);
            *usage.in_use.entry(board).or_insert(0) += 1;
        }
        if self.detail.boards {
            for parent in self.mdev.parents() {
                if !usage.boards.contains_key(&parent.name) {
                    usage
                        .boards
                        .insert(parent.name.clone(), self.mdev.board(parent));
                }
            }
        }
        Ok(self.usage.get_or_init(|| usage))
    }

    /// The board of a parent that has a device. All virtual functions of that
    /// board are noted, so that they count as in use with it.
    fn board_in_use(&self, usage: &mut Usage, name: ParentName) -> ParentName {
        if let Some(board) = usage.boards.get(&name) {
            return board.clone();
        }
        let parents = self.mdev.parents();
        let Ok(position) = parents.binary_search_by(|parent| parent.name.cmp(&name)) else {
            return name;
        };
        let parent = &parents[position];
        let board = self.mdev.board(parent);
        for function in self.mdev.virtual_functions(parent) {
            usage.boards.insert(function, board.clone());
        }
        usage.boards.insert(name, board.clone());
        board
    }

    fn node(&self, parent: &Parent) -> Option<NumaNode> {
        let text = optional(
            self.mdev
                .sysfs()
                .read(&format!("{}/numa_node", parent.path())),
        );
        NumaNode::from_sysfs(&text.ok()??).ok()?
    }
}

impl Supply for HostSupply<'_> {
    fn candidates(&self, _pool: &Pool) -> Result<Vec<Candidate>, String> {
        let usage = self
            .usage()
            .map_err(|e| format!("cannot list mediated devices: {e}"))?;
        let candidate = |parent: &Parent| {
            let board = usage.boards.get(&parent.name).unwrap_or(&parent.name);
            Candidate {
                parent: parent.clone(),
                board: board.clone(),
                node: if self.detail.nodes {
                    self.node(parent)
                } else {
                    None
                },
                in_use: usage.in_use.get(board).copied().unwrap_or(0),
            }
        };
        Ok(self.mdev.parents().iter().map(candidate).collect())
    }

    fn offer(&self, pool: &Pool, parent: &Parent) -> Option<Offer> {
        match self.verdict(pool, parent) {
            Verdict::Match { .. } => Some(self.mdev.offer(parent, pool.mdev_type.as_str())),
            Verdict::NoMatch { .. } => None,
        }
    }
}
