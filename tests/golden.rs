//! Golden hosts: each directory of `tests/cases` has a machine (`host.toml`), a
//! domain (`domain.xml`) and pools, and the plan or the refusal that comes of
//! them (`plan.expected`), with what the driver refuses of it. `VIRT_VGPU_BLESS=1` writes what is planned now; read
//! the difference before you keep it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

mod support;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use support::kernel::Kernel;
use virt_vgpu::{
    apply,
    config::{self, MemoryFiles, Pool},
    device::pci::PciNames,
    domain,
    hook::{devices_wanted, nearness_of},
    model::PoolName,
    plan::{self, Detail, Failed, HostSupply, Plan, Refusal, Wanted},
};

/// A host without `pci.ids`.
struct NoNames;

impl PciNames for NoNames {
    fn vendor(&self, _vendor: u16) -> Option<String> {
        None
    }

    fn device(&self, _vendor: u16, _device: u16) -> Option<String> {
        None
    }

    fn host(&self) -> Option<String> {
        Some("golden".to_owned())
    }
}

fn pools(case: &Path) -> BTreeMap<PoolName, Pool> {
    let mut files = MemoryFiles::new();
    let mut names = Vec::new();
    for entry in fs::read_dir(case.join("pools")).unwrap() {
        let path = entry.unwrap().path();
        let name: PoolName = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let place = format!("/etc/virt-vgpu/pools.d/{name}.toml");
        files = files.with(place, fs::read_to_string(path).unwrap());
        names.push(name);
    }
    let load = |name: PoolName| (name.clone(), config::load_pool(&files, &name).unwrap());
    names.into_iter().map(load).collect()
}

fn plan_case(case: &Path, kernel: &Kernel) -> Result<Plan, Refusal> {
    let xml = fs::read_to_string(case.join("domain.xml")).unwrap();
    let domain = domain::parse(&xml).unwrap();
    let pools = pools(case);
    let nearness = nearness_of(&domain, kernel).unwrap();
    let asked = devices_wanted(&domain).unwrap();
    // As the hook asks.
    let detail = Detail {
        nodes: !nearness.nodes.is_empty(),
        boards: asked.len() > 1,
        functions_only: false,
    };
    let supply = HostSupply::discover(kernel, &NoNames, detail).unwrap();
    // The machine's own devices are nobody's claims: each pool's are none.
    let wanted: Vec<Wanted<'_>> = asked
        .iter()
        .map(|order| Wanted {
            device: &order.request.name,
            uuid: order.uuid,
            source: order.source.clone(),
            pool: &pools[&order.request.pool],
            pool_in_use: 0,
            parameters: order.parameters(&pools[&order.request.pool]),
        })
        .collect();
    plan::plan(
        &domain.name,
        &wanted,
        &supply,
        &nearness,
        &Failed::default(),
    )
}

fn described(outcome: &Result<Plan, Refusal>) -> String {
    let mut text = String::new();
    match outcome {
        Ok(plan) => {
            for one in &plan.assignments {
                let plan::Assignment {
                    device,
                    pool,
                    parent,
                    type_id,
                    reason,
                    ..
                } = one;
                let _ = writeln!(text, "{device} ({pool}): {type_id} on {parent}; {reason}");
            }
        }
        Err(refusal) => {
            let _ = writeln!(text, "refused: {refusal}");
        }
    }
    text
}

fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let entries = fs::read_dir(directory).unwrap();
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

#[test]
fn each_host_is_planned_as_expected() {
    let bless = std::env::var_os("VIRT_VGPU_BLESS").is_some();
    let mut wrong = String::new();
    for case in cases() {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(case.join("host.toml")).unwrap();
        let machine = toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let kernel = Kernel::new(machine);
        let there = || kernel.mdevs().len() + kernel.vgpus().len();
        let before = there();
        let outcome = plan_case(&case, &kernel);
        assert_eq!(kernel.writes(), [], "{name}: planning writes nothing");
        let mut found = described(&outcome);
        if let Ok(plan) = outcome {
            let made = match apply::apply(&plan.steps, &kernel) {
                Ok(()) => plan.assignments.len(),
                // What the attributes promise is not always what a driver does.
                Err(failure) => {
                    let device = &plan.assignments[failure.step].device;
                    let _ = writeln!(found, "then the driver refuses {device}: {}", failure.cause);
                    assert!(failure.left_behind.is_empty(), "{name}: {failure:?}");
                    0
                }
            };
            assert_eq!(there(), before + made, "{name}");
        }
        let file = case.join("plan.expected");
        if bless {
            fs::write(file, &found).unwrap();
        } else {
            let expected = fs::read_to_string(file).unwrap_or_default();
            if found != expected {
                let _ = writeln!(wrong, "{name}\n  expected: {expected}  found:    {found}");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
