//! Pools: all of them, one as it counts, what its rules take, and mistakes in its file.

use std::path::Path;

use anyhow::{Context, anyhow, bail};

use crate::{
    config::{self, ConfigFiles, LoadedPools, Pool, PoolError},
    host::Host,
    model::PoolName,
    rule::spelling::did_you_mean,
};

mod candidates;
mod changes;
mod check;
mod list;
mod preview;
mod show;

pub use candidates::{Candidate, candidates};
pub use changes::{Change, ChangedGpu};
pub use check::{Checked, Level, Problem, check};
pub use list::{BrokenPool, IgnoredFile, MaskedPool, PoolList, list};
pub use preview::{PoolPreview, Unbound, preview};
pub use show::{FilterReport, PoolDetails, RuleReport, show};

/// Loads a pool by name; the error says what to do next.
///
/// # Errors
/// When there is none, or it cannot be used.
pub fn load(host: &Host, name: &PoolName) -> anyhow::Result<Pool> {
    config::load_pool(host, name).map_err(|error| match error {
        PoolError::NotFound { pool } => not_found(&pool, &config::load_all(host)),
        PoolError::Masked { pool, path } => masked(&pool, &path.display().to_string()),
        other => other.into(),
    })
}

/// Reads a pool file that the user names: a path of theirs, not of the host
/// that `--root` puts in place of this one.
///
/// # Errors
/// When it cannot be read or used.
pub fn read_file(file: &Path) -> anyhow::Result<Pool> {
    let cannot = || format!("cannot use {}", file.display());
    let path = std::path::absolute(file).with_context(cannot)?;
    let text = Host::new("/").read(&path).with_context(cannot)?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let name: PoolName = match stem.parse() {
        Ok(name) => name,
        Err(invalid) => bail!("{}: {invalid}; rename the file", cannot()),
    };
    Ok(config::parse(name, file, &text)?)
}

/// The pool does not exist.
pub fn not_found(name: &PoolName, all: &LoadedPools) -> anyhow::Error {
    let names: Vec<&str> = all.pools.keys().map(PoolName::as_str).collect();
    let meant = did_you_mean(name.as_str(), &names);
    anyhow!("there is no pool '{name}'{meant}; 'virt-vgpu pool list' shows all pools")
}

/// The pool of that name does not count.
pub fn masked(name: &PoolName, link: &str) -> anyhow::Error {
    anyhow!(
        "pool '{name}' is masked: {link} is a link to /dev/null; remove the link to bring the \
         pool back"
    )
}

/// The usable pools but the one of that name, to find what is in two pools.
pub fn other_pools(all: LoadedPools, name: &PoolName) -> Vec<Pool> {
    let pools = all.pools.into_values().filter_map(Result::ok);
    pools.filter(|pool| pool.name != *name).collect()
}
