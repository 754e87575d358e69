//! Names and files of others reach the terminal only as plain text, and a closed
//! terminal changes nothing.

use std::{
    fs,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::plain_tree::Tree;

/// Clears a screen in two ways, reverses the line, and ends it in three.
const NASTY: &str = "a\u{1b}[2J\u{9b}2J\u{202e}\u{2066}\u{200f}\u{2028}\u{7f}b";
const SHOWN: &str = r"a\u{1b}[2J\u{9b}2J\u{202e}\u{2066}\u{200f}\u{2028}\u{7f}b";

/// Checks that the text has no characters on which a terminal acts, except line breaks.
#[track_caller]
fn is_plain(text: &str) {
    let hidden =
        |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2066}\u{200f}\u{2028}".contains(c);
    assert!(!text.contains(hidden), "{text:?}");
}

#[test]
fn names_of_domains() {
    let name = NASTY.replace(['\u{1b}', '\u{9b}', '\u{7f}'], "");
    let shown = SHOWN
        .replace(r"\u{1b}", "")
        .replace(r"\u{9b}", "")
        .replace(r"\u{7f}", "");
    let uuid = "aaaaaaaa-0000-4000-8000-000000000001";
    let tree = Tree::with_devices()
        .mdev(uuid, "0000:3b:00.4", "nvidia-558")
        .claim(&name, "cad", uuid, "0000:3b:00.4", "nvidia-558")
        .with("/proc/self/stat", "");
    let text = tree.shown(&["devices", "--kind", "mdev", "0000:3b:00.4"]);
    is_plain(&text);
    assert!(text.contains(&format!("domain '{shown}' (")), "{text}");
    let text = tree.shown(&["status"]);
    is_plain(&text);
    assert!(text.contains(&format!("\n{shown}  gpu0")), "{text}");
    let json = tree.shown(&["status", "--json"]);
    is_plain(&json);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["claims"][0]["domain"], Value::from(name));
}

#[test]
fn what_sysfs_holds() {
    let tree = Tree::with_devices();
    let types = "/sys/devices/pci0000:00/0000:3b:00.4/mdev_supported_types";
    tree.write(&format!("{types}/nvidia-558/name"), NASTY);
    let device = tree.path("/sys/devices/pci0000:00/0000:04:00.0");
    fs::remove_file(device.join("driver")).unwrap();
    let driver = format!("../../../bus/pci/drivers/i{NASTY}\nproblem: x");
    std::os::unix::fs::symlink(driver, device.join("driver")).unwrap();
    for arguments in [
        &["devices", "--kind", "mdev"][..],
        &["devices", "--kind", "pci"],
        &["devices", "--kind", "pci", "--fields"],
        &["devices", "--kind", "mdev", "--json"],
        &["devices", "--kind", "pci", "--json"],
    ] {
        let text = tree.shown(arguments);
        is_plain(&text);
        assert!(!text.contains("\nproblem"), "{arguments:?}: {text}");
    }
    let text = tree.shown(&["devices", "--kind", "mdev", "0000:3b:00.4"]);
    assert!(text.contains(SHOWN), "{text}");
    let text = tree.shown(&["devices", "--kind", "pci"]);
    assert!(text.contains(&format!(r"i{SHOWN}\nproblem: x")), "{text}");
}

#[test]
fn files_among_the_pools() {
    let tree = Tree::with_devices();
    tree.write(&format!("/etc/virt-vgpu/pools.d/{NASTY}\nx.toml"), "");
    let wanted = format!(r"/etc/virt-vgpu/pools.d/{SHOWN}\nx.toml");
    for arguments in [&["pool", "list"][..], &["pool", "check"], &["status"]] {
        let outcome = tree.run(arguments);
        is_plain(&outcome.out);
        assert!(outcome.out.contains(&wanted), "{arguments:?}: {outcome:?}");
    }
}

