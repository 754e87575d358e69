//! `virt-vgpu maintenance`: keeps GPUs from VMs while their driver is changed, a file per verb.

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::{
    host::no_such_gpu,
    output::{self, Table},
    target::Connection,
};
use crate::{
    device::{readiness, vendor_vfio},
    host::{Host, complain, is_root, libvirt::Libvirt},
    maintenance::{Holders, Left},
    model::PciAddress,
    rule::spelling,
};

mod enter;
mod leave;
mod status;

/// Keep GPUs from VMs while their driver is changed.
///
/// While a GPU is in maintenance, no VM gets anything of it: neither from a pool nor by
/// a <hostdev> of its own. VMs that run go on, unless they are shut down or moved. It
/// lasts until 'virt-vgpu maintenance leave', also over a reboot.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu maintenance enter --shutdown      all GPUs, and no VM on them any more
  virt-vgpu driver load nvidia-580.65.05      another driver for the host
  virt-vgpu maintenance status
  virt-vgpu maintenance leave")]
pub(super) struct MaintenanceVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Enter(enter::Enter),
    Leave(leave::Leave),
    Status(status::Status),
}

impl MaintenanceVerb {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        match &self.verb {
            Verb::Enter(verb) => verb.run(host),
            Verb::Leave(verb) => verb.run(host),
            Verb::Status(verb) => verb.run(host),
        }
    }
}

/// The GPUs that a command names; all that vGPUs could be made on when it names none.
///
/// # Errors
/// When one does not exist, or there is none.
fn chosen(host: &Host, texts: &[String]) -> anyhow::Result<BTreeSet<PciAddress>> {
    let all = readiness::all(host).context("cannot look for GPUs")?;
    if texts.is_empty() {
        if all.is_empty() {
            bail!(
                "this host has no GPU of NVIDIA whose driver could be changed; 'virt-vgpu devices' \
                 lists what there is"
            );
        }
        return Ok(all.into_iter().collect());
    }
    let mut chosen = BTreeSet::new();
    for text in texts {
        let parsed = text.parse::<PciAddress>().ok();
        if let Some(gpu) = parsed.filter(|&gpu| readiness::is_gpu(host, gpu)) {
            chosen.insert(gpu);
            continue;
        }
        let physical = parsed.and_then(|one| vendor_vfio::gpu(host, one).ok().flatten());
        if let (Some(function), Some(gpu)) = (parsed, physical) {
            bail!("{function} is a virtual function: maintenance is of its GPU, {gpu}");
        }
        return Err(no_such_gpu(&spelling::shown(text), all.into_iter()));
    }
    Ok(chosen)
}

/// Refuses users who cannot do it.
fn only_root(host: &Host, what: &str, else_what: &str) -> anyhow::Result<()> {
    if host.is_real() && !is_root() {
        bail!("only root can {what}; run it as root{else_what}");
    }
    Ok(())
}

/// libvirt; None: it does not answer, which was told.
pub(super) fn libvirt_or_tell(host: &Host, connection: &Connection) -> Option<Libvirt> {
    match connection.open_for(host) {
        Ok(libvirt) => libvirt,
        Err(error) => {
            complain(&format!(
                "virt-vgpu: {error:#}; VMs that name a GPU themselves are not looked for"
            ));
            None
        }
    }
}

/// The table of those who have something, with a line for everybody else.
fn holders_in_lines(holders: &Holders) -> String {
    let mut text = String::new();
    if !holders.domains.is_empty() {
        let mut table = Table::new(&["DOMAIN", "DEVICES"]);
        for one in &holders.domains {
            let devices: Vec<String> = one.devices.iter().map(ToString::to_string).collect();
            table.row([one.domain.to_string(), devices.join(", ")]);
        }
        text += &table.indented();
    }
    let others = holders.others.iter().chain(&holders.doubts);
    text.extend(others.map(|one| format!("  {}\n", output::one_line(one))));
    text.extend(
        holders
            .clients
            .iter()
            .map(|one| format!("  {} has the driver open\n", output::one_line(one))),
    );
    text
}

/// A line for each domain that still runs.
fn left_in_lines(left: &[Left]) -> String {
    let lines = left
        .iter()
        .map(|one| format!("domain '{}': {}\n", one.domain, output::one_line(&one.why)));
    lines.collect()
}
