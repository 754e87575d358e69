//! `attach --live` and `detach --live` killed after each of their effects, and with
//! each effect failing. The libvirt is real and runs the domain, but accepts no device
//! of the model. So every undisturbed `attach --live` undoes its work, and its effects
//! are those of both directions.

use std::{collections::BTreeSet, sync::LazyLock};

use super::{LIBVIRTD, Strike, stage::Stage, strikes};
use crate::support::{
    domain::Domain,
    process::{Outcome, Program},
    scene::Scene,
    side_by_side::map_with,
};

const ATTACH: &str = "attach VM --pool cad --live";
const DETACH: &str = "detach VM --all --live --wait 1";

fn scene(number: usize) -> (Scene, Domain) {
    scene_of(Stage::Mdev, number)
}

/// A running libvirt domain that asks for nothing, on a host of its own.
fn scene_of(stage: Stage, number: usize) -> (Scene, Domain) {
    let libvirtd = &*LIBVIRTD;
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
    (stage.scene(), domain)
}

fn command(scene: &Scene, domain: &Domain, arguments: &str) -> Program {
    let arguments = arguments.replace("VM", &domain.name);
    Program::command(
        scene.root(),
        &format!("{arguments} --connect {}", LIBVIRTD.uri),
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
    /// The command is repeated.
    Again,
    /// It is detached instead.
    Detach,
    /// The domain ends.
    End,
    /// `reconcile` runs; no QEMU process exists there.
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
        // Detaching cleans up what a crash has left in libvirt and on the host.
        let outcome = command(scene, domain, DETACH).run();
        outcome.succeeds();
        scene.is_sound();
        assert_eq!(scene.claims(), []);
    }
}

/// Runs the command with each fault at each of its effects, and then repairs.
fn at_each_effect(
    (test, arguments): (usize, &str),
    faults: &[&str],
    lead_up: impl Fn(&Scene, &Domain) + Sync,
    check: impl Fn(&Scene, &Outcome) + Sync,
) {
    let (undisturbed, domain) = scene(domain_number(test, 0));
    lead_up(&undisturbed, &domain);
    let effects = effects(&undisturbed, &domain, arguments);
    assert!(
        effects.iter().any(|effect| effect.contains("/sys/")),
        "{effects:?}"
    );
    Cure::Detach.apply(&undisturbed, &domain);
    // An edit in libvirt cannot fail with an errno.
    let can = |strike: &Strike| strike.fault == "kill" || !strike.effect.contains(" edit ");
    let strikes = strikes(&effects, faults).into_iter().filter(can);
    let cured = |strike: Strike| Cure::ALL.map(|cure| (strike.clone(), cure));
    let cases: Vec<(Strike, Cure)> = strikes.flat_map(cured).collect();
    let name = |(strike, cure): &(Strike, Cure)| format!("{arguments}: {strike}, then {cure:?}");
    let own_domain = |worker| domain_number(test, worker);
    map_with(&cases, own_domain, name, |number, (strike, cure)| {
        let (scene, domain) = scene(*number);
        lead_up(&scene, &domain);
        let command = command(&scene, &domain, arguments);
        let outcome = command.fault(&strike.order()).run();
        check(&scene, &outcome);
        scene.foreign_is_untouched();
        cure.apply(&scene, &domain);
    });
}

/// The domain of one worker of a test.
fn domain_number(test: usize, worker: usize) -> usize {
    1000 * test + worker
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
    // EIO; if undoing fails, the claim lists what is left.
    let check = |scene: &Scene, outcome: &Outcome| {
        outcome.refusal();
        let claimed = scene.claims().into_iter().flat_map(|claim| claim.devices);
        let claimed: BTreeSet<String> = claimed.map(|device| device.handle.to_string()).collect();
        assert!(scene.ours().is_subset(&claimed), "{outcome:?}");
        assert_eq!(scene.temporary_files(), Vec::<String>::new());
    };
    at_each_effect((2, ATTACH), &["5"], |_, _| {}, check);
}

/// Plugging in was interrupted after the device was made.
fn plugged(scene: &Scene, domain: &Domain) {
    // Killed after making the device; determined once, on a host of its own.
    static CUT: LazyLock<Strike> = LazyLock::new(|| {
        let (undisturbed, domain) = self::scene(domain_number(3, 0));
        let effects = effects(&undisturbed, &domain, ATTACH);
        let mut strikes = strikes(&effects, &["kill"]).into_iter();
        let makes_it = strikes.find(|strike| strike.effect.ends_with("/create"));
        makes_it.unwrap()
    });
    let outcome = command(scene, domain, ATTACH).fault(&CUT.order()).run();
    is_killed(scene, &outcome);
    assert!(!scene.ours().is_empty());
}

#[test]
fn unplugging_that_is_cut_short_is_repaired() {
    at_each_effect((3, DETACH), &["kill"], plugged, is_killed);
}

const QEMU: u32 = 4711;

/// The domain keeps running: leftovers are removed before its end.
#[test]
fn plugging_in_that_is_cut_short_leaves_nothing_with_a_domain_that_runs() {
    let (undisturbed, domain) = scene(domain_number(4, 0));
    undisturbed.runs(QEMU, &domain);
    let effects = effects(&undisturbed, &domain, ATTACH);
    let own_domain = |worker| domain_number(4, worker);
    let strikes = strikes(&effects, &["kill"]);
    map_with(
        &strikes,
        own_domain,
        ToString::to_string,
        |number, strike| {
            let (scene, domain) = scene(*number);
            scene.runs(QEMU, &domain);
            let command = command(&scene, &domain, ATTACH);
            is_killed(&scene, &command.fault(&strike.order()).run());
            let outcome = scene.reconcile();
            outcome.succeeds();
            scene.is_sound();
            assert_eq!(scene.claims(), []);
            let outcome = self::command(&scene, &domain, DETACH).run();
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
        },
    );
}

/// With everything that is in its group.
#[test]
fn plugging_in_a_whole_function_that_is_cut_short_is_repaired() {
    let test = 5;
    let (undisturbed, domain) = scene_of(Stage::Whole, domain_number(test, 0));
    let effects = effects(&undisturbed, &domain, ATTACH);
    let binds = effects.iter().filter(|effect| effect.contains("/unbind"));
    assert!(binds.count() > 0, "{effects:?}");
    // libvirt did not take it.
    undisturbed.is_sound();
    assert_eq!(undisturbed.claims(), []);
    let own_domain = |worker| domain_number(test, worker);
    let strikes = strikes(&effects, &["kill", "19"]);
    map_with(
        &strikes,
        own_domain,
        ToString::to_string,
        |number, strike| {
            let (scene, domain) = scene_of(Stage::Whole, *number);
            let outcome = command(&scene, &domain, ATTACH)
                .fault(&strike.order())
                .run();
            assert_ne!(outcome.code, Some(0), "{outcome:?}");
            scene.reconcile().succeeds();
            scene.is_sound();
            assert_eq!(scene.claims(), []);
            let outcome = command(&scene, &domain, DETACH).run();
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
        },
    );
}
