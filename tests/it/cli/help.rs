//! Help and man pages of every verb.

use crate::support::plain_tree::Tree;

const VERBS: &[&[&str]] = &[
    &["devices"],
    &["profiles"],
    &["pool"],
    &["pool", "create"],
    &["pool", "list"],
    &["pool", "show"],
    &["pool", "preview"],
    &["pool", "check"],
    &["pool", "delete"],
    &["attach"],
    &["detach"],
    &["start"],
    &["create"],
    &["status"],
    &["doctor"],
    &["reconcile"],
];

#[test]
fn every_verb_has_help_with_examples_in_80_columns() {
    let tree = Tree::new();
    for verb in VERBS {
        let help = tree.shown(&[verb, &["--help"][..]].concat());
        assert!(help.contains("\nExamples:\n"), "{verb:?}: {help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{verb:?}: {line}");
        }
        let leaf = *verb != ["pool"];
        assert_eq!(leaf, help.contains("\nExit code 0 "), "{verb:?}: {help}");
        assert_eq!(leaf, help.contains("--json"), "{verb:?}: {help}");
    }
}

#[test]
fn help_keeps_to_a_narrow_terminal() {
    const COLUMNS: usize = 60;
    let tree = Tree::new();
    for verb in VERBS {
        let mut command = tree.command(&[verb, &["--help"][..]].concat());
        let output = command
            .env("COLUMNS", COLUMNS.to_string())
            .output()
            .unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        // clap never breaks the usage line.
        for line in help.lines().filter(|line| !line.starts_with("Usage: ")) {
            assert!(line.chars().count() <= COLUMNS, "{verb:?}: {line}");
        }
    }
}

#[test]
fn whole_devices_are_explained_where_other_devices_are() {
    let tree = Tree::new();
    let words = |verb: &[&str]| {
        let help = tree.shown(&[verb, &["--help"][..]].concat());
        help.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let create = words(&["pool", "create"]);
    let sentence = "With --kind pci it is a pool of whole PCI devices, handed out as they are.";
    assert!(create.contains(sentence), "{create}");
    assert!(create.contains("with --kind the device itself"), "{create}");
    let reconcile = words(&["reconcile"]);
    assert!(
        reconcile.contains("a whole PCI device when it answers"),
        "{reconcile}"
    );
    let to = tree.path("/generated").display().to_string();
    tree.shown(&["generate", &to]);
    for (page, wanted) in [
        ("virt-vgpu-request.5", "<alias name='ua-vgpu-pci0'/>"),
        ("virt-vgpu-request.5", "<alias name='ua-vgpu-pci0_1'/>"),
        (
            "virt-vgpu-request.5",
            ".B placeholder = \\(dqhotplug\\(dq\n",
        ),
        (
            "virt-vgpu-hook.8",
            "a whole PCI device when it did not answer",
        ),
        (
            "virt-vgpu-pools.5",
            "A device\nthat the host needs itself is not handed out, unless",
        ),
        (
            "virt-vgpu-pools.5",
            "Pools of kind pci are named for those devices too",
        ),
    ] {
        let text = tree.read(&format!("/generated/man/{page}"));
        assert!(text.contains(wanted), "{page}: {wanted}");
    }
}

#[test]
fn every_verb_has_a_man_page() {
    let tree = Tree::new();
    let to = tree.path("/generated").display().to_string();
    tree.shown(&["generate", &to]);
    for verb in VERBS {
        let page = format!("/generated/man/virt-vgpu-{}.8", verb.join("-"));
        let text = tree.read(&page);
        let title = format!(".TH virt-vgpu-{} 8 ", verb.join("-"));
        assert!(text.contains(&title), "{page}");
        assert!(text.contains("\n.SH EXAMPLES\n.nf\n"), "{page}");
        assert_eq!(
            *verb != ["pool"],
            text.contains("\n.SH EXIT STATUS\nExit code 0 "),
            "{page}"
        );
    }
    for file in ["virt-vgpu.bash", "_virt-vgpu", "virt-vgpu.fish"] {
        let text = tree.read(&format!("/generated/completions/{file}"));
        assert!(text.contains("preview"), "{file}");
    }
}
