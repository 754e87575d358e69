//! Everything that can be wrong with the host around the hook: drivers, the lock,
//! `/run`, media, claims. One clear line and exit 1 if a domain would get its devices,
//! exit 0 if it gives them back, and never a partly made device.

use std::{
    fs::{self, File},
    process::Command,
};

use fs2::FileExt;
use nix::errno::Errno;

use crate::support::{
    domain::Domain,
    eventually,
    kernel::{Fault, Target},
    machine::{Function, LARGE, Machine, SMALL},
    process::Outcome,
    refused::{FOREIGN, is_untouched, on_host, refused, scene},
    scene::Scene,
};

const NO_ROOM: &str = "pool 'cad' has no free nvidia-231 for domain 'vm1': ";

/// Nothing is known that must be done for the domain: the log has not been opened.
#[test]
fn claims_that_cannot_be_listed_are_logged_where_nobody_is_refused() {
    let (scene, domain) = (scene(), Domain::new(1));
    let claims = scene.root().join("run/virt-vgpu/claims");
    fs::create_dir_all(claims.parent().unwrap()).unwrap();
    File::create(&claims).unwrap();
    let wanted = "/run/virt-vgpu/claims: Not a directory (os error 20)";
    for arguments in [
        "release end destroyed",
        "stopped end destroyed",
        "reconnect begin -",
    ] {
        let outcome = scene.hook(&domain, arguments).logging().run();
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""));
        assert!(outcome.stderr.contains(wanted), "{arguments}: {outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
    scene.prepare(&domain).ends_well();
}

/// libvirt may have closed its end of the pipe: the exit code is enough.
#[test]
fn nobody_who_reads_what_is_said() {
    let (scene, domain) = (scene(), Domain::with_one(1, "none"));
    let closed = || {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        writer
    };
    for (arguments, code) in [
        (&["vm1", "prepare", "begin", "-"][..], 1),
        (&["a\tb", "prepare", "begin", "-"], 1),
        (&["vm1", "release", "end", "destroyed"], 0),
        (&["vm1"], 2),
    ] {
        let xml = scene.root().join("domain.xml");
        fs::write(&xml, domain.xml()).unwrap();
        let status = Command::new(env!("CARGO_BIN_EXE_virt-vgpu-hook"))
            .args(arguments)
            .env("VIRT_VGPU_ROOT", scene.root())
            .env("RUST_LOG", "error")
            .stdin(File::open(xml).unwrap())
            .stdout(closed())
            .stderr(closed())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}: {status}");
    }
}

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
            "device 'gpu0' of domain 'vm1' needs the UUID {uuid}, but a mediated device on \
             0000:3c:00.0 that is not ours has it; remove that device, or detach 'gpu0' and attach \
             it under another name"
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
        refused(
            &scene,
            &domain,
            domain.xml(),
            &format!(
                "{NO_ROOM}0000:3b:00.0, 0000:3c:00.0: create failed: {text}; see 'virt-vgpu explain vm1'"
            ),
        );
        // One refusing board does not matter while there is another.
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
        line.contains("create failed: Input/output error (os error 5)"),
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
            "domain 'vm1' still has devices of an earlier run: device 'gpu0' cannot be given back \
             yet: \
             /sys/bus/mdev/devices/{uuid}/remove: Device or resource busy (os error 16); see 'virt-vgpu status'"
        )
    );
    scene.kernel.heal();
    scene.prepare(&domain).ends_well();
    scene.stop(&domain);
    scene.is_empty();
}

