//! `virt-vgpu create`: creates a transient domain from its XML, after adding what
//! its requests need.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde::Serialize;

use super::{
    domain_xml, output,
    start::{TRIES, start_failed, write_plugged},
    target::Edit,
};
use crate::{
    config::Pool,
    definition::{
        self, CdRomOutcome, Elsewhere, Filled, FilledDevice, HostdevChange, Move, Named, Shared,
        elsewhere, fill, with_elsewhere,
    },
    device::Sysfs,
    domain::{self, DomainDef, ExchangeError, Problem},
    host::{Host, libvirt::Libvirt},
    hotplug::{self, Optional, Plugged},
    model::{DeviceName, DomainName, DomainUuid},
};

/// Create a transient domain that asks for devices in its metadata.
///
/// libvirt calls no hook between reading a transient domain's XML and starting the
/// domain, so the XML must contain the placeholders. This verb adds missing ones,
/// gives the domain a UUID if it has none, leaves the rest of the text unchanged,
/// and creates the domain. Optional devices are plugged in once it runs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu create ws9.xml
  virt-vgpu create ws9.xml --dry-run     only print the XML that would be used
  sed s/NAME/ws9/ base.xml | virt-vgpu create -
  virt-vgpu create ws9.xml --json | jq -r '.domain_uuid'

Exit code 0 when the domain runs, 1 when it could not be created.")]
pub(super) struct Create {
    /// A file with domain XML, - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    edit: Edit,
}

#[derive(Debug, Serialize)]
struct Report {
    domain: DomainName,
    domain_uuid: DomainUuid,
    dry_run: bool,
    created: bool,
    devices: Vec<FilledDevice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest_driver_cdrom: Option<CdRomOutcome>,
    /// Devices that got another source than in the XML.
    moved: Vec<Move>,
    /// Optional devices.
    plugged: Vec<Plugged>,
    /// Why other optional devices are not plugged in, and elements that look like
    /// requests but are none.
    notes: Vec<String>,
    /// The XML that was used.
    xml: String,
}

impl Create {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let text = domain_xml::read(&self.file)?;
        domain::check_well_formed(&text).with_context(|| self.name())?;
        let near_misses = domain::near_misses(&text).with_context(|| self.name())?;
        let xml = with_identity(host, text).with_context(|| self.name())?;
        let def = domain::parse(&xml).with_context(|| self.name())?;
        let uuid = def.uuid;
        let near_misses: Vec<String> = near_misses
            .iter()
            .map(|miss| format!("{}: line {}: {miss}", self.name(), miss.line))
            .collect();
        // Otherwise the domain would be created without its device.
        if let (true, Some(miss)) = (def.requests.is_empty(), near_misses.first()) {
            bail!("{miss}");
        }
        let libvirt = self.edit.connection.open_served()?;
        let _lock = match self.edit.dry_run {
            true => None,
            false => definition::edit_lock(host, uuid)?,
        };
        let choose = |def: &DomainDef, pool: &Pool, names: &[DeviceName]| {
            definition::placeholders(host, &libvirt, def, pool, names)
        };
        let filled = fill(host, &xml, choose).with_context(|| self.name())?;
        let mut report = self.create(host, &libvirt, filled)?;
        report.notes.extend(near_misses);
        if self.edit.dry_run && !self.edit.json {
            // For other programs: only the XML.
            output::document(&report.xml)?;
        } else {
            output::report(self.edit.json, &report)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn name(&self) -> String {
        domain_xml::name(&self.file)
    }

    /// Creates the domain. Uses other devices if those of its XML are taken, even
    /// if they are taken only now.
    fn create(&self, host: &Host, libvirt: &Libvirt, filled: Filled) -> anyhow::Result<Report> {
        let Filled {
            xml,
            def,
            devices,
            cdrom,
        } = filled;
        let mut report = Report {
            domain: def.name.clone(),
            domain_uuid: def.uuid,
            dry_run: self.edit.dry_run,
            created: false,
            devices,
            guest_driver_cdrom: cdrom,
            moved: Vec::new(),
            plugged: Vec::new(),
            notes: Vec::new(),
            xml,
        };
        let mut failure = None;
        for _ in 0..TRIES {
            let def = domain::parse(&report.xml)?;
            let named = Named::read_for(libvirt, &def)?;
            let others = elsewhere(host, libvirt, &def, &named, Shared::WillDo)?.others;
            if let (Some(failure), []) = (failure.take(), others.as_slice()) {
                return Err(failure);
            }
            for other in others {
                report.take_elsewhere(other)?;
            }
            if self.edit.dry_run {
                return Ok(report.with(hotplug::foresee_optional(host, libvirt, &def)));
            }
            match libvirt.create_transient(&report.xml) {
                Ok(domain) => {
                    report.created = true;
                    return Ok(report.with(hotplug::plug_optional(host, libvirt, &domain)));
                }
                Err(error) => failure = Some(start_failed(report.domain.as_str(), &error)),
            }
        }
        Err(failure.unwrap_or_else(|| anyhow!("domain '{}' was not created", report.domain)))
    }
}

impl Report {
    fn take_elsewhere(&mut self, other: Elsewhere) -> Result<(), ExchangeError> {
        self.xml = with_elsewhere(&self.xml, &other)?;
        let along = other.to.others.clone();
        let moved = Move::from(other);
        let mut devices = self.devices.iter_mut();
        if let Some(device) = devices.find(|device| device.name == moved.device) {
            device.function = moved.to;
            device.along = along;
        }
        self.moved.push(moved);
        Ok(())
    }

