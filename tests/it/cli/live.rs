//! `attach --live`, `detach --live`, optional devices of `start`, `create`: against a
//! real libvirt and the model of the kernel. That libvirtd does not know the model's
//! devices, so plugging one in always fails there. The tests check that it gets the
//! right request and that everything is unchanged afterwards.

use std::sync::LazyLock;

use nix::errno::Errno;
use virt_vgpu::{
    domain::{Hostdev, NAMESPACE},
    model::MdevUuid,
};

use crate::support::{
    domain::Domain,
    kernel::{Fault, Target},
    libvirtd::Libvirtd,
    machine::{Machine, SMALL},
    scene::Scene,
};

static LIBVIRTD: LazyLock<Libvirtd> = LazyLock::new(Libvirtd::start);

/// A board that fits four.
fn scene() -> Scene {
    let scene = Scene::new(Machine::of_boards(1));
    scene.file(RANDOM, format!("{}\n", uuid(99)));
    scene.pool("cad", SMALL);
    scene.pool_with("spare", SMALL, "[defaults]\noptional = true");
    scene
}

const RANDOM: &str = "proc/sys/kernel/random/uuid";

fn uuid(number: u8) -> String {
    format!("cccccccc-0000-4000-8000-0000000000{number:02}")
}

fn mdev(uuid: &str) -> MdevUuid {
    uuid.parse().unwrap()
}

fn device(number: u8, name: &str) -> String {
    let name = name.parse().unwrap();
    MdevUuid::for_device(uuid(number).parse().unwrap(), &name).to_string()
}

fn xml(number: u8, machine: &str, metadata: &str, devices: &str) -> String {
    format!(
        "<domain type='qemu'><name>hot{number}</name><uuid>{}</uuid><metadata>{metadata}</metadata>\
         <memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='{machine}'>hvm</type></os>\
         <devices>{devices}<memballoon model='none'/></devices></domain>",
        uuid(number)
    )
}

fn requests(requests: &str) -> String {
    format!("<vgpu:devices xmlns:vgpu='{NAMESPACE}'>{requests}</vgpu:devices>")
}

/// Exit code, standard output and standard error.
fn run(scene: &Scene, arguments: &[&str]) -> (i32, String, String) {
    LIBVIRTD.virt_vgpu(scene.root(), arguments)
}

/// The error line of a command that fails and leaves definition, run, claims and
/// devices unchanged.
#[track_caller]
fn refused(scene: &Scene, number: u8, arguments: &[&str]) -> String {
    let domain = format!("hot{number}");
    let look = || {
        let libvirtd = &*LIBVIRTD;
        let both = [
            libvirtd.definition(&domain),
            libvirtd.virsh(&["dumpxml", &domain]),
        ];
        (both, scene.claims(), scene.ours())
    };
    let before = look();
    let (code, out, error) = run(scene, arguments);
    assert_eq!((code, &*out), (1, ""), "{arguments:?}: {error}");
    assert_eq!(look(), before);
    let line = error.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{line}");
    line.strip_prefix("virt-vgpu: ").unwrap().to_owned()
}

#[test]
fn what_libvirt_does_not_take_leaves_nothing_behind() {
    let scene = scene();
    LIBVIRTD.make("define", &xml(1, "pc", "", ""));
    LIBVIRTD.virsh(&["start", "hot1"]);
    // Twice: the first run leaves nothing that would disturb the second.
    for _ in 0..2 {
        assert_eq!(
            refused(&scene, 1, &["attach", "hot1", "--pool", "cad", "--live"]),
            format!("cannot attach to domain 'hot1': {}", not_plugged("gpu0"))
        );
    }
    scene.is_empty();
    LIBVIRTD.virsh(&["destroy", "hot1"]);
}

#[test]
fn a_dry_run_says_what_would_be_plugged_in() {
    let scene = scene();
    LIBVIRTD.make("define", &xml(2, "pc", "", ""));
    let arguments = ["attach", "hot2", "--pool", "cad", "--live"];
    assert_eq!(
        refused(&scene, 2, &arguments),
        "domain 'hot2' is not running: '--live' works only on a running domain; leave it \
         out, or start the domain first"
    );
    LIBVIRTD.virsh(&["start", "hot2"]);
    let before = (LIBVIRTD.definition("hot2"), scene.kernel.writes().len());
    let dry: Vec<&str> = [&arguments[..], &["--count", "2", "--dry-run"]].concat();
    let (code, out, error) = run(&scene, &dry);
    let line = |name| {
        let uuid = device(2, name);
        format!("attached {name} (uuid {uuid}) from pool cad to hot2; plugged in on 0000:3b:00.0\n")
    };
    let wanted = format!(
        "nothing is changed yet; without --dry-run:\n{}{}",
        line("gpu0"),
        line("gpu1")
    );
    assert_eq!((code, out, error), (0, wanted, String::new()));
    let (_, out, _) = run(&scene, &[&dry[..], &["--json"]].concat());
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let plugged = |name| {
        serde_json::json!({"name": name, "pool": "cad", "uuid": device(2, name),
            "parent": "0000:3b:00.0", "type": SMALL})
    };
    assert_eq!(
        report["plugged"],
        serde_json::json!([plugged("gpu0"), plugged("gpu1")])
    );
    assert_eq!(
        (LIBVIRTD.definition("hot2"), scene.kernel.writes().len()),
        before
    );
    scene.is_empty();
    LIBVIRTD.virsh(&["destroy", "hot2"]);
}

