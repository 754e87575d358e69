//! `virt-vgpu pool`: pool files made, shown, tried out, checked and deleted, a
//! file per verb.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Args, Subcommand};

use crate::{
    config::{self, LoadedPools, Pool, PoolError},
    host::Host,
    model::PoolName,
    rule::spelling::did_you_mean,
};

mod candidates;
mod check;
mod create;
mod delete;
mod list;
mod new_device;
mod new_gpu;
mod preview;
mod show;

/// Make, show and check pools.
///
/// A pool is a file, /etc/virt-vgpu/pools.d/NAME.toml, with the profile or type of
/// device that it hands out and the rules that say on which hardware.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu pool create cad --profile L40S-12Q --device 0000:3b:00.0
  virt-vgpu pool list
  virt-vgpu pool preview cad
  virt-vgpu pool check")]
pub(super) struct PoolVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(create::Create),
    List(list::List),
    Show(show::Show),
    Preview(preview::Preview),
    Check(check::Check),
    Delete(delete::Delete),
}

impl PoolVerb {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        match &self.verb {
            Verb::Create(verb) => verb.run(host),
            Verb::List(verb) => verb.run(host),
            Verb::Show(verb) => verb.run(host),
            Verb::Preview(verb) => verb.run(host),
            Verb::Check(verb) => verb.run(host),
            Verb::Delete(verb) => verb.run(host),
        }
    }
}

/// Loads a pool by name; the error says what to do next.
pub(super) fn load(host: &Host, name: &PoolName) -> anyhow::Result<Pool> {
    config::load_pool(host, name).map_err(|error| match error {
        PoolError::NotFound { pool } => not_found(&pool, &config::load_all(host)),
        PoolError::Masked { pool, path } => masked(&pool, &path.display().to_string()),
        other => other.into(),
    })
}

fn not_found(name: &PoolName, all: &LoadedPools) -> anyhow::Error {
    let names: Vec<&str> = all.pools.keys().map(PoolName::as_str).collect();
    let meant = did_you_mean(name.as_str(), &names);
    anyhow!("there is no pool '{name}'{meant}; 'virt-vgpu pool list' shows all pools")
}

fn masked(name: &PoolName, link: &str) -> anyhow::Error {
    anyhow!(
        "pool '{name}' is masked: {link} is a link to /dev/null; remove the link to bring the \
         pool back"
    )
}

/// The usable pools but the one of that name, to find what is in two pools.
fn other_pools(all: LoadedPools, name: &PoolName) -> Vec<Pool> {
    let pools = all.pools.into_values().filter_map(Result::ok);
    pools.filter(|pool| pool.name != *name).collect()
}

/// How `instances` reads.
fn limit(instances: u32) -> String {
    match instances {
        0 => "as many as fit".to_owned(),
        most => format!("at most {most}"),
    }
}
