//! Devices that should share a PCIe bridge or a NUMA node: the preference never refuses a plan
//! that there would be without it, takes no device farther from the VM's own NUMA nodes,
//! and is granted whenever that is possible.

use std::collections::BTreeMap;

use proptest::prelude::*;
use virt_vgpu::{
    apply::apply,
    config::{self, Pool},
    device::{
        mdev,
        numa::NumaTopology,
        parameters::Parameters,
        topology::{Common, Place},
    },
    kind::HostView,
    model::{DeviceName, DomainName, NumaNode, ParentName, PciAddress, Together},
    plan::{Detail, Failed, HostSupply, Nearness, Placeholder, Plan, PlanRequest, Refusal, plan},
};

use super::NoNames;
use crate::support::{
    kernel::Kernel,
    machine::{Bridge, Function, Machine, Node, Plain, SMALL},
    making,
};

/// How many devices of [`SMALL`] a board holds.
const ON_BOARD: usize = 4;

/// A card that is handed out whole, or a board of mediated devices.
#[derive(Debug, Clone)]
struct Site {
    is_board: bool,
    /// The number of the root port above it; None: it is on the root complex.
    port: Option<usize>,
    /// -1: none.
    node: i32,
    taken: usize,
}

#[derive(Debug, Clone)]
struct Wanted {
    is_mediated: bool,
    together: Option<Together>,
}

#[derive(Debug, Clone)]
struct Case {
    sites: Vec<Site>,
    wanted: Vec<Wanted>,
    spread: bool,
    /// The node of the VM's memory.
    near: Option<u32>,
}

fn case() -> impl Strategy<Value = Case> {
    let port = prop_oneof![1 => Just(None), 4 => (0usize..3).prop_map(Some)];
    let site = (any::<bool>(), port, -1..2, 0usize..=ON_BOARD);
    let site = site.prop_map(|(is_board, port, node, taken)| Site {
        is_board,
        port,
        node,
        taken: if is_board { taken } else { taken / ON_BOARD },
    });
    let together = prop_oneof![
        1 => Just(None),
        3 => Just(Some(Together::PcieRoot)),
        2 => Just(Some(Together::Numa)),
    ];
    let wanted = (any::<bool>(), together).prop_map(|(is_mediated, together)| Wanted {
        is_mediated,
        together,
    });
    (
        prop::collection::vec(site, 1..7),
        prop::collection::vec(wanted, 1..5),
        any::<bool>(),
        prop::option::of(0u32..2),
    )
        .prop_map(|(sites, wanted, spread, near)| Case {
            sites,
            wanted,
            spread,
            near,
        })
}

/// The address of a site: one bus for each port.
fn address(case: &Case, site: usize) -> String {
    match case.sites[site].port {
        None => format!("0000:00:{:02x}.0", site + 8),
        Some(port) => format!("0000:{}1:{:02x}.0", port + 1, site + 8),
    }
}

fn port(number: usize) -> String {
    format!("0000:{}0:01.0", number + 1)
}

fn kernel(case: &Case) -> Kernel {
    let sites = || case.sites.iter().enumerate();
    let group = |number| 100 + u32::try_from(number).unwrap();
    let cards = sites().filter(|(_, site)| !site.is_board);
    let cards = cards.map(|(number, site)| Plain {
        numa_node: site.node,
        ..Plain::nic(&address(case, number), group(number))
    });
    let boards = sites().filter(|(_, site)| site.is_board);
    let boards = boards.map(|(number, site)| Function {
        numa_node: site.node,
        ..Function::board(&address(case, number))
    });
    let ports = (0..3).map(|one| Plain::bridge(&port(one), 10 + u32::try_from(one).unwrap()));
    let of_boards = Machine::with(boards);
    let node = |cpus: &str, distance: &str| Node {
        cpus: cpus.to_owned(),
        distance: distance.to_owned(),
    };
    let machine = Machine {
        nodes: vec![node("0-3", "10 21"), node("4-7", "21 10")],
        bridges: (0..3)
            .map(|one| Bridge::new(&port(one), &format!("0000:{}1", one + 1)))
            .collect(),
        types: of_boards.types,
        functions: of_boards.functions,
        ..Machine::of_pci(cards.chain(ports))
    };
    let kernel = Kernel::new(machine);
    for (number, site) in sites().filter(|(_, site)| site.is_board) {
        let parent = mdev::parent_named(&kernel, &address(case, number).parse().unwrap());
        for device in 0..site.taken {
            let uuid = format!("f0e1c000-0000-4000-8000-{number:06}{device:06}");
            apply(&making::mediated(&parent, SMALL, &uuid), &kernel).unwrap();
        }
    }
    kernel
}

