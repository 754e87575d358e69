//! Where devices are among the host's PCIe bridges and NUMA nodes, and what several of
//! them share. The path of a function in `/sys/devices` is its way to the CPU: the root
//! complex (`pci0000:20`), the root port, the ports of switches, the function itself.

use super::{PCI_DEVICES, Sysfs, board_of, mdev::PARENTS};
use crate::model::{NumaNode, ParentName, PciAddress};

/// Where a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The physical function of a virtual function, otherwise the device itself.
    pub board: ParentName,
    /// The bridges above it, the root port first. Empty for a function of the root
    /// complex itself and for a device that is not on the PCI bus.
    pub bridges: Vec<PciAddress>,
    /// The NUMA node of its memory, if the kernel knows it.
    pub node: Option<NumaNode>,
}

impl Place {
    /// The place of a device. What cannot be read counts as unknown: no start may fail
    /// because of it.
    #[must_use]
    pub fn of(sysfs: &dyn Sysfs, device: &ParentName) -> Self {
        Self {
            board: board_of(sysfs, device),
            bridges: bridges_above(sysfs, device),
            node: node_of(sysfs, device),
        }
    }
}

/// What devices have in common, the nearest thing first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Common {
    /// They are parts of one board.
    Board(ParentName),
    /// They are behind one bridge: a root port or a port of a switch.
    Bridge(PciAddress),
    /// They are on one NUMA node.
    Node(NumaNode),
}

impl Common {
    /// The nearest thing that all of these have in common, if there is one.
    pub fn of<'p>(places: impl IntoIterator<Item = &'p Place>) -> Option<Self> {
        let places: Vec<&Place> = places.into_iter().collect();
        let (first, others) = places.split_first()?;
        let is_common = |one: &Self| others.iter().all(|place| one.has(place));
        Self::near(first)
            .find(is_common)
            .or_else(|| Self::node_of(places))
    }

    /// The node that all of these have in common, if there is one.
    pub fn node_of<'p>(places: impl IntoIterator<Item = &'p Place>) -> Option<Self> {
        let mut places = places.into_iter();
        let common = Self::Node(places.next()?.node?);
        places.all(|place| common.has(place)).then_some(common)
    }

    /// The board and the bridges of a place, the nearest first.
    pub fn near(place: &Place) -> impl Iterator<Item = Self> {
        let bridges = place.bridges.iter().rev();
        let board = std::iter::once(Self::Board(place.board.clone()));
        board.chain(bridges.map(|bridge| Self::Bridge(*bridge)))
    }

    /// Whether that place is there.
    #[must_use]
    pub fn has(&self, place: &Place) -> bool {
        match self {
            Self::Board(board) => place.board == *board,
            Self::Bridge(bridge) => place.bridges.contains(bridge),
            Self::Node(node) => place.node == Some(*node),
        }
    }
}

/// The bridges above a device, the root port first.
#[must_use]
pub fn bridges_above(sysfs: &dyn Sysfs, device: &ParentName) -> Vec<PciAddress> {
    let link = |directory| sysfs.read_link(&format!("{directory}/{device}")).ok();
    let path = link(PCI_DEVICES).or_else(|| link(PARENTS));
    path.map_or_else(Vec::new, |path| bridges_on(&path))
}

/// The bridges on the path of a function. A controller that has a root complex of its own
/// below it (Intel VMD, `pci0000:00/0000:00:0e.0/pci10000:e0/…`) is no bridge.
fn bridges_on(path: &str) -> Vec<PciAddress> {
    let names: Vec<&str> = path.split('/').collect();
    let Some((_, above)) = names.split_last() else {
        return Vec::new();
    };
    let below_root = above.rsplit(|name| name.starts_with("pci")).next();
    let below_root = below_root.filter(|rest| rest.len() < above.len());
    let bridges = below_root.unwrap_or_default().iter();
    bridges.filter_map(|name| name.parse().ok()).collect()
}

fn node_of(sysfs: &dyn Sysfs, device: &ParentName) -> Option<NumaNode> {
    let read = |directory| sysfs.read(&format!("{directory}/{device}/numa_node")).ok();
    let text = read(PCI_DEVICES).or_else(|| read(PARENTS))?;
    NumaNode::from_sysfs(&text).ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridges(path: &str) -> String {
        let bridges = bridges_on(path).into_iter();
        let names: Vec<String> = bridges.map(|one| one.to_string()).collect();
        names.join(" ")
    }

    #[test]
    fn bridges_are_what_is_between_the_root_complex_and_the_function() {
        for (path, wanted) in [
            // Behind a root port.
            (
                "../../../devices/pci0000:20/0000:20:01.0/0000:21:00.0",
                "0000:20:01.0",
            ),
            // Behind a switch: its upstream port, then one of its downstream ports.
            (
                "../../../devices/pci0000:20/0000:20:01.0/0000:21:00.0/0000:22:08.0/0000:23:00.1",
                "0000:20:01.0 0000:21:00.0 0000:22:08.0",
            ),
            // A function of the root complex.
            ("../../../devices/pci0000:00/0000:00:1f.2", ""),
            // Below a controller with a root complex of its own.
            (
                "../../devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0",
                "10000:e0:06.0",
            ),
            ("../../devices/virtual/mtty/mtty", ""),
            ("../../devices/0000:20:01.0/0000:21:00.0", ""),
            ("", ""),
        ] {
            assert_eq!(bridges(path), wanted, "{path}");
        }
    }

    fn place(board: &str, bridges: &[&str], node: Option<u32>) -> Place {
        Place {
            board: board.parse().unwrap(),
            bridges: bridges.iter().map(|one| one.parse().unwrap()).collect(),
            node: node.map(NumaNode),
        }
    }

    #[test]
    fn the_nearest_thing_that_all_share_is_found() {
        let (root, up) = ("0000:20:01.0", "0000:21:00.0");
        let (left, right) = ("0000:22:00.0", "0000:22:01.0");
        let a = place("0000:23:00.0", &[root, up, left], Some(0));
        let b = place("0000:24:00.0", &[root, up, right], Some(0));
        let c = place("0000:30:00.0", &["0000:2f:01.0"], Some(0));
        let d = place("0000:a1:00.0", &["0000:a0:01.0"], Some(1));
        let unknown = place("mtty", &[], None);
        let bridge = |text: &str| Some(Common::Bridge(text.parse().unwrap()));
        let board = |text: &str| Some(Common::Board(text.parse().unwrap()));
        for (places, wanted) in [
            (vec![&a, &a], board("0000:23:00.0")),
            // Two ports of one switch: what they share is its upstream port.
            (vec![&a, &b], bridge(up)),
            (vec![&b, &a, &a], bridge(up)),
            (vec![&a, &c], Some(Common::Node(NumaNode(0)))),
            (vec![&a, &b, &c], Some(Common::Node(NumaNode(0)))),
            (vec![&a, &b, &d], None),
            (vec![&c, &unknown], None),
            (vec![&unknown, &unknown], board("mtty")),
            (vec![&d], board("0000:a1:00.0")),
            (vec![], None),
        ] {
            assert_eq!(Common::of(places.clone()), wanted, "{places:?}");
        }
    }
}
