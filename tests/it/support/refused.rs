//! A scene with one pool, and checks for a refused domain.

use super::{
    domain::Domain,
    machine::{Machine, SMALL},
    scene::Scene,
};

pub const FOREIGN: &str = "f0e1c000-0000-4000-8000-000000000001";

/// Two boards, one with a foreign device, and a pool `cad`.
pub fn scene() -> Scene {
    let scene = Scene::new(Machine::of_boards(2).with_mdev(FOREIGN, "0000:3b:00.0", SMALL));
    scene.pool("cad", SMALL);
    scene
}

/// Paths of the fixture as they are on a host.
pub fn on_host(scene: &Scene, text: &str) -> String {
    text.replace(scene.root().to_str().unwrap(), "")
}

/// Each operation that allocates refuses with that line and leaves nothing; all others
/// print nothing.
#[track_caller]
pub fn refused(scene: &Scene, domain: &Domain, input: impl AsRef<[u8]>, wanted: &str) {
    let run = |arguments| scene.hook_with(domain, arguments, input.as_ref()).run();
    for arguments in ["prepare begin -", "migrate begin -"] {
        let outcome = run(arguments);
        assert_eq!(on_host(scene, outcome.refusal()), wanted, "{arguments}");
        is_untouched(scene);
    }
    for arguments in [
        "restore begin -",
        "start begin -",
        "started begin -",
        "stopped end failed",
        "release end failed",
        "reconnect begin -",
        "attach begin -",
    ] {
        run(arguments).ends_well();
        is_untouched(scene);
    }
}

#[track_caller]
pub fn is_untouched(scene: &Scene) {
    scene.is_empty();
    assert!(scene.ours().is_empty());
    assert!(scene.our_vgpus().is_empty());
}
