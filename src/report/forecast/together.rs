//! What the devices of a domain share that should share something.

use serde::Serialize;

use super::Device;
use crate::{
    device::{
        Sysfs,
        topology::{Common, Place},
    },
    domain::Request,
    model::{DeviceName, NumaNode, ParentName, Together},
};

/// The devices of a domain that should share something, and what they share.
#[derive(Debug, Serialize)]
pub struct TogetherForecast {
    /// What they should share.
    pub wanted: Together,
    /// What they share.
    pub had: Had,
    /// The bridge, or the board of which they are parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<ParentName>,
    /// The node on which all of them are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<NumaNode>,
    /// Those that would have a place, or have one.
    pub devices: Vec<PlacedDevice>,
    /// The others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without_place: Vec<DeviceName>,
}

/// What devices share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Had {
    /// They are parts of one board.
    Board,
    /// They are behind one PCIe switch or root port.
    PcieRoot,
    /// They are on one NUMA node.
    Numa,
    /// Nothing of this.
    Nothing,
    /// There are not two of them.
    Alone,
}

/// A device and its place.
#[derive(Debug, Serialize)]
pub struct PlacedDevice {
    /// Its name in the domain.
    pub name: DeviceName,
    /// Its parent, or the function that it is.
    pub parent: ParentName,
    /// Where its memory is near.
    pub numa_node: Option<NumaNode>,
}

/// All that the requests ask for in this respect.
pub(super) fn all(
    sysfs: &dyn Sysfs,
    requests: &[Request],
    devices: &[Device],
) -> Vec<TogetherForecast> {
    let wants = |together| {
        let mut requests = requests.iter();
        requests.any(|request| request.together == Some(together))
    };
    let wanted = Together::ALL.into_iter().filter(|one| wants(*one));
    wanted
        .map(|wanted| forecast(sysfs, wanted, requests, devices))
        .collect()
}

fn forecast(
    sysfs: &dyn Sysfs,
    wanted: Together,
    requests: &[Request],
    all: &[Device],
) -> TogetherForecast {
    let (mut devices, mut places, mut without_place) = (Vec::new(), Vec::new(), Vec::new());
    for request in requests.iter().filter(|one| one.together == Some(wanted)) {
        let device = all.iter().find(|device| device.name == request.name);
        let Some(planned) = device.and_then(|device| device.place.as_ref()) else {
            without_place.push(request.name.clone());
            continue;
        };
        let place = Place::of(sysfs, &planned.parent);
        devices.push(PlacedDevice {
            name: request.name.clone(),
            parent: planned.parent.clone(),
            numa_node: place.node,
        });
        places.push(place);
    }
    let common = match wanted {
        _ if devices.len() < 2 => None,
        Together::PcieRoot => Common::of(&places),
        Together::Numa => Common::node_of(&places),
    };
    let (had, behind) = match common {
        Some(Common::Board(board)) => (Had::Board, Some(board)),
        Some(Common::Bridge(bridge)) => (Had::PcieRoot, Some(bridge.into())),
        Some(Common::Node(_)) => (Had::Numa, None),
        None if devices.len() < 2 => (Had::Alone, None),
        None => (Had::Nothing, None),
    };
    let numa_node = match Common::node_of(&places) {
        Some(Common::Node(node)) if devices.len() > 1 => Some(node),
        _ => None,
    };
    TogetherForecast {
        wanted,
        had,
        behind,
        numa_node,
        devices,
        without_place,
    }
}

impl std::fmt::Display for TogetherForecast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let placed = self.devices.iter().map(|one| &one.name);
        let names: Vec<&str> = placed
            .chain(&self.without_place)
            .map(DeviceName::as_str)
            .collect();
        let (names, wanted) = (listed(&names), self.wanted);
        write!(f, "together: {wanted} wanted by {names}")?;
        match (self.had, &self.behind, self.numa_node) {
            (Had::Board, Some(board), _) => write!(f, ", had: on board {board}"),
            (Had::PcieRoot, Some(bridge), _) => write!(f, ", had: behind {bridge}"),
            (Had::Numa, _, Some(node)) => write!(f, ", had: NUMA node {node}"),
            (Had::Alone, ..) if self.devices.len() + self.without_place.len() < 2 => {
                write!(f, " alone; there is no other device to be near")
            }
            (Had::Alone, ..) => {
                let without: Vec<&str> =
                    self.without_place.iter().map(DeviceName::as_str).collect();
                write!(f, "; {} no device yet", has_or_have(&without))
            }
            _ => {
                let nothing = match self.wanted {
                    Together::PcieRoot => "neither",
                    Together::Numa => "not one node",
                };
                write!(f, ", had: {nothing} ({})", self.nodes())
            }
        }
    }
}

