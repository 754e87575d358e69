//! Claims: which devices were made for which domain. A claim is the proof of ownership.
//!
//! A claim is one file per domain, `/run/virt-vgpu/claims/DOMAIN-UUID.json`. It is
//! written as an intent before the first device is made. It is committed when all
//! devices exist and were checked, and removed when the last one is gone. Giving back
//! reads claims and never configuration, so a pool may change or disappear while its
//! devices are in use. A device that no claim names is not ours.
//!
//! ```text
//! (none) → intent → committed → (none)
//!            └────────┴→ releasing → (none)     devices that could not be removed yet
//! ```
//! A committed claim can lose single devices while its VM runs. They are listed as
//! leaving before they are removed, and dropped from the claim when they are gone. A
//! device that is being plugged in is also listed as leaving until it exists.
//!
//! Every transition is one rename under the claim's own lock. Devices that a claim
//! announces, so that other plans count them, are written under the host lock too.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    device::{Sysfs, list, optional},
    host::{ClaimLock, Deadline, Host, HostLock, ProcessId, boot_id, since_boot},
    model::{DeviceName, DomainName, DomainUuid, PciAddress, PoolName},
};

mod device;
mod former;
mod liveness;
mod quarantine;
mod reconcile;
mod release;
mod running;
mod seen;
mod unused;

pub(crate) use device::undo_at_the_end;
pub use device::{ClaimedDevice, Standing, undo_of};
pub use liveness::{DEFAULT_GRACE, Doubt, Liveness};
pub use quarantine::{
    QUARANTINE, Quarantined, forget_repaired, quarantine, quarantine_reasons, quarantine_suspects,
    quarantine_whole, quarantined, repaired, unfit,
};
pub use reconcile::{Reconciled, Report, reconcile, reconcile_at_once};
pub use release::{DeviceOutcome, Released, give_back, give_back_lost};
pub use seen::{Interest, MovingDevice, Seen, begin_look};
pub use unused::{give_back_part, undo_part};

/// The directory of the claims.
pub const DIRECTORY: &str = "/run/virt-vgpu/claims";

/// The state of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Devices are being made; any number of them may exist.
    Intent,
    /// All devices exist and were checked. A device that is being plugged into the
    /// running domain may not exist yet.
    Committed,
    /// The domain has stopped, but the listed devices could not be removed yet.
    Releasing,
}

/// The operation that made the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// An ordinary start.
    Prepare,
    /// An incoming migration; `prepare` follows and takes the claim over.
    Migrate,
}

/// The guest-driver medium lent to the domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedMedia {
    /// The pool of the guest driver.
    pub pool: PoolName,
    /// The image to which the domain's path links.
    pub image: PathBuf,
    /// The inode number of the image. An image that is made again has another one; none that
    /// QEMU has open gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// Why there is no medium although one was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A domain's devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Format of the file.
    pub version: u32,
    /// The domain's UUID.
    pub domain: DomainUuid,
    /// Its name when it last started.
    pub domain_name: DomainName,
    /// Identifies the run of the domain: each start gets another one. None in claims of
    /// older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The state of the claim.
    pub state: State,
    /// The operation that made it.
    pub origin: Origin,
    /// Whether libvirt has gone on to start QEMU.
    pub launched: bool,
    /// The boot in which it was made.
    pub boot_id: Option<String>,
    /// Milliseconds from boot to the last step of the start.
    pub since_boot_ms: u64,
    /// The libvirt daemon that is starting the domain; None once QEMU runs it.
    pub daemon: Option<ProcessId>,
    /// The devices, in the order of the requests.
    pub devices: Vec<ClaimedDevice>,
    /// Names of the devices that are being taken back, or made, while the domain runs.
    /// They may be gone already, or not exist yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<DeviceName>,
    /// Why its functions are suspect. They are quarantined before they are given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspicion: Option<String>,
    /// The guest-driver medium, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<ClaimedMedia>,
}

/// The clock of [`Claim::since_boot_ms`].
fn milliseconds_since_boot() -> u64 {
    u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX)
}

/// The present format of the files.
const VERSION: u32 = 1;

impl Claim {
    /// A claim that announces devices, not yet on disk.
    #[must_use]
    pub fn intent(
        host: &Host,
        (domain, domain_name): (DomainUuid, DomainName),
        origin: Origin,
        devices: Vec<ClaimedDevice>,
    ) -> Self {
        let mut claim = Self {
            version: VERSION,
            domain,
            domain_name,
            run: Some(format!(
                "{}-{}",
                since_boot().as_nanos(),
                std::process::id()
            )),
            state: State::Intent,
            origin,
            launched: false,
            boot_id: boot_id(host),
            since_boot_ms: 0,
            daemon: Some(ProcessId::parent(host)),
            devices,
            leaving: Vec::new(),
            suspicion: None,
            media: None,
        };
        claim.touch();
        claim
    }

