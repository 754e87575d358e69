//! What a real host, or a directory that looks like one, has for pools.

use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
    io,
};

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

/// The supply of a host. It remembers what it has read, so it is made anew
/// under the lock for every plan.
pub struct HostSupply<'a> {
    mdev: MdevHost<'a>,
    names: &'a dyn PciNames,
    in_use: OnceCell<BTreeMap<ParentName, u32>>,
    boards: RefCell<BTreeMap<ParentName, ParentName>>,
    /// Whether anybody will compare NUMA nodes.
    with_nodes: bool,
}

impl std::fmt::Debug for HostSupply<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostSupply")
            .field("mdev", &self.mdev)
            .finish_non_exhaustive()
    }
}

impl<'a> HostSupply<'a> {
    /// Finds the parents. `with_nodes` tells whether NUMA nodes matter.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn discover(
        sysfs: &'a dyn Sysfs,
        names: &'a dyn PciNames,
        with_nodes: bool,
    ) -> io::Result<Self> {
        let mdev = MdevHost::discover(sysfs)?;
        Ok(Self {
            mdev,
            names,
            in_use: OnceCell::new(),
            boards: RefCell::default(),
            with_nodes,
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
        let standing = |parent: &Parent| {
            let fields = DeviceFields {
                sysfs: self.mdev.sysfs(),
                names: self.names,
                name: parent.name.as_str(),
                path: &parent.path,
            };
            Standing {
                parent: parent.clone(),
                verdict: evaluate(&pool.rules, &fields),
            }
        };
        self.mdev.parents().iter().map(standing).collect()
    }

    /// The board of a parent; a parent whose link cannot be read is its own.
    fn board(&self, parent: &Parent) -> ParentName {
        if let Some(board) = self.boards.borrow().get(&parent.name) {
            return board.clone();
        }
        let board = self
            .mdev
            .board(parent)
            .unwrap_or_else(|_| parent.name.clone());
        self.boards
            .borrow_mut()
            .insert(parent.name.clone(), board.clone());
        board
    }

    /// Mediated devices by board.
    fn in_use(&self) -> io::Result<&BTreeMap<ParentName, u32>> {
        if let Some(counts) = self.in_use.get() {
            return Ok(counts);
        }
        let mut counts = BTreeMap::new();
        for (_, name) in self.mdev.parents_in_use()? {
            let parents = self.mdev.parents();
            let position = parents.binary_search_by(|parent| parent.name.cmp(&name));
            let board = match position {
                Ok(position) => self.board(&parents[position]),
                Err(_) => name,
            };
            *counts.entry(board).or_insert(0) += 1;
        }
        Ok(self.in_use.get_or_init(|| counts))
    }

    fn node(&self, parent: &Parent) -> Option<NumaNode> {
        let text = optional(
            self.mdev
                .sysfs()
                .read(&format!("{}/numa_node", parent.path)),
        );
        NumaNode::from_sysfs(&text.ok()??).ok()?
    }
}

impl Supply for HostSupply<'_> {
    fn candidates(&self, pool: &Pool) -> Result<Vec<Candidate>, String> {
        let in_use = self
            .in_use()
            .map_err(|e| format!("cannot list mediated devices: {e}"))?;
        let mut candidates = Vec::new();
        for Standing { parent, verdict } in self.standings(pool) {
            if matches!(verdict, Verdict::Match { .. }) {
                let board = self.board(&parent);
                candidates.push(Candidate {
                    node: if self.with_nodes {
                        self.node(&parent)
                    } else {
                        None
                    },
                    in_use: in_use.get(&board).copied().unwrap_or(0),
                    board,
                    parent,
                });
            }
        }
        Ok(candidates)
    }

    fn offer(&self, pool: &Pool, parent: &Parent) -> Offer {
        self.mdev.offer(parent, pool.mdev_type.as_str())
    }
}