/// The pool of cards, and that of mediated devices.
fn pools(case: &Case) -> [Pool; 2] {
    let placement = if case.spread { "spread" } else { "pack" };
    let rule = |device| {
        format!(
            "placement = '{placement}'\n[[rule]]\nallow-critical = true\n\
             where = [{{ field = 'device-id', op = 'equal', value = '{device}' }}]\n"
        )
    };
    let parse = |name: &str, text: String| {
        config::parse(name.parse().unwrap(), "/pool.toml".as_ref(), &text).unwrap()
    };
    [
        parse("cards", format!("kind = 'pci'\n{}", rule("1533"))),
        parse(
            "small",
            format!("kind = 'mdev'\ntype = '{SMALL}'\n{}", rule("1eb8")),
        ),
    ]
}

fn planned(
    case: &Case,
    kernel: &Kernel,
    pools: &[Pool; 2],
    nearness: &Nearness,
    together: bool,
) -> Result<Plan, Refusal> {
    let detail = Detail {
        nodes: true,
        boards: true,
        ..Detail::default()
    };
    let taken = case.sites.iter().enumerate();
    let taken = taken.filter(|(_, site)| !site.is_board && site.taken > 0);
    let taken = taken.map(|(number, _)| {
        let function: PciAddress = address(case, number).parse().unwrap();
        (function, "other".parse().unwrap())
    });
    let view = HostView::open(kernel, &NoNames, detail).unwrap();
    let supply = HostSupply::of(view.with_claimed(taken.collect()));
    let names: Vec<DeviceName> = (0..case.wanted.len())
        .map(|number| format!("dev{number}").parse().unwrap())
        .collect();
    let wanted: Vec<PlanRequest<'_>> = case
        .wanted
        .iter()
        .zip(&names)
        .enumerate()
        .map(|(number, (one, device))| PlanRequest {
            device,
            uuid: format!("f0e1c001-0000-4000-8000-{number:012}")
                .parse()
                .unwrap(),
            placeholder: match one.is_mediated {
                true => Placeholder::Mdev,
                false => Placeholder::Functions,
            },
            pool: &pools[usize::from(one.is_mediated)],
            pool_in_use: 0,
            parameters: Parameters::default(),
            together: one.together.filter(|_| together),
        })
        .collect();
    let domain: DomainName = "vm1".parse().unwrap();
    plan(&domain, &wanted, &supply, nearness, &Failed::default())
}

/// 0: a board or a bridge; 1: a node; 2: nothing.
fn degree(together: Together, places: &[&Place]) -> usize {
    let common = match together {
        Together::PcieRoot => Common::of(places.iter().copied()),
        Together::Numa => Common::node_of(places.iter().copied()),
    };
    match common {
        Some(Common::Board(_) | Common::Bridge(_)) => 0,
        Some(Common::Node(_)) => 1,
        None => 2,
    }
}

/// The degree for the requests that say so, if each request has the place of that number.
fn degree_of(case: &Case, together: Together, places: &[&Place]) -> usize {
    let wanted = case.wanted.iter().zip(places);
    let wanted = wanted.filter(|(one, _)| one.together == Some(together));
    let places: Vec<&Place> = wanted.map(|(_, place)| *place).collect();
    degree(together, &places)
}