#[test]
fn arguments_that_are_repeated_in_errors() {
    let tree = Tree::with_devices();
    let nasty = format!("{NASTY}\nerror: x");
    for (arguments, code) in [
        (vec![nasty.clone()], 2),
        (vec!["status".to_owned(), format!("--{nasty}")], 2),
        (vec!["status".to_owned(), nasty.clone()], 2),
        (vec!["pool".to_owned(), "show".to_owned(), nasty.clone()], 2),
        (vec!["devices".to_owned(), format!("--kind={nasty}")], 2),
        (vec!["devices".to_owned(), nasty.clone()], 1),
        (
            vec!["pool".to_owned(), "check".to_owned(), nasty.clone()],
            1,
        ),
        (vec!["create".to_owned(), nasty.clone()], 1),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let outcome = tree.run(&arguments);
        assert_eq!(outcome.code, code, "{outcome:?}");
        is_plain(&outcome.err);
        is_plain(&outcome.out);
        let all = outcome.err + &outcome.out;
        assert!(all.contains(SHOWN), "{arguments:?}: {all}");
        assert!(!all.contains("\nerror: x"), "{arguments:?}: {all}");
    }
}

/// A text that is longer than any in sysfs is refused, with the file's name.
#[test]
fn attributes_that_are_too_long() {
    let tree = Tree::with_devices().pool("cad", "kind = 'mdev'\ntype = 'nvidia-558'\n");
    let types = "/sys/devices/pci0000:00/0000:3b:00.4/mdev_supported_types";
    tree.write(&format!("{types}/nvidia-558/name"), &"x".repeat(70_000));
    tree.write(
        &format!("{types}/nvidia-559/description"),
        &"\u{9b}".repeat(2000),
    );
    let text = tree.shown(&["devices", "--kind", "mdev", "0000:3b:00.4"]);
    is_plain(&text);
    assert!(
        text.lines().all(|line| line.chars().count() < 1000),
        "{text}"
    );
    let of_parents = ["devices", "--kind", "mdev"];
    for arguments in [&of_parents[..], &["status"], &["pool", "show", "cad"]] {
        let outcome = tree.run(arguments);
        is_plain(&outcome.out);
        assert!(
            outcome.out.len() < 20_000,
            "{arguments:?}: {}",
            outcome.out.len()
        );
    }
}

/// The end of a pipe that nobody reads.
fn unread() -> OwnedFd {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    writer
}

#[test]
fn nobody_who_listens() {
    let tree = Tree::with_devices().pool("cad", "kind = 'mdev'\ntype = 'none'\nodd = 1\n");
    for (arguments, code, code_of_full) in [
        (&["devices"][..], 0, 1),
        (&["devices", "--json"], 0, 1),
        (&["--help"], 0, 0),
        (&["--version"], 0, 0),
        (&["pool", "check"], 1, 1),
        (&["pool", "show", "none"], 1, 1),
        (&["no-such-verb"], 2, 2),
        (&[], 2, 2),
    ] {
        let full = || fs::File::options().write(true).open("/dev/full").unwrap();
        for (out, err, code) in [
            (Stdio::from(unread()), Stdio::from(unread()), code),
            (Stdio::from(full()), Stdio::from(full()), code_of_full),
            (Stdio::from(unread()), Stdio::null(), code),
        ] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_virt-vgpu"));
            let command = command.arg("--root").arg(tree.root()).args(arguments);
            let status = command.stdout(out).stderr(err).status().unwrap();
            let ended = (status.code(), status.signal());
            assert_eq!(ended, (Some(code), None), "{arguments:?}");
        }
    }
}

/// A mistyped root looks like a host without devices, and would be made by some verbs.
#[test]
fn a_root_that_does_not_exist_is_refused_and_not_made() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    for (name, why) in [
        ("typo", "No such file or directory (os error 2)"),
        ("file", "it is no directory"),
    ] {
        let path = root.path().join(name);
        for arguments in [
            &["devices"][..],
            &["status"],
            &["reconcile"],
            &["host", "apply", "--all"],
        ] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_virt-vgpu"));
            let command = command.arg("--root").arg(&path).args(arguments);
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{arguments:?}");
            let text = String::from_utf8(output.stderr).unwrap();
            let line = text.lines().next().unwrap();
            let wanted = format!(
                "error: invalid value '{}' for '--root <DIR>': {why}",
                path.display()
            );
            assert_eq!(line, wanted, "{arguments:?}");
        }
        assert_eq!(path.exists(), name == "file");
    }
}

#[test]
fn what_cannot_be_printed_is_said() {
    let tree = Tree::with_devices();
    for arguments in [&["devices"][..], &["devices", "--json"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virt-vgpu"));
        let command = command.arg("--root").arg(tree.root()).args(arguments);
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command.stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "virt-vgpu: cannot print: No space left on device (os error 28)\n"
        );
    }
}
