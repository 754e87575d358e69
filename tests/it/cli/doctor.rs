//! `virt-vgpu doctor`: its output, its exit code, and its explanations.

use serde_json::Value;

use crate::support::plain_tree::Tree;

/// A host with an IOMMU and the hook.
fn sound() -> Tree {
    Tree::new()
        .pci("0000:04:00.0", "8086", "1533", "020000", Some("igb"))
        .with_link(
            "/sys/kernel/iommu_groups/3/devices/0000:04:00.0",
            "../../../../devices/pci0000:00/0000:04:00.0",
        )
        .with("/etc/libvirt/hooks/qemu.d/50-virt-vgpu", "#!/bin/sh\n")
        .executable("/etc/libvirt/hooks/qemu.d/50-virt-vgpu")
}

/// The same with an error, a warning and a note.
fn ill() -> Tree {
    sound()
        .with(
            "/etc/virt-vgpu/pools.d/cad.toml",
            "kind = \"nvidia-vgpu\"\n",
        )
        .with(
            "/etc/modprobe.d/vfio.conf",
            "options vfio-pci ids=10de:26b9\n",
        )
        .with("/proc/meminfo", "HugePages_Total: 4\nHugePages_Free: 0\n")
}

#[test]
fn a_sound_host_gets_one_line() {
    let outcome = sound().run(&["doctor"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""));
    let mut lines = outcome.out.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("all is well: "), "{first}");
    assert!(first.ends_with(" checks made, nothing found"), "{first}");
    // The journal and libvirt of a directory cannot be asked.
    let rest: Vec<&str> = lines.collect();
    assert_eq!(rest.len(), 1, "{rest:?}");
    let why = "not made, because this is a directory that stands in for a host: ";
    assert!(rest[0].starts_with(why), "{rest:?}");
}

#[test]
fn findings_for_people() {
    let outcome = ill().run(&["doctor"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (1, ""));
    insta::assert_snapshot!("doctor", outcome.out);
}

#[test]
fn findings_for_programs() {
    let outcome = ill().run(&["doctor", "--json"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (1, ""));
    insta::assert_snapshot!("doctor-json", outcome.out);
}

#[test]
fn warnings_are_no_failure() {
    let tree = sound().with("/etc/modprobe.d/x.conf", "options vfio-pci ids=10de:26b9\n");
    let report: Value = serde_json::from_str(&tree.shown(&["doctor", "--json"])).unwrap();
    assert_eq!(report["findings"][0]["check"], "vfio-ids-fixed");
    assert_eq!(report["findings"][0]["severity"], "warning");
}

#[test]
fn a_check_is_explained() {
    insta::assert_snapshot!(
        "doctor-explain",
        sound().shown(&["doctor", "--explain", "iommu-off"])
    );
    let json = sound().shown(&["doctor", "--explain", "iommu-off", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["severity"], "error");
    assert_eq!(
        sound().refused(&["doctor", "--explain", "iommu-of"]),
        "there is no check 'iommu-of'; did you mean 'iommu-off'? ('virt-vgpu doctor --list' lists \
         them)"
    );
}

#[test]
fn all_checks_are_listed() {
    insta::assert_snapshot!("doctor-list", sound().shown(&["doctor", "--list"]));
}

/// Somebody else's text stays on its line.
#[test]
fn what_others_have_written_does_not_act_on_the_terminal() {
    let tree = sound().with(
        "/etc/modprobe.d/x.conf",
        "options vfio-pci ids=\u{1b}[2J\u{202e}\n",
    );
    let text = tree.shown(&["doctor"]);
    assert!(text.contains(r"\u{1b}[2J\u{202e}"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}
