//! Frees what crashes and failures left behind: claims whose domain provably does not
//! run and whose devices no process holds, and single devices that a running VM has
//! lost.

use std::{io, time::Duration};

use super::{
    Claim, Damaged, DeviceOutcome, Doubt, Liveness, Released, State, give_back, load, load_all,
    quarantine::give_back_unfit, quarantine_suspects, save, unlock, unused::give_back_part,
};
use crate::{
    host::{ClaimLock, Deadline, Host, LockError, Processes, since_boot},
    model::{DeviceName, DomainUuid},
};

/// A claim that was checked, and the result.
#[derive(Debug)]
pub struct Reconciled {
    /// The claim as it was.
    pub claim: Claim,
    /// Whether it is still needed.
    pub liveness: Liveness,
    /// The devices that its running domain has lost.
    pub unused: Vec<DeviceName>,
    /// Why its functions were quarantined first.
    pub quarantined: Option<String>,
    /// The freed devices: all of a stale claim, the unused ones of another claim.
    pub released: Option<Released>,
}

/// The result for all claims.
#[derive(Debug)]
pub struct Report {
    /// Each claim that could be read.
    pub claims: Vec<Reconciled>,
    /// Claims that could not be read; their devices stay.
    pub damaged: Vec<Damaged>,
}

impl Report {
    /// Whether anything was freed.
    #[must_use]
    pub fn has_freed(&self) -> bool {
        self.claims.iter().any(|one| match &one.released {
            Some(_) if one.liveness == Liveness::Stale => true,
            // A device that was already gone counted against its pool until now.
            Some(released) => {
                let mut outcomes = released.devices.iter().map(|(_, outcome)| outcome);
                outcomes.any(|outcome| !matches!(outcome, DeviceOutcome::Kept(_)))
            }
            None => false,
        })
    }
}

/// How long to wait for another process that works on a claim.
const PATIENCE: Duration = Duration::from_secs(5);

/// Checks every claim and frees stale claims and the unused devices of the others. With
/// `dry_run` it only reports them. Claims that are not reached before `deadline` are
/// left for another time; at least one claim is always checked.
///
/// # Errors
/// When the claims or the processes cannot be listed: nothing is freed then.
pub fn reconcile(
    host: &Host,
    except: Option<DomainUuid>,
    grace: Duration,
    dry_run: bool,
    deadline: Deadline,
) -> io::Result<Report> {
    let look = Looking {
        host,
        except,
        grace,
        dry_run,
        patience: deadline,
        lock_patience: PATIENCE,
        deadline,
    };
    look.run()
}

/// Like [`reconcile`], for a start that needs space: devices that would need waiting
/// are left alone.
///
/// # Errors
/// As [`reconcile`].
pub fn reconcile_at_once(
    host: &Host,
    except: Option<DomainUuid>,
    grace: Duration,
    deadline: Deadline,
) -> io::Result<Report> {
    let look = Looking {
        host,
        except,
        grace,
        dry_run: false,
        patience: deadline.at_most(Duration::ZERO),
        lock_patience: Duration::ZERO,
        deadline,
    };
    look.run()
}

/// One check of all claims.
struct Looking<'a> {
    host: &'a Host,
    except: Option<DomainUuid>,
    grace: Duration,
    dry_run: bool,
    /// How long to wait for devices that do not disappear at once.
    patience: Deadline,
    /// How long to wait for other processes that work on a claim.
    lock_patience: Duration,
    /// Until when claims are checked.
    deadline: Deadline,
}

