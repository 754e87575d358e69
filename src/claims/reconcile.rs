//! Freeing what crashes and failures left behind: claims whose domain provably
//! does not run and whose devices nobody holds, and single devices that a running
//! VM does not have any more.

use std::{io, time::Duration};

use super::{
    Claim, Damaged, DeviceOutcome, Liveness, Released, give_back, load_all, unused::give_back_part,
};
use crate::{
    host::{Deadline, Host, HostLock, Processes},
    model::{DeviceName, DomainUuid},
};

/// A claim that was looked at and what became of it.
#[derive(Debug)]
pub struct Reconciled {
    /// The claim as it was.
    pub claim: Claim,
    /// Whether it is still needed.
    pub liveness: Liveness,
    /// The devices that its domain does not have any more although it runs.
    pub unused: Vec<DeviceName>,
    /// What was freed: everything of a stale claim, the unused devices of another.
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
        self.claims.iter().any(|one| match &one.released {
            Some(_) if one.liveness == Liveness::Stale => true,
            // Also one that was gone before counted against its pool until now.
            Some(released) => {
                let mut outcomes = released.devices.iter().map(|(_, outcome)| outcome);
                outcomes.any(|outcome| !matches!(outcome, DeviceOutcome::Kept(_)))
            }
            None => false,
        })
    }
}

/// Looks at every claim but `except` and frees the stale ones and the unused devices
/// of the others, or with `dry_run` only says which they are.
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
        let unused = match liveness {
            Liveness::InUse(_) => claim.unused(host, &processes, grace),
            _ => Vec::new(),
        };
        let released = match &liveness {
            _ if dry_run => None,
            Liveness::Stale => Some(give_back(host, lock, &claim, deadline)),
            _ if unused.is_empty() => None,
            _ => Some(give_back_part(host, lock, &claim, &unused, deadline)),
        };
        claims.push(Reconciled {
            claim,
            liveness,
            unused,
            released,
        });
    }
    Ok(Report { claims, damaged })
}
