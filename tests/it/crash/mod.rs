//! The hook is killed after each of its effects, and each of its effects fails, with
//! each operation. The next start of the domain, its end or another domain's start
//! repairs everything: no device leaks or serves two domains, foreign devices stay, and
//! half-written files do no harm.
//!
//! Needs the feature `faults`, which counts effects (see `host::fault`).

#[cfg(feature = "cli")]
mod exchange;
#[cfg(feature = "cli")]
mod plug;
mod quarantine;
mod stage;
#[cfg(feature = "cli")]
mod unused;

#[cfg(feature = "cli")]
use std::sync::LazyLock;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use stage::Stage;

#[cfg(feature = "cli")]
use crate::support::libvirtd::Libvirtd;
use crate::support::{
    domain::Domain,
    eventually,
    process::{Outcome, Program},
    scene::Scene,
    side_by_side::each,
};

#[cfg(feature = "cli")]
static LIBVIRTD: LazyLock<Libvirtd> = LazyLock::new(Libvirtd::start);

fn scene() -> Scene {
    Stage::Mdev.scene()
}

fn domain(number: usize) -> Domain {
    Stage::Mdev.domain(number)
}

/// The operation during which the fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Prepare,
    Migrate,
    PrepareAfterMigrate,
    Start,
    Started,
    Stopped,
    Release,
}

impl Operation {
    const ALL: [Self; 7] = [
        Self::Prepare,
        Self::Migrate,
        Self::PrepareAfterMigrate,
        Self::Start,
        Self::Started,
        Self::Stopped,
        Self::Release,
    ];

    fn words(self) -> &'static str {
        match self {
            Self::Prepare | Self::PrepareAfterMigrate => "prepare begin -",
            Self::Migrate => "migrate begin -",
            Self::Start => "start begin -",
            Self::Started => "started begin -",
            Self::Stopped => "stopped end destroyed",
            Self::Release => "release end destroyed",
        }
    }

    fn may_refuse(self) -> bool {
        matches!(
            self,
            Self::Prepare | Self::Migrate | Self::PrepareAfterMigrate
        )
    }

    /// Brings the domain into the state in which the operation starts.
    fn lead_up(self, scene: &Scene, domain: &Domain) {
        match self {
            Self::Prepare | Self::Migrate => {}
            Self::PrepareAfterMigrate => {
                scene.hook(domain, "migrate begin -").run().ends_well();
            }
            Self::Start | Self::Started | Self::Stopped | Self::Release => {
                scene.prepare(domain).ends_well();
            }
        }
    }

    fn hook(self, scene: &Scene, domain: &Domain) -> Program {
        scene.hook(domain, self.words())
    }

    /// The effects of an undisturbed run, as `NUMBER EFFECT PATH` each. They are
    /// determined once for all tests.
    fn effects(self, stage: Stage) -> Arc<[String]> {
        type Known = BTreeMap<(Stage, Operation), Arc<[String]>>;
        static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());
        let find_out = || {
            let (scene, domain) = (stage.scene(), stage.domain(1));
            self.lead_up(&scene, &domain);
            traced(&scene, self.hook(&scene, &domain)).into()
        };
        // Another test that needs them meanwhile waits for the result.
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry((stage, self)).or_insert_with(find_out))
    }
}

/// The effects of a hook that succeeds.
fn traced(scene: &Scene, hook: Program) -> Vec<String> {
    let trace = scene.path("trace");
    hook.trace(&trace).run().ends_well();
    let text = std::fs::read_to_string(trace).unwrap_or_default();
    let root = scene.root().to_str().unwrap().to_owned();
    text.lines().map(|line| line.replace(&root, "")).collect()
}

/// The event that repairs the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cure {
    /// The domain starts again.
    Again,
    /// libvirt says that it has ended.
    End,
    /// Another domain needs the space.
    Other,
    /// The administrator, or the unit at boot, cleans up.
    #[cfg(feature = "cli")]
    Reconcile,
}

impl Cure {
    const ALL: &[Self] = &[
        Self::Again,
        Self::End,
        Self::Other,
        #[cfg(feature = "cli")]
        Self::Reconcile,
    ];