    fn with(self, Optional { plugged, notes }: Optional) -> Self {
        Self {
            plugged,
            notes,
            ..self
        }
    }
}

/// The XML with a UUID. The devices' UUIDs depend on it, so it must be known before
/// libvirt would generate one.
fn with_identity(host: &Host, xml: String) -> anyhow::Result<String> {
    const RANDOM: &str = "/proc/sys/kernel/random/uuid";
    match domain::parse(&xml) {
        Err(error) if *error.problem() == Problem::MissingElement("uuid") => {
            let uuid = host.read(RANDOM).context(RANDOM)?;
            let uuid: DomainUuid = uuid.parse().context(RANDOM)?;
            Ok(domain::with_uuid(&xml, uuid)?.unwrap_or(xml))
        }
        // Reported here, because here the line numbers are those of the file.
        parsed => {
            parsed?;
            Ok(xml)
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "created {} ({})", self.domain, self.domain_uuid)?;
        for device in &self.devices {
            let (name, pool) = (&device.name, &device.pool);
            let source = device.source();
            match device.hostdev {
                HostdevChange::Later => {}
                HostdevChange::Unchanged => writeln!(f, "it has {name} ({source}) of pool {pool}")?,
                HostdevChange::Added => {
                    writeln!(f, "added {name} ({source}) of pool {pool}")?;
                }
                HostdevChange::Mended => writeln!(
                    f,
                    "corrected {name} ({source}) of pool {pool}: its hostdev had the UUID of \
                     another \
                     domain"
                )?,
                HostdevChange::Completed => writeln!(
                    f,
                    "completed {name} ({source}) of pool {pool}: functions of its card were missing"
                )?,
                HostdevChange::Remodelled => writeln!(
                    f,
                    "corrected {name} ({source}) of pool {pool}: its hostdev had another model \
                     than \
                     its type"
                )?,
            }
        }
        match &self.guest_driver_cdrom {
            Some(CdRomOutcome::Added(target)) => {
                writeln!(f, "added the guest-driver CD-ROM as {target}")?;
            }
            Some(CdRomOutcome::Mended(target)) => writeln!(
                f,
                "corrected the guest-driver CD-ROM {target}: it had the path of another domain"
            )?,
            None => {}
        }
        write_plugged(f, &self.domain, (&self.plugged, &self.notes))
    }
}