#[test]
fn no_room_is_refused_but_for_what_may_be_missing() {
    let scene = scene();
    scene.pool_with("cad", SMALL, "instances = 1");
    scene.pool_with("spare", SMALL, "instances = 1\n[defaults]\noptional = true");
    for number in [3, 4] {
        LIBVIRTD.make("define", &xml(number, "pc", "", ""));
        LIBVIRTD.virsh(&["start", &format!("hot{number}")]);
    }
    for (number, pool) in [(1, "cad"), (2, "spare")] {
        let other = Domain::with_one(number, pool);
        scene.prepare(&other).ends_well();
        scene.runs(4711 + u32::try_from(number).unwrap(), &other);
    }
    let full = "1 of at most 1 instances are in use; see 'virt-vgpu status'";
    assert_eq!(
        refused(&scene, 3, &["attach", "hot3", "--pool", "cad", "--live"]),
        format!(
            "cannot attach to domain 'hot3': pool 'cad' has no free {SMALL} for domain 'hot3': {full}"
        )
    );
    let (code, out, error) = run(&scene, &["attach", "hot4", "--pool", "spare", "--live"]);
    let wanted = format!(
        "requested gpu0 from pool spare for hot4; it is optional, so the domain starts without it \
         and virt-vgpud plugs it in when one is free\n\
         gpu0 is not plugged in: pool 'spare' has no free {SMALL} for domain 'hot4': {full}\n"
    );
    assert_eq!((code, out, error), (0, wanted, String::new()));
    let live = LIBVIRTD.virsh(&["dumpxml", "hot4"]);
    let request = "<vgpu:device name=\"gpu0\" pool=\"spare\" optional=\"yes\"/>";
    assert!(live.contains(request), "{live}");
    assert!(LIBVIRTD.definition("hot4").contains(request));
    // Removed from the run too, which only has the request.
    let (code, out, _) = run(&scene, &["detach", "hot4", "--all", "--live"]);
    assert_eq!((code, out.lines().count()), (0, 1), "{out}");
    assert!(!LIBVIRTD.virsh(&["dumpxml", "hot4"]).contains("vgpu"));
    scene.is_settled();
    for name in ["hot3", "hot4"] {
        LIBVIRTD.virsh(&["destroy", name]);
    }
}

/// The board of a device is pulled while its VM runs, and comes back. The claim names
/// the device all the time, because only the claim shows what the VM has lost.
#[test]
fn what_was_pulled_stays_claimed_until_it_is_plugged_in_again() {
    const BOARD: &str = "0000:3b:00.0";
    let scene = scene();
    // The pool's limit is one device, and the lost device is that one.
    scene.pool_with("cad", SMALL, "instances = 1");
    let asking = requests("<vgpu:device name='gpu0' pool='cad'/>");
    LIBVIRTD.make("create", &xml(9, "pc", &asking, ""));
    let claim = |parent: &str| {
        let claim = serde_json::json!({
            "version": 1, "domain": uuid(9), "domain_name": "hot9", "state": "committed",
            "origin": "prepare", "launched": true, "boot_id": null, "since_boot_ms": 1,
            "daemon": null, "devices": [{
                "name": "gpu0", "pool": "cad", "kind": "mdev", "uuid": device(9, "gpu0"),
                "parent": parent, "type": SMALL,
            }],
        });
        let path = format!("run/virt-vgpu/claims/{}.json", uuid(9));
        scene.file(&path, claim.to_string());
    };
    let arguments = [
        "attach", "hot9", "--pool", "cad", "--name", "gpu0", "--live",
    ];
    let cannot = "cannot attach to domain 'hot9'";
    // It was on another board than the one that is left, which has space ...
    claim("0000:99:00.0");
    let (code, out, error) = run(&scene, &[&arguments[..], &["--dry-run"]].concat());
    let plugged = format!(
        "nothing is changed yet; without --dry-run:\ncompleted gpu0 (uuid {}) of hot9: its hostdev \
         was missing; plugged in on {BOARD}\n",
        device(9, "gpu0")
    );
    assert_eq!((code, out, error), (0, plugged, String::new()));
    assert_eq!(
        refused(&scene, 9, &arguments),
        format!("{cannot}: {}", not_plugged("gpu0"))
    );
    assert_eq!(scene.kernel.writes().len(), 2);
    // ... refuses it ...
    let fault = Fault::errno(Target::Create, Errno::EIO);
    scene.kernel.inject(fault);
    let no_room = format!("{cannot}: pool 'cad' has no free {SMALL} for domain 'hot9'");
    let hint = "see 'virt-vgpu explain hot9'";
    assert_eq!(
        refused(&scene, 9, &arguments),
        format!("{no_room}: {BOARD}: create failed: Input/output error (os error 5); {hint}")
    );
    // ... and is gone itself.
    scene.kernel.remove_parent(BOARD);
    assert_eq!(
        refused(&scene, 9, &arguments),
        format!(
            "{no_room}: no device on this host matches its rules; see 'virt-vgpu pool preview cad'"
        )
    );
    LIBVIRTD.virsh(&["destroy", "hot9"]);
}