    fn apply(self, stage: Stage, scene: &Scene, domain: &Domain) {
        match self {
            Self::Again => {
                scene.prepare(domain).ends_well();
                stage.has_everything(scene, domain);
                scene.is_settled();
            }
            Self::End => {
                scene.stop(domain);
                scene.is_sound();
                assert_eq!(scene.claims(), []);
                // A second end finds nothing to do.
                let before = scene.kernel.writes().len();
                scene.stop(domain);
                assert_eq!(scene.kernel.writes().len(), before);
            }
            Self::Other => {
                let other = stage.domain(2);
                scene.prepare(&other).ends_well();
                stage.has_everything(scene, &other);
                scene.is_sound();
                scene.stop(&other);
            }
            #[cfg(feature = "cli")]
            Self::Reconcile => {
                let outcome = scene.reconcile();
                outcome.succeeds();
                scene.is_sound();
                assert_eq!(scene.claims(), []);
                assert_eq!(scene.media(), Vec::<String>::new());
                assert!(scene.ours().is_empty());
                assert!(scene.our_vgpus().is_empty());
            }
        }
        // A complete run of the domain afterwards leaves nothing at all.
        scene.prepare(domain).ends_well();
        stage.has_everything(scene, domain);
        scene.stop(domain);
        scene.is_empty();
    }
}

fn has_everything(scene: &Scene, domain: &Domain) {
    Stage::Mdev.has_everything(scene, domain);
}

/// Runs `check` for each effect of the operations, each fault and each cure.
fn at_each_effect(
    stage: Stage,
    operations: &[Operation],
    faults: &[&str],
    check: impl Fn(&Scene, &Domain, &Outcome, Operation) + Sync,
) {
    let mut cases = Vec::new();
    for &operation in operations {
        let effects = operation.effects(stage);
        assert!(!effects.is_empty(), "{operation:?} has effects");
        for strike in strikes(&effects, faults) {
            let cures = Cure::ALL.iter();
            cases.extend(cures.map(|cure| (operation, strike.clone(), *cure)));
        }
    }
    let name = |(operation, strike, cure): &(Operation, Strike, Cure)| {
        format!("{stage:?}: {operation:?}, {strike}, then {cure:?}")
    };
    each(&cases, name, |(operation, strike, cure)| {
        let (scene, domain) = (stage.scene(), stage.domain(1));
        operation.lead_up(&scene, &domain);
        let hook = operation.hook(&scene, &domain);
        let outcome = hook.fault(&strike.order()).run();
        check(&scene, &domain, &outcome, *operation);
        cure.apply(stage, &scene, &domain);
    });
}

/// A fault at an effect.
#[derive(Debug, Clone)]
struct Strike {
    /// `kill`, or the number of an errno.
    fault: String,
    /// `NUMBER EFFECT PATH`
    effect: String,
}

impl Strike {
    /// As the process is told.
    fn order(&self) -> String {
        let number = self.effect.split(' ').next().unwrap_or_default();
        format!("{}:{number}", self.fault)
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.fault, self.effect)
    }
}

/// Each fault at each of the effects.
fn strikes(effects: &[String], faults: &[&str]) -> Vec<Strike> {
    let at = |effect: &String| {
        let faults = faults.iter();
        let strike = |fault: &&str| Strike {
            fault: (*fault).to_owned(),
            effect: effect.clone(),
        };
        faults.map(strike).collect::<Vec<_>>()
    };
    effects.iter().flat_map(at).collect()
}

fn killed_at_each_effect(stage: Stage, operations: &[Operation]) {
    at_each_effect(stage, operations, &["kill"], |scene, _, outcome, _| {
        assert_eq!(outcome.signal, Some(9), "{outcome:?}");
        scene.foreign_is_untouched();
        assert!(scene.temporary_files().len() <= 1);
    });
}

fn fails_at_each_effect(stage: Stage, operations: &[Operation], errnos: &[&str]) {
    let check = |scene: &Scene, domain: &Domain, outcome: &Outcome, operation: Operation| {
        scene.foreign_is_untouched();
        assert_eq!(scene.temporary_files(), Vec::<String>::new());
        if !operation.may_refuse() {
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            assert_eq!(outcome.stdout, "");
        } else if outcome.succeeded() {
            assert_eq!(outcome.stderr, "");
            stage.has_devices(scene, domain);
            scene.is_settled();
        } else {
            outcome.refusal();
            if operation != Operation::PrepareAfterMigrate {
                assert!(scene.ours().is_empty(), "half a device");
                assert!(scene.our_vgpus().is_empty(), "half a vGPU");
            }
            if stage == Stage::Whole {
                scene.is_sound();
            }
        }
    };
    at_each_effect(stage, operations, errnos, check);
}

