//! Pool files that others than root can write: their pools cannot be used, and the
//! message says how to correct that.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use crate::support::plain_tree::Tree;

const POOL: &str = "kind = 'mdev'\ntype = 'nvidia-558'\n";
const FILE: &str = "/etc/virt-vgpu/pools.d/cad.toml";
const DIRECTORY: &str = "/etc/virt-vgpu/pools.d";

fn mode(tree: &Tree, path: &str, mode: u32) {
    fs::set_permissions(tree.path(path), Permissions::from_mode(mode)).unwrap();
}

/// All commands that read pools say the same.
#[track_caller]
fn is_down(tree: &Tree, why: &str) {
    let line = format!("{FILE} is not used: {why}");
    let check = tree.run(&["pool", "check"]);
    assert_eq!(check.code, 1, "{check:?}");
    assert!(check.out.contains(&format!("error: {line}\n")), "{check:?}");
    let status = tree.shown(&["status"]);
    assert!(status.contains(&format!("\nproblem: {line}\n")), "{status}");
    let list = tree.shown(&["pool", "list"]);
    let wanted = format!("pool 'cad' cannot be used: {line}\n");
    assert!(list.contains(&wanted), "{list}");
    assert_eq!(tree.refused(&["pool", "show", "cad"]), line);
    // Other pools still work.
    tree.shown(&["pool", "show", "viz"]);
}

fn tree() -> Tree {
    Tree::with_devices()
        .pool("cad", POOL)
        .with("/usr/lib/virt-vgpu/pools.d/viz.toml", POOL)
        .with("/usr/lib/virt-vgpu/pools.d/cad.toml", POOL)
}

#[test]
fn a_file_that_others_can_write() {
    let tree = tree();
    tree.shown(&["pool", "show", "cad"]);
    for bits in [0o666, 0o664] {
        mode(&tree, FILE, bits);
        is_down(
            &tree,
            &format!(
                "others than root can write to {FILE} (mode {bits:04o}); see that it holds what it \
                 should, then run 'chmod go-w {FILE}'"
            ),
        );
    }
    mode(&tree, FILE, 0o644);
    tree.shown(&["pool", "show", "cad"]);
}

#[test]
fn a_directory_that_others_can_write() {
    let tree = tree();
    mode(&tree, DIRECTORY, 0o777);
    is_down(
        &tree,
        &format!(
            "others than root can write to {DIRECTORY} (mode 0777); see that it holds what it \
             should, then run 'chmod go-w {DIRECTORY}'"
        ),
    );
}

#[test]
fn a_link_to_what_others_can_write() {
    let tree = tree().with("/srv/cad.toml", POOL);
    fs::remove_file(tree.path(FILE)).unwrap();
    let tree = tree.with_link(FILE, "../../../srv/cad.toml");
    tree.shown(&["pool", "show", "cad"]);
    mode(&tree, "/srv/cad.toml", 0o646);
    is_down(
        &tree,
        "others than root can write to /srv/cad.toml (mode 0646); see that it holds what it \
         should, then run 'chmod go-w /srv/cad.toml'",
    );
}

/// A mask is refused as well, and the pool that it hides stays hidden.
#[test]
fn a_mask_that_others_could_have_made() {
    let tree = tree();
    fs::remove_file(tree.path(FILE)).unwrap();
    let tree = tree.with_link(FILE, "/dev/null");
    assert_eq!(tree.run(&["pool", "check"]).code, 0);
    mode(&tree, DIRECTORY, 0o1777);
    is_down(
        &tree,
        &format!(
            "others than root can write to {DIRECTORY} (mode 1777); see that it holds what it \
             should, then run 'chmod go-w {DIRECTORY}'"
        ),
    );
}

#[test]
fn a_file_of_somebody_else() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let tree = tree();
    std::os::unix::fs::chown(tree.path(FILE), Some(65534), None).unwrap();
    is_down(
        &tree,
        &format!(
            "{FILE} belongs to user 65534; see that it holds what it should, then run 'chown -h \
             root {FILE}'"
        ),
    );
}
