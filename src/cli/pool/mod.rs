//! `virt-vgpu pool`: pool files made, shown, tried out, checked and deleted, a
//! file per verb.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::host::Host;

mod candidates;
mod check;
mod create;
mod delete;
mod list;
mod made_as;
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

/// How `instances` reads.
fn limit(instances: u32) -> String {
    match instances {
        0 => "as many as fit".to_owned(),
        most => format!("at most {most}"),
    }
}
