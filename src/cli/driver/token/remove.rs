//! `virt-vgpu driver token remove`: a token goes, with the discs that have it.

use std::{fmt, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::{TokenReport, Whose};
use crate::{
    claims,
    cli::{confirm::confirm, driver::alone, output},
    device::Sysfs,
    driver_set::{StoredToken, disc, token},
    host::Host,
    model::{DomainName, SetDisc, TokenScope},
};

/// Remove a licence token, and the discs with it.
///
/// VMs that run keep the disc that they have until they stop; then they get the next
/// token that is meant for them, or a disc without one. What a guest has copied from the
/// disc stays in the guest.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu driver token remove                     the one for all VMs
  virt-vgpu driver token remove --pool cad
  virt-vgpu driver token remove --domain ws7 --yes  does not ask: for scripts

Exit code 0 when it is gone, 1 when not.")]
pub(super) struct Remove {
    #[command(flatten)]
    whose: Whose,

    /// Do not ask.
    #[arg(long)]
    yes: bool,

    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    /// None where it could not be read.
    #[serde(flatten)]
    token: Option<TokenReport>,
    #[serde(skip)]
    owner: String,
    removed: bool,
    /// The discs with it.
    images: Vec<String>,
    /// Domains that run with such a disc.
    running: Vec<DomainName>,
}

impl Remove {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        const UNDONE: &str = "no licence token was removed";
        let (scope, _) = self.whose.scope().context(UNDONE)?;
        let stored = match token::find(host, &scope) {
            // It can be removed all the same.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => None,
            found => found.context(UNDONE)?,
        };
        let images = disc::images_with_token(host, &scope);
        // Discs without their token are what an earlier run has left.
        if stored.is_none() && images.is_empty() && !host.exists(&scope.path()) {
            bail!(
                "there is no licence token of {scope}; 'virt-vgpu driver token list' lists those that \
                 there are"
            );
        }
        let mut report = Report {
            token: stored.as_ref().map(TokenReport::from),
            owner: stored
                .as_ref()
                .map_or(scope.to_string(), StoredToken::owner),
            removed: false,
            images,
            running: running_with(host, &scope).context(UNDONE)?,
        };
        if !self.dry_run {
            if !self.yes {
                let question = format!("{report}remove the licence token of {}?", report.owner);
                confirm(&question, UNDONE)?;
            }
            let alone = alone(host, "virt-vgpu driver token remove").context(UNDONE)?;
            // The discs first: without its token nobody would look for them.
            report.images = disc::remove_with_token(host, &scope, &alone).context(UNDONE)?;
            token::remove(host, &scope, &alone).context(UNDONE)?;
            report.removed = true;
        }
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The domains that have a disc with that token.
fn running_with(host: &Host, scope: &TokenScope) -> anyhow::Result<Vec<DomainName>> {
    let (claims, _) = claims::load_all(host)?;
    let has_it = |claim: &claims::Claim| {
        let media = claim.media.as_ref()?;
        SetDisc::at(&media.image)?.token.filter(|its| its == scope)
    };
    let with = claims.into_iter().filter(|claim| has_it(claim).is_some());
    Ok(with.map(|claim| claim.domain_name).collect())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.removed {
            "removed"
        } else {
            "would remove"
        };
        let file = self
            .token
            .as_ref()
            .map(|token| format!(" ({})", token.file));
        let file = file.unwrap_or_default();
        writeln!(f, "{verb} the licence token of {}{file}", self.owner)?;
        for image in &self.images {
            writeln!(f, "{verb} {image}")?;
        }
        for domain in &self.running {
            let domain = output::one_line(domain.to_string());
            writeln!(
                f,
                "note: domain '{domain}' runs with such a disc, and has it until it stops"
            )?;
        }
        Ok(())
    }
}