    /// Whether the other claim belongs to the same run of the domain.
    #[must_use]
    pub fn is_of_run(&self, other: &Self) -> bool {
        if self.run.is_some() || other.run.is_some() {
            return self.run == other.run && self.boot_id == other.boot_id;
        }
        // A start's steps are recorded in its claim; once QEMU runs, it holds its
        // devices open.
        self.since_boot_ms == other.since_boot_ms
            || (other.launched >= self.launched && other.daemon == self.daemon)
    }

    /// Whether the claim was made since the host booted, or may have been: without a
    /// boot id this is unknown.
    pub(super) fn may_be_of_this_boot(&self, host: &Host) -> bool {
        let now = boot_id(host);
        self.boot_id.is_none() || now.is_none() || self.boot_id == now
    }

    /// Records that the start has just reached a further step.
    pub fn touch(&mut self) {
        self.since_boot_ms = milliseconds_since_boot();
    }

    /// The devices that are virtual functions.
    pub fn functions(&self) -> impl Iterator<Item = (&ClaimedDevice, PciAddress)> {
        let devices = self.devices.iter();
        devices.filter_map(|device| Some((device, device.function()?)))
    }

    /// The functions that become unusable if QEMU is killed early.
    pub fn wedging(&self) -> impl Iterator<Item = (&ClaimedDevice, PciAddress)> {
        self.functions().filter(|(device, _)| device.can_wedge)
    }

    /// The path of the claim's file.
    #[must_use]
    pub fn path(domain: DomainUuid) -> String {
        format!("{DIRECTORY}/{domain}.json")
    }
}

/// A claim file that cannot be used. Its devices stay as they are.
#[derive(Debug, thiserror::Error)]
#[error("claim {path}: {reason}; {}", self.next_step())]
pub struct Damaged {
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
    /// Whether the file is intact but was written by a later version.
    pub is_of_later_version: bool,
}

impl Damaged {
    fn next_step(&self) -> &'static str {
        if self.is_of_later_version {
            "install that version again; it knows the devices in it"
        } else {
            "when that domain no longer runs, remove the file"
        }
    }
}

