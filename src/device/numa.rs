//! The host's NUMA layout: which node a CPU belongs to and how far apart nodes
//! are (kernel `Documentation/ABI/stable/sysfs-devices-node`).

use std::{collections::BTreeMap, io};

use super::{Sysfs, list, optional, read};
use crate::model::{CpuSet, NumaNode};

const NODES: &str = "/sys/devices/system/node";

/// Nodes with their CPUs and distances, as sysfs shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NumaTopology {
    nodes: BTreeMap<NumaNode, Node>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    cpus: CpuSet,
    /// Distance to each online node, in ascending order of node number.
    distances: Vec<u32>,
}

impl NumaTopology {
    /// Reads all nodes. A host without NUMA support in its kernel has none.
    ///
    /// # Errors
    /// When an attribute that exists cannot be read or understood.
    pub fn read(sysfs: &dyn Sysfs) -> io::Result<Self> {
        let mut nodes = BTreeMap::new();
        for name in optional(list(sysfs, NODES))?.unwrap_or_default() {
            let Some(number) = name.strip_prefix("node").and_then(|n| n.parse().ok()) else {
                continue;
            };
            let path = format!("{NODES}/{name}/cpulist");
            let invalid = |error| {
                let what = format!("{path}: {error}");
                io::Error::new(io::ErrorKind::InvalidData, what)
            };
            let cpus = optional(read(sysfs, &path))?
                .unwrap_or_default()
                .parse()
                .map_err(invalid)?;
            let distances = optional(read(sysfs, &format!("{NODES}/{name}/distance")))?
                .unwrap_or_default()
                .split_whitespace()
                .filter_map(|d| d.parse().ok())
                .collect();
            nodes.insert(NumaNode(number), Node { cpus, distances });
        }
        Ok(Self { nodes })
    }

    /// The nodes to which any of the CPUs belongs.
    #[must_use]
    pub fn nodes_of(&self, cpus: &CpuSet) -> Vec<NumaNode> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.cpus.intersects(cpus))
            .map(|(&number, _)| number)
            .collect()
    }

    /// The distance between two nodes in the firmware's units (10 is local); `None`
    /// when it is unknown.
    #[must_use]
    pub fn distance(&self, from: NumaNode, to: NumaNode) -> Option<u32> {
        let column = self.nodes.keys().position(|&node| node == to)?;
        self.nodes.get(&from)?.distances.get(column).copied()
    }
}
