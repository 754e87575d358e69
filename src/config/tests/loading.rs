//! Tests which file counts, and that a bad file makes only its own pool unusable.

use std::{cell::RefCell, io};

use super::*;

const GOOD: &str = "kind = 'mdev'\ntype = 'a'";
const ETC: &str = "/etc/virt-vgpu/pools.d";
const RUN: &str = "/run/virt-vgpu/pools.d";
const LIB: &str = "/usr/lib/virt-vgpu/pools.d";

fn one(files: &dyn ConfigFiles, name: &str) -> Result<Pool, PoolError> {
    load_pool(files, &name.parse().unwrap())
}

#[test]
fn the_strongest_place_wins_name_by_name() {
    let files = MemoryFiles::new()
        .with(format!("{ETC}/a.toml"), GOOD)
        .with(format!("{RUN}/a.toml"), "broken")
        .with(format!("{RUN}/b.toml"), GOOD)
        .with(format!("{LIB}/b.toml"), "broken")
        .with(format!("{LIB}/c.toml"), GOOD);
    let loaded = load_all(&files);
    assert_eq!(loaded.pools.len(), 3);
    for (name, origin) in [("a", ETC), ("b", RUN), ("c", LIB)] {
        let origin = Path::new(origin).join(format!("{name}.toml"));
        assert_eq!(one(&files, name).unwrap().origin, origin);
        let pool = loaded.pools[&name.parse().unwrap()].as_ref().unwrap();
        assert_eq!(pool.origin, origin);
    }
}

#[test]
fn a_mask_hides_weaker_files_and_no_stronger_one() {
    let files = MemoryFiles::new()
        .with_mask(format!("{ETC}/a.toml"))
        .with(format!("{LIB}/a.toml"), GOOD)
        .with(format!("{ETC}/b.toml"), GOOD)
        .with_mask(format!("{LIB}/b.toml"));
    let loaded = load_all(&files);
    let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
    assert_eq!(loaded.masked[&a], Path::new(ETC).join("a.toml"));
    assert_eq!(loaded.masked.len(), 1);
    assert!(loaded.pools[&b].is_ok());
    assert_eq!(loaded.pools.len(), 1);
    assert_eq!(
        one(&files, "a").unwrap_err().to_string(),
        "pool 'a' is masked by /etc/virt-vgpu/pools.d/a.toml; see 'virt-vgpu pool list'"
    );
    assert!(one(&files, "b").is_ok());
}

#[test]
fn a_bad_file_takes_down_its_own_pool_only() {
    let files = MemoryFiles::new()
        .with(format!("{ETC}/bad.toml"), "kind = 'mdev'\ntipe = 'a'")
        .with(format!("{ETC}/empty.toml"), "")
        .with(format!("{LIB}/bad.toml"), GOOD)
        .with(format!("{ETC}/good.toml"), GOOD);
    let loaded = load_all(&files);
    let bad = loaded.pools[&"bad".parse().unwrap()].as_ref().unwrap_err();
    assert_eq!(
        bad.to_string(),
        "/etc/virt-vgpu/pools.d/bad.toml:2: key 'tipe': unknown key (did you mean 'type'?); \
         accepted: kind, description, class, type, instances, placement, guest-driver, defaults, \
         rule"
    );
    assert!(matches!(one(&files, "bad"), Err(PoolError::Config(_))));
    assert!(matches!(one(&files, "empty"), Err(PoolError::Config(_))));
    assert!(loaded.pools[&"good".parse().unwrap()].is_ok());
    assert!(one(&files, "good").is_ok());
    assert_eq!(
        one(&files, "none").unwrap_err().to_string(),
        "there is no pool 'none'; see 'virt-vgpu pool list'"
    );
}

#[test]
fn names_that_no_pool_can_have_are_reported_and_backups_are_not() {
    let mut files = MemoryFiles::new().with(format!("{ETC}/good.toml"), GOOD);
    for name in [
        "good.toml~",
        "good.toml.dpkg-old",
        ".good.toml.swp",
        "README",
        ".toml",
    ] {
        files = files.with(format!("{ETC}/{name}"), "broken");
    }
    files = files.with(format!("{ETC}/CAD pool.toml"), GOOD);
    let loaded = load_all(&files);
    assert_eq!(loaded.pools.len(), 1);
    assert_eq!(
        loaded.ignored,
        [IgnoredFile {
            path: Path::new(ETC).join("CAD pool.toml"),
            reason: "'CAD pool' is not a pool name (1 to 64 of a-z, 0-9 and '-'); rename the file"
                .to_owned(),
        }]
    );
}

#[cfg(unix)]
#[test]
fn a_name_that_is_no_utf8_is_reported() {
    use std::os::unix::ffi::OsStringExt;
    let name = std::ffi::OsString::from_vec(b"\xff\n.toml".to_vec());
    let listing = Listing {
        dir: ETC.into(),
        entries: vec![Entry { name, masks: false }],
    };
    let found = effective(&[listing]);
    assert_eq!(found.ignored.len(), 1);
    assert!(!found.ignored[0].reason.contains('\n'));
}

/// Files that fail as configured and record the calls.
#[derive(Default)]
struct Failing {
    files: MemoryFiles,
    fail: Option<(&'static str, io::ErrorKind)>,
    asked: RefCell<Vec<String>>,
}

impl Failing {
    fn ask(&self, what: &str, path: &Path) -> io::Result<()> {
        self.asked
            .borrow_mut()
            .push(format!("{what} {}", path.display()));
        match self.fail {
            Some((bad, kind)) if path.starts_with(bad) => Err(kind.into()),
            _ => Ok(()),
        }
    }
}

impl ConfigFiles for Failing {
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.ask("list", dir)?;
        self.files.list(dir)
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        self.ask("read", path)?;
        self.files.read(path)
    }

    fn is_mask(&self, path: &Path) -> io::Result<bool> {
        self.ask("is_mask", path)?;
        self.files.is_mask(path)
    }
}

#[test]
fn one_pool_is_loaded_without_listing_and_without_weaker_places() {
    let failing = Failing {
        files: MemoryFiles::new().with(format!("{RUN}/a.toml"), GOOD),
        ..Failing::default()
    };
    assert!(one(&failing, "a").is_ok());
    assert_eq!(
        *failing.asked.borrow(),
        [
            "is_mask /etc/virt-vgpu/pools.d/a.toml",
            "read /etc/virt-vgpu/pools.d/a.toml",
            "is_mask /run/virt-vgpu/pools.d/a.toml",
            "read /run/virt-vgpu/pools.d/a.toml",
        ]
    );
}

#[test]
fn an_unreadable_file_does_not_bring_out_a_weaker_one() {
    let failing = Failing {
        files: MemoryFiles::new()
            .with(format!("{ETC}/a.toml"), GOOD)
            .with(format!("{LIB}/a.toml"), GOOD),
        fail: Some((ETC, io::ErrorKind::PermissionDenied)),
        ..Failing::default()
    };
    let error = one(&failing, "a").unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read /etc/virt-vgpu/pools.d/a.toml: permission denied"
    );
    let loaded = load_all(&failing);
    assert_eq!(
        loaded.ignored,
        [IgnoredFile {
            path: ETC.into(),
            reason: "cannot list it: permission denied".to_owned(),
        }]
    );
    let a = loaded.pools[&"a".parse().unwrap()].as_ref();
    assert!(matches!(a, Err(PoolError::Io { .. })));
}