#[test]
fn a_kill_after_any_effect_is_repaired() {
    killed_at_each_effect(Stage::Mdev, &Operation::ALL);
}

#[test]
fn an_error_at_any_effect_refuses_or_is_borne() {
    // EIO, ENOSPC
    fails_at_each_effect(Stage::Mdev, &Operation::ALL, &["5", "28"]);
}

/// Otherwise the tests of vGPUs would test less than they claim.
#[test]
fn every_write_to_a_vgpu_is_an_effect() {
    for (stage, operation, wanted) in [
        (
            Stage::Sriov,
            Operation::Prepare,
            &["create", "vgpu_params"][..],
        ),
        (
            Stage::Functions,
            Operation::Prepare,
            &["current_vgpu_type", "vgpu_params"],
        ),
        (
            Stage::Mixed,
            Operation::Prepare,
            &["current_vgpu_type", "placement_id", "vgpu_params"],
        ),
        (Stage::Sriov, Operation::Release, &["remove"]),
        (Stage::Mixed, Operation::Release, &["current_vgpu_type"]),
    ] {
        let effects = operation.effects(stage);
        let paths = effects.iter().filter_map(|line| line.rsplit(' ').next());
        let in_sysfs = paths.filter(|path| path.starts_with("/sys/"));
        let written: Vec<_> = in_sysfs
            .filter_map(|path| path.rsplit('/').next())
            .collect();
        assert_eq!(written, wanted.repeat(2), "{stage:?} {operation:?}");
    }
}

/// Operations that differ between kinds: one makes, places and configures devices, the
/// other removes them.
const OF_DEVICES: [Operation; 2] = [Operation::Prepare, Operation::Release];

#[test]
fn a_kill_after_any_effect_on_a_vgpu_is_repaired() {
    for stage in Stage::VGPUS {
        killed_at_each_effect(stage, &OF_DEVICES);
    }
}

#[test]
fn an_error_at_any_effect_on_a_vgpu_refuses_or_is_borne() {
    for stage in Stage::VGPUS {
        // EIO: the driver's answer to everything that it refuses.
        fails_at_each_effect(stage, &OF_DEVICES, &["5"]);
    }
}

/// The driver has taken the value, and the writing process dies before it can say so.
#[test]
fn a_child_killed_after_any_write_leaves_nothing() {
    let mut cases = Vec::new();
    for stage in [Stage::Mdev, Stage::Whole].into_iter().chain(Stage::VGPUS) {
        for operation in OF_DEVICES {
            let effects = operation.effects(stage);
            let writes = effects
                .iter()
                .filter(|effect| effect.contains(" /sys/"))
                .count();
            assert!(writes > 0, "{stage:?} {operation:?}");
            for number in 1..=writes {
                cases.extend(
                    Cure::ALL
                        .iter()
                        .map(|cure| (stage, operation, number, *cure)),
                );
            }
        }
    }
    let name = |(stage, operation, number, cure): &(Stage, Operation, usize, Cure)| {
        format!("{stage:?}: {operation:?}, write {number}, then {cure:?}")
    };
    each(&cases, name, |&(stage, operation, number, cure)| {
        let (scene, domain) = (stage.scene(), stage.domain(1));
        operation.lead_up(&scene, &domain);
        let once = scene.path("child-died");
        let hook = operation.hook(&scene, &domain);
        let outcome = hook.child_fault(number, &once).run();
        assert!(once.exists(), "no child died");
        scene.foreign_is_untouched();
        if operation.may_refuse() {
            let line = outcome.refusal();
            assert!(line.contains("died without an answer"), "{line}");
            // Everything is undone, including the write that was not answered.
            assert!(scene.ours().is_empty(), "half a device");
            assert!(scene.our_vgpus().is_empty(), "half a vGPU");
            assert_eq!(scene.claims(), []);
            scene.is_sound();
        } else {
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            scene.is_sound();
        }
        cure.apply(stage, &scene, &domain);
    });
}

#[test]
fn a_kill_while_the_driver_works_leaves_nothing() {
    use crate::support::kernel::{Fault, Target};
    let (scene, domain) = (scene(), domain(1));
    scene.kernel.inject(Fault::hanging(Target::Create));
    let mut hook = scene.hook(&domain, "prepare begin -").start();
    eventually("the creation", || !scene.ours().is_empty());
    hook.kill();
    assert_eq!(hook.wait().signal, Some(9));
    // Nobody reads the driver's answer any more: the write is undone.
    assert_eq!(scene.claims().len(), 1);
    scene.kernel.heal();
    eventually("the removal", || scene.ours().is_empty());
    Cure::Again.apply(Stage::Mdev, &scene, &domain);
}

