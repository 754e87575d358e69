//! Who could change a file: its owner and mode, and those of every directory and link by
//! which it is reached.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use crate::config::{Distrust, Wrong};

/// As many links as the kernel follows (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;

const ELOOP: i32 = 40;

/// The first thing on the way to `path`, below `root`, that others than root and the user
/// of this process can change. A directory that a link leads through may be writable for
/// all if it is sticky: there nobody can replace what belongs to others.
pub(super) fn distrust(root: &Path, path: &Path) -> io::Result<Option<Distrust>> {
    look(root, path, true)
}

/// The same of a link, which is not followed.
pub(super) fn distrust_link(root: &Path, path: &Path) -> io::Result<Option<Distrust>> {
    look(root, path, false)
}

fn look(root: &Path, path: &Path, follow: bool) -> io::Result<Option<Distrust>> {
    let mut left: VecDeque<OsString> = names(path);
    let mut place = root.to_owned();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            // Who has put this into a link has passed the directory that it leaves.
            place.pop();
            continue;
        }
        let at = place.join(&name);
        let found = at.symlink_metadata()?;
        let wrong = if found.uid() != 0 && found.uid() != nix::unistd::geteuid().as_raw() {
            Some(Wrong::Owner(found.uid()))
        } else {
            let sticky = links > 0 && found.is_dir() && found.mode() & 0o1000 != 0;
            let is_open = found.mode() & 0o022 != 0 && !found.is_symlink() && !sticky;
            is_open.then(|| Wrong::Mode(found.mode() & 0o7777))
        };
        if let Some(wrong) = wrong {
            let culprit = match at.strip_prefix(root) {
                Ok(below) => Path::new("/").join(below),
                Err(_) => at,
            };
            return Ok(Some(Distrust { culprit, wrong }));
        }
        if left.is_empty() && !follow {
            break;
        }
        if !found.is_symlink() {
            place = at;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(io::Error::from_raw_os_error(ELOOP));
        }
        let target = fs::read_link(&at)?;
        if target.is_absolute() {
            place = PathBuf::from("/");
        }
        for name in names(&target).into_iter().rev() {
            left.push_front(name);
        }
    }
    Ok(None)
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::fs::{PermissionsExt, lchown, symlink},
    };

    use super::*;

    const NOBODY: u32 = 65534;

    /// Files below a root of their own, whatever the umask of the tests is.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            tree.mode("", 0o755);
            tree.directory("etc/pools.d").directory("srv/git");
            tree.file("etc/pools.d/cad.toml").file("srv/git/cad.toml");
            tree
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn mode(&self, path: &str, mode: u32) -> &Self {
            fs::set_permissions(self.at(path), Permissions::from_mode(mode)).unwrap();
            self
        }

        fn directory(&self, path: &str) -> &Self {
            let mut whole = PathBuf::new();
            for part in Path::new(path) {
                whole.push(part);
                let _ = fs::create_dir(self.0.path().join(&whole));
                self.mode(whole.to_str().unwrap(), 0o755);
            }
            self
        }

        fn file(&self, path: &str) -> &Self {
            fs::write(self.at(path), "").unwrap();
            self.mode(path, 0o644)
        }

        fn link(&self, path: &str, to: &str) -> &Self {
            let _ = fs::remove_file(self.at(path));
            symlink(to, self.at(path)).unwrap();
            self
        }

        #[track_caller]
        fn is(&self, wanted: Option<(&str, Wrong)>) {
            let found = distrust(self.0.path(), Path::new("/etc/pools.d/cad.toml")).unwrap();
            let wanted = wanted.map(|(culprit, wrong)| Distrust {
                culprit: culprit.into(),
                wrong,
            });
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn files_and_directories_that_others_can_write() {
        Tree::new().is(None);
        for mode in [0o664, 0o646, 0o666] {
            let tree = Tree::new();
            tree.mode("etc/pools.d/cad.toml", mode);
            tree.is(Some(("/etc/pools.d/cad.toml", Wrong::Mode(mode))));
        }
        for (path, mode) in [
            ("etc/pools.d", 0o777),
            ("etc/pools.d", 0o1777),
            ("etc/pools.d", 0o775),
            ("etc", 0o757),
        ] {
            let tree = Tree::new();
            tree.mode(path, mode);
            tree.is(Some((&format!("/{path}"), Wrong::Mode(mode))));
        }
    }

    #[test]
    fn links_are_looked_at_to_their_end() {
        let tree = Tree::new();
        tree.link("etc/pools.d/cad.toml", "../../srv/git/cad.toml");
        tree.is(None);
        tree.mode("srv/git/cad.toml", 0o666);
        tree.is(Some(("/srv/git/cad.toml", Wrong::Mode(0o666))));
        tree.mode("srv/git/cad.toml", 0o644).mode("srv/git", 0o775);
        tree.is(Some(("/srv/git", Wrong::Mode(0o775))));
        // As /tmp is: what is in it belongs to its owner.
        tree.mode("srv/git", 0o1777);
        tree.is(None);
        tree.mode("srv/git", 0o755);
        // A whole directory, and a link to a link.
        tree.link("srv/other", "git");
        fs::remove_file(tree.at("etc/pools.d/cad.toml")).unwrap();
        fs::remove_dir(tree.at("etc/pools.d")).unwrap();
        tree.link("etc/pools.d", "../srv/other");
        tree.is(None);
        tree.mode("srv/git", 0o777);
        tree.is(Some(("/srv/git", Wrong::Mode(0o777))));
        // Absolute, as the kernel takes it: from the real root.
        let target = tree.at("srv/git").canonicalize().unwrap();
        tree.link("etc/pools.d", target.to_str().unwrap());
        tree.is(Some(("/srv/git", Wrong::Mode(0o777))));
        tree.link("etc/pools.d", "pools.d");
        let error = distrust(tree.0.path(), Path::new("/etc/pools.d/cad.toml")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(ELOOP));
    }

    #[test]
    fn files_and_links_of_others() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        for path in ["etc/pools.d/cad.toml", "etc/pools.d", "etc"] {
            let tree = Tree::new();
            lchown(tree.at(path), Some(NOBODY), None).unwrap();
            tree.is(Some((&format!("/{path}"), Wrong::Owner(NOBODY))));
        }
        let tree = Tree::new();
        tree.link("etc/pools.d/cad.toml", "../../srv/git/cad.toml");
        lchown(tree.at("etc/pools.d/cad.toml"), Some(NOBODY), None).unwrap();
        tree.is(Some(("/etc/pools.d/cad.toml", Wrong::Owner(NOBODY))));
    }

    #[test]
    fn what_is_not_there() {
        let tree = Tree::new();
        let missing = distrust(tree.0.path(), Path::new("/etc/pools.d/viz.toml")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
