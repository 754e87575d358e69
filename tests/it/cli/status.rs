//! `virt-vgpu status` names what others made on the devices of our pools.

use lab_nvidia::model::Framework;
use serde_json::{Value, json};
use virt_vgpu::host::write_attribute;

use crate::support::{
    domain::Domain,
    machine::{Gpu, LARGE, Machine, SMALL, SMALL_OTHER, profile},
    process::Program,
    scene::Scene,
};

const BOARD: &str = "0000:3b:00.0";
const GPU: &str = "0000:41:00.0";

fn uuid(number: u32) -> String {
    format!("f0e1c000-0000-4000-8000-{number:012}")
}

fn shown(scene: &Scene, arguments: &str) -> String {
    let outcome = Program::command(scene.root(), &format!("status {arguments}")).run();
    outcome.succeeds();
    outcome.stdout
}

/// The lines below the tables.
fn notes(scene: &Scene) -> Vec<String> {
    let text = shown(scene, "");
    let marks = ["note: ", "problem: "];
    let lines = text.lines();
    let lines = lines.filter(|line| marks.iter().any(|mark| line.starts_with(mark)));
    lines.map(str::to_owned).collect()
}

fn report(scene: &Scene) -> Value {
    serde_json::from_str(&shown(scene, "--json")).unwrap()
}

fn define(scene: &Scene, parent: &str, uuid: &str, text: &str) {
    scene.file(&format!("etc/mdevctl.d/{parent}/{uuid}"), text);
}

