//! The benchmark reports missing programs before it starts.

#[path = "../bench/needs.rs"]
mod needs;

#[test]
fn the_programs_that_are_missing_are_named_with_their_packages() {
    let empty = tempfile::tempdir().unwrap();
    let said = needs::missing_programs(empty.path().to_str().unwrap()).unwrap_err();
    // Programs that are found by their path may be installed.
    let said = said.replace(", /usr/bin/python3 (package python3)", "");
    assert_eq!(
        said.trim_end_matches(" python3"),
        "missing: cc (package gcc), mdevctl (package mdevctl), mount (package mount), \
         umount (package mount), sh (package dash), unshare (package util-linux); \
         run: apt-get install --no-install-recommends gcc mdevctl mount dash util-linux"
    );
}

#[test]
fn nothing_is_said_where_all_are_there() {
    let all = tempfile::tempdir().unwrap();
    for program in ["cc", "mdevctl", "mount", "sh", "umount", "unshare"] {
        std::fs::write(all.path().join(program), "").unwrap();
    }
    let path = format!("/nowhere:{}", all.path().display());
    let said = needs::missing_programs(&path);
    if std::path::Path::new("/usr/bin/python3").exists() {
        assert_eq!(said, Ok(()));
    } else {
        assert!(said.unwrap_err().starts_with("missing: /usr/bin/python3"));
    }
}
