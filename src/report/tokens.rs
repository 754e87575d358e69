//! Licence tokens that need the administrator: those that end, and those that are missing on
//! discs.

use std::io;

use crate::{
    allocate,
    config::{GuestDriver, Pool},
    driver_set::{StoredToken, token},
    host::{Host, is_root},
    model::TokenScope,
};

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
        let lent = sets.iter().filter(|set| host.path(&set.directory()).exists());
        let checked = lent.map(|set| allocate::check_token_disc(host, set, &one.scope));
        problems.extend(checked.filter_map(Result::err));
    }
    problems
}