/// A driver that removes its device by itself at the VM's end, as some versions of
/// NVIDIA's driver do.
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
    let uuid = &domain.mdevs()[0];
    scene.kernel.inject(Fault::hanging(Target::Create));
    let outcome = scene.hook(&domain, "prepare begin -").run_on_pipes();
    assert_eq!(
        on_host(&scene, outcome.refusal()),
        format!(
            "/sys/class/mdev_bus/0000:3b:00.0/mdev_supported_types/nvidia-231/create: no answer from \
             the driver within 8 s: it could not be undone yet (its driver is still busy with \
             /sys/bus/mdev/devices/{uuid}); 'virt-vgpu reconcile' tries again"
        )
    );
    // libvirt's calls after a refusal come while the driver is busy. A removal now
    // would remove the device's `remove` attribute for good.
    let outcome = scene.hook(&domain, "release end failed").run_on_pipes();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(scene.claims().len(), 1);
    assert_eq!(scene.kernel.writes(), []);
    // A late result is undone by the process that stayed behind.
    scene.kernel.heal();
    eventually("one creation, one removal", || {
        scene.kernel.writes().len() == 2
    });
    assert!(!scene.kernel.mdevs().contains_key(uuid));
    scene.stop(&domain);
    scene.is_empty();
    scene.prepare(&domain).ends_well();
}

#[test]
fn a_driver_that_hangs_at_the_end() {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    scene.prepare(&domain).ends_well();
    scene.kernel.inject(Fault::hanging(Target::Remove));
    let outcome = scene.hook(&domain, "stopped end destroyed").run_on_pipes();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    // Until the driver answers, the device belongs to us.
    assert_eq!(scene.claims().len(), 1);
    assert_eq!(scene.ours().len(), 1);
    scene.kernel.heal();
    eventually("the removal", || {
        scene.ours().is_empty() && scene.kernel.under_way() == 0
    });
    let release = scene.hook(&domain, "release end destroyed");
    release.run().ends_well();
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
        format!(
            "cannot lock /run/virt-vgpu/locks/{}: Read-only file system (os error 30); /run must \
             be writable",
            domain.uuid
        )
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
        &format!(
            "cannot lock /run/virt-vgpu/locks/{}: Read-only file system (os error 30); /run must \
             be writable",
            domain.uuid
        ),
    );
}

#[test]
fn run_is_full() {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    let running = Domain::with_one(2, "cad");
    // A page for each of four locks, and two for the claim while it is replaced.
    let options = ["-t", "tmpfs", "-o", "size=24k,nr_inodes=64", "run"];
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
    // Giving back frees space and needs none.
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
    // A foreign file is in the way: it stays.
    let place = domain.media();
    scene.file(&place, "not ours");
    scene.prepare(&domain).ends_well();
    scene.stop(&domain);
    assert_eq!(fs::read_to_string(scene.path(&place)).unwrap(), "not ours");
    assert_eq!(scene.claims(), []);
    fs::remove_file(scene.path(&place)).unwrap();
    // The link cannot be removed: the devices are given back and the domain starts
    // again.
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
            "claim /{path}: EOF while parsing an object at line 1 column 13; when that domain no \
             longer runs, remove the file"
        )
    );
    scene.stop(&domain);
    assert_eq!(scene.ours().len(), 1);
    // Other domains are not affected.
    let other = Domain::with_one(2, "cad");
    scene.prepare(&other).ends_well();
    scene.stop(&other);
    scene.file(&path, good);
    scene.stop(&domain);
    scene.is_empty();
}

/// Each virtual function says that a device fits, but only one fits on its board. The
/// driver decides, and the domain gets all devices or none.
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
    // One device can be had.
    scene.prepare(&Domain::with_one(2, "cad")).ends_well();
    scene.is_settled();
}

#[test]
fn a_pool_file_that_others_can_write() {
    use std::os::unix::fs::PermissionsExt;
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    let file = "/etc/virt-vgpu/pools.d/cad.toml";
    let mode = fs::Permissions::from_mode(0o666);
    fs::set_permissions(scene.root().join(&file[1..]), mode).unwrap();
    refused(
        &scene,
        &domain,
        domain.xml(),
        &format!(
            "domain 'vm1' asks for a device of pool 'cad': {file} is not used: others than root can \
             write to {file} (mode 0666); see that it holds what it should, then run 'chmod go-w {file}'"
        ),
    );
}
