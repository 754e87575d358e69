//! Several devices planned at once, on the model of the driver: a planned set is made
//! without any refusal, and the planner refuses only if no way of making the devices
//! one after the other works on the same driver.

use std::collections::BTreeMap;

use proptest::prelude::*;
use virt_vgpu::{
    apply::apply,
    config::{self, Pool},
    device::{Sysfs, mdev, parameters::Parameters, vendor_vfio},
    kind::HostView,
    model::{DeviceName, DomainName, MdevTypeId, MdevUuid, ParentName},
    plan::{Detail, Failed, HostSupply, Nearness, Placeholder, Plan, PlanRequest, Refusal, plan},
};

use super::NoNames;
use crate::support::{
    kernel::Kernel,
    machine::{Function, Gpu, LARGE, Machine, SMALL, SMALL_OTHER, profile},
    making,
};

/// Which functions a pool takes.
#[derive(Debug, Clone, Copy)]
enum Takes {
    All,
    FirstBoard,
    /// Functions with this last digit in their address.
    Functions(char),
}

#[derive(Debug, Clone)]
struct AttachRequest {
    pool: usize,
    count: usize,
}

#[derive(Debug, Clone)]
struct Case {
    /// Whether virtual functions become vGPUs themselves; otherwise all are mediated
    /// devices.
    functions: bool,
    /// For each board: the number of its functions (0: the board itself is the parent)
    /// and the devices that others have made there.
    boards: Vec<(usize, Vec<usize>)>,
    /// Type, rules and whether it packs.
    pools: Vec<(usize, Takes, bool)>,
    requests: Vec<AttachRequest>,
}

impl Case {
    /// Two types of one size, and one of twice that size.
    fn type_id(&self, number: usize) -> &'static str {
        if self.functions {
            ["L40S-12Q", "L40S-12C", "L40S-24Q"][number]
        } else {
            [SMALL, SMALL_OTHER, LARGE][number]
        }
    }
}

fn case() -> impl Strategy<Value = Case> {
    let board = (0usize..6, prop::collection::vec(0usize..3, 0..5));
    let takes = prop_oneof![
        3 => Just(Takes::All),
        1 => Just(Takes::FirstBoard),
        1 => Just(Takes::Functions('4')),
        1 => Just(Takes::Functions('0')),
    ];
    let pool = (0usize..3, takes, any::<bool>());
    let request = (0usize..2, 1usize..4).prop_map(|(pool, count)| AttachRequest { pool, count });
    (
        any::<bool>(),
        prop::collection::vec(board, 1..4),
        prop::collection::vec(pool, 2),
        prop::collection::vec(request, 1..3),
    )
        .prop_map(|(functions, boards, pools, requests)| Case {
            functions,
            boards,
            pools,
            requests,
        })
}

fn bus(board: usize) -> String {
    format!("{:02x}", 0x41 + 0x10 * board)
}

fn uuid(number: usize) -> String {
    format!("f0e1c000-0000-4000-8000-{number:012}")
}

/// The host, with as many of the others' devices as its driver accepts.
fn kernel(case: &Case) -> Kernel {
    let boards = case.boards.iter().enumerate();
    let kernel = Kernel::new(if case.functions {
        Machine::of_gpus(boards.map(|(number, (functions, _))| {
            let functions = u32::try_from(*functions + 1).unwrap();
            Gpu::l40s(&format!("0000:{}:00.0", bus(number))).functions(functions)
        }))
    } else {
        Machine::with(boards.map(|(number, (functions, _))| match functions {
            0 => Function::board(&format!("0000:{}:00.0", bus(number))),
            functions => Function::sriov_board(&bus(number), *functions),
        }))
    });
    let mut number = 0;
    for (board, (_, made)) in case.boards.iter().enumerate() {
        for &kind in made {
            let parents = parents(case, &kernel, |name| {
                name.starts_with(&format!("0000:{}", bus(board)))
            });
            let made = parents
                .iter()
                .any(|parent| try_to_make(case, &kernel, parent, (kind, &uuid(number))));
            number += usize::from(made);
        }
    }
    kernel
}

/// All parents of vGPUs.
fn parents(case: &Case, kernel: &Kernel, keep: impl Fn(&str) -> bool) -> Vec<ParentName> {
    let names: Vec<String> = if case.functions {
        let functions = vendor_vfio::all_functions(kernel).unwrap().into_iter();
        functions
            .map(|(function, _)| function.to_string())
            .collect()
    } else {
        kernel.list("/sys/class/mdev_bus").unwrap()
    };
    let kept = names.iter().filter(|name| keep(name));
    kept.map(|name| name.parse().unwrap()).collect()
}

fn try_to_make(
    case: &Case,
    kernel: &Kernel,
    parent: &ParentName,
    (kind, uuid): (usize, &str),
) -> bool {
    let kind = case.type_id(kind);
    let none = &Parameters::default();
    let steps = if case.functions {
        let id: MdevTypeId = profile(kind).id.to_string().parse().unwrap();
        making::function(kind, &id, parent.pci().unwrap(), none)
    } else {
        let parent = mdev::parent_named(kernel, parent);
        making::mediated(&parent, kind, uuid)
    };
    apply(&steps, kernel).is_ok()
}