fn definition(type_id: &str, start: &str) -> String {
    format!(r#"{{"mdev_type": "{type_id}", "start": "{start}", "attrs": []}}"#)
}

#[test]
fn mediated_devices_are_named_with_their_definitions() {
    let machine = Machine::of_boards(2)
        .with_mdev(&uuid(1), BOARD, SMALL)
        .with_mdev(&uuid(2), BOARD, SMALL)
        .with_mdev(&uuid(3), BOARD, SMALL_OTHER);
    let scene = Scene::new(machine);
    scene.pool("cad", SMALL);
    scene.pool("viz", LARGE);
    define(&scene, BOARD, &uuid(2), &definition(SMALL, "auto"));
    define(&scene, BOARD, &uuid(3), &definition(SMALL_OTHER, "manual"));
    define(&scene, BOARD, &uuid(4), &definition(SMALL, "manual"));
    define(&scene, BOARD, &uuid(5), &definition(LARGE, "auto"));
    define(&scene, "0000:3c:00.0", &uuid(6), "{");
    define(&scene, "0000:99:00.0", &uuid(7), "{");
    // A device of ours is not listed.
    let domain = Domain::with_one(1, "cad");
    scene.prepare(&domain).ends_well();
    assert_eq!(
        notes(&scene),
        [
            format!(
                "note: pools 'cad', 'viz': {BOARD} has 3 mediated devices that are not ours: {} \
                 ({SMALL}), {} ({SMALL}, defined in mdevctl with autostart), {} ({SMALL_OTHER}, \
                 defined in mdevctl)",
                uuid(1),
                uuid(2),
                uuid(3)
            ),
            format!(
                "note: pools 'cad', 'viz': mdevctl will make 1 mediated device on {BOARD} at the \
                 next boot: {} ({LARGE})",
                uuid(5)
            ),
            format!(
                "note: pools 'cad', 'viz': mdevctl has 1 mediated device defined on {BOARD}, to be \
                 started by hand only: {} ({SMALL})",
                uuid(4)
            ),
            format!(
                "problem: /etc/mdevctl.d/0000:3c:00.0/{}: is not a definition of mdevctl: EOF \
                 while \
                 parsing an object at line 1 column 1; correct or remove it: until then mdevctl \
                 lists no definitions at all",
                uuid(6)
            ),
            "problem: domain 'vm1' is not running but holds devices; run 'virt-vgpu reconcile'"
                .to_owned(),
        ]
    );
    let device = |number, type_id, active, mdevctl: Option<&str>| {
        let mut device = json!({
            "uuid": uuid(number), "parent": BOARD, "type": type_id, "active": active,
        });
        if let Some(start) = mdevctl {
            device["mdevctl"] = start.into();
        }
        device
    };
    let wanted = json!([{
        "parent": BOARD,
        "pools": ["cad", "viz"],
        "devices": [
            device(1, SMALL, true, None),
            device(2, SMALL, true, Some("auto")),
            device(3, SMALL_OTHER, true, Some("manual")),
            device(4, SMALL, false, Some("manual")),
            device(5, LARGE, false, Some("auto")),
        ],
    }]);
    assert_eq!(report(&scene)["foreign"], wanted);
}

#[test]
fn one_that_ours_will_meet_at_the_next_boot_is_named_too() {
    let scene = Scene::new(Machine::of_boards(1));
    scene.pool("cad", SMALL);
    let domain = Domain::with_one(1, "cad");
    scene.prepare(&domain).ends_well();
    scene.runs(4711, &domain);
    define(
        &scene,
        BOARD,
        &domain.mdevs()[0],
        &definition(SMALL, "auto"),
    );
    assert_eq!(
        notes(&scene),
        [format!(
            "note: pool 'cad': mdevctl will make 1 mediated device on {BOARD} at the next boot: {} \
             ({SMALL})",
            domain.mdevs()[0]
        )]
    );
}

/// mdevctl treats the two as different devices, and both take space.
#[test]
fn one_of_another_type_than_its_definition_is_not_the_defined_one() {
    let machine = Machine::of_boards(1).with_mdev(&uuid(1), BOARD, SMALL);
    let scene = Scene::new(machine);
    scene.pool("cad", SMALL);
    define(&scene, BOARD, &uuid(1), &definition(LARGE, "auto"));
    assert_eq!(
        notes(&scene),
        [
            format!(
                "note: pool 'cad': {BOARD} has 1 mediated device that is not ours: {} ({SMALL})",
                uuid(1)
            ),
            format!(
                "note: pool 'cad': mdevctl will make 1 mediated device on {BOARD} at the next boot: \
                 {} ({LARGE})",
                uuid(1)
            ),
        ]
    );
}

#[test]
fn without_foreign_devices_nothing_is_said() {
    let scene = Scene::new(Machine::of_boards(2).with_mdev(&uuid(1), "0000:3c:00.0", SMALL));
    scene.file(
        "etc/virt-vgpu/pools.d/cad.toml",
        format!(
            "kind = \"mdev\"\ntype = \"{SMALL}\"\n[[rule]]\n\
             where = [{{ field = \"address\", op = \"equal\", value = \"{BOARD}\" }}]\n"
        ),
    );
    let elsewhere = definition(SMALL, "manual");
    define(&scene, "0000:3c:00.0", &uuid(2), &elsewhere);
    let domain = Domain::with_one(1, "cad");
    scene.prepare(&domain).ends_well();
    scene.runs(4711, &domain);
    // The definition of a device of ours is not listed.
    define(&scene, BOARD, &domain.mdevs()[0], &elsewhere);
    assert_eq!(notes(&scene), Vec::<String>::new());
    assert_eq!(report(&scene).get("foreign"), None);
}

/// Somebody has removed a device of ours, while the domain runs or does not.
#[test]
fn one_of_ours_that_is_gone_is_named_with_what_to_do() {
    let scene = Scene::new(Machine::of_boards(1));
    scene.pool("cad", SMALL);
    let domain = Domain::with_one(1, "cad");
    scene.prepare(&domain).ends_well();
    scene.runs(4711, &domain);
    let uuid = &domain.mdevs()[0];
    let attribute = format!("sys/bus/mdev/devices/{uuid}/remove");
    write_attribute(&scene.path(&attribute), "1").unwrap();
    let gone =
        format!("problem: domain 'vm1': device 'gpu0' ({uuid}) is not on {BOARD} as claimed");
    assert_eq!(
        notes(&scene),
        [format!("{gone}; shut the domain down and start it again")]
    );
    scene.ends(4711);
    assert_eq!(
        notes(&scene),
        [
            "problem: domain 'vm1' is not running but holds devices; run 'virt-vgpu reconcile'"
                .to_owned(),
            format!("{gone}; 'virt-vgpu reconcile' forgets it"),
        ]
    );
}

#[test]
fn a_gpu_counts_what_is_on_its_functions() {
    let kind = format!("nvidia-{}", profile("A40-12Q").id);
    let gpu = Gpu::new("a40", Framework::SriovMdev, GPU).functions(4);
    let machine = Machine::of_gpus([gpu]).with_mdev(&uuid(1), "0000:41:00.6", &kind);
    let scene = Scene::new(machine);
    scene.vgpu_pool("cad", "A40-12Q");
    assert_eq!(
        notes(&scene),
        [format!(
            "note: pool 'cad': {GPU} has 1 mediated device that is not ours: {} on 0000:41:00.6 \
             ({kind})",
            uuid(1)
        )]
    );
    // The owner is unknown while a claim cannot be read.
    scene.file(
        "run/virt-vgpu/claims/aaaaaaaa-0000-4000-8000-000000000009.json",
        "{",
    );
    let notes = notes(&scene);
    assert!(
        notes[0].starts_with(&format!(
            "note: pool 'cad': {GPU} has 1 mediated device that no readable claim names: "
        )),
        "{notes:?}"
    );
}

#[test]
fn functions_with_a_type_of_somebody_else_count() {
    let machine = Machine::of_gpus([Gpu::l40s(GPU).functions(12)]);
    let functions: Vec<String> = {
        let scene = Scene::new(machine.clone());
        scene.kernel.functions(GPU)
    };
    let machine = functions[1..11].iter().fold(machine, |machine, function| {
        machine.with_vgpu(function, "L40S-4Q")
    });
    let scene = Scene::new(machine);
    scene.vgpu_pool("cad", "L40S-4Q");
    let domain = Domain::new(1).function("gpu0", "cad", &functions[0]);
    scene.prepare(&domain).ends_well();
    scene.runs_on(4711, &domain, &[&functions[0]]);
    let id = profile("L40S-4Q").id;
    let listed = functions[1..9].iter();
    let listed: Vec<String> = listed.map(|at| format!("{at} (type {id})")).collect();
    assert_eq!(
        notes(&scene),
        [format!(
            "note: pool 'cad': {GPU} has 10 virtual functions with a vGPU type that is not ours: {}, \
             2 more (--json has them all)",
            listed.join(", ")
        )]
    );
    let report = report(&scene);
    let devices = report["foreign"][0]["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 10);
    let wanted = json!({"parent": functions[1], "type": id.to_string(), "active": true});
    assert_eq!(devices[0], wanted);
}

/// A slow start does not block `status`, and `status` does not block a start.
#[test]
fn who_looks_waits_for_no_lock() {
    use fs2::FileExt;
    let scene = Scene::new(Machine::of_boards(1));
    scene.pool("cad", SMALL);
    let domain = Domain::with_one(1, "cad");
    scene.daemon_lives();
    scene.prepare(&domain).ends_well();
    let lock = std::fs::File::open(scene.path("run/virt-vgpu/lock")).unwrap();
    lock.lock_exclusive().unwrap();
    assert_eq!(report(&scene)["claims"][0]["state"], "starting");
    scene.file("vm2.xml", Domain::with_one(2, "cad").xml());
    let xml = scene.path("vm2.xml");
    let explain = Program::command(scene.root(), &format!("explain --xml {}", xml.display()));
    let explain = explain.run();
    assert!(
        explain.stdout.starts_with("domain 'vm2' would be served"),
        "{explain:?}"
    );
    FileExt::unlock(&lock).unwrap();
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn notes_of_the_daemon_that_cannot_be_read_are_a_problem() {
    let scene = Scene::new(Machine::of_boards(1));
    scene.pool("cad", SMALL);
    assert_eq!(notes(&scene), [""; 0]);
    scene.file("run/virt-vgpu/daemon.json", "{\"connected\": true}\n");
    let line = "problem: cannot read /run/virt-vgpu/daemon.json: missing field `problems` at line 1 \
                column 19; see 'systemctl status virt-vgpud' for whether it runs";
    assert_eq!(notes(&scene), [line]);
}

#[test]
fn what_is_free_of_a_limit_is_a_bound_while_a_claim_cannot_be_read() {
    let scene = Scene::new(Machine::of_boards(1));
    scene.pool_with("cad", SMALL, "instances = 2");
    scene.pool("viz", SMALL);
    let free = || {
        let report = report(&scene);
        let pools = report["pools"].as_array().unwrap();
        let free = pools
            .iter()
            .map(|one| (one["free"].clone(), one["exact"].clone()));
        free.collect::<Vec<_>>()
    };
    let exactly = |free: u32| (json!(free), json!(true));
    let all = free()[1].0.clone();
    assert_eq!(free(), [exactly(2), (all.clone(), json!(true))]);
    scene.file(
        "run/virt-vgpu/claims/aaaaaaaa-0000-4000-8000-000000000009.json",
        "{",
    );
    assert_eq!(free(), [(json!(2), json!(false)), (all, json!(true))]);
}

/// An unreadable claim does not remove any table.
#[test]
fn a_claim_that_cannot_be_read_is_one_problem() {
    let scene = Scene::new(Machine::of_boards(1));
    scene.pool("cad", SMALL);
    let claim = format!("run/virt-vgpu/claims/{}.json", uuid(1));
    std::fs::create_dir_all(scene.path(&claim)).unwrap();
    let problem = format!(
        "problem: claim /{claim}: Is a directory (os error 21); when that domain no longer runs, \
         remove the file"
    );
    assert_eq!(notes(&scene), [problem]);
    assert_eq!(report(&scene)["pools"][0]["free"], 4);
    for words in ["pool show cad --json", "pool preview cad --json"] {
        let outcome = Program::command(scene.root(), words).run();
        outcome.succeeds();
        let shown: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(shown["devices"][0]["available"], 4, "{words}: {shown}");
    }
}

/// A file name is bytes, and JSON has only text.
#[test]
fn a_file_name_that_is_not_utf8_does_not_take_the_json_away() {
    use std::os::unix::ffi::OsStrExt;
    let scene = Scene::new(Machine::of_boards(1));
    scene.pool("cad", SMALL);
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe.toml");
    std::fs::write(scene.path("etc/virt-vgpu/pools.d").join(name), "").unwrap();
    let outcome = Program::command(scene.root(), "pool list --json").run();
    outcome.succeeds();
    let listed: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let file = listed["ignored"][0]["file"].as_str().unwrap();
    assert_eq!(file, "/etc/virt-vgpu/pools.d/\u{fffd}\u{fffd}.toml");
}
