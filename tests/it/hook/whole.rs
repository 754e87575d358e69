//! The hook hands out whole PCI functions: each is bound to `vfio-pci` for as long as its VM
//! runs and comes back to exactly the driver that it had, whatever happens in between.

use lab_nvidia::model::Vm;
use nix::errno::Errno;
use virt_vgpu::claims::{Claim, State};

use crate::support::{
    domain::Domain,
    eventually,
    kernel::{Bound, Fault, Meanwhile, Target},
    machine::{Machine, Plain},
    process::{Outcome, Program},
    refused::on_host,
    scene::Scene,
    side_by_side::each,
};

const NIC: &str = "0000:04:00.0";
/// In one IOMMU group with [`BESIDE`].
const FRONT: &str = "0000:05:00.0";
const BESIDE: &str = "0000:05:00.1";
const DRIVE: &str = "0000:06:00.0";
const PORT: &str = "0000:00:01.0";

/// A card alone, two that share a group with a bridge, and a drive.
fn machine() -> Machine {
    Machine::of_pci([
        Plain::bridge(PORT, 5),
        Plain::nic(NIC, 4),
        Plain::nic(FRONT, 5),
        Plain::nic(BESIDE, 5).reserved_for("igb"),
        Plain::drive(DRIVE, 6),
    ])
}

/// A pool hands out the functions of a card one by one.
const APART: &str = "[pci]\nmultifunction = false\n";

fn scene() -> Scene {
    let scene = Scene::new(machine());
    scene.pci_pool_with("cards", APART);
    scene
}

fn domain(number: usize, function: &str) -> Domain {
    Domain::new(number).function("dev0", "cards", function)
}

fn bound(driver: Option<&str>, reserved: Option<&str>) -> Bound {
    Bound {
        driver: driver.map(str::to_owned),
        reserved: reserved.map(str::to_owned),
    }
}

fn vfio() -> Bound {
    bound(Some("vfio-pci"), Some("vfio-pci"))
}

fn now(scene: &Scene, function: &str) -> Bound {
    scene.kernel.bound()[function].clone()
}

fn released(scene: &Scene, domain: &Domain) -> Outcome {
    scene.hook(domain, "release end shutdown").run()
}

