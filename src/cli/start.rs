//! `virt-vgpu start`: a domain started, with other virtual functions where those
//! that its definition names are taken.

use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde::Serialize;

use super::{
    attachment::{existing, existing_function, function_placeholder, placeholder},
    change::{self, Change},
    output, seat,
    seat::{Reserved, Seat},
    target::{Edit, Target},
};
use crate::{
    config::Kind,
    domain::{self, DomainDef, alias},
    hook::{AllocateError, Demand, Order, devices_wanted},
    host::{
        Host,
        libvirt::{Libvirt, LibvirtError},
    },
    model::{DeviceName, DomainName, DomainUuid, PciAddress},
    plan::{Failed, RefusalKind, Source},
};

/// Start a domain, with other devices where its own are taken.
///
/// The XML of a domain names its virtual functions, and by the time of the start
/// another domain may have one. This verb looks for free ones in the same pools,
/// writes them into the persistent definition and starts the domain. Mediated
/// devices are found anew at every start, by any client: for a domain with none
/// but them, this is 'virsh start'.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu start ws7
  virt-vgpu start ws7 --dry-run       which functions would change
  virt-vgpu start ws7 --json | jq '.moved'

Exit code 0 when the domain runs, 1 when it could not be started.")]
pub(super) struct Start {
    /// The domain's name or UUID.
    domain: String,

    #[command(flatten)]
    edit: Edit,
}

#[derive(Debug, Serialize)]
struct Report {
    domain: DomainName,
    domain_uuid: DomainUuid,
    dry_run: bool,
    started: bool,
    moved: Vec<Move>,
}

/// A device that gets another source in the XML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Move {
    device: DeviceName,
    /// None: a mediated device.
    from: Option<PciAddress>,
    to: Option<PciAddress>,
    /// Why the former would not do.
    reason: String,
}

/// How often a start is tried when others take what was planned for it.
const TRIES: u32 = 3;

impl Start {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let libvirt = self.edit.connection.open_served()?;
        let mut moved = Vec::new();
        let mut failure = None;
        for _ in 0..TRIES {
            let domain = libvirt.domain(&self.domain)?;
            let target = Target::read(host, domain, &self.domain)?;
            if target.running {
                bail!("domain '{}' is running already", self.domain);
            }
            let (moves, changes) = replan(host, &libvirt, &target)?;
            if let (Some(failure), []) = (failure.take(), moves.as_slice()) {
                return Err(failure);
            }
            moved.extend(moves);
            if !self.edit.dry_run {
                let cannot = || format!("cannot change the devices of domain '{}'", self.domain);
                change::carry_out(&target.domain, &changes).with_context(cannot)?;
                if let Err(error) = target.domain.start() {
                    failure = Some(self.start_failed(&error));
                    continue;
                }
            }
            let report = Report {
                domain: target.definition.def.name.clone(),
                domain_uuid: target.definition.def.uuid,
                dry_run: self.edit.dry_run,
                started: !self.edit.dry_run,
                moved,
            };
            output::report(self.edit.json, &report)?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(failure.unwrap_or_else(|| anyhow!("domain '{}' was not started", self.domain)))
    }

    /// The hook's own line where the error holds one: libvirt puts its command and
    /// environment around it.
    fn start_failed(&self, error: &LibvirtError) -> anyhow::Error {
        let text = error.to_string();
        let said = text.split_once("virt-vgpu: ").map(|(_, line)| line.trim());
        match said {
            Some(line) => anyhow!("domain '{}' was refused its devices: {line}", self.domain),
            None => anyhow!("domain '{}': {text}", self.domain),
        }
    }
}

