//! `virt-vgpu driver token`: licence tokens, a file per verb.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{
    cli::target::Connection,
    driver_set::StoredToken,
    host::Host,
    model::{DomainName, PoolName, TokenScope},
    report::TokenOwner,
};

mod add;
mod list;
mod remove;

/// Store, list and remove licence tokens for guests.
///
/// A guest needs a licence for its vGPU, and a client configuration token from NVIDIA's
/// licensing portal to get one. Who has a token can take licences, so tokens are secrets:
/// they lie in /var/lib/virt-vgpu/tokens, which only root can read, and no output shows
/// what is in them. A VM that asks for guest drivers gets its token on the same disc:
/// its domain's own, else its pool's, else the one for all VMs. No other VM gets that
/// disc, and only QEMU's user can read it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu driver token add client_configuration_token.tok --pool cad
  virt-vgpu driver token list
  virt-vgpu driver token remove --pool cad")]
pub(in super::super) struct TokenVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Add(add::Add),
    List(list::List),
    Remove(remove::Remove),
}

impl TokenVerb {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        match &self.verb {
            Verb::Add(verb) => verb.run(host),
            Verb::List(verb) => verb.run(host),
            Verb::Remove(verb) => verb.run(host),
        }
    }
}

/// Whose token it is.
#[derive(Debug, Args)]
struct Whose {
    /// The token of a pool's VMs; without this and --domain, that of all VMs.
    #[arg(long, value_name = "POOL", conflicts_with = "domain")]
    pool: Option<PoolName>,

    /// The token of one domain, by its name or UUID.
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,

    #[command(flatten)]
    connection: Connection,
}

impl Whose {
    /// The scope, and the domain's name if it was looked up.
    fn scope(&self) -> anyhow::Result<(TokenScope, Option<DomainName>)> {
        let Some(domain) = &self.domain else {
            let pool = self.pool.clone();
            return Ok((pool.map_or(TokenScope::All, TokenScope::Pool), None));
        };
        if let Ok(uuid) = domain.parse() {
            return Ok((TokenScope::Domain(uuid), None));
        }
        let found = self.connection.find(domain)?;
        let name = found.name()?.parse().ok();
        Ok((TokenScope::Domain(found.uuid()?), name))
    }
}

/// A token, without anything that is in it but its end.
#[derive(Debug, Serialize)]
struct TokenReport {
    #[serde(flatten)]
    owner: TokenOwner,
    /// The domain's name when the token was added, if it was named then.
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<DomainName>,
    file: String,
    /// The day in UTC; null where it is not known.
    expires: Option<String>,
}

impl From<&StoredToken> for TokenReport {
    fn from(stored: &StoredToken) -> Self {
        Self {
            owner: TokenOwner::from(&stored.scope),
            domain: stored.token.domain_name.clone(),
            file: stored.token.file.clone(),
            expires: stored.token.expiry().map(|expiry| expiry.to_string()),
        }
    }
}

impl TokenReport {
    /// `expires on 2027-03-01`, or that it is not known.
    fn expiry_in_words(&self) -> String {
        match &self.expires {
            Some(day) => format!("expires on {day}"),
            None => "does not say when it expires".to_owned(),
        }
    }
}