impl TogetherForecast {
    /// The node of each device.
    fn nodes(&self) -> String {
        let devices = self.devices.iter().enumerate();
        let each = devices.map(|(number, one)| {
            let is = if number == 0 { " is" } else { "" };
            match one.numa_node {
                Some(node) => format!("{}{is} on node {node}", one.parent),
                None => format!("{}{is} on no node", one.parent),
            }
        });
        each.collect::<Vec<String>>().join(", ")
    }
}

/// `a, b and c`.
fn listed(names: &[&str]) -> String {
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => names.join(""),
    }
}

/// `a has`, or `a and b have`.
fn has_or_have(names: &[&str]) -> String {
    let verb = if names.len() == 1 { "has" } else { "have" };
    format!("{} {verb}", listed(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(wanted: Together, had: Had, behind: Option<&str>, devices: &[(&str, i32)]) -> String {
        let device = |(number, (parent, node)): (usize, &(&str, i32))| PlacedDevice {
            name: format!("dev{number}").parse().unwrap(),
            parent: parent.parse().unwrap(),
            numa_node: u32::try_from(*node).ok().map(NumaNode),
        };
        let devices: Vec<PlacedDevice> = devices.iter().enumerate().map(device).collect();
        let forecast = TogetherForecast {
            wanted,
            had,
            behind: behind.map(|one| one.parse().unwrap()),
            numa_node: devices.first().and_then(|one| one.numa_node),
            devices,
            without_place: match had {
                Had::Alone => vec!["nic0".parse().unwrap()],
                _ => Vec::new(),
            },
        };
        forecast.to_string()
    }

    #[test]
    fn what_was_had_is_a_plain_sentence() {
        use Together::{Numa, PcieRoot};
        let (a, b, c) = ("0000:21:00.0", "0000:a1:00.0", "0000:00:08.0");
        for (wanted, had, behind, devices, said) in [
            (
                PcieRoot,
                Had::PcieRoot,
                Some("0000:20:01.0"),
                &[(a, 0), (b, 0)][..],
                "pcie-root wanted by dev0 and dev1, had: behind 0000:20:01.0",
            ),
            (
                PcieRoot,
                Had::Board,
                Some("0000:3b:00.0"),
                &[(a, 0), (b, 0)],
                "pcie-root wanted by dev0 and dev1, had: on board 0000:3b:00.0",
            ),
            (
                PcieRoot,
                Had::Numa,
                None,
                &[(a, 1), (b, 1), (c, 1)],
                "pcie-root wanted by dev0, dev1 and dev2, had: NUMA node 1",
            ),
            (
                PcieRoot,
                Had::Nothing,
                None,
                &[(a, 0), (b, 1)],
                "pcie-root wanted by dev0 and dev1, had: neither (0000:21:00.0 is on node 0, \
                 0000:a1:00.0 on node 1)",
            ),
            (
                Numa,
                Had::Nothing,
                None,
                &[(a, 0), (c, -1)],
                "numa wanted by dev0 and dev1, had: not one node (0000:21:00.0 is on node 0, \
                 0000:00:08.0 on no node)",
            ),
            (
                Numa,
                Had::Alone,
                None,
                &[],
                "numa wanted by nic0 alone; there is no other device to be near",
            ),
            (
                Numa,
                Had::Alone,
                None,
                &[(a, 0)],
                "numa wanted by dev0 and nic0; nic0 has no device yet",
            ),
        ] {
            let line = line(wanted, had, behind, devices);
            assert_eq!(line, format!("together: {said}"));
        }
    }
}
