//! `virt-vgpu driver`: NVIDIA's driver bundles, stored and listed, a file per verb.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};

use crate::{
    config::{self, GuestDriver, Pool},
    driver_set::{
        self, DriverSet,
        disc::{self, Made},
        token as tokens,
    },
    host::{Deadline, DiscLock, Host},
    model::{DriverSetName, PoolName},
};

mod add;
mod iso;
mod list;
mod load;
mod remove;
mod running;
mod token;

/// Store NVIDIA's driver bundles, and use them for guests and for the host.
///
/// A driver set has the drivers of one bundle: for the host and for its guests. It
/// lies in /var/lib/virt-vgpu/drivers/NAME and is never changed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu driver add NVIDIA-GRID-Linux-KVM-580.65.05-580.65.06-580.88.zip
  virt-vgpu driver list
  virt-vgpu driver iso nvidia-580.65.05
  virt-vgpu driver load nvidia-580.65.05
  virt-vgpu driver token add client_configuration_token.tok --pool cad
  virt-vgpu driver remove nvidia-580.65.05")]
pub(super) struct DriverVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Add(add::Add),
    List(list::List),
    Remove(remove::Remove),
    Iso(iso::Iso),
    Load(load::LoadDriver),
    Token(token::TokenVerb),
}

impl DriverVerb {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        match &self.verb {
            Verb::Add(verb) => verb.run(host),
            Verb::List(verb) => verb.run(host),
            Verb::Remove(verb) => verb.run(host),
            Verb::Iso(verb) => verb.run(host),
            Verb::Load(verb) => verb.run(host),
            Verb::Token(verb) => verb.run(host),
        }
    }
}

/// The set of that name. `undone` says what was not done otherwise.
///
/// # Errors
/// When there is none, or it cannot be read.
fn named(host: &Host, name: &DriverSetName, undone: &str) -> anyhow::Result<DriverSet> {
    let set = driver_set::find(host, name).with_context(|| undone.to_owned())?;
    set.ok_or_else(|| {
        anyhow!("there is no driver set '{name}'; 'virt-vgpu driver list' lists them")
    })
}

/// All pools that can be used.
fn pools(host: &Host) -> Vec<Pool> {
    let pools = config::load_all(host).pools.into_values();
    pools.flatten().collect()
}

/// Those that lend a set's drivers.
fn lending(pools: &[Pool], name: &DriverSetName) -> Vec<PoolName> {
    let with = pools.iter().filter(|pool| lends(pool, name));
    with.map(|pool| pool.name.clone()).collect()
}

/// Whether a pool lends a set's drivers.
fn lends(pool: &Pool, name: &DriverSetName) -> bool {
    matches!(&pool.guest_driver, Some(GuestDriver::Set(set)) if set == name)
}

/// As long as discs of one set may take to be made on a fast disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nobody else makes or removes licence tokens and the discs with them meanwhile.
fn alone(host: &Host, purpose: &str) -> anyhow::Result<DiscLock> {
    Ok(DiscLock::acquire(host, purpose, Deadline::after(PATIENCE))?)
}

/// Makes a set's discs with the licence tokens that its VMs may need.
fn make_with_tokens(host: &Host, set: &DriverSet, alone: &DiscLock) -> Made {
    match tokens::all(host) {
        Ok((tokens, problems)) => {
            let lent_by = lending(&pools(host), &set.name);
            let mut made = disc::make_with_tokens(host, set, &lent_by, &tokens, alone);
            made.problems.extend(problems);
            made
        }
        Err(error) => Made {
            problems: vec![error.to_string()],
            ..Made::default()
        },
    }
}

/// Whether a set has all discs that its VMs may need.
fn are_in_order(host: &Host, set: &DriverSet) -> bool {
    let lent_by = lending(&pools(host), &set.name);
    tokens::all(host).is_ok_and(|(tokens, problems)| {
        problems.is_empty() && disc::are_in_order(host, set, &lent_by, &tokens)
    })
}

/// `1.2 GiB`, `340 MiB`, `12 KiB`.
fn size(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    match bytes {
        GIB.. => format!("{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB),
        MIB.. => format!("{} MiB", bytes / MIB),
        KIB.. => format!("{} KiB", bytes / KIB),
        _ => format!("{bytes} bytes"),
    }
}