impl Looking<'_> {
    fn run(&self) -> io::Result<Report> {
        // A start does not wait for drivers of others.
        if !self.dry_run && !self.lock_patience.is_zero() {
            give_back_unfit(self.host, self.deadline);
        }
        let (found, damaged) = load_all(self.host)?;
        let mut claims = Vec::new();
        if found.is_empty() {
            return Ok(Report { claims, damaged });
        }
        let processes = Processes::scan_to_free(self.host)?;
        for claim in by_turns(found) {
            if Some(claim.domain) == self.except {
                continue;
            }
            let one = match self.deadline.has_passed() && !claims.is_empty() {
                true => Some(Reconciled::left(claim, Doubt::NotReached)),
                false => self.look_at(claim, &processes)?,
            };
            claims.extend(one);
        }
        claims.sort_by_key(|one| one.claim.domain);
        Ok(Report { claims, damaged })
    }

    /// Checks one claim; None when it has disappeared meanwhile.
    fn look_at(&self, claim: Claim, processes: &Processes) -> io::Result<Option<Reconciled>> {
        if self.dry_run {
            return Ok(Some(self.judged(claim, processes)));
        }
        // A claim that is needed is not locked, so nobody has to wait for this check.
        let judged = self.judged(claim, processes);
        let has_to_be_noted = matches!(judged.liveness, Liveness::Unknown(Doubt::Ending));
        if judged.liveness != Liveness::Stale && judged.unused.is_empty() && !has_to_be_noted {
            return Ok(Some(judged));
        }
        let domain = judged.claim.domain;
        let patience = Deadline::after(self.lock_patience);
        let lock = match ClaimLock::acquire(self.host, domain, "reconcile", patience) {
            Ok(lock) => lock,
            Err(LockError::Held { holder, .. }) => {
                return Ok(Some(Reconciled::left(judged.claim, Doubt::AtWork(holder))));
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        let now = match load(self.host, domain) {
            Ok(Some(now)) => now,
            Ok(None) => {
                unlock(self.host, lock);
                return Ok(None);
            }
            // It is reported as damaged the next time.
            Err(_) => return Ok(None),
        };
        let judged = match now == judged.claim {
            true => judged,
            // The claim has changed since, so the processes may have changed too.
            false => self.judged(now, &Processes::scan_to_free(self.host)?),
        };
        let one = self.free(&lock, judged);
        unlock(self.host, lock);
        Ok(Some(one))
    }

    fn judged(&self, claim: Claim, processes: &Processes) -> Reconciled {
        let liveness = claim.liveness(self.host, processes, self.grace);
        let unused = match liveness {
            Liveness::InUse(_) => claim.unused(self.host, processes, self.grace),
            _ => Vec::new(),
        };
        Reconciled {
            claim,
            liveness,
            unused,
            quarantined: None,
            released: None,
        }
    }

    fn free(&self, lock: &ClaimLock<'_>, judged: Reconciled) -> Reconciled {
        let (host, claim) = (self.host, &judged.claim);
        let mut quarantined = None;
        let released = match &judged.liveness {
            Liveness::Unknown(Doubt::Ending) => {
                note_suspicion(host, lock, claim);
                None
            }
            Liveness::Stale => Some(match quarantine_suspects(host, lock, claim) {
                Ok(reason) => {
                    quarantined = reason;
                    give_back(host, lock, claim, self.patience)
                }
                Err(error) => Released::nothing(error),
            }),
            _ if judged.unused.is_empty() => None,
            _ => Some(give_back_part(
                host,
                lock,
                claim,
                &judged.unused,
                self.patience,
            )),
        };
        Reconciled {
            quarantined,
            released,
            ..judged
        }
    }
}

impl Reconciled {
    /// A claim that is left alone without a check.
    fn left(claim: Claim, doubt: Doubt) -> Self {
        Self {
            claim,
            liveness: Liveness::Unknown(doubt),
            unused: Vec::new(),
            quarantined: None,
            released: None,
        }
    }
}

/// Only now can anybody see that the domain ended early. If libvirt is away and does
/// not call the hook, this is unknown later. If the hook is called, its information
/// counts more.
fn note_suspicion(host: &Host, lock: &ClaimLock<'_>, claim: &Claim) {
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

/// Claims whose devices could not be removed before come last, each time in another
/// order: a claim that takes all the time must not keep the others waiting forever.
fn by_turns(found: Vec<Claim>) -> Vec<Claim> {
    let is_releasing = |claim: &Claim| claim.state == State::Releasing;
    let (mut slow, mut claims): (Vec<_>, Vec<_>) = found.into_iter().partition(is_releasing);
    let count = u64::try_from(slow.len()).unwrap_or(u64::MAX).max(1);
    let first = usize::try_from(since_boot().as_secs() % count).unwrap_or(0);
    slow.rotate_left(first);
    claims.append(&mut slow);
    claims
}