/// The best degree of all ways to serve all requests.
fn best_way(
    case: &Case,
    together: Together,
    places: &[Place],
    free: &mut [usize],
    chosen: &mut Vec<usize>,
) -> Option<usize> {
    let Some(next) = case.wanted.get(chosen.len()) else {
        let places: Vec<&Place> = chosen.iter().map(|&site| &places[site]).collect();
        return Some(degree_of(case, together, &places));
    };
    let mut best = None;
    for site in 0..case.sites.len() {
        if case.sites[site].is_board != next.is_mediated || free[site] == 0 {
            continue;
        }
        free[site] -= 1;
        chosen.push(site);
        let way = best_way(case, together, places, free, chosen);
        best = best.into_iter().chain(way).min();
        chosen.pop();
        free[site] += 1;
    }
    best
}

fn distances(nearness: &Nearness, places: &[&Place]) -> u64 {
    let distance = |place: &&Place| match (nearness.nodes.first(), place.node) {
        (None, _) => 0,
        (Some(_), None) => u64::from(u32::MAX),
        (Some(&near), Some(node)) => u64::from(nearness.topology.distance(near, node).unwrap()),
    };
    places.iter().map(distance).sum()
}

fn agrees(case: &Case) {
    let kernel = kernel(case);
    let pools = pools(case);
    let nearness = Nearness {
        nodes: case.near.map(NumaNode).into_iter().collect(),
        topology: NumaTopology::read(&kernel).unwrap(),
        beside: Vec::new(),
    };
    let sites = 0..case.sites.len();
    let name = |site| -> ParentName { address(case, site).parse().unwrap() };
    let by_name: BTreeMap<ParentName, usize> = sites.clone().map(|one| (name(one), one)).collect();
    let places: Vec<Place> = sites.map(|one| Place::of(&kernel, &name(one))).collect();
    let on = |plan: &Plan| -> Vec<&Place> {
        let assignments = plan.assignments.iter();
        let sites = assignments.map(|one| by_name[&one.parent]);
        sites.map(|site| &places[site]).collect()
    };
    let plain = planned(case, &kernel, &pools, &nearness, false);
    let ours = planned(case, &kernel, &pools, &nearness, true);
    let (plain, ours) = match (plain, ours) {
        (Ok(plain), Ok(ours)) => (plain, ours),
        // Whatever is said without the preference is said with it.
        (plain, ours) => return assert_eq!(plain, ours, "{case:#?}"),
    };
    let (before, after) = (on(&plain), on(&ours));
    assert!(
        distances(&nearness, &after) <= distances(&nearness, &before),
        "{case:#?}\n{plain:#?}\n{ours:#?}"
    );
    let says = |together| {
        let wanted = case.wanted.iter();
        wanted.filter(|one| one.together == Some(together)).count()
    };
    for together in Together::ALL {
        let (was, is) = (
            degree_of(case, together, &before),
            degree_of(case, together, &after),
        );
        // Of two preferences, the first one comes first.
        let comes_first = together == Together::PcieRoot || says(Together::PcieRoot) < 2;
        if !comes_first || says(together) < 2 {
            continue;
        }
        assert!(is <= was, "{together}: {case:#?}\n{plain:#?}\n{ours:#?}");
        if case.near.is_none() {
            let free = |site: &Site| match site.is_board {
                true => ON_BOARD - site.taken,
                false => 1 - site.taken,
            };
            let mut free: Vec<usize> = case.sites.iter().map(free).collect();
            let best = best_way(case, together, &places, &mut free, &mut Vec::new());
            assert_eq!(Some(is), best, "{together}: {case:#?}\n{ours:#?}");
        }
    }
    apply(&ours.steps, &kernel).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_preference_costs_nothing_and_is_granted_where_it_can_be(case in case()) {
        agrees(&case);
    }
}
