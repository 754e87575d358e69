//! `virt-vgpu sync`: changes definitions to match the requests in their metadata.

use std::{process::ExitCode, time::Duration};

use clap::{ArgGroup, Args};
use serde::Serialize;

use super::{output, target::Edit};
use crate::{
    definition::{self, Manner, Named, Synced},
    domain::{ALIAS_PREFIX, mentions_requests},
    host::{
        Host,
        libvirt::{Domain, LibvirtError},
    },
};

/// Give domains the placeholders that their metadata asks for.
///
/// Does by hand what virt-vgpud does automatically as soon as a domain is defined.
/// It adds a placeholder <hostdev> for each request that has none, corrects
/// placeholders that belong to another domain (after cloning), removes those that
/// no request asks for, and gives stopped domains another PCI device if
/// they could not have theirs now. It makes only one change to the metadata: it writes
/// optional='yes' into a request without a placeholder if the pool says so: by its
/// [defaults], or because its devices are plugged in when the VM has started.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("which").required(true).args(["domains", "all"]),
    after_help = "Examples:
  virt-vgpu sync ws7
  virt-vgpu sync --all --dry-run
  virt-vgpu sync --all --json | jq '.domains[] | select(.problems != [])'

Exit code 0 when the domains have what they ask for, else 1."
)]
pub(super) struct Sync {
    /// Domains' names or UUIDs.
    #[arg(value_name = "DOMAIN")]
    domains: Vec<String>,

    /// All domains.
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    edit: Edit,
}

#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    /// Domains that ask for devices, or have placeholders.
    domains: Vec<Synced>,
    /// Domains that could not be corrected.
    failures: Vec<String>,
}

/// Another command may be working on the domain and waiting for its guest.
const PATIENCE: Duration = Duration::from_secs(60);

impl Sync {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let libvirt = self.edit.connection.open_served()?;
        let mut named = Named::read(&libvirt)?;
        let mut report = Report {
            dry_run: self.edit.dry_run,
            domains: Vec::new(),
            failures: Vec::new(),
        };
        let chosen: Vec<Domain> = if self.all {
            libvirt.domains()?.into_iter().filter(is_ours).collect()
        } else {
            let found = self.domains.iter().map(|name| libvirt.domain(name));
            found.collect::<Result<_, _>>()?
        };
        let manner = Manner {
            dry_run: self.edit.dry_run,
            follow: false,
            moves: true,
            patience: PATIENCE,
        };
        for domain in chosen {
            match definition::sync(host, &libvirt, &domain, &mut named, manner) {
                Ok(synced) => report.domains.push(synced),
                Err(error) => report.failures.push(format!("{error:#}")),
            }
        }
        output::report(self.edit.json, &report)?;
        Ok(match report.is_complete() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

/// Whether there is anything of ours in the persistent definition.
fn is_ours(domain: &Domain) -> bool {
    may_be_ours(&domain.inactive_xml(), &domain.is_persistent())
}

/// A domain that does not answer may be ours; the error is reported when it is
/// corrected. A domain that has disappeared is skipped.
fn may_be_ours(
    xml: &Result<String, LibvirtError>,
    persistent: &Result<bool, LibvirtError>,
) -> bool {
    match (xml, persistent) {
        (Ok(xml), Ok(persistent)) => {
            let has_ours = mentions_requests(xml.as_bytes()) || xml.contains(ALIAS_PREFIX);
            *persistent && (has_ours || !definition::asks_for_nothing(xml).is_empty())
        }
        (Err(error), _) | (_, Err(error)) => !error.is_gone(),
    }
}

impl Report {
    fn is_complete(&self) -> bool {
        let whole = |one: &Synced| one.problems.is_empty() && one.stuck.is_empty();
        self.failures.is_empty() && self.domains.iter().all(whole)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let changes = self.domains.iter().any(|one| !one.done.is_empty());
        if self.dry_run && changes {
            writeln!(f, "nothing is changed yet; without --dry-run:")?;
        }
        for one in &self.domains {
            let domain = &one.domain;
            for done in &one.done {
                writeln!(f, "{domain}: {done}")?;
            }
            for line in one.complaints() {
                writeln!(f, "{domain}: {}", output::one_line(line))?;
            }
        }
        for failure in &self.failures {
            writeln!(f, "{}", output::one_line(failure))?;
        }
        if !changes && self.is_complete() {
            writeln!(f, "nothing to do")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_that_does_not_answer_is_not_left_out() {
        const OURS: &str = "<domain><metadata><v:devices xmlns:v='urn:virt-vgpu:devices:1'/>\
                            </metadata></domain>";
        let no_answer = || LibvirtError::EventLoop {
            why: "stands for any".to_owned(),
        };
        let gone = || LibvirtError::NoDomain {
            domain: "ws1".to_owned(),
            uri: "qemu:///system".to_owned(),
        };
        let xml = |text: &str| Ok(text.to_owned());
        for (xml, persistent, is_ours) in [
            (xml(OURS), Ok(true), true),
            (xml(OURS), Ok(false), false),
            (xml("<domain/>"), Ok(true), false),
            (Err(no_answer()), Ok(true), true),
            (xml("<domain/>"), Err(no_answer()), true),
            (Err(gone()), Ok(true), false),
            (xml(OURS), Err(gone()), false),
        ] {
            let found = may_be_ours(&xml, &persistent);
            assert_eq!(found, is_ours, "{xml:?} {persistent:?}");
        }
    }
}