/// Reads a domain's claim.
///
/// # Errors
/// When there is one but it cannot be read or understood.
pub fn load(host: &Host, domain: DomainUuid) -> Result<Option<Claim>, Damaged> {
    match host.read_file(&Claim::path(domain)) {
        Ok(text) => understood(domain, &text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(damaged(domain, error.to_string())),
    }
}

fn damaged(domain: DomainUuid, reason: String) -> Damaged {
    Damaged {
        path: Claim::path(domain),
        reason,
        is_of_later_version: false,
    }
}

fn understood(domain: DomainUuid, text: &str) -> Result<Claim, Damaged> {
    // The other fields depend on the format.
    #[derive(Deserialize)]
    struct Format {
        version: u32,
    }
    let wrong = |error: serde_json::Error| damaged(domain, error.to_string());
    let Format { version } = serde_json::from_str(text).map_err(wrong)?;
    if version != VERSION {
        return Err(Damaged {
            is_of_later_version: version > VERSION,
            ..damaged(
                domain,
                format!("this version does not know format {version}"),
            )
        });
    }
    let claim: Claim = serde_json::from_str(text).map_err(wrong)?;
    if claim.domain != domain {
        let what = format!("it is about domain {}", claim.domain);
        return Err(damaged(domain, what));
    }
    Ok(claim)
}

/// Reads all claims; unusable ones are returned separately.
///
/// # Errors
/// When the directory is there but cannot be listed.
pub fn load_all(host: &Host) -> io::Result<(Vec<Claim>, Vec<Damaged>)> {
    let (mut claims, mut damaged) = (Vec::new(), Vec::new());
    for domain in domains(host)? {
        match load(host, domain) {
            Ok(claim) => claims.extend(claim),
            Err(error) => damaged.push(error),
        }
    }
    Ok((claims, damaged))
}

/// The domains that have a claim, from the file names alone.
///
/// # Errors
/// When the directory is there but cannot be listed.
pub fn domains(host: &Host) -> io::Result<Vec<DomainUuid>> {
    Ok(optional(list(host, DIRECTORY))?
        .unwrap_or_default()
        .iter()
        .filter_map(|name| domain_of(name))
        .collect())
}

/// The domain to which a file of that name belongs.
fn domain_of(name: &str) -> Option<DomainUuid> {
    name.strip_suffix(".json")?.parse().ok()
}

/// A domain whose devices are being made or given back right now, among the claims that
/// `is_wanted` selects.
///
/// # Errors
/// When the claims cannot be listed.
pub fn at_work(host: &Host, is_wanted: impl Fn(&Claim) -> bool) -> io::Result<Option<DomainUuid>> {
    let (claims, _) = load_all(host)?;
    let is_at_work = |claim: &&Claim| {
        let is_moving = claim.state != State::Committed || !claim.leaving.is_empty();
        is_moving
            && is_wanted(claim)
            && !ClaimLock::wait_until_free(host, claim.domain, Deadline::after(Duration::ZERO))
    };
    Ok(claims.iter().find(is_at_work).map(|claim| claim.domain))
}

/// Waits for all processes that are making or giving back devices right now. Returns
/// whether there were any.
///
/// # Errors
/// When the claims cannot be listed.
pub fn wait_for_work(host: &Host, deadline: Deadline) -> io::Result<bool> {
    let at_once = Deadline::after(Duration::ZERO);
    let mut busy = domains(host)?;
    busy.retain(|domain| !ClaimLock::wait_until_free(host, *domain, at_once));
    for domain in &busy {
        ClaimLock::wait_until_free(host, *domain, deadline);
    }
    Ok(!busy.is_empty())
}

/// Runs `look` while no claim changes, so that no start or stop is seen half done.
/// After some tries the last result is used.
pub fn while_settled<T>(host: &Host, mut look: impl FnMut() -> T) -> T {
    const TRIES: u32 = 5;
    let files = || {
        let mut texts: Vec<(String, Option<String>)> = Vec::new();
        // Errors here also occur in the reads of `look`, which reports them.
        let _ = host.read_each(
            DIRECTORY,
            |_| true,
            |name, text| {
                texts.push((name.to_owned(), text.ok().map(ToOwned::to_owned)));
                Ok(())
            },
        );
        texts
    };
    let mut before = files();
    for _ in 1..TRIES {
        let seen = look();
        let after = files();
        if after == before {
            return seen;
        }
        before = after;
    }
    look()
}

/// The virtual functions in claims, with their domains; a claim of `except` does not
/// count. From a claim that cannot be understood, every PCI address counts, and the
/// domain's UUID replaces its name.
///
/// # Errors
/// When the claims cannot be listed, or one cannot be read.
pub fn functions(
    host: &Host,
    except: Option<DomainUuid>,
) -> io::Result<BTreeMap<PciAddress, DomainName>> {
    functions_seen(host, except, false)
}

/// Like [`functions`], for callers that only show the state and report damaged claims
/// anyway ([`load_all`]): unreadable claims are skipped.
///
/// # Errors
/// When the claims cannot be listed.
pub fn known_functions(
    host: &Host,
    except: Option<DomainUuid>,
) -> io::Result<BTreeMap<PciAddress, DomainName>> {
    functions_seen(host, except, true)
}

fn functions_seen(
    host: &Host,
    except: Option<DomainUuid>,
    tolerant: bool,
) -> io::Result<BTreeMap<PciAddress, DomainName>> {
    let interest = Interest {
        functions: true,
        except,
        tolerant,
        ..Interest::default()
    };
    Ok(Seen::read(host, &interest, None)?.functions)
}

fn addresses_in(text: &str) -> impl Iterator<Item = PciAddress> {
    let words = text.split(|c: char| !(c.is_ascii_hexdigit() || matches!(c, ':' | '.')));
    words.filter_map(|word| word.parse().ok())
}

/// The number of devices of a pool in all claims, including those that are leaving.
///
/// # Errors
/// When the claims cannot be listed, or an unusable claim may have some: the number is
/// unknown then.
pub fn pool_in_use(host: &Host, pool: &PoolName) -> io::Result<u32> {
    let interest = Interest {
        pools: BTreeSet::from([pool]),
        ..Interest::default()
    };
    let in_use = Seen::read(host, &interest, None)?.in_use;
    Ok(in_use.get(pool).copied().unwrap_or_default())
}

/// Writes a claim that names no new devices.
///
/// # Errors
/// The kernel's errno with the file's name; the former claim then still exists.
pub fn save(host: &Host, lock: &ClaimLock<'_>, claim: &Claim) -> io::Result<()> {
    const MODE: u32 = 0o644;
    debug_assert_eq!(lock.domain(), claim.domain, "the lock of another claim");
    let path = Claim::path(claim.domain);
    let text = serde_json::to_string_pretty(claim)? + "\n";
    host.make_directory(DIRECTORY, 0o755)
        .and_then(|()| host.replace_file(&path, text.as_bytes(), MODE))
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write {path}: {error}")))
}

/// Writes a claim that names new devices, so that other plans count them from now on.
/// They were planned under the same host lock.
///
/// # Errors
/// As [`save`].
pub fn announce(
    host: &Host,
    planning: &HostLock,
    lock: &ClaimLock<'_>,
    claim: &Claim,
) -> io::Result<()> {
    save(host, lock, claim)?;
    let functions = claim.devices.iter().flat_map(ClaimedDevice::functions);
    quarantine::forget(host, planning, functions)
}

/// Removes a claim whose devices are gone.
///
/// # Errors
/// The kernel's errno with the file's name.
pub fn remove(host: &Host, lock: &ClaimLock<'_>, domain: DomainUuid) -> io::Result<()> {
    debug_assert_eq!(lock.domain(), domain, "the lock of another claim");
    let path = Claim::path(domain);
    host.remove_file(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot remove {path}: {error}")))
}

/// Releases the lock of a claim; if the claim is gone, the lock's file is removed too.
pub fn unlock(host: &Host, lock: ClaimLock<'_>) {
    if host.exists(&Claim::path(lock.domain())) {
        drop(lock);
    } else {
        lock.forget();
    }
}

#[cfg(test)]
mod tests;
