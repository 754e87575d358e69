//! The devices that the rules of a pool take, and the reasons for the other devices.

use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;

use super::{
    candidates::{self, Candidate},
    other_pools,
};
use crate::{
    allocate::Look,
    config::{self, Pool},
    host::Host,
    kind::Words,
    model::{PciAddress, PoolName},
    plan::Detail,
    rule::{Field, fields_used},
};

/// The devices that the rules of a pool take.
#[derive(Debug, Serialize)]
pub struct PoolPreview {
    /// The pool's name.
    pub pool: PoolName,
    /// Its file.
    #[serde(serialize_with = "crate::report::in_json::path")]
    pub file: PathBuf,
    /// The type that it hands out.
    #[serde(rename = "type")]
    pub device_type: String,
    /// Every device that rules of such a pool are about.
    pub devices: Vec<Candidate>,
    /// GPUs that NVIDIA's driver does not have, for a pool of them: what has each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unbound: Vec<Unbound>,
    /// Warnings about values that are accepted but probably wrong.
    pub warnings: Vec<String>,
    /// The type of its devices, in words.
    #[serde(skip)]
    pub words: Words,
}

/// A device that the right driver does not have.
#[derive(Debug, Serialize)]
pub struct Unbound {
    /// Its address.
    pub address: PciAddress,
    /// Its present driver, in words.
    pub reason: String,
}

/// Tries the pool's rules on the devices of the host.
///
/// # Errors
/// When devices cannot be listed.
pub fn preview(host: &Host, pool: Pool) -> anyhow::Result<PoolPreview> {
    let look = Look::new(host);
    let supply = look
        .free_supply(Detail::default(), None)
        .context("cannot look for devices")?;
    let others = other_pools(config::load_all(host), &pool.name);
    let unbound = pool.kind.unbound(supply.view());
    let mut warnings = pool.warnings();
    warnings.extend(supply.all_taken_from_host(&pool));
    // Nobody but NVML tells it, and a rule on what is not told matches nothing.
    if fields_used(&pool.rules).contains(&Field::GpuMemoryMib) {
        if let Err(failure) = supply.facts() {
            let field = Field::GpuMemoryMib;
            warnings.push(format!("'{field}' is not known now: {}", failure.message));
        }
    }
    let device_type = pool.type_name().to_owned();
    Ok(PoolPreview {
        unbound: unbound
            .into_iter()
            .map(|(address, reason)| Unbound { address, reason })
            .collect(),
        words: pool.kind.words(),
        devices: candidates::candidates(&supply, &pool, &others)
            .context("cannot look for devices")?,
        warnings,
        pool: pool.name,
        file: pool.origin,
        device_type,
    })
}
