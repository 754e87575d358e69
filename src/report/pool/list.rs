//! All pools, the broken ones too.

use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;

use crate::{
    allocate::Look,
    config::{self, Placement, Pool},
    host::Host,
    kind::Kind,
    model::PoolName,
    plan::{Detail, HostSupply},
    rule::Verdict,
};

/// All pool files, usable or not.
#[derive(Debug, Serialize)]
pub struct PoolList {
    /// Those that can be used, in the order of their names.
    pub pools: Vec<ListedPool>,
    /// Those with a mistake.
    pub broken: Vec<BrokenPool>,
    /// Those that a link to /dev/null takes out.
    pub masked: Vec<MaskedPool>,
    /// Files that count for nothing.
    pub ignored: Vec<IgnoredFile>,
}

/// A pool that can be used.
#[derive(Debug, Serialize)]
pub struct ListedPool {
    /// Its name.
    pub name: PoolName,
    /// The type of its devices.
    pub kind: &'static dyn Kind,
    /// The type that it hands out.
    #[serde(rename = "type")]
    pub device_type: String,
    /// How its devices are spread.
    pub placement: Placement,
    /// Most devices at once, 0 for as many as fit.
    pub instances: u32,
    /// How many rules it has.
    pub rules: usize,
    /// Devices that the rules take.
    pub devices: usize,
    /// Its file.
    #[serde(serialize_with = "crate::report::in_json::path")]
    pub file: PathBuf,
}

/// A pool with a mistake.
#[derive(Debug, Serialize)]
pub struct BrokenPool {
    /// Its name.
    pub name: PoolName,
    /// The mistake, with its place.
    pub error: String,
}

/// A pool that does not count.
#[derive(Debug, Serialize)]
pub struct MaskedPool {
    /// Its name.
    pub name: PoolName,
    /// The link to /dev/null.
    #[serde(serialize_with = "crate::report::in_json::path")]
    pub file: PathBuf,
}

/// A file that counts for nothing.
#[derive(Debug, Serialize)]
pub struct IgnoredFile {
    /// The file, or a directory that cannot be listed.
    #[serde(serialize_with = "crate::report::in_json::path")]
    pub file: PathBuf,
    /// Why.
    pub reason: String,
}

/// Looks at all pools.
///
/// # Errors
/// When devices cannot be listed.
pub fn list(host: &Host) -> anyhow::Result<PoolList> {
    let look = Look::new(host);
    let supply = look
        .supply(Detail::default())
        .context("cannot look for devices")?;
    let loaded = config::load_all(host);
    let (mut pools, mut broken) = (Vec::new(), Vec::new());
    for (name, pool) in loaded.pools {
        match pool {
            Ok(pool) => pools.push(pool_report(&supply, pool).context("cannot look for devices")?),
            Err(error) => broken.push(BrokenPool {
                name,
                error: error.to_string(),
            }),
        }
    }
    let masked = loaded.masked.into_iter();
    let ignored = loaded.ignored.into_iter();
    Ok(PoolList {
        pools,
        broken,
        masked: masked
            .map(|(name, file)| MaskedPool { name, file })
            .collect(),
        ignored: ignored
            .map(|ignored| IgnoredFile {
                file: ignored.path,
                reason: ignored.reason,
            })
            .collect(),
    })
}

fn pool_report(supply: &HostSupply<'_>, pool: Pool) -> std::io::Result<ListedPool> {
    let standings = supply.standings(&pool)?;
    let members = standings
        .iter()
        .filter(|standing| matches!(standing.verdict, Verdict::Match { .. }));
    let device_type = pool.type_name().to_owned();
    Ok(ListedPool {
        devices: members.count(),
        name: pool.name,
        kind: pool.kind,
        device_type,
        placement: pool.placement,
        instances: pool.instances,
        rules: pool.rules.len(),
        file: pool.origin,
    })
}