/// The guest has released the device, but its driver has not. The request is gone, and
/// the device is removed later.
#[test]
fn what_the_guest_has_let_go_of_stays_detached() {
    let scene = scene();
    let asking =
        requests("<vgpu:device name='gpu0' pool='cad'/><vgpu:device name='gpu1' pool='cad'/>");
    let name = "gpu0".parse().unwrap();
    let hostdev = Hostdev::placeholder(mdev(&device(10, "gpu0")), &name).to_xml();
    LIBVIRTD.make("define", &xml(10, "pc", "", ""));
    LIBVIRTD.virsh(&["start", "hot10"]);
    LIBVIRTD.make("define", &xml(10, "pc", &asking, &hostdev));
    let mut same = Domain::with_one(10, "cad");
    (same.name, same.uuid) = ("hot10".to_owned(), uuid(10).parse().unwrap());
    scene.starts(4711, &same, &[]);
    scene
        .kernel
        .inject(Fault::errno(Target::Remove, Errno::EIO).times(1));
    let (code, out, error) = run(&scene, &["detach", "hot10", "--all", "--live"]);
    let wanted = format!(
        "virt-vgpu: cannot detach from domain 'hot10': the guest of domain 'hot10' has released \
         'gpu0', but device 'gpu0' cannot be given back yet: \
         /sys/bus/mdev/devices/{}/remove: Input/output error (os error 5); 'virt-vgpu reconcile' \
         tries again; 'gpu1', which it did not have, is detached\n",
        device(10, "gpu0")
    );
    assert_eq!((code, out, error), (1, String::new(), wanted));
    assert_eq!(scene.ours().len(), 1);
    let definition = LIBVIRTD.definition("hot10");
    assert!(!definition.contains("vgpu"), "{definition}");
    assert_eq!(scene.reconcile().code, Some(0));
    scene.is_empty();
    LIBVIRTD.virsh(&["destroy", "hot10"]);
}

#[test]
fn a_transient_domain_has_only_its_run() {
    let scene = scene();
    LIBVIRTD.make("create", &xml(5, "pc", "", ""));
    let line = refused(&scene, 5, &["attach", "hot5", "--pool", "cad", "--live"]);
    let not_plugged = not_plugged("gpu0");
    assert_eq!(
        line,
        format!("cannot attach to domain 'hot5': {not_plugged}")
    );
    let arguments = [
        "attach",
        "hot5",
        "--pool",
        "media",
        "--live",
        "--guest-drivers",
    ];
    scene.pool_with("media", SMALL, "guest-driver = '/srv/drivers.iso'");
    assert_eq!(
        refused(&scene, 5, &arguments),
        "domain 'hot5' is transient, and a CD-ROM drive cannot be plugged into a running domain; \
         leave out --guest-drivers"
    );
    scene.is_empty();
    LIBVIRTD.virsh(&["destroy", "hot5"]);
}

#[test]
fn a_start_goes_on_without_what_may_be_missing() {
    let scene = scene();
    let asking = requests("<vgpu:device name='gpu0' pool='spare' optional='yes'/>");
    LIBVIRTD.make("define", &xml(6, "pc", &asking, ""));
    let (code, out, error) = run(&scene, &["start", "hot6", "--dry-run"]);
    let uuid = device(6, "gpu0");
    let wanted = format!(
        "nothing is changed yet; without --dry-run:\nhot6 would be started\n\
         plugged gpu0 (uuid {uuid}) of pool spare into hot6 on 0000:3b:00.0\n"
    );
    assert_eq!((code, out, error), (0, wanted, String::new()));
    let (code, out, error) = run(&scene, &["start", "hot6"]);
    let wanted = format!(
        "started hot6\ngpu0 is not plugged in: {}\n",
        not_plugged("gpu0")
    );
    assert_eq!((code, out, error), (0, wanted, String::new()));
    scene.is_empty();
    LIBVIRTD.virsh(&["destroy", "hot6"]);
}

