//! Freeing what crashes and failures left behind: claims whose domain provably
//! does not run and whose devices nobody holds.

use std::{io, time::Duration};

use super::{Claim, Damaged, Liveness, Released, give_back, load_all};
use crate::{
    host::{Deadline, Host, HostLock, Processes},
    model::DomainUuid,
};

/// A claim that was looked at and what became of it.
#[derive(Debug)]
pub struct Reconciled {
    /// The claim as it was.
    pub claim: Claim,
    /// Whether it is still needed.
    pub liveness: Liveness,
    /// What was freed, when it was stale.
    pub released: Option<Released>,
}

/// The outcome for all claims.
#[derive(Debug)]
pub struct Report {
    /// Each claim that could be read.
    pub claims: Vec<Reconciled>,
    /// Claims that could not; their devices stay.
    pub damaged: Vec<Damaged>,
}

impl Report {
    /// Whether anything was freed.
    #[must_use]
    pub fn has_freed(&self) -> bool {
        self.claims.iter().any(|one| one.released.is_some())
    }
}

/// Looks at every claim but `except` and frees the stale ones, or with
/// `dry_run` only says which they are.
///
/// # Errors
/// When the claims or the processes cannot be listed: then nothing is freed.
pub fn reconcile(
    host: &Host,
    lock: &HostLock,
    except: Option<DomainUuid>,
    grace: Duration,
    dry_run: bool,
    deadline: Deadline,
) -> io::Result<Report> {
    let (found, damaged) = load_all(host)?;
    let mut claims = Vec::new();
    if found.is_empty() {
        return Ok(Report { claims, damaged });
    }
    let processes = Processes::scan(host)?;
    for claim in found {
        if Some(claim.domain) == except {
            continue;
        }
        let liveness = claim.liveness(host, &processes, grace);
        let free = liveness == Liveness::Stale && !dry_run;
        let released = free.then(|| give_back(host, lock, &claim, deadline));
        claims.push(Reconciled {
            claim,
            liveness,
            released,
        });
    }
    Ok(Report { claims, damaged })
}
