//! Golden hosts: each directory of `tests/cases` has a machine (`host.toml`), a domain
//! (`domain.xml`) and pools, and the resulting plan or refusal (`plan.expected`), with
//! the driver's refusals. `root` has further files of the host. Requests without
//! hostdevs are planned as for `attach`, on any device of the pool's drivers.
//! `VIRT_VGPU_BLESS=1` writes the present result; read the difference before you keep
//! it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use virt_vgpu::{
    allocate::{AllocateError, Demand, Look, PlacedRequest, devices_wanted},
    apply, config,
    device::{
        gpu_fields::{AskedOnce, GpuFields},
        pci::DeviceFields,
    },
    domain::{self, DomainDef},
    host::{Host, PciIds},
    kind::{KINDS, Kind},
    model::{MdevUuid, TypeSelector},
    plan::{self, Detail, Failed, Placeholder, Plan},
    rule::{Field, Fields},
};

use crate::support::{
    kernel::{Bound, Kernel},
    plain_tree::Tree,
    scene::Scene,
};

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

/// Copies the contents of one directory to another.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            // The mode is not copied: it depends on the checkout.
            fs::write(to, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

fn orders(domain: &DomainDef) -> Vec<PlacedRequest<'_>> {
    if !domain.hostdevs.is_empty() {
        return devices_wanted(domain).unwrap();
    }
    let anything = domain.requests.iter().map(|request| PlacedRequest {
        request,
        uuid: MdevUuid::for_device(domain.uuid, &request.name),
        placeholder: Placeholder::Any,
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

/// How many devices the plan makes. A whole function takes its group along, and VFIO may
/// have some of it already.
fn made(plan: &Plan, held: &BTreeMap<String, Bound>) -> usize {
    let mut made = BTreeSet::new();
    for one in &plan.assignments {
        made.insert(one.handle.to_string());
        made.extend(one.along.iter().map(ToString::to_string));
    }
    made.retain(|one| !held.contains_key(one));
    made.len()
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
        let is_vfios = |bound: &Bound| bound.driver.as_deref() == Some("vfio-pci");
        let there = || {
            let whole = kernel.bound().into_values().filter(is_vfios).count();
            kernel.mdevs().len() + kernel.vgpus().len() + whole
        };
        let before = there();
        let mut held = kernel.bound();
        held.retain(|_, bound| is_vfios(bound));
        let outcome = plan_case(&case, &scene);
        assert_eq!(kernel.writes(), [], "{name}: planning writes nothing");
        let mut found = described(&outcome);
        if let Ok(plan) = outcome {
            for step in &plan.steps {
                // One or the other: what a step does is taken back, or there is a reason why
                // nothing needs to be.
                assert_ne!(
                    step.undo.is_some(),
                    step.needs_no_undo.is_some(),
                    "{name}: {step:?}"
                );
            }
            let made = match apply::apply(&plan.steps, kernel) {
                Ok(()) => made(&plan, &held),
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

/// A kind and a field of its devices.
type Of = (&'static str, Field);

/// Fields that no device of the kind has, for that reason.
const NEVER: &[(Of, &str)] = &[(
    ("nvidia-vgpu", Field::PhysicalFunction),
    "the rules are about GPUs, which are physical functions themselves",
)];

/// The fields of a kind that have a value on one of the host's devices of that kind.
fn fields_there(
    host: &Host,
    kind: &'static dyn Kind,
    profile: Option<&TypeSelector>,
) -> BTreeSet<Of> {
    let (nvml, names) = (host.nvml(), PciIds::new(host));
    let nvml = AskedOnce::new(&nvml);
    let look = Look::new(host);
    let supply = look.supply(Detail::default()).unwrap();
    let mut there = BTreeSet::new();
    for subject in kind.subjects(supply.view()).unwrap() {
        let device = DeviceFields {
            sysfs: host,
            names: &names,
            name: &subject.name,
            path: &subject.path(),
            gpu: Some(GpuFields {
                nvml: Some(&nvml),
                profile,
            }),
        };
        let fields = kind.fields().into_iter();
        let has = fields.filter(|&field| device.field(field).is_some());
        there.extend(has.map(|field| (kind.name(), field)));
    }
    there
}

#[test]
fn each_kind_has_a_host_on_which_its_fields_have_values() {
    // What the driver's model has nothing to do with.
    let (gpu, function) = ("0000:3b:00.0", "0000:3b:00.4");
    let mut tree = Tree::with_devices();
    for address in [gpu, function] {
        let at = format!("/sys/devices/pci0000:00/{address}");
        tree = tree.with(&format!("{at}/label"), "Slot 3\n").with_link(
            &format!("{at}/iommu_group"),
            "../../../kernel/iommu_groups/7",
        );
    }
    let host = Host::new(tree.path("/"));
    let of_tree = KINDS.iter().map(|kind| fields_there(&host, *kind, None));
    let mut values: BTreeSet<Of> = of_tree.flatten().collect();
    let mut planned: BTreeSet<&str> = BTreeSet::new();
    for case in cases() {
        let scene = scene(&case);
        let host = scene.host();
        let outcome = plan_case(&case, &scene);
        for pool in config::load_all(&host).pools.into_values().flatten() {
            let of_pool = |plan: &Plan| plan.assignments.iter().any(|one| one.pool == pool.name);
            if outcome.as_ref().is_ok_and(of_pool) {
                planned.insert(pool.kind.name());
            }
            values.extend(fields_there(&host, pool.kind, pool.devices.selector()));
        }
    }
    let mut wrong = Vec::new();
    for kind in KINDS {
        assert!(
            planned.contains(kind.name()),
            "{kind}: no host of tests/cases"
        );
        for field in kind.fields() {
            let of = (kind.name(), field);
            let is_never = NEVER.iter().any(|(never, _)| *never == of);
            if values.contains(&of) == is_never {
                wrong.push(format!("{kind}: {field}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
