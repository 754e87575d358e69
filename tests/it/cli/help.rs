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