/// Other sources for the devices whose own cannot serve now. A saved domain starts
/// from the XML of its state, which the hook changes on the way.
fn replan(
    host: &Host,
    libvirt: &Libvirt,
    target: &Target,
) -> anyhow::Result<(Vec<Move>, Vec<Change>)> {
    let def = &target.definition.def;
    if target.saved {
        return Ok((Vec::new(), Vec::new()));
    }
    let mut stuck = Vec::new();
    for order in devices_wanted(def)? {
        if let Some(reason) = refusal(host, def, &order)? {
            stuck.push((order, reason));
        }
    }
    let (mut moves, mut changes) = (Vec::new(), Vec::new());
    if stuck.is_empty() {
        return Ok((moves, changes));
    }
    let reserved = Reserved::read(libvirt, def.uuid)?;
    let mut planned = def.clone();
    for (order, reason) in stuck {
        let name = &order.request.name;
        let pool = crate::config::load_pool(host, &order.request.pool)?;
        let seats = seat::choose_free(host, &reserved, &planned, &pool, name)?;
        let Some(seat) = seats.filter(|seat| is_other(*seat, &order.source)) else {
            continue;
        };
        if let Seat::Function(_) = seat {
            seat::check_libvirt(libvirt.version()?)?;
        }
        let from = function_of(&order.source);
        changes.extend(exchange(target, &order, seat)?);
        let to = match seat {
            Seat::Function(function) => Some(function),
            Seat::Mdev => None,
        };
        // The next device must not be planned onto the same function.
        let its_alias = alias(name);
        for hostdev in &mut planned.pci_hostdevs {
            if hostdev.alias.as_ref() == Some(&its_alias) {
                hostdev.address = to.unwrap_or(hostdev.address);
            }
        }
        let device = name.clone();
        moves.push(Move {
            device,
            from,
            to,
            reason,
        });
    }
    Ok((moves, changes))
}

/// Why the device cannot be had by itself where the XML has it now; None when it
/// can. Only pools of vGPUs have more than one way to stand in the XML.
fn refusal(host: &Host, def: &DomainDef, order: &Order<'_>) -> anyhow::Result<Option<String>> {
    let demand = Demand::load(host, def, vec![order.clone()])?;
    let vgpus = { demand.pools.values() }.any(|pool| pool.kind == Kind::NvidiaVgpu);
    if !vgpus {
        return Ok(None);
    }
    Ok(match demand.plan(host, &Failed::default()) {
        Ok(_) => None,
        Err(AllocateError::Refused(refusal)) => match refusal.kind {
            RefusalKind::Function { reason, .. } => Some(reason),
            _ => Some(refusal.to_string()),
        },
        Err(error) => Some(error.to_string()),
    })
}

fn function_of(source: &Source) -> Option<PciAddress> {
    match source {
        Source::Function(name) => name.as_str().parse().ok(),
        Source::Mdev | Source::Functions | Source::Any => None,
    }
}

fn is_other(seat: Seat, source: &Source) -> bool {
    match seat {
        Seat::Mdev => *source != Source::Mdev,
        Seat::Function(function) => function_of(source) != Some(function),
    }
}

/// The hostdev out and the other one in, with its guest address and all the rest:
/// a guest takes a moved device for a new one.
fn exchange(target: &Target, order: &Order<'_>, seat: Seat) -> anyhow::Result<[Change; 2]> {
    let definition = &target.definition;
    let name = &order.request.name;
    let former = match function_of(&order.source) {
        Some(function) => existing_function(definition, name, function)?,
        None => existing(definition, name, order.uuid)?,
    };
    let next = match (seat, function_of(&order.source)) {
        (Seat::Function(function), Some(_)) => {
            let its_alias = alias(name);
            let moved = domain::with_function(&definition.xml, &its_alias, function)?;
            let whole = match moved {
                Some(xml) => domain::function_text(&xml, &its_alias)?,
                None => None,
            };
            let plain = function_placeholder(name, function);
            change::Device {
                whole: whole.unwrap_or_else(|| plain.whole.clone()),
                ..plain
            }
        }
        (Seat::Function(function), None) => function_placeholder(name, function),
        (Seat::Mdev, _) => placeholder(name, order.uuid),
    };
    Ok([Change::Detach(former), Change::Attach(next)])
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let domain = &self.domain;
        let shown = |address: &Option<PciAddress>| match address {
            Some(address) => address.to_string(),
            None => "a mediated device".to_owned(),
        };
        if self.dry_run {
            writeln!(f, "nothing is changed yet; without --dry-run:")?;
        }
        for one in &self.moved {
            let (from, to) = (shown(&one.from), shown(&one.to));
            writeln!(
                f,
                "{} of {domain}: {to} instead of {from}: {}",
                one.device, one.reason
            )?;
        }
        if self.dry_run {
            writeln!(f, "{domain} would be started")
        } else {
            writeln!(f, "started {domain}")
        }
    }
}
