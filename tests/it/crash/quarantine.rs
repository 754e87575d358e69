//! A QEMU that was killed early: its functions are given back and not handed out again,
//! whatever happens to the hook.

use std::sync::LazyLock;

use virt_vgpu::claims;

use super::{
    stage::{FIRST, SECOND, Stage},
    strikes, traced,
};
use crate::support::{
    domain::Domain,
    process::{Outcome, Program},
    scene::Scene,
    side_by_side::each,
};

const STAGE: Stage = Stage::Functions;

/// The VM has just started when its QEMU is killed.
fn scene() -> (Scene, Domain) {
    let (scene, domain) = (STAGE.scene(), STAGE.domain(1));
    scene.prepare(&domain).ends_well();
    for words in ["start begin -", "started begin -", "stopped end crashed"] {
        scene.hook(&domain, words).run().ends_well();
    }
    // Only `release` says in a lasting way how it ended.
    STAGE.has_devices(&scene, &domain);
    (scene, domain)
}

fn release(scene: &Scene, domain: &Domain) -> Program {
    scene.hook(domain, "release end crashed")
}

fn quarantined(scene: &Scene) -> Vec<String> {
    let noted = claims::quarantined(&scene.host()).unwrap();
    noted
        .into_iter()
        .map(|one| one.function.to_string())
        .collect()
}

/// Nothing of ours is left, except perhaps a half-written note that the next one
/// replaces.
#[track_caller]
fn is_free(scene: &Scene) {
    scene.is_sound();
    assert_eq!(scene.claims(), []);
    assert_eq!(scene.media(), Vec::<String>::new());
}

/// For each effect of the release and each fault.
fn at_each_effect(faults: &[&str], check: impl Fn(&Scene, &Domain, &Outcome) + Sync) {
    // Determined once for all tests.
    static EFFECTS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let (undisturbed, domain) = scene();
        let effects = traced(&undisturbed, release(&undisturbed, &domain));
        undisturbed.is_empty();
        assert_eq!(quarantined(&undisturbed), [FIRST, SECOND]);
        effects
    });
    each(&strikes(&EFFECTS, faults), ToString::to_string, |strike| {
        let (scene, domain) = scene();
        let hook = release(&scene, &domain).fault(&strike.order());
        check(&scene, &domain, &hook.run());
        scene.foreign_is_untouched();
        #[cfg(feature = "cli")]
        {
            let outcome = scene.reconcile();
            outcome.succeeds();
            is_free(&scene);
            assert_eq!(quarantined(&scene), [FIRST, SECOND]);
        }
        // No domain gets a function that was not quarantined yet.
        let outcome = scene.prepare(&domain);
        let line = outcome.refusal();
        assert!(line.contains("may have wedged the function"), "{line}");
        assert_eq!(quarantined(&scene), [FIRST, SECOND]);
        is_free(&scene);
    });
}

/// A mediated device cannot be wedged.
#[test]
fn only_functions_are_said_to_be_quarantined() {
    let (scene, domain) = scene();
    let mut claim = scene.claims().remove(0);
    let mdev = serde_json::json!({
        "name": "gpu2", "pool": "cad", "kind": "mdev", "parent": "0000:99:00.0",
        "uuid": claim.devices[0].uuid, "type": "nvidia-558",
    });
    claim.devices.push(serde_json::from_value(mdev).unwrap());
    let path = format!("run/virt-vgpu/claims/{}.json", domain.uuid);
    scene.file(&path, serde_json::to_string(&claim).unwrap());
    let outcome = release(&scene, &domain).logging_at("warn").run();
    let said = outcome.stderr.lines().filter_map(|line| {
        let (_, rest) = line.split_once("domain 'vm1': ")?;
        rest.split_once(" is quarantined: ")
    });
    let said: Vec<&str> = said.map(|(function, _)| function).collect();
    assert_eq!(said, [FIRST, SECOND], "{outcome:?}");
}

#[test]
fn a_kill_while_functions_are_quarantined_is_repaired() {
    at_each_effect(&["kill"], |scene, _, outcome| {
        assert_eq!(outcome.signal, Some(9), "{outcome:?}");
        assert!(scene.temporary_files().len() <= 1);
    });
}

#[test]
fn an_error_while_functions_are_quarantined_is_borne() {
    // EIO, ENOSPC
    at_each_effect(&["5", "28"], |scene, _, outcome| {
        assert_eq!(
            (outcome.code, &*outcome.stdout),
            (Some(0), ""),
            "{outcome:?}"
        );
        assert_eq!(scene.temporary_files(), Vec::<String>::new());
        // No function is given back before it is quarantined.
        let free = [FIRST, SECOND].map(|at| !scene.our_vgpus().contains_key(at));
        assert!(free == [false; 2] || quarantined(scene) == [FIRST, SECOND]);
    });
}
