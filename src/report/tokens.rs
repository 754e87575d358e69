//! Licence tokens: whose they are, on which discs VMs have them, and which need the administrator:
//! those that end, and those that are missing on discs.

use std::io;

use serde::Serialize;

use crate::{
    allocate,
    claims::ClaimedMedia,
    config::{GuestDriver, Pool},
    driver_set::{StoredToken, token},
    host::{Host, is_root},
    model::{DomainUuid, DriverSetName, PoolName, SetDisc, TokenScope},
};

/// Whose a licence token is.
#[derive(Debug, Clone, Serialize)]
pub struct TokenOwner {
    /// `all`, `pool` or `domain`.
    pub scope: &'static str,
    /// The pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// The domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_uuid: Option<DomainUuid>,
}

impl From<&TokenScope> for TokenOwner {
    fn from(scope: &TokenScope) -> Self {
        let (scope, pool, domain_uuid) = match scope.clone() {
            TokenScope::All => ("all", None, None),
            TokenScope::Pool(pool) => ("pool", Some(pool), None),
            TokenScope::Domain(uuid) => ("domain", None, Some(uuid)),
        };
        Self {
            scope,
            pool,
            domain_uuid,
        }
    }
}

/// The disc of a driver set that a domain has.
#[derive(Debug, Clone, Serialize)]
pub struct GuestDisc {
    /// The set.
    pub set: DriverSetName,
    /// Whose licence token is on it; null: there is none on it.
    pub token: Option<TokenOwner>,
    /// In words.
    #[serde(skip)]
    pub words: String,
}

impl GuestDisc {
    /// The disc in a claim; None: there is none, or it is an image of the pool's own.
    pub fn of(media: &ClaimedMedia) -> Option<Self> {
        if media.problem.is_some() {
            return None;
        }
        let disc = SetDisc::at(&media.image)?;
        Some(Self {
            words: disc.to_string(),
            token: disc.token.as_ref().map(TokenOwner::from),
            set: disc.set,
        })
    }
}

/// The problems with licence tokens, a line each. A pool's disc without its token is a problem of
/// the pool.
pub fn problems<'p>(host: &Host, pools: impl Iterator<Item = &'p Pool>) -> Vec<String> {
    let (tokens, mut problems) = match token::all(host) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_root() => {
            return Vec::new();
        }
        Err(error) => return vec![error.to_string()],
    };
    problems.extend(tokens.iter().filter_map(StoredToken::warning));
    let mut sets: Vec<_> = pools
        .filter_map(|pool| match &pool.guest_driver {
            Some(GuestDriver::Set(set)) => Some(set),
            _ => None,
        })
        .collect();
    sets.sort();
    sets.dedup();
    let is_of_domain = |one: &&StoredToken| matches!(one.scope, TokenScope::Domain(_));
    for one in tokens.iter().filter(is_of_domain) {
        // Without a set there is a problem of the pool.
        let lent = sets
            .iter()
            .filter(|set| host.path(&set.directory()).exists());
        let checked = lent.map(|set| allocate::check_token_disc(host, set, &one.scope));
        problems.extend(checked.filter_map(Result::err));
    }
    problems
}
