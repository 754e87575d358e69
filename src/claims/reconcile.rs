//! Freeing what crashes and failures left behind: claims whose domain provably
//! does not run and whose devices nobody holds, and single devices that a running
//! VM does not have any more.

use std::{io, time::Duration};

use super::{
    Claim, Damaged, DeviceOutcome, Doubt, Liveness, Released, State, give_back, load, load_all,
    quarantine_suspects, save, unlock, unused::give_back_part,
};
use crate::{
    host::{ClaimLock, Deadline, Host, LockError, Processes, since_boot},
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

/// How long somebody who is at work on a claim is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at every claim and frees the stale ones and the unused devices of the others,
/// or with `dry_run` only says which they are. What there is no time for until `deadline`
/// is left for another time. One claim is always looked at.
///
/// # Errors
/// When the claims or the processes cannot be listed: then nothing is freed.
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

/// The same for a start that needs room: what would have to be waited for stays.
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

/// A look at all claims.
struct Looking<'a> {
    host: &'a Host,
    except: Option<DomainUuid>,
    grace: Duration,
    dry_run: bool,
    /// Until when devices that do not go at once are waited for.
    patience: Deadline,
    /// How long others that are at work on a claim are waited for.
    lock_patience: Duration,
    /// Until when claims are looked at.
    deadline: Deadline,
}

impl Looking<'_> {
    fn run(&self) -> io::Result<Report> {
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

    /// What becomes of a claim; None when it is gone meanwhile.
    fn look_at(&self, claim: Claim, processes: &Processes) -> io::Result<Option<Reconciled>> {
        if self.dry_run {
            return Ok(Some(self.judged(claim, processes)));
        }
        // A claim that is needed needs no lock, and nobody has to wait for this look.
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
            // Told as damaged the next time.
            Err(_) => return Ok(None),
        };
        let judged = match now == judged.claim {
            true => judged,
            // What was looked at has changed since: the processes may have, too.
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
            kept_back: None,
            released: None,
        }
    }

    fn free(&self, lock: &ClaimLock<'_>, judged: Reconciled) -> Reconciled {
        let (host, claim) = (self.host, &judged.claim);
        let mut kept_back = None;
        let released = match &judged.liveness {
            Liveness::Unknown(Doubt::Ending) => {
                note_suspicion(host, lock, claim);
                None
            }
            Liveness::Stale => Some(match quarantine_suspects(host, lock, claim) {
                Ok(reason) => {
                    kept_back = reason;
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
            kept_back,
            released,
            ..judged
        }
    }
}

impl Reconciled {
    /// One that is left alone without a look.
    fn left(claim: Claim, doubt: Doubt) -> Self {
        Self {
            claim,
            liveness: Liveness::Unknown(doubt),
            unused: Vec::new(),
            kept_back: None,
            released: None,
        }
    }
}

/// That it ended early can be seen only now: whoever finds the claim later, because
/// libvirt is away and tells the hook nothing, could not know any more. Where the hook is
/// told, its word counts.
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
