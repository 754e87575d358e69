//! Freeing what crashes and failures left behind: claims whose domain provably
//! does not run and whose devices nobody holds, and single devices that a running
//! VM does not have any more.

use std::{io, time::Duration};

use super::{
    Claim, Damaged, DeviceOutcome, Doubt, Liveness, Released, State, give_back, load_all,
    quarantine_suspects, save, unused::give_back_part,
};
use crate::{
    host::{Deadline, Host, HostLock, Processes, since_boot},
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
    /// Why its functions were put into quarantine first.
    pub kept_back: Option<String>,
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

/// Looks at every claim and frees the stale ones and the unused devices of the others,
/// or with `dry_run` only says which they are. Others wait for the lock: what there is no
/// time for until `deadline` is left for another time. One claim is always looked at.
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
    look(host, lock, (except, grace, dry_run), deadline, deadline)
}

/// The same for a start that needs room: what would have to be waited for stays.
///
/// # Errors
/// As [`reconcile`].
pub fn reconcile_at_once(
    host: &Host,
    lock: &HostLock,
    except: Option<DomainUuid>,
    grace: Duration,
    deadline: Deadline,
) -> io::Result<Report> {
    let at_once = deadline.at_most(Duration::ZERO);
    look(host, lock, (except, grace, false), at_once, deadline)
}

fn look(
    host: &Host,
    lock: &HostLock,
    (except, grace, dry_run): (Option<DomainUuid>, Duration, bool),
    patience: Deadline,
    deadline: Deadline,
) -> io::Result<Report> {
    let (found, damaged) = load_all(host)?;
    let mut claims = Vec::new();
    if found.is_empty() {
        return Ok(Report { claims, damaged });
    }
    let processes = Processes::scan_to_free(host)?;
    for claim in by_turns(found) {
        if Some(claim.domain) == except {
            continue;
        }
        if deadline.has_passed() && !claims.is_empty() {
            claims.push(Reconciled {
                claim,
                liveness: Liveness::Unknown(Doubt::NotReached),
                unused: Vec::new(),
                kept_back: None,
                released: None,
            });
            continue;
        }
        let liveness = claim.liveness(host, &processes, grace);
        let unused = match liveness {
            Liveness::InUse(_) => claim.unused(host, &processes, grace),
            _ => Vec::new(),
        };
        let mut kept_back = None;
        let released = match &liveness {
            _ if dry_run => None,
            Liveness::Unknown(Doubt::Ending) => {
                note_suspicion(host, lock, &claim);
                None
            }
            Liveness::Stale => Some(match quarantine_suspects(host, lock, &claim) {
                Ok(reason) => {
                    kept_back = reason;
                    give_back(host, lock, &claim, patience)
                }
                Err(error) => Released::nothing(error),
            }),
            _ if unused.is_empty() => None,
            _ => Some(give_back_part(host, lock, &claim, &unused, patience)),
        };
        claims.push(Reconciled {
            claim,
            liveness,
            unused,
            kept_back,
            released,
        });
    }
    claims.sort_by_key(|one| one.claim.domain);
    Ok(Report { claims, damaged })
}

/// That it ended early can be seen only now: whoever finds the claim later, because
/// libvirt is away and tells the hook nothing, could not know any more. Where the hook is
/// told, its word counts.
fn note_suspicion(host: &Host, lock: &HostLock, claim: &Claim) {
    if claim.suspicion.is_some() {
        return;
    }
    let suspicion = Some(claim.killed_early());
    let noted = Claim {
        suspicion,
        ..claim.clone()
    };
    if let Err(error) = save(host, lock, &noted) {
        tracing::warn!("domain '{}': {error}", claim.domain_name);
    }
}

/// Last those whose devices would not go before, and of these another one first each
/// time: one that takes all the time there is must not keep it from the others for ever.
fn by_turns(found: Vec<Claim>) -> Vec<Claim> {
    let is_releasing = |claim: &Claim| claim.state == State::Releasing;
    let (mut slow, mut claims): (Vec<_>, Vec<_>) = found.into_iter().partition(is_releasing);
    let count = u64::try_from(slow.len()).unwrap_or(u64::MAX).max(1);
    let first = usize::try_from(since_boot().as_secs() % count).unwrap_or(0);
    slow.rotate_left(first);
    claims.append(&mut slow);
    claims
}
