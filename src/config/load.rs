//! Loads pools: one by name, as the hook does, or all of them, as the command does. A
//! bad file makes only its own pool unusable.

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

/// Loads one pool. Looks for its file in each directory, without listing the
/// directories.
///
/// # Errors
/// When there is no such pool, it is masked, or its file cannot be used. If a file
/// cannot be read, a file of the same name in a weaker directory is not used instead:
/// it would be another pool than the administrator's.
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

/// All pools of the host, with the error of each one that cannot be used.
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
    // If a directory cannot be listed, it may still have a stronger file for a name
    // that was found in a weaker directory. So ask for the file by name, as the hook
    // does.
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

/// Whoever can write a pool file can hand out devices of the host, as root. So files
/// that others can write are refused, as sudo and systemd do.
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
