//! `start` against a real libvirt: a run with other devices leaves the definition as it
//! is. That libvirtd has no such devices, so a start with them fails there.

use std::{fs, process::Command};

use virt_vgpu::host::libvirt::{EventLoop, Libvirt};

use crate::support::{self, libvirtd::Libvirtd};

const UUID: &str = "dddddddd-0000-4000-8000-000000000001";

fn xml(title: &str, metadata: &str, devices: &str) -> String {
    format!(
        "<domain type='qemu'><name>one</name><uuid>{UUID}</uuid><title>{title}</title>\
         <metadata>{metadata}</metadata><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{devices}\
         <graphics type='vnc' passwd='secret'/></devices></domain>"
    )
}

/// What is to stay: the definition with its password, autostart, snapshots.
fn kept(libvirtd: &Libvirtd) -> [String; 3] {
    let secret = ["dumpxml", "--inactive", "--security-info", "one"];
    let info = libvirtd.virsh(&["dominfo", "one"]);
    let lines = info.lines();
    let info = lines.filter(|line| line.starts_with("Persistent") || line.starts_with("Autostart"));
    [
        libvirtd.virsh(&secret),
        info.collect::<Vec<_>>().join("\n"),
        libvirtd.virsh(&["snapshot-list", "one", "--name"]),
    ]
}

#[test]
fn a_run_from_other_xml_leaves_the_definition_and_all_that_belongs_to_it() {
    let libvirtd = Libvirtd::start();
    libvirtd.make("define", &xml("as defined", "", ""));
    libvirtd.virsh(&["autostart", "one"]);
    let snapshot = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "<domainsnapshot><name>first</name><state>shutoff</state><creationTime>1</creationTime>{}\
         </domainsnapshot>",
        libvirtd.definition("one")
    );
    fs::write(snapshot.path(), text).unwrap();
    let snapshot = snapshot.path().to_str().unwrap();
    libvirtd.virsh(&["snapshot-create", "one", snapshot, "--redefine"]);
    let before = kept(&libvirtd);
    assert!(before[0].contains("secret") && before[1].contains("enable"));
    assert_eq!(before[2].trim(), "first");

    let _loop = EventLoop::start(
        std::time::Duration::from_secs(1000),
        std::sync::mpsc::channel::<virt_vgpu::host::libvirt::Event>().0,
    );
    let libvirt = Libvirt::open(&libvirtd.uri).unwrap();
    let domain = libvirt.domain("one").unwrap();
    let whole = domain.inactive_xml_with_passwords().unwrap();
    let other = whole.replace("as defined", "for this run");
    let run = libvirt.start_from(&other).unwrap();
    assert_eq!(run.uuid().unwrap(), domain.uuid().unwrap());
    let live = libvirtd.virsh(&["dumpxml", "--security-info", "one"]);
    assert!(live.contains("for this run") && live.contains("secret"));
    assert!(domain.is_active().unwrap());
    assert_eq!(kept(&libvirtd), before);
    // It runs already.
    assert!(libvirt.start_from(&other).is_err());
    libvirtd.virsh(&["destroy", "one"]);
    assert_eq!(kept(&libvirtd), before);
    let stopped = libvirtd.virsh(&["dumpxml", "--security-info", "one"]);
    assert_eq!(stopped, before[0]);
    // The next start is an ordinary one.
    domain.start().unwrap();
    let live = libvirtd.virsh(&["dumpxml", "one"]);
    assert!(live.contains("as defined"));
    libvirtd.virsh(&["destroy", "one"]);

    // A start that fails.
    let missing = "<emulator>/nowhere/qemu</emulator>";
    let (head, tail) = other.split_once("<emulator>").unwrap();
    let (_, tail) = tail.split_once("</emulator>").unwrap();
    assert!(
        libvirt
            .start_from(&format!("{head}{missing}{tail}"))
            .is_err()
    );
    assert_eq!(kept(&libvirtd), before);
    let device = "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>\
                  <source><address uuid='cccccccc-0000-4000-8000-000000000001'/></source></hostdev>";
    let failing = other.replace("</devices>", &format!("{device}</devices>"));
    assert!(libvirt.start_from(&failing).is_err());
    assert_eq!(kept(&libvirtd), before);
    domain.start().unwrap();
    assert!(libvirtd.virsh(&["dumpxml", "one"]).contains("as defined"));
    libvirtd.virsh(&["destroy", "one"]);
}

#[test]
fn a_start_with_another_device_that_fails_changes_no_definition() {
    let root = support::root();
    let pools = root.path().join("etc/virt-vgpu/pools.d");
    fs::create_dir_all(&pools).unwrap();
    fs::write(
        pools.join("cad.toml"),
        "kind = 'mdev'\ntype = 'nvidia-558'\n",
    )
    .unwrap();
    let libvirtd = Libvirtd::start();
    // The pool has mediated devices now, and the definition names a function.
    let metadata = "<v:devices xmlns:v='urn:virt-vgpu:devices:1'>\
                    <v:device name='gpu0' pool='cad'/></v:devices>";
    let function = "<hostdev mode='subsystem' type='pci' managed='no'>\
                    <source><address domain='0' bus='0x7b' slot='0' function='4'/></source>\
                    <alias name='ua-vgpu-gpu0'/></hostdev>";
    libvirtd.make("define", &xml("", metadata, function));
    let before = kept(&libvirtd);
    let start = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_virt-vgpu"))
            .args(["start", "one", "--connect", &libvirtd.uri])
            .args(more)
            .env("VIRT_VGPU_ROOT", root.path())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        (code, text(output.stdout), text(output.stderr))
    };
    let planned = "nothing is changed yet; without --dry-run:\n\
                   gpu0 of one: a mediated device instead of 0000:7b:00.4: its pool hands out \
                   mediated devices\none would be started\n";
    let dry = (0, planned.to_owned(), String::new());
    assert_eq!(start(&["--dry-run"]), dry);
    let (code, out, error) = start(&[]);
    assert_eq!((code, out.as_str()), (1, ""));
    // libvirt was given the other device, and cannot have it here either.
    assert!(error.to_lowercase().contains("mediated"), "{error}");
    assert_eq!(kept(&libvirtd), before);
}
