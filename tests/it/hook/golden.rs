//! Golden hosts: each directory of `tests/cases` has a machine (`host.toml`), a
//! domain (`domain.xml`) and pools, and the plan or the refusal that comes of
//! them (`plan.expected`), with what the driver refuses of it. `root` is what else
//! the host has below `/`. Requests without hostdevs are planned as for `attach`,
//! on whatever the pool's drivers make. `VIRT_VGPU_BLESS=1` writes what is planned
//! now; read the difference before you keep it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use virt_vgpu::{
    allocate::{AllocateError, Demand, Order, devices_wanted},
    apply,
    domain::{self, DomainDef},
    model::MdevUuid,
    plan::{self, Failed, Plan, Source},
};

use crate::support::{kernel::Kernel, scene::Scene};

/// The case's host with its pools and other files.
fn scene(case: &Path) -> Scene {
    let text = fs::read_to_string(case.join("host.toml")).unwrap();
    let machine = toml::from_str(&text).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    let scene = Scene::new(machine);
    copy(&case.join("pools"), &scene.path("etc/virt-vgpu/pools.d"));
    if case.join("root").is_dir() {
        copy(&case.join("root"), scene.root());
    }
    scene
}

/// Copies what is in one directory to another.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            // Not its mode: it is that of the checkout.
            fs::write(to, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

fn orders(domain: &DomainDef) -> Vec<Order<'_>> {
    if !domain.hostdevs.is_empty() {
        return devices_wanted(domain).unwrap();
    }
    let anything = domain.requests.iter().map(|request| Order {
        request,
        uuid: MdevUuid::for_device(domain.uuid, &request.name),
        source: Source::Any,
    });
    anything.collect()
}

/// As the hook plans.
fn plan_case(case: &Path, scene: &Scene) -> Result<Plan, AllocateError> {
    let xml = fs::read_to_string(case.join("domain.xml")).unwrap();
    let domain = domain::parse(&xml).unwrap();
    let host = scene.host();
    Demand::load(&host, &domain, orders(&domain))?.plan(&host, &Failed::default())
}

fn described(outcome: &Result<Plan, AllocateError>) -> String {
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
        let scene = scene(&case);
        let kernel: &Kernel = &scene.kernel;
        let there = || kernel.mdevs().len() + kernel.vgpus().len();
        let before = there();
        let outcome = plan_case(&case, &scene);
        assert_eq!(kernel.writes(), [], "{name}: planning writes nothing");
        let mut found = described(&outcome);
        if let Ok(plan) = outcome {
            let made = match apply::apply(&plan.steps, kernel) {
                Ok(()) => plan.assignments.len(),
                // What the attributes promise is not always what a driver does.
                Err(failure) => {
                    let device = &plan.assignments[plan.owners[failure.step]].device;
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