/// Repairs free only devices that are provably unused.
#[test]
fn in_doubt_nothing_is_freed() {
    let (scene, domain, other) = (scene(), domain(1), self::domain(2));
    scene.daemon_lives();
    scene.prepare(&domain).ends_well();
    let has_all = || has_everything(&scene, &domain);
    let refused = || {
        let outcome = scene.prepare(&other);
        let text = outcome.refusal().to_owned();
        assert!(text.contains("pool 'cad' has no free"), "{text}");
        has_all();
        scene.is_settled();
    };
    // libvirtd lives and the start is recent.
    refused();
    // libvirtd is gone, but QEMU runs.
    scene.daemon_dies();
    scene.runs(4711, &domain);
    refused();
    let held = scene.prepare(&domain);
    assert_eq!(
        held.refusal(),
        "domain 'vm1' still has devices of an earlier run: domain 'vm1' is running; see 'virt-vgpu status'"
    );
    has_all();
    #[cfg(feature = "cli")]
    {
        let outcome = scene.reconcile();
        assert!(outcome.stdout.contains("\"in-use\""), "{outcome:?}");
        has_all();
    }
    // libvirt's pidfile names a process that mentions the domain.
    scene.ends(4711);
    scene.file("run/libvirt/qemu/vm1.pid", "4713\n");
    scene.file("proc/4713/cmdline", format!("qemu\0uuid={}\0", domain.uuid));
    std::fs::create_dir(scene.path("proc/4713/fd")).unwrap();
    refused();
    // A number that now belongs to another process does not count, but an open device
    // does.
    scene.file("proc/4713/cmdline", "sleep\0");
    scene.opens(4712, &domain);
    refused();
    // Now nobody needs them.
    scene.ends(4712);
    scene.prepare(&other).ends_well();
    has_everything(&scene, &other);
    scene.is_settled();
    scene.stop(&other);
    scene.stop(&domain);
    scene.is_empty();
}

/// A domain that ends while a process still has its device open keeps its claim.
#[test]
fn a_device_in_use_stays_claimed() {
    let (scene, domain) = (scene(), domain(1));
    scene.prepare(&domain).ends_well();
    scene.opens(4711, &domain);
    let outcome = scene.hook(&domain, "stopped end crashed").run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let claims = scene.claims();
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].state, virt_vgpu::claims::State::Releasing);
    // The device that no process holds was removed.
    assert_eq!(scene.ours(), BTreeSet::from([domain.mdevs()[0].clone()]));
    scene.ends(4711);
    scene.stop(&domain);
    scene.is_empty();
}

/// Otherwise the tests of whole functions would test less than they claim.
#[test]
fn every_write_for_a_whole_function_is_an_effect() {
    let written = |operation: Operation| {
        let effects = operation.effects(Stage::Whole);
        let paths = effects.iter().filter_map(|line| line.rsplit(' ').next());
        let paths = paths.filter_map(|path| path.strip_prefix("/sys/bus/pci/"));
        let paths: Vec<String> = paths.map(str::to_owned).collect();
        paths.join("\n")
    };
    insta::assert_snapshot!(written(Operation::Prepare), @r"
    drivers/igb/unbind
    devices/0000:41:00.4/driver_override
    drivers_probe
    drivers/igb/unbind
    devices/0000:41:00.6/driver_override
    drivers_probe
    drivers/e1000e/unbind
    devices/0000:41:00.5/driver_override
    drivers_probe
    ");
    insta::assert_snapshot!(written(Operation::Release), @r"
    drivers/vfio-pci/unbind
    devices/0000:41:00.5/driver_override
    drivers_probe
    devices/0000:41:00.5/driver_override
    drivers/vfio-pci/unbind
    devices/0000:41:00.6/driver_override
    drivers_probe
    drivers/vfio-pci/unbind
    devices/0000:41:00.4/driver_override
    drivers_probe
    devices/0000:41:00.4/driver_override
    ");
}

#[test]
fn a_kill_after_any_effect_on_a_whole_function_is_repaired() {
    killed_at_each_effect(Stage::Whole, &OF_DEVICES);
}

#[test]
fn an_error_at_any_effect_on_a_whole_function_refuses_or_is_borne() {
    // ENODEV: the driver does not have the function any more.
    fails_at_each_effect(Stage::Whole, &OF_DEVICES, &["19"]);
}
