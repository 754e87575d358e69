//! Loading pools: one by name, as the hook does, or all of them, as the command
//! does. A bad file takes down its own pool and no other.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::{
    ConfigFiles, IgnoredFile, Listing, POOL_DIRS, Pool, PoolError, effective, parse,
    precedence::ENDING,
};
use crate::model::PoolName;

/// Loads one pool. Looks for its file in each place and lists no directory.
///
/// # Errors
/// When there is no such pool, it is masked, or its file cannot be used. A file
/// that cannot be read does not bring out one from a weaker place: that would
/// be another pool than the administrator's.
pub fn load_pool(files: &dyn ConfigFiles, name: &PoolName) -> Result<Pool, PoolError> {
    for dir in POOL_DIRS {
        let path = Path::new(dir).join(format!("{name}{ENDING}"));
        match files.is_mask(&path) {
            Ok(false) => {}
            Ok(true) => {
                believe(files, &path)?;
                return Err(PoolError::Masked {
                    pool: name.clone(),
                    path,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(cause) => return Err(PoolError::Io { path, cause }),
        }
        match load_file(files, name, &path) {
            Err(PoolError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
    }
    Err(PoolError::NotFound { pool: name.clone() })
}

/// All pools of the host, with what is wrong with each that cannot be used.
#[derive(Debug, Default)]
pub struct LoadedPools {
    /// Each pool, or why it cannot be used.
    pub pools: BTreeMap<PoolName, Result<Pool, PoolError>>,
    /// The link to /dev/null of each masked pool.
    pub masked: BTreeMap<PoolName, PathBuf>,
    /// Files and directories that had to be left out.
    pub ignored: Vec<IgnoredFile>,
}

/// Loads every pool.
pub fn load_all(files: &dyn ConfigFiles) -> LoadedPools {
    let mut ignored = Vec::new();
    let mut listings = Vec::new();
    for dir in POOL_DIRS.map(PathBuf::from) {
        match files.list(&dir) {
            Ok(entries) => listings.push(Listing { dir, entries }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => ignored.push(IgnoredFile {
                reason: format!("cannot list it: {error}"),
                path: dir,
            }),
        }
    }
    // A place that cannot be listed may still have a stronger file of a name
    // found in a weaker one: then ask for it by name, as the hook does.
    let sees_all = ignored.is_empty();
    let found = effective(&listings);
    ignored.extend(found.ignored);
    let load = |(name, path): (PoolName, PathBuf)| {
        let loaded = if sees_all {
            load_file(files, &name, &path)
        } else {
            load_pool(files, &name)
        };
        (name, loaded)
    };
    let mut pools: BTreeMap<PoolName, Result<Pool, PoolError>> =
        found.pools.into_iter().map(load).collect();
    let mut masked = BTreeMap::new();
    for (name, link) in found.masked {
        match believe(files, &link) {
            Ok(()) => {
                masked.insert(name, link);
            }
            Err(error) => {
                pools.insert(name, Err(error));
            }
        }
    }
    LoadedPools {
        pools,
        masked,
        ignored,
    }
}

/// Who can write a pool file gives devices of the host away, as root. It is refused as sudo
/// and systemd do with theirs.
fn believe(files: &dyn ConfigFiles, path: &Path) -> Result<(), PoolError> {
    let path = path.to_owned();
    match files.distrust(&path) {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(PoolError::Untrusted { path, why }),
        Err(cause) => Err(PoolError::Io { path, cause }),
    }
}

fn load_file(files: &dyn ConfigFiles, name: &PoolName, path: &Path) -> Result<Pool, PoolError> {
    believe(files, path)?;
    let text = files.read(path).map_err(|cause| PoolError::Io {
        path: path.to_owned(),
        cause,
    })?;
    Ok(parse(name.clone(), path, &text)?)
}
