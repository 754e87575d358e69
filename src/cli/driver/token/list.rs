//! `virt-vgpu driver token list`: whose tokens there are, until when, and on which discs.

use std::{fmt, process::ExitCode};

use clap::Args;
use serde::Serialize;

use super::TokenReport;
use crate::{
    cli::output::{self, Table},
    driver_set::{StoredToken, disc, token},
    host::Host,
    model::{DriverSetName, SetDisc},
};

/// List the licence tokens.
///
/// SCOPE says which VMs get the token, EXPIRES until which day (UTC) guests get licences
/// with it, SETS which driver sets have a disc with it. Only root can read them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu driver token list
  virt-vgpu driver token list --json | jq '.tokens[] | [.pool, .expires]'

Exit code 0, or 1 when a token cannot be read.")]
pub(super) struct List {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    tokens: Vec<Listed>,
    /// Those that have expired or soon do.
    warnings: Vec<String>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    token: TokenReport,
    #[serde(skip)]
    owner: String,
    /// Those that have a disc with it.
    sets: Vec<DriverSetName>,
}

impl List {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let (tokens, problems) = token::all(host)?;
        let listed = tokens.iter().map(|stored| Listed {
            token: TokenReport::from(stored),
            owner: stored.owner(),
            sets: sets_with(host, stored),
        });
        let report = Report {
            tokens: listed.collect(),
            warnings: tokens.iter().filter_map(StoredToken::warning).collect(),
            problems,
        };
        output::report(self.json, &report)?;
        Ok(match report.problems.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

fn sets_with(host: &Host, stored: &StoredToken) -> Vec<DriverSetName> {
    let images = disc::images_with_token(host, &stored.scope);
    let discs = images
        .iter()
        .filter_map(|image| SetDisc::at(image.as_ref()));
    discs.map(|disc| disc.set).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tokens.is_empty() {
            writeln!(
                f,
                "no licence tokens; 'virt-vgpu driver token add FILE.tok' stores one"
            )?;
        } else {
            let mut table = Table::new(&["SCOPE", "EXPIRES", "FILE", "SETS"]);
            for one in &self.tokens {
                let sets: Vec<&str> = one.sets.iter().map(DriverSetName::as_str).collect();
                let expires = one.token.expires.clone();
                table.row([
                    one.owner.clone(),
                    expires.unwrap_or_else(|| "not known".to_owned()),
                    one.token.file.clone(),
                    sets.join(", "),
                ]);
            }
            write!(f, "{table}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "\nwarning: {}", output::one_line(warning))?;
        }
        for problem in &self.problems {
            writeln!(f, "\nproblem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}