fn takes(case: &Case, pool: Takes, parent: &str) -> bool {
    match pool {
        Takes::All => true,
        Takes::FirstBoard => parent.starts_with(&format!("0000:{}:", bus(0))),
        // The rules of a vGPU pool apply to GPUs.
        Takes::Functions(digit) if case.functions => digit == '0',
        Takes::Functions(digit) => parent.ends_with(digit),
    }
}

fn pools(case: &Case) -> Vec<Pool> {
    let pool = |(number, (of_type, takes, pack)): (usize, &(usize, Takes, bool))| {
        let filter = match takes {
            Takes::All => r#"field = "vendor-id", op = "equal", value = "10de""#.to_owned(),
            Takes::FirstBoard => format!(
                r#"field = "address", op = "begins-with", value = "0000:{}:""#,
                bus(0)
            ),
            Takes::Functions(digit) => {
                format!(r#"field = "address", op = "ends-with", value = "{digit}""#)
            }
        };
        let (kind, key) = match case.functions {
            true => ("nvidia-vgpu", "profile"),
            false => ("mdev", "type"),
        };
        let placement = if *pack { "pack" } else { "spread" };
        let text = format!(
            "kind = \"{kind}\"\n{key} = \"{}\"\nplacement = \"{placement}\"\n\n[[rule]]\n\
             where = [{{ {filter} }}]\n",
            case.type_id(*of_type)
        );
        let name = format!("pool{number}").parse().unwrap();
        config::parse(name, std::path::Path::new("/pool.toml"), &text).unwrap()
    };
    case.pools.iter().enumerate().map(pool).collect()
}

fn planned(kernel: &Kernel, wanted: &[PlanRequest<'_>]) -> Result<Plan, Refusal> {
    let detail = Detail {
        boards: true,
        ..Detail::default()
    };
    let view = HostView::open(kernel, &NoNames, detail).unwrap();
    let supply = HostSupply::of(view.with_nvml(kernel));
    let domain: DomainName = "vm1".parse().unwrap();
    plan(
        &domain,
        wanted,
        &supply,
        &Nearness::default(),
        &Failed::default(),
    )
}

/// Whether the requests can be made in their order, in any way.
fn some_way(case: &Case, requests: &[(usize, usize)], made: &mut Vec<(ParentName, usize)>) -> bool {
    let Some((&(number, pool), rest)) = requests.split_first() else {
        return true;
    };
    let (kind, rules, _) = case.pools[pool];
    // Functions of one board with the same contents and the same pools are equivalent.
    let mut tried: BTreeMap<(String, Vec<bool>), ()> = BTreeMap::new();
    let again = || {
        let kernel = kernel(case);
        for (number, (parent, kind)) in made.iter().enumerate() {
            let made = try_to_make(case, &kernel, parent, (*kind, &uuid(100 + number)));
            assert!(made);
        }
        kernel
    };
    let candidates = parents(case, &again(), |name| takes(case, rules, name));
    let mut ways = Vec::new();
    for parent in candidates {
        let alike = case
            .pools
            .iter()
            .map(|(_, rules, _)| takes(case, *rules, &parent.to_string()));
        let key = (parent.to_string()[..7].to_owned(), alike.collect());
        if tried.contains_key(&key) {
            continue;
        }
        if try_to_make(case, &again(), &parent, (kind, &uuid(200 + number))) {
            tried.insert(key, ());
            ways.push(parent);
        }
    }
    ways.into_iter().any(|parent| {
        made.push((parent, kind));
        let found = some_way(case, rest, made);
        made.pop();
        found
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn served_if_and_only_if_there_is_a_way(case in case()) {
        let kernel = kernel(&case);
        let pools = pools(&case);
        let requests: Vec<usize> = case.requests.iter()
            .flat_map(|request| std::iter::repeat_n(request.pool, request.count))
            .collect();
        let names: Vec<DeviceName> = (0..requests.len())
            .map(|number| format!("gpu{number}").parse().unwrap())
            .collect();
        let wanted: Vec<PlanRequest<'_>> = requests.iter().enumerate()
            .map(|(number, &pool)| PlanRequest {
                device: &names[number],
                uuid: uuid(300 + number).parse::<MdevUuid>().unwrap(),
                placeholder: if case.functions { Placeholder::Functions } else { Placeholder::Mdev },
                pool: &pools[pool],
                pool_in_use: 0,
                parameters: Parameters::default(),
                together: None,
            })
            .collect();
        let numbered: Vec<(usize, usize)> = requests.iter().copied().enumerate().collect();
        let possible = some_way(&case, &numbered, &mut Vec::new());
        match planned(&kernel, &wanted) {
            Ok(plan) => {
                let made = apply(&plan.steps, &kernel);
                prop_assert!(made.is_ok(), "{:?}\n{:#?}", made, plan.assignments);
                prop_assert!(possible);
            }
            Err(refusal) => prop_assert!(!possible, "{refusal}"),
        }
    }
}
