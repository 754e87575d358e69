//! `virt-vgpu explain`: what the hook would do for a domain, and why.

use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;
use clap::{ArgGroup, Args};

use super::{
    domain_xml,
    output::{self, Table},
    target::Connection,
};
use crate::{
    device::pci::NO_RESET,
    domain::DomainError,
    host::Host,
    model::proposed,
    report::forecast::{self, Forecast, ForecastResult, HeldState, PoolForecast},
};

/// Show what a start of a domain would get now, and why.
///
/// Runs the hook's own planning on the host as it stands and changes nothing:
/// for each device the parent, the type and the reason, for each pool the
/// candidates in the order in which they are tried, or the refusal as virsh
/// would show it. For devices that should be together it says what they share.
///
/// libvirt drops metadata without a declared namespace when a domain is defined, and
/// says nothing: such a slip can be seen in the XML that was given to it, with --xml.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").required(true).args(["domain", "xml"]),
    after_help = "Examples:
  virt-vgpu explain ws7
  virt-vgpu explain --xml ws8.xml              before it is defined; needs no libvirt
  virsh dumpxml ws7 | virt-vgpu explain --xml -
  virt-vgpu explain ws7 --json | jq -r '.devices[] | .place.parent'

Exit code 0 when the domain would be served, runs, or asks for nothing; 1 when
it would be refused."
)]
pub(super) struct Explain {
    /// The domain's name, UUID or ID.
    domain: Option<String>,

    /// A file with domain XML, - for standard input.
    #[arg(long, value_name = "FILE")]
    xml: Option<PathBuf>,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Explain {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let forecast = match (&self.domain, &self.xml) {
            (_, Some(path)) => {
                let xml = domain_xml::read(path)?;
                forecast::of_file(host, &xml).map_err(|error| match error.is::<DomainError>() {
                    true => error.context(domain_xml::name(path)),
                    false => error,
                })?
            }
            (Some(name), None) => {
                let xml = self.connection.find_served(name)?.inactive_xml()?;
                forecast::of_domain(host, &xml)?
            }
            (None, None) => bail!("neither a domain nor --xml is given"),
        };
        output::report(self.json, &forecast)?;
        Ok(if forecast.outcome == ForecastResult::Refused {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

impl std::fmt::Display for Forecast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let domain = &self.domain;
        match self.outcome {
            ForecastResult::Served => writeln!(f, "domain '{domain}' would be served")?,
            ForecastResult::Refused => writeln!(f, "domain '{domain}' would be refused")?,
            ForecastResult::Running => writeln!(f, "domain '{domain}' has its devices")?,
            ForecastResult::NothingWanted if self.devices.is_empty() => {
                writeln!(
                    f,
                    "domain '{domain}' asks for no devices: the hook does nothing"
                )?;
            }
            ForecastResult::NothingWanted => writeln!(
                f,
                "domain '{domain}' starts without devices: all that it asks for are optional and \
                 plugged in later"
            )?,
        }
        if let Some(refusal) = &self.refusal {
            writeln!(f, "  {}", output::one_line(refusal))?;
        }
        for device in &self.devices {
            writeln!(f, "\n{} from pool {}", device.name, device.pool)?;
            if let Some(uuid) = &device.uuid {
                writeln!(f, "  uuid    {uuid}")?;
            }
            match &device.place {
                Some(place) => {
                    writeln!(f, "  parent  {}", place.parent)?;
                    writeln!(f, "  type    {}", place.type_id)?;
                    if !place.along.is_empty() {
                        let along: Vec<String> =
                            place.along.iter().map(ToString::to_string).collect();
                        writeln!(f, "  along   {}", along.join(", "))?;
                    }
                    match place.reset_methods.as_deref() {
                        Some([]) => writeln!(f, "  reset   {NO_RESET}")?,
                        Some(methods) => writeln!(f, "  reset   {}", methods.join(", "))?,
                        None => {}
                    }
                    if let Some(why) = &place.from_host {
                        writeln!(
                            f,
                            "  note    a rule with allow-critical takes it: {}",
                            output::one_line(why)
                        )?;
                    }
                    if !place.reason.is_empty() {
                        writeln!(f, "  why     {}", output::one_line(&place.reason))?;
                    }
                    if !place.against_migration.is_empty() {
                        let names = place.against_migration.join(", ");
                        writeln!(f, "  note    cannot be saved or migrated: has {names}")?;
                    }
                }
                None if !device.placeholder && device.uuid.is_some() => {
                    writeln!(f, "  hostdev missing")?;
                }
                None => {}
            }
        }
        for (number, together) in self.together.iter().enumerate() {
            let gap = if number == 0 { "\n" } else { "" };
            writeln!(f, "{gap}{together}")?;
        }
        if let Some(held) = &self.holds {
            let state = match held.state {
                HeldState::InUse => "holds now",
                HeldState::Starting => "is starting with",
                HeldState::Stale => "left behind",
                HeldState::Unknown => "holds, or has left behind",
            };
            writeln!(
                f,
                "\nthe domain {state} ({}):",
                output::one_line(&held.reason)
            )?;
            for device in &held.devices {
                let (name, parent, type_id) = (&device.name, &device.parent, &device.type_id);
                writeln!(f, "  {name}: {type_id} on {parent}, pool {}", device.pool)?;
            }
        }
        for pool in &self.pools {
            write!(f, "\n{pool}")?;
        }
        for note in &self.notes {
            writeln!(f, "\nnote: {}", output::one_line(note))?;
        }
        Ok(())
    }
}

impl std::fmt::Display for PoolForecast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name,
            device_type,
            placement,
            in_use,
            free,
            ..
        } = self;
        write!(
            f,
            "pool {name}: {device_type}, {placement}, {in_use} in use"
        )?;
        if self.instances > 0 {
            write!(f, " of at most {}", self.instances)?;
        }
        let bound = if self.exact { "" } else { "at most " };
        writeln!(f, ", {bound}{free} free")?;
        if self.candidates.is_empty() {
            return writeln!(
                f,
                "  no device on this host matches its rules; see {}",
                proposed("virt-vgpu pool preview", name)
            );
        }
        let mut table = Table::new(&["PARENT", "BOARD", "NODE", "IN USE", "ROOM"]);
        // Functions of one board mostly have the same to say.
        for alike in self.candidates.chunk_by(|one, other| one.is_like(other)) {
            let Some(one) = alike.first() else { continue };
            let more = match alike.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            table.row([
                format!("{}{more}", one.parent),
                one.board.to_string(),
                one.numa_node.map_or(String::new(), |node| node.to_string()),
                one.in_use.to_string(),
                one.room.clone(),
            ]);
        }
        for line in table.to_string().lines() {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}