/// The warnings and errors of a hook that must succeed, without their time.
fn logged(scene: &Scene, domain: &Domain, words: &str) -> String {
    let outcome = scene.hook(domain, words).logging_at("warn").run();
    assert_eq!(
        (outcome.code, &*outcome.stdout),
        (Some(0), ""),
        "{outcome:?}"
    );
    let lines = outcome.stderr.lines().map(|line| {
        let (_, rest) = line.split_once("domain '").unwrap_or(("", line));
        format!("domain '{rest}")
    });
    on_host(scene, &lines.collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_function_is_vfios_for_as_long_as_its_vm_runs() {
    let (scene, domain) = (scene(), domain(1, NIC));
    scene.prepare(&domain).ends_well();
    scene.is_settled();
    assert_eq!(now(&scene, NIC), vfio());
    scene.runs_on(4711, &domain, &[NIC]);
    for words in ["start begin -", "started begin -"] {
        scene.hook(&domain, words).run().ends_well();
    }
    scene.is_settled();
    scene.ends(4711);
    scene.stop(&domain);
    scene.is_empty();
    assert_eq!(now(&scene, NIC), bound(Some("igb"), None));
}

/// The first driver that the kernel finds for the card is `igb`.
#[test]
fn a_function_comes_back_as_it_was() {
    let cases = [
        (Some("igb"), None),
        (Some("igb"), Some("igb")),
        (Some("igb"), Some("nvme")),
        (Some("e1000e"), None),
        (Some("e1000e"), Some("e1000e")),
        (Some("e1000e"), Some("no-such-driver")),
        (None, None),
        (None, Some("igb")),
        (None, Some("vfio-pci")),
        (Some("vfio-pci"), Some("vfio-pci")),
        (Some("vfio-pci"), None),
        (Some("vfio-pci"), Some("igb")),
    ];
    each(
        &cases,
        |case| format!("{case:?}"),
        |&(driver, reserved)| {
            let card = Plain {
                driver_override: reserved.map(str::to_owned),
                ..Plain::nic(NIC, 4).with_driver(driver)
            };
            let scene = Scene::new(Machine::of_pci([card]));
            scene.pci_pool("cards");
            let domain = domain(1, NIC);
            for _ in 0..2 {
                scene.prepare(&domain).ends_well();
                assert_eq!(now(&scene, NIC).driver.as_deref(), Some("vfio-pci"));
                scene.is_settled();
                scene.runs_on(4711, &domain, &[NIC]);
                scene.ends(4711);
                scene.stop(&domain);
                assert_eq!(now(&scene, NIC), bound(driver, reserved));
                scene.is_empty();
            }
            if driver == Some("vfio-pci") {
                assert_eq!(scene.kernel.writes(), [], "it has the driver already");
            }
        },
    );
}

#[test]
fn a_pool_may_keep_its_functions_bound() {
    let scene = Scene::new(machine());
    scene.pci_pool_with("cards", "[pci]\nmultifunction = false\nkeep-bound = true\n");
    let domain = domain(1, FRONT);
    scene.prepare(&domain).ends_well();
    scene.is_settled();
    scene.stop(&domain);
    assert_eq!(scene.claims(), []);
    for at in [FRONT, BESIDE] {
        assert_eq!(now(&scene, at), vfio(), "{at}");
    }
    scene.accept_drivers();
    let writes = scene.kernel.writes().len();
    scene.prepare(&domain).ends_well();
    scene.stop(&domain);
    assert_eq!(scene.kernel.writes().len(), writes, "nothing is to be done");
    scene.is_empty();
}

/// What stays bound was bound: a card that `vfio-pci` does not take goes back to the host.
#[test]
fn a_pool_that_keeps_its_functions_leaves_none_half_bound() {
    let scene = Scene::new(machine());
    scene.pci_pool_with("cards", "[pci]\nmultifunction = false\nkeep-bound = true\n");
    let refuses = Fault::errno(Target::Probe, Errno::EIO).on(BESIDE);
    scene.kernel.inject(refuses.times(1));
    scene.prepare(&domain(1, FRONT)).refusal();
    scene.is_empty();
}

#[test]
fn a_group_goes_and_comes_as_a_whole() {
    let (scene, one, other) = (scene(), domain(1, FRONT), domain(2, BESIDE));
    scene.daemon_lives();
    scene.prepare(&one).ends_well();
    for at in [FRONT, BESIDE] {
        assert_eq!(now(&scene, at), vfio(), "{at}");
    }
    assert_eq!(now(&scene, PORT), bound(Some("pcieport"), None));
    scene.runs_on(4711, &one, &[FRONT]);
    let outcome = scene.prepare(&other);
    insta::assert_snapshot!(on_host(&scene, outcome.refusal()), @"pool 'cards' has no free PCI device for domain 'vm2': its XML names 0000:05:00.1: domain 'vm1' has it; 'virt-vgpu start vm2' looks for another");
    scene.is_settled();
    scene.ends(4711);
    scene.stop(&one);
    scene.is_empty();
    scene.prepare(&other).ends_well();
    scene.runs_on(4711, &other, &[BESIDE]);
    scene.ends(4711);
    scene.stop(&other);
    scene.is_empty();
}

/// Both are in one group, so the first takes the second along.
#[test]
fn a_vm_may_have_two_functions_of_a_group() {
    let scene = scene();
    for (first, second) in [(FRONT, BESIDE), (BESIDE, FRONT)] {
        let domain = domain(1, first).function("dev1", "cards", second);
        scene.prepare(&domain).ends_well();
        scene.is_settled();
        scene.runs_on(4711, &domain, &[first, second]);
        scene.ends(4711);
        scene.stop(&domain);
        scene.is_empty();
    }
}

#[test]
fn what_vfio_does_not_take_goes_back_to_the_host() {
    let scene = scene();
    for at in [FRONT, BESIDE] {
        let refuses = Fault::errno(Target::Probe, Errno::EINVAL).on(at);
        scene.kernel.inject(refuses.times(1));
        let outcome = scene.prepare(&domain(1, FRONT));
        let line = on_host(&scene, outcome.refusal());
        assert_eq!(
            line,
            format!(
                "pool 'cards' has no free PCI device for domain 'vm1': its XML names {FRONT}: it \
                 cannot be bound to the driver for VMs: the driver vfio-pci does not take {at}; \
                 'journalctl -k' shows its messages; 'virt-vgpu start vm1' looks for another"
            )
        );
        scene.is_empty();
    }
}

/// Nothing can be known about a function while a driver works on it.
#[test]
fn a_driver_that_does_not_let_go_refuses_the_start() {
    let (scene, domain, other) = (scene(), domain(1, NIC), domain(2, FRONT));
    scene.daemon_lives();
    scene.kernel.inject(Fault::hanging(Target::Unbind).on(NIC));
    let outcome = scene.prepare(&domain);
    insta::assert_snapshot!(on_host(&scene, outcome.refusal()), @r"
    pool 'cards' has no free PCI device for domain 'vm1': its XML names 0000:04:00.0: bind 0000:04:00.0 to vfio-pci instead of igb: igb does not let 0000:04:00.0 go, so something on this host uses it: /sys/bus/pci/drivers/igb/unbind: no answer from the driver within 8 s; it is quarantined until igb has it again and it answers ('virt-vgpu reconcile' tries that): stop what uses it, or reboot the host; 'virt-vgpu start vm1' looks for another
    ");
    // Nobody gets it, and others start while the driver still hangs.
    assert_eq!(scene.claims(), []);
    scene.prepare(&other).ends_well();
    scene.stop(&other);
    scene.prepare(&self::domain(3, NIC)).refusal();
    // The driver lets go in the end, and the child takes that back.
    scene.kernel.heal();
    eventually("the driver has let go", || {
        scene.kernel.under_way() == 0 && now(&scene, NIC) == bound(Some("igb"), None)
    });
    forget_slow_drivers(&scene);
    scene.prepare(&domain).ends_well();
    scene.stop(&domain);
    scene.is_empty();
}

/// The quarantine ends when the function has its driver again, which 'reconcile' tries.
#[cfg(feature = "cli")]
fn is_given_back_by_reconcile(scene: &Scene, domain: &Domain) {
    scene.reconcile().succeeds();
    scene.is_empty();
    scene.prepare(domain).ends_well();
    scene.stop(domain);
    scene.is_empty();
}

#[cfg(not(feature = "cli"))]
fn is_given_back_by_reconcile(_: &Scene, _: &Domain) {}

/// Functions that were slow are asked again after some time; tests do not wait for that.
fn forget_slow_drivers(scene: &Scene) {
    let notes = scene.path("run/virt-vgpu/slow-drivers");
    if notes.exists() {
        std::fs::remove_dir_all(notes).unwrap();
    }
}

#[test]
fn vfio_that_does_not_answer_refuses_the_start() {
    let (scene, domain) = (scene(), domain(1, NIC));
    scene.kernel.inject(Fault::hanging(Target::Probe).on(NIC));
    let outcome = scene.prepare(&domain);
    insta::assert_snapshot!(on_host(&scene, outcome.refusal()), @r"
    pool 'cards' has no free PCI device for domain 'vm1': its XML names 0000:04:00.0: bind 0000:04:00.0 to vfio-pci instead of igb: /sys/bus/pci/drivers_probe: no answer from the driver within 8 s; it is quarantined until igb has it again and it answers ('virt-vgpu reconcile' tries that): stop what uses it, or reboot the host; 'virt-vgpu start vm1' looks for another
    ");
    assert_eq!(scene.claims(), []);
    scene.kernel.heal();
    // The child takes it away from `vfio-pci` again.
    eventually("the driver has let go", || {
        scene.kernel.under_way() == 0 && now(&scene, NIC).driver.is_none()
    });
    forget_slow_drivers(&scene);
    scene.prepare(&domain).refusal();
    is_given_back_by_reconcile(&scene, &domain);
}

#[test]
fn a_function_that_vfio_does_not_let_go_is_quarantined() {
    let (scene, domain) = (scene(), domain(1, NIC));
    scene.prepare(&domain).ends_well();
    scene.kernel.inject(Fault::hanging(Target::Unbind).on(NIC));
    insta::assert_snapshot!(logged(&scene, &domain, "release end shutdown"), @r#"domain 'vm1': device 'dev0' is quarantined: 0000:04:00.0 has not got its driver back: vfio-pci does not let 0000:04:00.0 go, so something on this host uses it: /sys/bus/pci/drivers/vfio-pci/unbind: no answer from the driver within 8 s message_id="72cf7eb663bd4aa5822523b0282530f4" domain_uuid=aaaaaaaa-0000-4000-8000-000000000001 domain_name=vm1 pool=cards device=0000:04:00.0 parent=0000:04:00.0"#);
    assert_eq!(scene.claims(), []);
    scene.prepare(&domain).refusal();
    scene.kernel.heal();
    eventually("the driver has let go", || {
        let reserved = format!("/bus/pci/devices/{NIC}/driver_override");
        !scene.kernel.is_locked_for(&reserved)
    });
    forget_slow_drivers(&scene);
    is_given_back_by_reconcile(&scene, &domain);
}

/// A function that is back by other means, and that another VM has by now, is not taken from
/// this VM.
#[cfg(feature = "cli")]
#[test]
fn a_function_that_was_unfit_stays_with_its_next_vm() {
    let (scene, first, second) = (scene(), domain(1, NIC), domain(2, NIC));
    scene.prepare(&first).ends_well();
    let refuses = Fault::errno(Target::Probe, Errno::EIO).on("igb");
    scene.kernel.inject(refuses);
    assert_eq!(released(&scene, &first).code, Some(0));
    scene.prepare(&second).refusal();
    scene.kernel.heal();
    scene.kernel.rebind(NIC, "igb");
    scene.prepare(&second).ends_well();
    scene.runs_on(4711, &second, &[NIC]);
    scene.reconcile().succeeds();
    assert_eq!(now(&scene, NIC), vfio());
    assert_eq!(scene.claims().len(), 1);
}

/// A driver that takes long for the function that it gets back is not disturbed.
#[test]
fn a_function_that_comes_back_late_is_back() {
    let (scene, domain) = (scene(), domain(1, NIC));
    scene.prepare(&domain).ends_well();
    scene.kernel.inject(Fault::hanging(Target::Probe).on(NIC));
    let outcome = released(&scene, &domain);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    scene.prepare(&domain).refusal();
    scene.kernel.heal();
    eventually("the driver has let go", || {
        scene.kernel.under_way() == 0 && now(&scene, NIC).driver.as_deref() == Some("igb")
    });
    forget_slow_drivers(&scene);
    scene.prepare(&domain).ends_well();
    scene.stop(&domain);
    assert_eq!(now(&scene, NIC).driver.as_deref(), Some("igb"));
}

/// The driver was removed while the VM ran.
#[test]
fn a_function_whose_driver_is_gone_has_none_afterwards() {
    let (scene, domain) = (scene(), domain(1, DRIVE));
    scene.prepare(&domain).ends_well();
    scene.kernel.unload("nvme");
    scene.stop(&domain);
    assert_eq!(scene.claims(), []);
    assert_eq!(now(&scene, DRIVE), bound(None, None));
}

#[test]
fn a_function_that_its_driver_does_not_take_back_is_quarantined() {
    let (scene, domain) = (scene(), domain(1, FRONT));
    scene.prepare(&domain).ends_well();
    let refuses = Fault::errno(Target::Probe, Errno::EIO).on(BESIDE);
    scene.kernel.inject(refuses);
    insta::assert_snapshot!(logged(&scene, &domain, "release end shutdown"), @r#"domain 'vm1': device 'dev0' is quarantined: 0000:05:00.1 has not got its driver back: the driver igb does not take 0000:05:00.1; 'journalctl -k' shows its messages message_id="72cf7eb663bd4aa5822523b0282530f4" domain_uuid=aaaaaaaa-0000-4000-8000-000000000001 domain_name=vm1 pool=cards device=0000:05:00.0 parent=0000:05:00.0"#);
    assert_eq!(scene.claims(), []);
    // The other one of the group has its driver.
    assert_eq!(now(&scene, FRONT), bound(Some("igb"), None));
    let refused = scene.prepare(&domain);
    insta::assert_snapshot!(on_host(&scene, refused.refusal()), @r"
    pool 'cards' has no free PCI device for domain 'vm1': its XML names 0000:05:00.0: its IOMMU group 5 also holds 0000:05:00.1: 0000:05:00.1 has not got its driver back: the driver igb does not take 0000:05:00.1; 'journalctl -k' shows its messages; it is quarantined until igb has it again and it answers ('virt-vgpu reconcile' tries that); 'echo 1 > /sys/bus/pci/devices/0000:05:00.1/remove' and 'echo 1 > /sys/bus/pci/rescan' detect it anew, or a reboot; 'virt-vgpu start vm1' looks for another
    ");
    scene.kernel.heal();
    is_given_back_by_reconcile(&scene, &domain);
}

/// Neither function of the group can be bound, nor given back.
#[test]
fn what_cannot_be_undone_is_claimed_once() {
    let (scene, domain) = (scene(), domain(1, FRONT));
    scene
        .kernel
        .inject(Fault::errno(Target::Probe, Errno::EIO).on("igb"));
    scene
        .kernel
        .inject(Fault::errno(Target::Probe, Errno::EINVAL).on(BESIDE));
    let outcome = scene.prepare(&domain);
    insta::assert_snapshot!(on_host(&scene, outcome.refusal()), @"bind 0000:05:00.1 to vfio-pci instead of igb: the driver vfio-pci does not take 0000:05:00.1; 'journalctl -k' shows its messages: it could not be undone yet (the driver igb does not take 0000:05:00.1; 'journalctl -k' shows its messages); 'virt-vgpu reconcile' tries again");
    let claims = scene.claims();
    assert_eq!(claims.len(), 1);
    let names: Vec<String> = claims[0]
        .devices
        .iter()
        .map(|device| device.name.to_string())
        .collect();
    assert_eq!(names, ["dev0"]);
    scene.kernel.heal();
    scene.prepare(&domain).ends_well();
    scene.stop(&domain);
    scene.is_empty();
}

/// Others make the kernel look for drivers at any time, as udev does.
#[test]
fn nobody_else_gets_a_function_in_between() {
    let (scene, domain) = (scene(), domain(1, NIC));
    let others = || {
        let probed = Fault::then(Target::Unbind, Meanwhile::IsProbed);
        scene.kernel.inject(probed.on(NIC));
    };
    others();
    scene.prepare(&domain).ends_well();
    scene.is_settled();
    assert_eq!(now(&scene, NIC), vfio());
    others();
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn a_function_that_dies_is_refused() {
    let domain = domain(1, FRONT);
    let mut said = String::new();
    for at in [FRONT, BESIDE] {
        let scene = scene();
        let dies = Fault::then(Target::Probe, Meanwhile::Dies);
        scene.kernel.inject(dies.on(at));
        let outcome = scene.prepare(&domain);
        said.push_str(&format!("{}\n", on_host(&scene, outcome.refusal())));
        scene.is_empty();
    }
    insta::assert_snapshot!(said, @r"
    pool 'cards' has no free PCI device for domain 'vm1': its XML names 0000:05:00.0: bind 0000:05:00.0 to vfio-pci instead of igb: 0000:05:00.0 does not answer: its configuration space reads as all ones; 'journalctl -k' shows the kernel's messages; it is quarantined until igb has it again and it answers ('virt-vgpu reconcile' tries that); 'echo 1 > /sys/bus/pci/devices/0000:05:00.0/remove' and 'echo 1 > /sys/bus/pci/rescan' detect it anew, or a reboot; 'virt-vgpu start vm1' looks for another
    pool 'cards' has no free PCI device for domain 'vm1': its XML names 0000:05:00.0: its IOMMU group 5 also holds 0000:05:00.1: bind 0000:05:00.1 to vfio-pci instead of igb: 0000:05:00.1 does not answer: its configuration space reads as all ones; 'journalctl -k' shows the kernel's messages; it is quarantined until igb has it again and it answers ('virt-vgpu reconcile' tries that); 'echo 1 > /sys/bus/pci/devices/0000:05:00.1/remove' and 'echo 1 > /sys/bus/pci/rescan' detect it anew, or a reboot; 'virt-vgpu start vm1' looks for another
    ");
}

#[test]
fn a_function_that_is_pulled_out_meanwhile_is_refused() {
    let mut said = String::new();
    for (target, at) in [
        (Target::Unbind, FRONT),
        (Target::Probe, FRONT),
        (Target::Unbind, BESIDE),
        (Target::Probe, BESIDE),
    ] {
        let (scene, domain) = (scene(), domain(1, FRONT));
        let vanishes = Fault::then(target, Meanwhile::Vanishes);
        scene.kernel.inject(vanishes.on(at));
        let outcome = scene.prepare(&domain);
        said.push_str(&format!(
            "{target:?} {at}: {}\n",
            on_host(&scene, outcome.refusal())
        ));
        scene.is_empty();
    }
    insta::assert_snapshot!(said, @r"
    Unbind 0000:05:00.0: cannot make device 'dev0' of domain 'vm1': bind 0000:05:00.0 to vfio-pci instead of igb: 0000:05:00.0 is not there any more; 'journalctl -k' shows the kernel's messages
    Probe 0000:05:00.0: cannot make device 'dev0' of domain 'vm1': bind 0000:05:00.0 to vfio-pci instead of igb: 0000:05:00.0 is not there any more; 'journalctl -k' shows the kernel's messages
    Unbind 0000:05:00.1: cannot make device 'dev0' of domain 'vm1': bind 0000:05:00.1 to vfio-pci instead of igb: 0000:05:00.1 is not there any more; 'journalctl -k' shows the kernel's messages
    Probe 0000:05:00.1: cannot make device 'dev0' of domain 'vm1': bind 0000:05:00.1 to vfio-pci instead of igb: 0000:05:00.1 is not there any more; 'journalctl -k' shows the kernel's messages
    ");
}

#[test]
fn a_function_that_is_pulled_out_in_use_is_given_back() {
    let (scene, domain) = (scene(), domain(1, FRONT));
    for at in [FRONT, BESIDE] {
        let scene = self::scene();
        scene.prepare(&domain).ends_well();
        scene.runs_on(4711, &domain, &[FRONT]);
        scene.kernel.remove_parent(at);
        scene.ends(4711);
        scene.stop(&domain);
        scene.is_empty();
    }
    scene.prepare(&domain).ends_well();
    scene.stop(&domain);
    scene.is_empty();
}

/// Its configuration space reads as ones: it was not reset, or lost its power.
#[test]
fn a_function_that_died_in_use_is_given_back() {
    let (scene, domain) = (scene(), domain(1, NIC));
    scene.prepare(&domain).ends_well();
    scene.runs_on(4711, &domain, &[NIC]);
    scene.kernel.kill_function(NIC);
    scene.ends(4711);
    scene.stop(&domain);
    scene.is_empty();
}

/// An administrator who binds it by hand while its VM runs knows what he does.
#[test]
fn what_somebody_else_has_bound_stays() {
    let (scene, domain) = (scene(), domain(1, NIC));
    scene.prepare(&domain).ends_well();
    scene.kernel.rebind(NIC, "e1000e");
    scene.stop(&domain);
    assert_eq!(scene.claims(), []);
    assert_eq!(now(&scene, NIC).driver.as_deref(), Some("e1000e"));
    // If the host's own driver has it again, only the override is ours.
    let scene = self::scene();
    scene.prepare(&domain).ends_well();
    scene.kernel.rebind(NIC, "igb");
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn a_group_that_another_process_has_is_refused() {
    let scene = Scene::new(Machine::of_pci([
        Plain::nic(FRONT, 5)
            .with_driver(Some("vfio-pci"))
            .reserved_for("vfio-pci"),
        Plain::nic(BESIDE, 5).with_driver(None),
    ]));
    scene.pci_pool_with("cards", APART);
    let vm = Vm {
        pid: 99,
        uuid: None,
        name: None,
    };
    scene.kernel.open(FRONT, vm).unwrap();
    for at in [FRONT, BESIDE] {
        let outcome = scene.prepare(&domain(1, at));
        assert_eq!(
            on_host(&scene, outcome.refusal()),
            format!(
                "pool 'cards' has no free PCI device for domain 'vm1': its XML names {at}: \
                 another process has /dev/vfio/5 open; 'fuser /dev/vfio/5' names it; \
                 'virt-vgpu start vm1' looks for another"
            )
        );
    }
    scene.is_empty();
}

#[test]
fn a_vm_that_is_killed_gives_its_function_back() {
    let (scene, domain) = (scene(), domain(1, FRONT));
    scene.starts(4711, &domain, &[FRONT]);
    // Its QEMU still has the group open.
    assert_eq!(released(&scene, &domain).code, Some(0));
    let claims = scene.claims();
    assert_eq!((claims.len(), claims[0].state), (1, State::Releasing));
    assert_eq!(now(&scene, FRONT), vfio());
    scene.ends(4711);
    for words in ["stopped end crashed", "release end crashed"] {
        scene.hook(&domain, words).run().ends_well();
    }
    scene.is_empty();
}

/// Somebody starts the hook for a domain whose function no longer has `vfio-pci`.
#[test]
fn each_start_looks_at_the_driver() {
    let (scene, domain) = (scene(), domain(1, NIC));
    scene.prepare(&domain).ends_well();
    scene.stop(&domain);
    scene.kernel.rebind(NIC, "e1000e");
    scene.accept_drivers();
    scene.prepare(&domain).ends_well();
    assert_eq!(now(&scene, NIC), vfio());
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn one_of_many_starts_at_one_instant_has_the_function() {
    let scene = scene();
    scene.daemon_lives();
    for named in [
        [NIC; 8],
        [FRONT, BESIDE, FRONT, BESIDE, FRONT, BESIDE, FRONT, BESIDE],
    ] {
        let domains = named.iter().enumerate();
        let domains: Vec<Domain> = domains.map(|(number, at)| domain(number, at)).collect();
        let running = domains
            .iter()
            .map(|one| scene.hook(one, "prepare begin -").start());
        let running: Vec<_> = running.collect();
        let outcomes: Vec<Outcome> = running.into_iter().map(|one| one.wait()).collect();
        let served = outcomes.iter().filter(|outcome| outcome.succeeded());
        assert_eq!(served.count(), 1, "{outcomes:?}");
        for outcome in outcomes.iter().filter(|outcome| !outcome.succeeded()) {
            let line = outcome.refusal();
            assert!(line.contains("' has it"), "{line}");
        }
        scene.is_settled();
        for domain in &domains {
            scene.stop(domain);
        }
        scene.is_empty();
    }
}

/// The kernel of the next boot binds its drivers anew.
#[test]
fn a_claim_of_the_last_boot_writes_nothing() {
    let (scene, domain) = (scene(), domain(1, BESIDE));
    scene.file("proc/sys/kernel/random/boot_id", "0a0a0a0a\n");
    scene.prepare(&domain).ends_well();
    scene.file("proc/sys/kernel/random/boot_id", "0b0b0b0b\n");
    let claims = scene.root().join("run/virt-vgpu/claims");
    let path = claims.join(format!("{}.json", domain.uuid));
    let text = std::fs::read_to_string(&path).unwrap();
    let again = Scene::new(machine());
    again.pci_pool_with("cards", APART);
    let path = format!("run/virt-vgpu/claims/{}.json", domain.uuid);
    again.file("proc/sys/kernel/random/boot_id", "0b0b0b0b\n");
    again.file(&path, text);
    #[cfg(feature = "cli")]
    again.reconcile().succeeds();
    again.stop(&domain);
    assert_eq!(again.kernel.writes(), []);
    again.is_empty();
}

#[test]
fn a_claim_is_read_as_it_was_written() {
    let (scene, domain) = (scene(), domain(1, FRONT));
    scene.prepare(&domain).ends_well();
    let path = format!("run/virt-vgpu/claims/{}.json", domain.uuid);
    let text = std::fs::read_to_string(scene.path(&path)).unwrap();
    let claim: Claim = serde_json::from_str(&text).unwrap();
    let device = serde_json::to_value(&claim.devices[0]).unwrap();
    let written: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(device, written["devices"][0]);
    insta::assert_snapshot!(serde_json::to_string_pretty(&device).unwrap(), @r#"
    {
      "along": [
        "0000:05:00.1"
      ],
      "board": "0000:05:00.0",
      "handle": "0000:05:00.0",
      "identity": [],
      "kind": "pci",
      "name": "dev0",
      "nodes": [
        "/dev/vfio/5",
        "/dev/vfio/devices/vfio2",
        "/dev/vfio/devices/vfio3"
      ],
      "parent": "0000:05:00.0",
      "pool": "cards",
      "rests_on": "/sys/bus/pci/devices/0000:05:00.0/driver",
      "type": "8086:1533",
      "undo": [
        {
          "before": {
            "driver": "igb",
            "driver-override": null,
            "function": "0000:05:00.0"
          },
          "bound_to": "vfio-pci"
        },
        {
          "before": {
            "driver": "igb",
            "driver-override": "igb",
            "function": "0000:05:00.1"
          },
          "bound_to": "vfio-pci"
        }
      ],
      "uuid": "4cdccd94-a031-5bee-a726-aaf5ab3c5074"
    }
    "#);
    scene.stop(&domain);
    scene.is_empty();
}

/// With `managed='yes'` libvirt would give the function to whatever driver matches first.
#[test]
fn a_function_that_libvirt_would_give_back_is_refused() {
    let (scene, domain) = (scene(), domain(1, NIC));
    let xml = domain.xml().replace("managed='no'", "managed='yes'");
    let outcome = scene.hook_with(&domain, "prepare begin -", xml).run();
    insta::assert_snapshot!(on_host(&scene, outcome.refusal()), @"device 'dev0' of domain 'vm1': its hostdev has managed='yes', so libvirt would unbind the function from the driver that it needs; set managed='no' with 'virsh edit vm1'");
    scene.is_empty();
}

#[cfg(feature = "cli")]
#[test]
fn status_shows_a_function_and_what_goes_with_it() {
    let (scene, domain) = (scene(), domain(1, FRONT));
    scene.prepare(&domain).ends_well();
    let outcome = Program::command(scene.root(), "status").run();
    insta::assert_snapshot!(on_host(&scene, &outcome.stdout), @r"
    POOL   TYPE        PARENTS  IN USE  FREE  LIMIT
    cards  PCI device  5        1       2     -

    DOMAIN  DEVICE  POOL   TYPE       PARENT        UUID                                  STATE
    vm1     dev0    cards  8086:1533  0000:05:00.0  4cdccd94-a031-5bee-a726-aaf5ab3c5074  stale

    problem: domain 'vm1' is not running but holds devices; run 'virt-vgpu reconcile'
    ");
    scene.stop(&domain);
    scene.is_empty();
}
