//! Everything that can be wrong around the hook, through the real process: one
//! clear line and exit 1 where a domain would get its devices, silence and exit 0
//! where it gives them back, and never half a device.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

mod support;

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::Duration,
};

use fs2::FileExt;
use nix::errno::Errno;
use support::{
    domain::Domain,
    kernel::{Fault, Target},
    machine::{Function, LARGE, Machine, SMALL},
    process::Outcome,
    scene::Scene,
};
use virt_vgpu::{domain::NAMESPACE, hook::PATIENCE};

const FOREIGN: &str = "f0e1c000-0000-4000-8000-000000000001";

/// Two boards, one with a device of somebody else, and a pool `cad`.
fn scene() -> Scene {
    let scene = Scene::new(Machine::of_boards(2).with_mdev(FOREIGN, "0000:3b:00.0", SMALL));
    scene.pool("cad", SMALL);
    scene
}

/// Paths of the fixture as they are on a host.
fn on_host(scene: &Scene, text: &str) -> String {
    text.replace(scene.root().to_str().unwrap(), "")
}

/// Each operation that allocates refuses with that line and leaves nothing;
/// each other one is silent.
#[track_caller]
fn refused(scene: &Scene, domain: &Domain, input: impl AsRef<[u8]>, wanted: &str) {
    let run = |arguments| scene.hook_with(domain, arguments, input.as_ref()).run();
    for arguments in ["prepare begin -", "migrate begin -", "restore begin -"] {
        let outcome = run(arguments);
        assert_eq!(on_host(scene, outcome.refusal()), wanted, "{arguments}");
        is_untouched(scene);
    }
    for arguments in [
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
fn is_untouched(scene: &Scene) {
    scene.is_empty();
    assert!(scene.ours().is_empty());
}

/// The domain has its devices; at its end the input is beyond use, and they go
/// back all the same.
#[track_caller]
fn gives_back_with(input: impl Fn(&Domain) -> Vec<u8>) {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    scene.prepare(&domain).ends_well();
    let bad = input(&domain);
    for arguments in ["reconnect begin -", "start begin -"] {
        scene.hook_with(&domain, arguments, &*bad).run().ends_well();
        assert_eq!(scene.ours().len(), 1);
    }
    scene
        .hook_with(&domain, "release end failed", bad)
        .run()
        .ends_well();
    scene.is_empty();
}

#[test]
fn a_domain_without_a_request_costs_nothing() {
    let scene = scene();
    let domain = Domain::new(1);
    let before = listing(scene.root());
    for arguments in [
        "prepare begin -",
        "migrate begin -",
        "restore begin -",
        "start begin -",
        "started begin -",
        "stopped end destroyed",
        "release end destroyed",
        "reconnect begin -",
        "attach begin -",
        "prepare end -",
        "invented begin -",
    ] {
        scene.hook(&domain, arguments).run().ends_well();
        // Not even well-formed XML is asked of what does not concern us.
        for input in ["", "<domain", "\u{0}"] {
            scene.hook_with(&domain, arguments, input).run().ends_well();
        }
    }
    assert_eq!(listing(scene.root()), before);
    assert_eq!(scene.kernel.writes(), []);
}

fn listing(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() && !path.ends_with("sys") {
            found.extend(listing(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

#[test]
fn what_is_not_libvirts_protocol_is_a_usage_error() {
    let scene = scene();
    for arguments in ["", "prepare"] {
        let outcome = scene.hook(&Domain::with_one(1, "cad"), arguments).run();
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert_eq!(
            outcome.stderr,
            "virt-vgpu-hook: expected DOMAIN OPERATION SUB-OPERATION [EXTRA]; \
             libvirt calls this program, people use 'virt-vgpu'\n"
        );
    }
    is_untouched(&scene);
}

#[test]
fn broken_xml() {
    let domain = Domain::with_one(1, "cad");
    let xml = domain.xml();
    let cut = xml.find("</vgpu:devices>").unwrap();
    refused(
        &scene(),
        &domain,
        &xml[..cut],
        "domain 'vm1': line 7: the XML ends inside <vgpu:devices>; correct it with 'virsh edit vm1'",
    );
    let crossed = xml.replace("</metadata>", "</meta>");
    refused(
        &scene(),
        &domain,
        &crossed,
        "domain 'vm1': line 8: not well-formed XML: ill-formed document: expected `</metadata>`, \
         but `</meta>` was found; correct it with 'virsh edit vm1'",
    );
    gives_back_with(|_| crossed.clone().into_bytes());
    gives_back_with(|_| xml.as_bytes()[..cut].to_owned());
    // Nothing but the name in libvirt's argument is left.
    gives_back_with(|_| b"<domain><name>vm".to_vec());
    gives_back_with(|_| Vec::new());
}

#[test]
fn text_that_is_not_utf8() {
    let domain = Domain::with_one(1, "cad");
    let broken = |domain: &Domain| {
        let mut bytes = domain.xml().into_bytes();
        let place = bytes.len() - 12;
        bytes[place] = 0xff;
        bytes
    };
    let place = domain.xml().len() - 12;
    refused(
        &scene(),
        &domain,
        broken(&domain),
        &format!(
            "the domain XML is not UTF-8: invalid utf-8 sequence of 1 bytes from index {place}"
        ),
    );
    gives_back_with(broken);
}

#[test]
fn more_input_than_any_domain_has() {
    let domain = Domain::with_one(1, "cad");
    let mut xml = domain.xml();
    xml.push_str(&" ".repeat(9 << 20));
    let line = "the domain XML is longer than 8 MiB";
    refused(&scene(), &domain, &xml, line);
    gives_back_with(|_| xml.clone().into_bytes());
}

#[test]
fn requests_that_do_not_parse() {
    let refuse = |domain: &Domain, wanted: &str| {
        let wanted = format!("domain 'vm1': {wanted}; correct it with 'virsh edit vm1'");
        refused(&scene(), domain, domain.xml(), &wanted);
    };
    refuse(
        &Domain::new(1).request("gpu0", "pool='cad' colour='red'", true),
        "line 6: <vgpu:device name='gpu0'>: unknown attribute 'colour'; accepted: name, pool, \
         guest-drivers, optional, frame-rate-limit, console-vnc, unified-memory, debuggers, profilers",
    );
    refuse(
        &Domain::new(1).request("gpu0", "", true),
        "line 6: <vgpu:device name='gpu0'>: attribute 'pool' is missing",
    );
    refuse(
        &Domain::new(1).request("gpu0", "pool='cad' optional='maybe'", true),
        "line 6: <vgpu:device name='gpu0'>: attribute 'optional': 'maybe' is not yes or no",
    );
    refuse(
        &Domain::with_one(1, "cad").device("gpu0", "cad"),
        "line 7: <vgpu:device name='gpu0'>: a second device of this name; names are unique in a domain",
    );
    gives_back_with(|domain| {
        let xml = domain.xml();
        xml.replace("pool='cad'", "pool='cad' colour='red'")
            .into_bytes()
    });
}

#[test]
fn a_request_without_its_placeholder() {
    let domain = Domain::new(1).request("gpu0", "pool='cad'", false);
    let uuid = &domain.mdevs()[0];
    refused(
        &scene(),
        &domain,
        domain.xml(),
        &format!(
            "domain 'vm1' asks for device 'gpu0' in its metadata but has no <hostdev> with UUID \
             {uuid}; run 'virt-vgpu attach vm1 --pool cad --name gpu0' and start it again"
        ),
    );
}

#[test]
fn pools_that_cannot_be_used() {
    let scene = scene();
    let refuse = |pool: &str, wanted: &str| {
        let domain = Domain::with_one(1, pool);
        let wanted = format!("domain 'vm1' asks for a device of pool '{pool}': {wanted}");
        refused(&scene, &domain, domain.xml(), &wanted);
    };
    refuse("none", "there is no pool 'none'");
    let file = |name: &str, text: &str| {
        scene.file(&format!("etc/virt-vgpu/pools.d/{name}.toml"), text);
    };
    file("torn", "kind = \"mdev\"\ntype = \"nvidia-2");
    refuse(
        "torn",
        "/etc/virt-vgpu/pools.d/torn.toml:2: not valid TOML: invalid basic string, expected `\"`",
    );
    file(
        "typo",
        "kind = \"mdev\"\ntype = \"nvidia-231\"\nplacment = \"pack\"\n",
    );
    refuse(
        "typo",
        "/etc/virt-vgpu/pools.d/typo.toml:3: key 'placment': unknown key (did you mean 'placement'?); \
         accepted: kind, description, class, type, instances, placement, guest-driver, defaults, rule",
    );
    let mask = scene.path("etc/virt-vgpu/pools.d/off.toml");
    std::os::unix::fs::symlink("/dev/null", mask).unwrap();
    refuse(
        "off",
        "pool 'off' is masked by /etc/virt-vgpu/pools.d/off.toml",
    );
    fs::create_dir(scene.path("etc/virt-vgpu/pools.d/dir.toml")).unwrap();
    refuse(
        "dir",
        "cannot read /etc/virt-vgpu/pools.d/dir.toml: not a regular file",
    );
    // The others work all the same.
    let domain = Domain::with_one(2, "cad");
    scene.prepare(&domain).ends_well();
    // A pool that has gone since takes nobody's way back.
    fs::remove_file(scene.path("etc/virt-vgpu/pools.d/cad.toml")).unwrap();
    scene.stop(&domain);
    scene.is_empty();
}

const NO_ROOM: &str = "pool 'cad' has no free nvidia-231 for domain 'vm1': ";

#[test]
fn a_type_that_vanished() {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    scene.prepare(&domain).ends_well();
    scene.stop(&domain);
    scene.kernel.remove_type(SMALL);
    refused(
        &scene,
        &domain,
        domain.xml(),
        &format!(
            "{NO_ROOM}0000:3b:00.0, 0000:3c:00.0: has no mdev type 'nvidia-231'; see 'virt-vgpu explain vm1'"
        ),
    );
}

#[test]
fn a_parent_that_is_gone() {
    let machine = Machine::of_boards(2).with_mdev(FOREIGN, "0000:3b:00.0", LARGE);
    let scene = Scene::new(machine);
    scene.pool("cad", SMALL);
    let domain = Domain::with_one(1, "cad");
    scene.prepare(&domain).ends_well();
    // With its devices, while the domain runs.
    scene.kernel.remove_parent("0000:3c:00.0");
    scene.hook(&domain, "reconnect begin -").run().ends_well();
    scene.stop(&domain);
    refused(
        &scene,
        &domain,
        domain.xml(),
        &format!("{NO_ROOM}0000:3b:00.0: no nvidia-231 left; see 'virt-vgpu explain vm1'"),
    );
}

#[test]
fn no_parents_at_all() {
    let scene = Scene::new(Machine::default());
    scene.pool("cad", SMALL);
    let domain = Domain::with_one(1, "cad");
    refused(
        &scene,
        &domain,
        domain.xml(),
        &format!(
            "{NO_ROOM}no device on this host matches its rules; see 'virt-vgpu pool preview cad'"
        ),
    );
}

#[test]
fn a_uuid_that_is_taken() {
    let domain = Domain::with_one(1, "cad");
    let uuid = &domain.mdevs()[0];
    let scene = Scene::new(Machine::of_boards(2).with_mdev(uuid, "0000:3c:00.0", SMALL));
    scene.pool("cad", SMALL);
    refused(
        &scene,
        &domain,
        domain.xml(),
        &format!(
            "device 'gpu0' of domain 'vm1' needs the UUID {uuid}, which a mediated device on \
             0000:3c:00.0 that is not ours has; remove that one, or detach and attach 'gpu0' \
             under another name"
        ),
    );
    assert_eq!(scene.kernel.writes(), []);
}

#[test]
fn a_driver_that_refuses() {
    for (errno, text) in [
        (Errno::EIO, "Input/output error (os error 5)"),
        (Errno::EINVAL, "Invalid argument (os error 22)"),
        (Errno::ENOSPC, "No space left on device (os error 28)"),
    ] {
        let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
        scene.kernel.inject(Fault::errno(Target::Create, errno));
        let types = |parent| {
            format!(
                "{parent}: /sys/class/mdev_bus/{parent}/mdev_supported_types/nvidia-231/create: {text}"
            )
        };
        let (one, two) = (types("0000:3b:00.0"), types("0000:3c:00.0"));
        refused(
            &scene,
            &domain,
            domain.xml(),
            &format!("{NO_ROOM}{one}; {two}; see 'virt-vgpu explain vm1'"),
        );
        // One board that refuses is no reason while there is another.
        scene.kernel.heal();
        scene
            .kernel
            .inject(Fault::errno(Target::Create, errno).on("0000:3b:00.0"));
        scene.prepare(&domain).ends_well();
        let made = &scene.kernel.mdevs()[&domain.mdevs()[0]];
        assert_eq!(made.parent, "0000:3c:00.0");
        scene.is_settled();
    }
}

#[test]
fn the_second_device_is_refused() {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad").device("gpu1", "cad"));
    for parent in ["0000:3b:00.0", "0000:3c:00.0"] {
        // The first create on each board works.
        let fault = Fault::errno(Target::Create, Errno::EIO).on(parent);
        scene.kernel.inject(
            Fault {
                errno: None,
                ..fault.clone()
            }
            .times(1),
        );
        scene.kernel.inject(fault);
    }
    let outcome = scene.prepare(&domain);
    let line = on_host(&scene, outcome.refusal());
    assert!(line.starts_with(NO_ROOM), "{line}");
    assert!(
        line.contains("create: Input/output error (os error 5)"),
        "{line}"
    );
    is_untouched(&scene);
}

#[test]
fn a_driver_that_will_not_take_back() {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    scene.prepare(&domain).ends_well();
    scene
        .kernel
        .inject(Fault::errno(Target::Remove, Errno::EBUSY));
    scene.stop(&domain);
    assert_eq!(scene.claims().len(), 1, "the device is still ours");
    assert_eq!(scene.ours().len(), 1);
    let uuid = &domain.mdevs()[0];
    assert_eq!(
        scene.prepare(&domain).refusal(),
        format!(
            "domain 'vm1' still has devices of an earlier run: device 'gpu0' cannot go back yet: \
             /sys/bus/mdev/devices/{uuid}/remove: Device or resource busy (os error 16); see 'virt-vgpu status'"
        )
    );
    scene.kernel.heal();
    scene.prepare(&domain).ends_well();
    scene.stop(&domain);
    scene.is_empty();
}

/// A driver that removes its device by itself at the VM's end, as some versions
/// of NVIDIA's do.
#[test]
fn a_device_that_went_by_itself() {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    scene.prepare(&domain).ends_well();
    fs::write(
        scene.path(&format!(
            "/sys/bus/mdev/devices/{}/remove",
            domain.mdevs()[0]
        )),
        "1",
    )
    .unwrap();
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn a_driver_that_hangs() {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    let late = Duration::from_secs(16);
    scene
        .kernel
        .inject(Fault::delay(Target::Create, late).times(1));
    let outcome = scene.hook(&domain, "prepare begin -").run_on_pipes();
    assert!(outcome.took < PATIENCE, "{outcome:?}");
    // Another board did it, or the line says that the driver gave no answer.
    if outcome.succeeded() {
        scene.is_settled();
        let made = &scene.kernel.mdevs()[&domain.mdevs()[0]];
        assert_eq!(made.parent, "0000:3c:00.0");
    } else {
        let line = outcome.refusal();
        assert!(
            line.contains("no answer from the driver within 12 s"),
            "{line}"
        );
    }
    // The late answer disturbs nobody.
    std::thread::sleep(late.saturating_sub(outcome.took) + Duration::from_millis(500));
    scene.is_settled();
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn a_lock_that_is_held() {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    fs::create_dir_all(scene.path("run/virt-vgpu")).unwrap();
    let lock = File::create(scene.path("run/virt-vgpu/lock")).unwrap();
    lock.lock_exclusive().unwrap();
    fs::write(
        scene.path("run/virt-vgpu/lock"),
        "process 4711 (prepare begin of domain slow)\n",
    )
    .unwrap();
    let outcome = scene.prepare(&domain);
    assert_eq!(
        on_host(&scene, outcome.refusal()),
        "/run/virt-vgpu/lock has been locked for 10 s by process 4711 (prepare begin of domain slow); \
         try again when it is done"
    );
    assert!(outcome.took < PATIENCE, "{outcome:?}");
    drop(lock);
    is_untouched(&scene);
    scene.prepare(&domain).ends_well();
}

/// A file system over a directory of the scene, taken away when dropped.
struct Overlay(std::path::PathBuf);

impl Overlay {
    fn new(scene: &Scene, directory: &str, options: &[&str]) -> Self {
        let place = scene.path(directory);
        let status = Command::new("mount").args(options).arg(&place).status();
        assert!(status.unwrap().success(), "mount {options:?} {place:?}");
        Self(place)
    }

    /// The directory as it is, but read-only.
    fn read_only(scene: &Scene, directory: &str) -> Self {
        let place = scene.path(directory);
        let options = ["--bind", "-o", "ro", place.to_str().unwrap()];
        Self::new(scene, directory, &options)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn gives_back_silently(scene: &Scene, domain: &Domain) -> Vec<Outcome> {
    ["stopped end destroyed", "release end destroyed"]
        .map(|words| scene.hook(domain, words).run().ends_well())
        .into()
}

#[test]
fn run_is_read_only() {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    let running = Domain::with_one(2, "cad");
    scene.prepare(&running).ends_well();
    let bound = Overlay::read_only(&scene, "run");
    assert_eq!(
        on_host(&scene, scene.prepare(&domain).refusal()),
        "cannot lock /run/virt-vgpu/lock: Read-only file system (os error 30); /run must be writable"
    );
    gives_back_silently(&scene, &running);
    scene.is_settled();
    assert_eq!(scene.ours().len(), 1, "what cannot be written down stays");
    drop(bound);
    scene.stop(&running);
    scene.is_empty();
}

#[test]
fn run_is_read_only_before_there_is_anything() {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    let _bound = Overlay::read_only(&scene, "run");
    refused(
        &scene,
        &domain,
        domain.xml(),
        "cannot lock /run/virt-vgpu/lock: Read-only file system (os error 30); /run must be writable",
    );
}

#[test]
fn run_is_full() {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    let running = Domain::with_one(2, "cad");
    // The least that a tmpfs can have for files: a page, besides inodes.
    let options = ["-t", "tmpfs", "-o", "size=16k,nr_inodes=64", "run"];
    let _full = Overlay::new(&scene, "run", &options);
    scene.prepare(&running).ends_well();
    let mut filler = File::create(scene.path("run/filler")).unwrap();
    while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
    let outcome = scene.prepare(&domain);
    let line = on_host(&scene, outcome.refusal());
    assert_eq!(
        line,
        format!(
            "no device was made: cannot write /run/virt-vgpu/claims/{}.json: No space left on \
             device (os error 28)",
            domain.uuid
        )
    );
    scene.is_settled();
    assert_eq!(scene.ours().len(), 1);
    // Giving back makes room and needs none.
    gives_back_silently(&scene, &running);
    scene.is_empty();
}

#[test]
fn a_medium_that_cannot_be_used_never_stops_a_domain() {
    let scene = scene();
    scene.pool_with("cad", SMALL, "guest-driver = \"/srv/iso/guest.iso\"");
    let domain = Domain::new(1).request("gpu0", "pool='cad' guest-drivers='yes'", true);
    let problem = || scene.claims()[0].media.clone().unwrap().problem;
    // It is not there.
    scene.prepare(&domain).ends_well();
    assert_eq!(
        problem().as_deref(),
        Some("/srv/iso: No such file or directory (os error 2)")
    );
    assert_eq!(scene.media(), Vec::<String>::new());
    scene.stop(&domain);
    scene.is_empty();
    // It is there.
    scene.image("srv/iso/guest.iso");
    scene.prepare(&domain).ends_well();
    assert_eq!(problem(), None);
    assert_eq!(scene.media(), [format!("{}.iso", domain.uuid)]);
    scene.stop(&domain);
    scene.is_empty();
    // Something of somebody else's is in the way: it stays.
    let place = domain.media();
    scene.file(&place, "not ours");
    scene.prepare(&domain).ends_well();
    scene.stop(&domain);
    assert_eq!(fs::read_to_string(scene.path(&place)).unwrap(), "not ours");
    assert_eq!(scene.claims(), []);
    fs::remove_file(scene.path(&place)).unwrap();
    // It cannot be taken away: the devices go back and the domain starts again.
    scene.prepare(&domain).ends_well();
    let bound = Overlay::read_only(&scene, "var/lib");
    scene.stop(&domain);
    assert!(scene.ours().is_empty());
    scene.prepare(&domain).ends_well();
    assert_eq!(scene.ours().len(), 1);
    scene.is_settled();
    scene.stop(&domain);
    assert!(scene.ours().is_empty());
    // Later it can.
    drop(bound);
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn a_damaged_claim_is_told_and_kept() {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    scene.prepare(&domain).ends_well();
    let path = format!("run/virt-vgpu/claims/{}.json", domain.uuid);
    let good = fs::read(scene.path(&path)).unwrap();
    scene.file(&path, "{\"version\": 1");
    assert_eq!(
        scene.prepare(&domain).refusal(),
        format!(
            "claim /{path}: EOF while parsing an object at line 1 column 13; when nothing of \
             that domain runs any more, remove the file"
        )
    );
    scene.stop(&domain);
    assert_eq!(scene.ours().len(), 1);
    // Other domains go on.
    let other = Domain::with_one(2, "cad");
    scene.prepare(&other).ends_well();
    scene.stop(&other);
    scene.file(&path, good);
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn the_namespace_alone_is_no_request() {
    let (scene, domain) = (scene(), Domain::new(1));
    let xml = domain.xml();
    let empty = format!("<metadata><v:devices xmlns:v='{NAMESPACE}'/></metadata>");
    let xml = xml.replace("<devices>", &format!("{empty}<devices>"));
    for arguments in ["prepare begin -", "stopped end -", "reconnect begin -"] {
        scene.hook_with(&domain, arguments, &*xml).run().ends_well();
    }
    is_untouched(&scene);
}

/// Each virtual function says that it has room while its board has room for
/// one: the driver's word settles it, and the domain gets all or nothing.
#[test]
fn a_board_that_has_less_room_than_its_functions_say() {
    let board = Function::sriov_board("41", 16);
    let scene = Scene::new(Machine::with([board]).with_mdev(FOREIGN, "0000:41:00.4", LARGE));
    scene.pool("cad", LARGE);
    let domain = Domain::with_one(1, "cad").device("gpu1", "cad");
    let outcome = scene.prepare(&domain);
    let line = outcome.refusal();
    let wanted = "pool 'cad' has no free nvidia-232 for domain 'vm1': ";
    assert!(line.starts_with(wanted), "{line}");
    is_untouched(&scene);
    eprintln!(
        "{} writes, {:?}\n{line}",
        scene.kernel.writes().len(),
        outcome.took
    );
    // One of them is to be had.
    scene.prepare(&Domain::with_one(2, "cad")).ends_well();
    scene.is_settled();
}
