//! `attach --live` and `detach --live` killed after each of their effects, and each
//! effect failing. The libvirt is real and runs the domain, but takes no device of the
//! model's, so every undisturbed `attach --live` undoes what it did: its effects are
//! those of both ways.

use std::collections::BTreeSet;

use super::{
    Place,
    libvirtd::libvirtd,
    stage::Stage,
    support::{
        domain::Domain,
        process::{Outcome, Program},
        scene::Scene,
    },
};

const ATTACH: &str = "attach VM --pool cad --live";
const DETACH: &str = "detach VM --all --live --wait 1";

/// A domain that runs in libvirt and asks for nothing, on a host of its own.
fn scene(number: usize) -> (Scene, Domain) {
    let libvirtd = libvirtd();
    let domain = Domain::new(number);
    let name = &domain.name;
    let there = libvirtd.virsh(&["list", "--all", "--name"]);
    if !there.lines().any(|line| line == name) {
        libvirtd.make(
            "define",
            &format!(
                "<domain type='qemu'><name>{name}</name><uuid>{}</uuid><memory unit='MiB'>32</memory>\
                 <vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os>\
                 <devices><memballoon model='none'/></devices></domain>",
                domain.uuid
            ),
        );
        libvirtd.virsh(&["start", name]);
    }
    let (live, defined) = (
        libvirtd.virsh(&["dumpxml", name]),
        libvirtd.definition(name),
    );
    assert!(
        !live.contains("vgpu") && !defined.contains("vgpu"),
        "{live}\n{defined}"
    );
    (Stage::Mdev.scene(), domain)
}

fn command(scene: &Scene, domain: &Domain, arguments: &str) -> Program {
    let arguments = arguments.replace("VM", &domain.name);
    Program::command(
        scene.root(),
        &format!("{arguments} --connect {}", libvirtd().uri),
    )
}

/// The effects of a command, as `NUMBER EFFECT PATH` each.
fn effects(scene: &Scene, domain: &Domain, arguments: &str) -> Vec<String> {
    let trace = scene.path("trace");
    command(scene, domain, arguments).trace(&trace).run();
    let text = std::fs::read_to_string(&trace).unwrap();
    std::fs::remove_file(trace).unwrap();
    text.lines().map(ToOwned::to_owned).collect()
}

#[derive(Debug, Clone, Copy)]
enum Cure {
    /// The same once more.
    Again,
    /// It is detached instead.
    Detach,
    /// The domain ends.
    End,
    /// Somebody cleans up; no QEMU is to be seen there.
    Reconcile,
}

impl Cure {
    const ALL: [Self; 4] = [Self::Again, Self::Detach, Self::End, Self::Reconcile];

    fn apply(self, scene: &Scene, domain: &Domain) {
        match self {
            Self::Again => {
                let outcome = command(scene, domain, ATTACH).run();
                let line = outcome.refusal();
                assert!(
                    line.ends_with("VFIO support; the device was taken back"),
                    "{line}"
                );
            }
            Self::Detach => {}
            Self::End => scene.stop(domain),
            Self::Reconcile => {
                let outcome = scene.reconcile();
                assert_eq!(outcome.code, Some(0), "{outcome:?}");
            }
        }
        if !matches!(self, Self::Detach) {
            scene.is_sound();
            assert_eq!(scene.claims(), []);
        }
        // Whatever a crash has left in libvirt, and all that is left on the host.
        let outcome = command(scene, domain, DETACH).run();
        outcome.succeeds();
        scene.is_sound();
        assert_eq!(scene.claims(), []);
    }
}

/// Runs the command with each fault at each of its effects, and cures.
fn at_each_effect(
    (number, arguments): (usize, &str),
    faults: &[&str],
    lead_up: impl Fn(&Scene, &Domain),
    check: impl Fn(&Scene, &Outcome),
) {
    let (undisturbed, domain) = scene(number);
    lead_up(&undisturbed, &domain);
    let effects = effects(&undisturbed, &domain, arguments);
    assert!(
        effects.iter().any(|effect| effect.contains("/sys/")),
        "{effects:?}"
    );
    Cure::Detach.apply(&undisturbed, &domain);
    // An edit at libvirt is no effect that fails with an errno.
    let can = |effect: &str, fault: &str| fault == "kill" || !effect.contains(" edit ");
    for (effect, fault) in { effects.iter() }
        .flat_map(|effect| faults.iter().map(move |fault| (effect, fault)))
        .filter(|(effect, fault)| can(effect, fault))
    {
        for cure in Cure::ALL {
            let place = Place(format!("{arguments}: {fault} at {effect}, then {cure:?}"));
            let (scene, domain) = scene(number);
            lead_up(&scene, &domain);
            let number = effect.split(' ').next().unwrap();
            let outcome = command(&scene, &domain, arguments)
                .fault(&format!("{fault}:{number}"))
                .run();
            check(&scene, &outcome);
            scene.foreign_is_untouched();
            cure.apply(&scene, &domain);
            drop(place);
        }
    }
}

fn is_killed(scene: &Scene, outcome: &Outcome) {
    assert_eq!(outcome.signal, Some(9), "{outcome:?}");
    assert!(scene.temporary_files().len() <= 1);
}

#[test]
fn plugging_in_that_is_cut_short_is_repaired() {
    at_each_effect((1, ATTACH), &["kill"], |_, _| {}, is_killed);
}

#[test]
fn plugging_in_bears_an_error_at_any_effect() {
    // EIO; where it strikes the undoing, the claim knows what is left.
    let check = |scene: &Scene, outcome: &Outcome| {
        outcome.refusal();
        let claimed = scene.claims().into_iter().flat_map(|claim| claim.devices);
        let claimed: BTreeSet<String> = claimed.map(|device| device.label()).collect();
        assert!(scene.ours().is_subset(&claimed), "{outcome:?}");
        assert_eq!(scene.temporary_files(), Vec::<String>::new());
    };
    at_each_effect((2, ATTACH), &["5"], |_, _| {}, check);
}

/// Plugging in was cut short when the device was there.
fn plugged(scene: &Scene, domain: &Domain) {
    for number in 1.. {
        command(scene, domain, ATTACH)
            .fault(&format!("kill:{number}"))
            .run();
        if !scene.ours().is_empty() {
            return;
        }
    }
}

#[test]
fn unplugging_that_is_cut_short_is_repaired() {
    at_each_effect((3, DETACH), &["kill"], plugged, is_killed);
}

const QEMU: u32 = 4711;

/// The domain goes on running: what was cut short goes without its end.
#[test]
fn plugging_in_that_is_cut_short_leaves_nothing_with_a_domain_that_runs() {
    let (undisturbed, domain) = scene(4);
    undisturbed.runs(QEMU, &domain);
    for effect in effects(&undisturbed, &domain, ATTACH) {
        let place = Place(format!("kill at {effect}"));
        let (scene, domain) = scene(4);
        scene.runs(QEMU, &domain);
        let number = effect.split(' ').next().unwrap();
        let outcome = command(&scene, &domain, ATTACH)
            .fault(&format!("kill:{number}"))
            .run();
        is_killed(&scene, &outcome);
        let outcome = scene.reconcile();
        outcome.succeeds();
        scene.is_sound();
        assert_eq!(scene.claims(), []);
        let outcome = command(&scene, &domain, DETACH).run();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        drop(place);
    }
}
