//! `virt-vgpu driver token add`: stores a token, and makes the discs with it.

use std::{fmt, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::{TokenReport, Whose};
use crate::{
    cli::{
        confirm::confirm,
        driver::{alone, lending, pools},
        output,
    },
    config::{self, GuestDriver},
    driver_set::{self, StoredToken, Token, disc, token},
    host::Host,
    model::TokenScope,
};

/// Store a licence token, and make the discs with it.
///
/// FILE is a client configuration token as NVIDIA's licensing portal, or a licence server
/// of your own, gives it out. It is copied; keep the original as you keep other secrets,
/// or remove it. A pool's token is put on the disc of the driver set that the pool lends,
/// a domain's on those of all sets that pools lend, and the one for all VMs on that of
/// each set. VMs get it at their next start; 'virt-vgpu driver iso NAME --update-running'
/// gives it to those that run.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu driver token add client_configuration_token.tok
  virt-vgpu driver token add client_configuration_token.tok --pool cad
  virt-vgpu driver token add client_configuration_token.tok --domain ws7

Exit code 0 when it was stored and all discs were made, 1 when not.")]
pub(super) struct Add {
    /// The token.
    file: PathBuf,

    #[command(flatten)]
    whose: Whose,

    /// Do not ask before another token is replaced.
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
    #[serde(flatten)]
    token: TokenReport,
    #[serde(skip)]
    owner: String,
    stored: bool,
    /// The file of the token that was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
    /// The discs with it.
    images: Vec<String>,
    notes: Vec<String>,
    problems: Vec<String>,
}

const UNDONE: &str = "nothing was stored";

impl Add {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let (scope, domain_name) = self.whose.scope().context(UNDONE)?;
        let mut new = Token::open(host, &self.file).context(UNDONE)?;
        new.domain_name = domain_name;
        let new = StoredToken { scope, token: new };
        let expiry = new.token.expiry();
        if let Some(day) = expiry.filter(|expiry| expiry.has_passed()) {
            bail!(
                "{UNDONE}: the token has expired on {day} (UTC) by this host's clock; get a new one from NVIDIA's \
                 licensing portal"
            );
        }
        let mut notes = notes(host, &new).context(UNDONE)?;
        notes.extend(new.warning());
        // A damaged one is replaced like any other.
        let former = token::find(host, &new.scope);
        let replaces = match former {
            Ok(former) => former.map(|former| former.token.file),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Some("a damaged one".to_owned())
            }
            Err(error) => return Err(error).context(UNDONE),
        };
        let (sets, unreadable) = driver_set::all(host).context(UNDONE)?;
        let pools = pools(host);
        let needing = sets.iter().filter(|set| {
            let lent_by = lending(&pools, &set.name);
            disc::is_needed(set, &lent_by, &new.scope)
        });
        let needing: Vec<&driver_set::DriverSet> = needing.collect();
        if needing.is_empty() {
            notes.push(
                "no driver set needs a disc with it now; when one does, 'virt-vgpu driver add' or \
                 'virt-vgpu driver iso' makes it"
                    .to_owned(),
            );
        }
        let mut report = Report {
            token: TokenReport::from(&new),
            owner: new.owner(),
            stored: false,
            replaces,
            images: needing
                .iter()
                .map(|set| new.scope.disc(&set.name))
                .collect(),
            notes,
            problems: unreadable,
        };
        if !self.dry_run {
            if let Some(former) = report.replaces.as_ref().filter(|_| !self.yes) {
                let owner = new.owner();
                let question =
                    format!("there is a licence token of {owner}: {former}\nreplace it?");
                confirm(&question, UNDONE)?;
            }
            let alone = alone(host, "virt-vgpu driver token add").context(UNDONE)?;
            token::store(host, &new, &alone).context(UNDONE)?;
            report.stored = true;
            report.images.clear();
            // All sets: discs with the former token have to go.
            for set in &sets {
                let lent_by = lending(&pools, &set.name);
                let one = std::slice::from_ref(&new);
                let made = disc::make_with_tokens(host, set, &lent_by, one, &alone);
                report.images.extend(made.with_tokens);
                report.problems.extend(made.problems);
            }
        }
        output::report(self.json, &report)?;
        Ok(match report.problems.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

/// What keeps the VMs of a pool from getting the token.
fn notes(host: &Host, new: &StoredToken) -> anyhow::Result<Vec<String>> {
    let TokenScope::Pool(name) = &new.scope else {
        return Ok(Vec::new());
    };
    let pool = config::load_pool(host, name)?;
    let note = match pool.guest_driver {
        Some(GuestDriver::Set(_)) => None,
        Some(GuestDriver::Image(path)) => Some(format!(
            "pool '{name}' lends an image of its own, {path}, which is lent as it is; its VMs get \
             the token when its guest-driver is a driver set"
        )),
        None => Some(format!(
            "pool '{name}' has no guest-driver; its VMs get the token when it is a driver set"
        )),
    };
    Ok(note.into_iter().collect())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.stored { "stored" } else { "would store" };
        let instead = match &self.replaces {
            Some(file) => format!(" in place of {file}"),
            None => String::new(),
        };
        writeln!(
            f,
            "{verb} {} as the licence token of {}{instead}; it {}",
            self.token.file,
            self.owner,
            self.token.expiry_in_words()
        )?;
        let verb = if self.stored { "made" } else { "would make" };
        for image in &self.images {
            writeln!(f, "{verb} {image}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {}", output::one_line(note))?;
        }
        for problem in &self.problems {
            writeln!(f, "\nproblem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}