#[test]
fn a_transient_domain_is_created_with_what_it_needs() {
    let scene = scene();
    let asking =
        requests("<vgpu:device name='gpu0' pool='cad'/><vgpu:device name='more' pool='spare'/>");
    let whole = xml(99, "pc", &asking, "");
    let text = whole.replace(&format!("<uuid>{}</uuid>", uuid(99)), "");
    let file = scene.path("hot99.xml");
    std::fs::write(&file, &text).unwrap();
    let path = file.to_str().unwrap();
    let (code, out, error) = run(&scene, &["create", path, "--dry-run"]);
    assert_eq!((code, &*error), (0, ""));
    let name = "gpu0".parse().unwrap();
    let gpu0 = device(99, "gpu0");
    let hostdev = Hostdev::placeholder(mdev(&gpu0), &name).to_xml();
    let wanted = whole
        .replace("pool='spare'/>", "pool='spare' optional='yes'/>")
        .replace(
            "</devices></domain>",
            &format!("{hostdev}</devices></domain>"),
        );
    assert_eq!(out, wanted);
    // This libvirt has no VFIO, so the device is refused there; nothing is left of it.
    let (code, out, error) = run(&scene, &["create", path]);
    assert_eq!(
        (code, &*out, &*error),
        (
            1,
            "",
            "virt-vgpu: domain 'hot99': cannot create the domain: unsupported configuration: \
             Mediated host device assignment requires VFIO support\n"
        )
    );
    assert!(
        !LIBVIRTD
            .virsh(&["list", "--all", "--name"])
            .contains("hot99")
    );
    scene.is_empty();
    // A domain that needs nothing now runs.
    let asking = requests("<vgpu:device name='more' pool='spare'/>");
    std::fs::write(&file, xml(7, "pc", &asking, "")).unwrap();
    let (code, out, error) = run(&scene, &["create", path]);
    let wanted = format!(
        "created hot7 ({})\nmore is not plugged in: {}\n",
        uuid(7),
        not_plugged("more")
    );
    assert_eq!((code, out, error), (0, wanted, String::new()));
    LIBVIRTD.virsh(&["destroy", "hot7"]);
    scene.is_empty();
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_its_line() {
    let scene = scene();
    let file = scene.path("bad.xml");
    let path = file.to_str().unwrap();
    for (text, wanted) in [
        (
            "<domain>\n<name>a</name>\n<metadata><v:devices xmlns:v='urn:virt-vgpu:devices:1'>\n\
             <v:device name='a'/></v:devices></metadata></domain>",
            "line 4: <v:device name='a'>: attribute 'pool' is missing",
        ),
        (
            "<domain>\n<name>a</domain>",
            "line 2: not well-formed XML: ",
        ),
        ("<domain/>", "<name> is missing"),
    ] {
        std::fs::write(&file, text).unwrap();
        let (code, out, error) = run(&scene, &["create", path]);
        assert_eq!((code, &*out), (1, ""));
        let wanted = format!("virt-vgpu: {path}: {wanted}");
        assert!(error.starts_with(&wanted), "{error}");
    }
}

/// libvirt looks for a guest slot before it looks for VFIO.
#[test]
fn a_guest_without_a_port_is_told_how_to_get_one() {
    let scene = scene();
    let none = "<controller type='usb' model='none'/>";
    LIBVIRTD.make("define", &xml(8, "q35", "", none));
    LIBVIRTD.virsh(&["start", "hot8"]);
    assert_eq!(
        refused(&scene, 8, &["attach", "hot8", "--pool", "cad", "--live"]),
        "cannot attach to domain 'hot8': cannot plug in hostdev 'gpu0': internal error: No more \
         available PCI slots: the guest has no free PCIe port; add <controller type='pci' \
         model='pcie-root-port'/> with 'virsh edit hot8' and start it again; the device was taken back"
    );
    scene.is_empty();
    LIBVIRTD.virsh(&["destroy", "hot8"]);
}

/// libvirt's message if the kernel has no VFIO.
fn not_plugged(device: &str) -> String {
    format!(
        "cannot plug in hostdev '{device}': unsupported configuration: Mediated host device \
         assignment requires VFIO support; the device was taken back"
    )
}
