//! `virt-vgpu start`: starts a domain. If it cannot have the PCI devices that its
//! definition names, it runs with others, and the definition stays as it is.

use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde::Serialize;

use super::{output, target::Edit};
use crate::{
    definition::{
        self, Elsewhere, Move, Named, Shared, Target, changes_for, elsewhere, with_elsewhere,
    },
    events,
    host::{
        Host,
        libvirt::{Libvirt, LibvirtError},
    },
    hotplug::{self, Optional, Plugged},
    model::{DomainName, DomainUuid, PciAddress},
};

/// Start a domain, with other devices if its own are taken.
///
/// The XML of a domain names its virtual functions and its whole PCI devices. When
/// the domain starts, another domain may be using them. This verb looks for free
/// ones in the same pools and starts the domain with those. Its persistent definition
/// stays as it is, and so do its snapshots, its NVRAM and whether it starts at boot.
/// A user who may not read the passwords in the definition cannot start a domain
/// that way: then the devices are written into the definition. A saved state is resumed, as by 'virsh
/// start'. Mediated devices are chosen at every start, by any client: for a domain
/// that has only mediated devices, this verb does the same as 'virsh start'.
///
/// Optional devices are not in the definition. Free ones are plugged in one by one
/// once the domain runs. Its guest sees hot-plugged devices, and a q35 machine
/// needs an unused pcie-root-port for each. If an optional device is not free or
/// cannot be plugged in, this is reported but is not a failure.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu start ws7
  virt-vgpu start ws7 --dry-run       which devices would change
  virt-vgpu start ws7 --json | jq '.moved, .plugged'

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
    /// Why the devices were written into the definition.
    #[serde(skip_serializing_if = "Option::is_none")]
    definition_changed: Option<String>,
    /// Optional devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    plugged: Vec<Plugged>,
    /// Why other optional devices are not plugged in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// How often a start is tried if others take the planned devices.
pub(super) const TRIES: u32 = 3;

impl Start {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let libvirt = self.edit.connection.open_served()?;
        let mut failure = None;
        for _ in 0..TRIES {
            let domain = libvirt.domain(&self.domain)?;
            let target = Target::read(host, domain, &self.domain)?;
            if target.running {
                bail!("domain '{}' is running already", self.domain);
            }
            let named = Named::read_for(&libvirt, &target.definition.def)?;
            let def = &target.definition.def;
            let others = match target.saved {
                // It starts from the XML of its state, which the hook changes.
                true => Vec::new(),
                false => elsewhere(host, &libvirt, def, &named, Shared::WillDo)?.others,
            };
            if let (Some(failure), []) = (failure.take(), others.as_slice()) {
                return Err(failure);
            }
            let mut definition_changed = None;
            if !self.edit.dry_run {
                match self.start(host, &libvirt, &target, &others)? {
                    Started::Yes { changed } => definition_changed = changed,
                    Started::No(error) => {
                        failure = Some(start_failed(&self.domain, &error));
                        continue;
                    }
                }
            }
            let moved: Vec<Move> = others.into_iter().map(Move::from).collect();
            let Optional { plugged, notes } = if self.edit.dry_run {
                hotplug::foresee_optional(host, &libvirt, &target.definition.def)
            } else {
                hotplug::plug_optional(host, &libvirt, &target.domain)
            };
            let report = Report {
                domain: target.definition.def.name.clone(),
                domain_uuid: target.definition.def.uuid,
                dry_run: self.edit.dry_run,
                started: !self.edit.dry_run,
                moved,
                definition_changed,
                plugged,
                notes,
            };
            output::report(self.edit.json, &report)?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(failure.unwrap_or_else(|| anyhow!("domain '{}' was not started", self.domain)))
    }
}

/// The result of a try.
enum Started {
    Yes {
        /// Why the definition was changed.
        changed: Option<String>,
    },
    /// Another try may find other devices.
    No(LibvirtError),
}

impl Start {
    /// Starts the domain with those devices. Its definition is changed only if the whole
    /// definition cannot be read: without the passwords in it the domain would run
    /// without them.
    fn start(
        &self,
        host: &Host,
        libvirt: &Libvirt,
        target: &Target,
        others: &[Elsewhere],
    ) -> anyhow::Result<Started> {
        let mut changed = None;
        let started = if others.is_empty() {
            target.domain.start()
        } else {
            match target.domain.inactive_xml_with_passwords() {
                Ok(mut xml) => {
                    for other in others {
                        xml = with_elsewhere(&xml, other)?;
                    }
                    libvirt.start_from(&xml).map(|_| ())
                }
                Err(error) => {
                    let cannot =
                        || format!("cannot change the devices of domain '{}'", self.domain);
                    let changes = changes_for(target, others).with_context(cannot)?;
                    definition::carry_out_noted(host, target, &changes).with_context(cannot)?;
                    changed = Some(events::one_line(&error.into()));
                    target.domain.start()
                }
            }
        };
        Ok(match started {
            Ok(()) => Started::Yes { changed },
            Err(error) => Started::No(error),
        })
    }
}

/// The hook's own line if the error contains one: libvirt adds the command and its
/// environment.
pub(super) fn start_failed(domain: &str, error: &LibvirtError) -> anyhow::Error {
    let text = error.to_string();
    let said = text.split_once("virt-vgpu: ").map(|(_, line)| line.trim());
    match said {
        Some(line) => anyhow!("domain '{domain}' was refused its devices: {line}"),
        None => anyhow!("domain '{domain}': {text}"),
    }
}

/// The optional devices that were plugged in, one line each.
pub(super) fn write_plugged(
    f: &mut std::fmt::Formatter<'_>,
    domain: &DomainName,
    (plugged, notes): (&[Plugged], &[String]),
) -> std::fmt::Result {
    for one in plugged {
        let (name, source, pool, place) = (&one.name, one.source(), &one.pool, one.place());
        writeln!(
            f,
            "plugged {name} ({source}) of pool {pool} into {domain} {place}"
        )?;
    }
    for note in notes {
        writeln!(f, "{}", output::one_line(note))?;
    }
    Ok(())
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
        if let Some(why) = &self.definition_changed {
            let why = output::one_line(why);
            writeln!(f, "this was written into the definition of {domain}: {why}")?;
        }
        if self.dry_run {
            writeln!(f, "{domain} would be started")?;
        } else {
            writeln!(f, "started {domain}")?;
        }
        write_plugged(f, domain, (&self.plugged, &self.notes))
    }
}
