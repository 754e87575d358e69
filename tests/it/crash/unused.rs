//! A device that a running VM has lost is given back alone, whatever happens to the
//! program that does it; the VM keeps the other.

use std::sync::LazyLock;

use super::{
    Strike,
    stage::{FIRST, SECOND, Stage},
    strikes, traced,
};
use crate::support::{
    domain::Domain,
    process::{Outcome, Program},
    scene::Scene,
    side_by_side::each,
};

const QEMU: u32 = 4711;
const STAGES: [Stage; 2] = [Stage::Mdev, Stage::Functions];

/// The domain's devices as the kernel names them.
fn devices(stage: Stage, domain: &Domain) -> [String; 2] {
    match stage {
        Stage::Functions => [FIRST, SECOND].map(str::to_owned),
        _ => domain.mdevs().try_into().unwrap(),
    }
}

/// The VM has released its second device.
fn scene(stage: Stage) -> (Scene, Domain) {
    let (scene, domain) = (stage.scene(), stage.domain(1));
    scene.prepare(&domain).ends_well();
    let [first, second] = devices(stage, &domain);
    scene.hook(&domain, "start begin -").run().ends_well();
    scene.has_only(QEMU, &domain, &[&first, &second]);
    scene.hook(&domain, "started begin -").run().ends_well();
    scene.has_only(QEMU, &domain, &[&first]);
    (scene, domain)
}

fn reconcile(scene: &Scene) -> Program {
    Program::command(scene.root(), "reconcile --grace 0 --json")
}

/// The call of libvirt's restarted daemon; checks that nothing is logged.
#[track_caller]
fn reconnect_is_content(scene: &Scene, domain: &Domain) {
    let hook = scene.hook(domain, "reconnect begin -").logging();
    hook.run().ends_well();
}

/// The domain has its first device, and nothing is left of the second.
#[track_caller]
fn has_first(stage: Stage, scene: &Scene, domain: &Domain) {
    scene.is_settled();
    let claims = scene.claims();
    let claimed = claims
        .iter()
        .flat_map(|claim| &claim.devices)
        .map(|device| device.handle.to_string());
    assert_eq!(
        claimed.collect::<Vec<_>>(),
        [devices(stage, domain)[0].clone()]
    );
    assert_eq!(claims[0].leaving, []);
}

/// The effects of an undisturbed run on each stage, determined once for all tests.
static EFFECTS: [LazyLock<Vec<String>>; 2] = [
    LazyLock::new(|| effects(STAGES[0])),
    LazyLock::new(|| effects(STAGES[1])),
];

fn effects(stage: Stage) -> Vec<String> {
    let (undisturbed, domain) = scene(stage);
    let trace = undisturbed.path("trace");
    let outcome = reconcile(&undisturbed).trace(&trace).run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    has_first(stage, &undisturbed, &domain);
    let effects = std::fs::read_to_string(trace).unwrap();
    let effects: Vec<String> = effects.lines().map(str::to_owned).collect();
    // Lock, claim, device, claim.
    assert!(effects.len() >= 4, "{effects:?}");
    effects
}

fn at_each_effect(faults: &[&str], check: impl Fn(&Scene, &Outcome) + Sync) {
    let mut cases = Vec::new();
    for (stage, effects) in STAGES.into_iter().zip(&EFFECTS) {
        let strikes = strikes(effects, faults).into_iter();
        cases.extend(strikes.map(|strike| (stage, strike)));
    }
    each(&cases, name, |(stage, strike)| {
        let (scene, domain) = scene(*stage);
        check(&scene, &reconcile(&scene).fault(&strike.order()).run());
        scene.foreign_is_untouched();
        reconnect_is_content(&scene, &domain);
        let outcome = reconcile(&scene).run();
        outcome.succeeds();
        has_first(*stage, &scene, &domain);
        reconnect_is_content(&scene, &domain);
        scene.ends(QEMU);
        scene.stop(&domain);
        scene.is_empty();
    });
}

fn name((stage, strike): &(Stage, Strike)) -> String {
    format!("{stage:?}: {strike}")
}

#[test]
fn a_kill_while_a_device_leaves_its_running_domain_is_repaired() {
    at_each_effect(&["kill"], |scene, outcome| {
        assert_eq!(outcome.signal, Some(9), "{outcome:?}");
        assert!(scene.temporary_files().len() <= 1);
    });
}

#[test]
fn an_error_while_a_device_leaves_its_running_domain_is_borne() {
    // EIO, ENOSPC
    at_each_effect(&["5", "28"], |scene, _| {
        assert_eq!(scene.temporary_files(), Vec::<String>::new());
        // The device that the VM has stays in any case.
        assert_eq!(scene.claims().len(), 1);
    });
}

/// A start that finds no free device takes the unused one, and may be killed meanwhile.
#[test]
fn a_kill_of_a_start_that_takes_the_room_is_repaired() {
    let room = |stage: Stage| {
        let (scene, domain) = scene(stage);
        // Its start was long ago.
        let mut claim = scene.claims().remove(0);
        claim.since_boot_ms = 0;
        let text = serde_json::to_string(&claim).unwrap();
        scene.file(&format!("run/virt-vgpu/claims/{}.json", domain.uuid), text);
        (scene, domain)
    };
    let other = |stage: Stage| match stage {
        Stage::Functions => Domain::new(2).function("gpu0", "cad", SECOND),
        _ => Domain::with_one(2, "cad"),
    };
    let mut cases = Vec::new();
    for stage in STAGES {
        let (undisturbed, domain) = room(stage);
        let effects = traced(
            &undisturbed,
            undisturbed.hook(&other(stage), "prepare begin -"),
        );
        assert_eq!(undisturbed.claims().len(), 2);
        undisturbed.is_settled();
        reconnect_is_content(&undisturbed, &domain);
        let strikes = strikes(&effects, &["kill"]).into_iter();
        cases.extend(strikes.map(|strike| (stage, strike)));
    }
    each(&cases, name, |(stage, strike)| {
        let ((scene, domain), other) = (room(*stage), other(*stage));
        let hook = scene.hook(&other, "prepare begin -");
        let outcome = hook.fault(&strike.order()).run();
        assert_eq!(outcome.signal, Some(9), "{outcome:?}");
        reconnect_is_content(&scene, &domain);
        scene.prepare(&other).ends_well();
        scene.is_settled();
        scene.stop(&other);
        has_first(*stage, &scene, &domain);
    });
}
