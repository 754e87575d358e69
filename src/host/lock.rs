//! Locks between our processes. All are `flock`s, which the kernel drops when their holder
//! dies. They are taken in this order, and locks of the same rank in the order of their
//! names. A process that holds a lock never waits for a lock that comes before it:
//!
//! | rank | file below `/run/virt-vgpu` | held for |
//! |---|---|---|
//! | [`MaintenanceLock`] | `host/maintenance.lock` | one command of maintenance, as long as it runs |
//! | [`DiscLock`] | `discs.lock` | making and removing discs and licence tokens, minutes |
//! | [`EditLock`] | `edits/UUID.lock` | an edit of a domain's definition |
//! | [`ClaimLock`] | `locks/UUID` | all work on one domain's claim and its devices |
//! | [`GpuLock`] | `host/ADDRESS.lock` | setting up one GPU, minutes |
//! | [`DriverLock`] | `host/driver.lock` | `sriov-manage` and NVML, which exclude each other |
//! | [`DeviceLock`] | `locks/DEVICE` | the work of one device's driver |
//! | [`HostLock`] | `lock` | settling a plan, and announcing it in a claim |
//!
//! The host lock is the last one and is held for the shortest time. Its holder takes no
//! other lock, and does not read or write attributes that a driver answers. Builds with
//! debug assertions check both rules.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use fs2::FileExt;

use super::{Deadline, Host};
use crate::device::Sysfs;
use crate::model::{DomainUuid, ParentName, PciAddress};

#[cfg(debug_assertions)]
mod order;

/// The lock's file.
const LOCK: &str = "/run/virt-vgpu/lock";

/// Directory of the locks on domains' definitions.
pub(crate) const EDITS: &str = "/run/virt-vgpu/edits";

/// The lock's file.
const MAINTENANCE: &str = "/run/virt-vgpu/host/maintenance.lock";

/// Directory of the locks on GPUs.
const GPUS: &str = "/run/virt-vgpu/host";

/// Directory of the locks on claims and on devices.
const LOCKS: &str = "/run/virt-vgpu/locks";

/// Directory of the lock and the claims.
pub(crate) const RUNTIME: &str = "/run/virt-vgpu";

/// The file of the lock on discs.
const DISCS: &str = "/run/virt-vgpu/discs.lock";

/// Proof that none of our other processes makes or removes licence tokens or the discs with them:
/// a disc gets the token that there is, and none stays without its token.
#[derive(Debug)]
pub struct DiscLock {
    _held: Held,
}

impl DiscLock {
    /// Takes the lock, waiting until `deadline`.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(host: &Host, purpose: &str, deadline: Deadline) -> Result<Self, LockError> {
        let held = lock(host, Rank::Disc, DISCS, purpose, deadline)?;
        Ok(Self { _held: held })
    }
}

/// Proof that this process holds the host lock. Dropping it releases the lock.
#[derive(Debug)]
pub struct HostLock {
    /// Closing the file drops the lock.
    _held: Held,
}

/// Why the lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process held it all the time.
    #[error(
        "{} has been locked for {:.0} s by {holder}; try again when it is done",
        path.display(), waited.as_secs_f64()
    )]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// The waiting time.
        waited: Duration,
        /// The holder's description of itself.
        holder: String,
    },
    /// The file cannot be opened or locked.
    #[error("cannot lock {}: {cause}; {}", path.display(), next_step(cause))]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// The kernel's errno.
        cause: io::Error,
    },
}

fn next_step(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run as root",
        io::ErrorKind::ReadOnlyFilesystem => "/run must be writable",
        io::ErrorKind::StorageFull => "free space in /run",
        _ => "check /run/virt-vgpu",
    }
}

impl HostLock {
    /// Takes the lock, waiting until `deadline`. `purpose` says what the lock is held
    /// for; a process that times out waiting for it shows that text.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(host: &Host, purpose: &str, deadline: Deadline) -> Result<Self, LockError> {
        let held = lock(host, Rank::Host, LOCK, purpose, deadline)?;
        Ok(Self { _held: held })
    }
}

/// Proof that none of our other processes edits that domain's definition. The host lock
/// cannot be used for this: the hook waits for the host lock while libvirt locks the
/// domain, and an edit waits for libvirt.
#[derive(Debug)]
pub struct EditLock {
    _held: Held,
}

impl EditLock {
    /// Takes the lock of a domain, waiting until `deadline`. The small file stays until the
    /// next boot.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(
        host: &Host,
        domain: DomainUuid,
        purpose: &str,
        deadline: Deadline,
    ) -> Result<Self, LockError> {
        let path = format!("{EDITS}/{domain}.lock");
        let held = lock(host, Rank::Edit, &path, purpose, deadline)?;
        Ok(Self { _held: held })
    }
}

/// Proof that none of our other processes changes that domain's claim or its devices. It
/// is held during the whole work, including the time of drivers.
#[derive(Debug)]
pub struct ClaimLock<'a> {
    held: Held,
    host: &'a Host,
    domain: DomainUuid,
}

impl<'a> ClaimLock<'a> {
    /// Takes the lock of a domain's claim, waiting until `deadline`.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(
        host: &'a Host,
        domain: DomainUuid,
        purpose: &str,
        deadline: Deadline,
    ) -> Result<Self, LockError> {
        let held = lock(host, Rank::Claim, &claim_lock(domain), purpose, deadline)?;
        Ok(Self { held, host, domain })
    }

    /// The domain.
    #[must_use]
    pub fn domain(&self) -> DomainUuid {
        self.domain
    }

    /// Removes the lock's file, which is not needed without a claim. A process that waits
    /// for the lock notices this when it gets the lock, and opens the new file.
    pub fn forget(self) {
        if let Err(error) = self.host.remove_file(&claim_lock(self.domain)) {
            tracing::debug!("cannot remove {}: {error}", self.held.path.display());
        }
    }

    /// Waits until no process works on the domain's claim; false if `deadline` passes
    /// first. It keeps no lock. A file that cannot be opened counts as free.
    pub fn wait_until_free(host: &Host, domain: DomainUuid, deadline: Deadline) -> bool {
        wait_until_free(host, &claim_lock(domain), deadline)
    }
}

fn claim_lock(domain: DomainUuid) -> String {
    format!("{LOCKS}/{domain}")
}

/// Proof that none of our other processes uses that device's driver. A device is the unit
/// of a driver's work: a GPU with its functions, or a single parent of mediated devices.
#[derive(Debug)]
pub struct DeviceLock {
    _held: Held,
    device: String,
}

impl DeviceLock {
    /// Takes the lock of a device, waiting until `deadline`.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(
        host: &Host,
        device: &ParentName,
        purpose: &str,
        deadline: Deadline,
    ) -> Result<Self, LockError> {
        let path = format!("{LOCKS}/{device}");
        let held = lock(host, Rank::Device, &path, purpose, deadline)?;
        let device = device.to_string();
        let mut ours = OUR_DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        ours.insert(device.clone());
        Ok(Self {
            _held: held,
            device,
        })
    }

    /// Takes the locks of several devices, in their order.
    ///
    /// # Errors
    /// The first lock that could not be taken; then none is held.
    pub fn acquire_all(
        host: &Host,
        devices: &BTreeSet<ParentName>,
        purpose: &str,
        deadline: Deadline,
    ) -> Result<Vec<Self>, LockError> {
        let acquire = |device| Self::acquire(host, device, purpose, deadline);
        devices.iter().map(acquire).collect()
    }

    /// The devices whose locks other processes have had for at least `span`.
    pub(super) fn held_for(host: &Host, span: Duration) -> BTreeSet<String> {
        let ours = OUR_DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        let names = host.list(LOCKS).unwrap_or_default();
        let is_held = |name: &String| {
            // Names of claims' locks are UUIDs.
            if ours.contains(name) || name.parse::<DomainUuid>().is_ok() {
                return false;
            }
            let path = host.path(&format!("{LOCKS}/{name}"));
            // The holder writes its name into the file when it has the lock.
            let since = path.metadata().and_then(|file| file.modified());
            let is_old = since.is_ok_and(|since| since.elapsed().is_ok_and(|age| age >= span));
            let is_held = |file| FileExt::try_lock_shared(&file).is_err();
            is_old && File::open(path).is_ok_and(is_held)
        };
        names.into_iter().filter(is_held).collect()
    }
}

impl Drop for DeviceLock {
    fn drop(&mut self) {
        let mut ours = OUR_DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        ours.remove(&self.device);
    }
}

/// The devices whose locks this process holds.
static OUR_DEVICES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Proof that none of our other processes sets up this GPU. It may be held for minutes,
/// because `sriov-manage` and the driver are slow.
#[derive(Debug)]
pub struct GpuLock {
    _held: Held,
}

impl GpuLock {
    /// Takes the lock of a GPU, waiting until `deadline`.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(
        host: &Host,
        gpu: PciAddress,
        purpose: &str,
        deadline: Deadline,
    ) -> Result<Self, LockError> {
        let path = format!("{GPUS}/{gpu}.lock");
        let held = lock(host, Rank::Gpu, &path, purpose, deadline)?;
        Ok(Self { _held: held })
    }
}

/// Proof that none of our other processes runs `sriov-manage` or changes a GPU through
/// NVML. Each of the two fails while the other one runs, even on another GPU.
#[derive(Debug)]
pub struct DriverLock {
    _held: Held,
}

impl DriverLock {
    /// Takes the lock, waiting until `deadline`.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(host: &Host, purpose: &str, deadline: Deadline) -> Result<Self, LockError> {
        let path = format!("{GPUS}/driver.lock");
        let held = lock(host, Rank::Driver, &path, purpose, deadline)?;
        Ok(Self { _held: held })
    }
}

/// Proof that none of our other processes enters or leaves maintenance or changes the driver.
/// It is held for as long as VMs take to end, and packages to be installed.
#[derive(Debug)]
pub struct MaintenanceLock {
    _held: Held,
}

impl MaintenanceLock {
    /// Takes the lock, waiting until `deadline`.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(host: &Host, purpose: &str, deadline: Deadline) -> Result<Self, LockError> {
        let held = lock(host, Rank::Maintenance, MAINTENANCE, purpose, deadline)?;
        Ok(Self { _held: held })
    }

    /// Who has it now, in the holder's own words; None: nobody.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn holder(host: &Host) -> io::Result<Option<String>> {
        let mut file = match File::open(host.path(MAINTENANCE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match FileExt::try_lock_shared(&file) {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == fs2::lock_contended_error().kind() => {
                Ok(Some(read_holder(&mut file)))
            }
            Err(error) => Err(error),
        }
    }
}

/// The order of the locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Maintenance,
    Disc,
    Edit,
    Claim,
    Gpu,
    Driver,
    Device,
    Host,
}

/// A held lock. Closing the file releases it.
#[derive(Debug)]
struct Held {
    _file: File,
    path: PathBuf,
    #[cfg(debug_assertions)]
    rank: Rank,
}

/// Must be called before every read or write of an attribute that a driver answers. With
/// the host lock held, every other start would wait for that driver.
pub(super) fn is_about_to_ask_a_driver(path: &str) {
    #[cfg(debug_assertions)]
    assert!(
        !order::is_planning(),
        "{path} is asked for while the host lock is held"
    );
    #[cfg(not(debug_assertions))]
    let _ = path;
}

fn wait_until_free(host: &Host, path: &str, deadline: Deadline) -> bool {
    let Ok(file) = File::open(host.path(path)) else {
        return true;
    };
    // A shared lock, released at once: it does not disturb other processes.
    deadline.wait_until(|| FileExt::try_lock_shared(&file).is_ok())
}

fn lock(
    host: &Host,
    rank: Rank,
    path: &str,
    purpose: &str,
    deadline: Deadline,
) -> Result<Held, LockError> {
    let place = host.path(path);
    // A process that does not wait cannot be part of a deadlock.
    #[cfg(debug_assertions)]
    if !deadline.has_passed() {
        order::check(rank, &place);
    }
    let io_error = |cause| LockError::Io {
        path: place.clone(),
        cause,
    };
    let started = std::time::Instant::now();
    loop {
        let mut file = open(host, path).map_err(io_error)?;
        if !wait_for_lock(&file, deadline).map_err(io_error)? {
            return Err(LockError::Held {
                path: place,
                waited: started.elapsed(),
                holder: read_holder(&mut file),
            });
        }
        // The former holder may have removed the file; another process may hold the new one.
        let found = file.metadata().map_err(io_error)?;
        if found.nlink() == 0 {
            continue;
        }
        write_holder(&mut file, found.len(), purpose);
        #[cfg(debug_assertions)]
        order::note(rank, place.clone());
        #[cfg(not(debug_assertions))]
        let _ = rank;
        return Ok(Held {
            _file: file,
            path: place,
            #[cfg(debug_assertions)]
            rank,
        });
    }
}

/// Opens the file of a lock; creates the file and its directory if they are missing.
fn open(host: &Host, path: &str) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(host.path(path))
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path
                .rsplit_once('/')
                .map_or(RUNTIME, |(directory, _)| directory);
            host.make_directory(directory, 0o755)?;
            open()
        }
        opened => opened,
    }
}

/// Threads that wait for a lock.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Takes the lock, or gives up at the deadline. The kernel wakes a process that waits for
/// a lock, but has no deadline for it. So a thread waits, and is abandoned when the time is
/// up: it ends with the process, or releases a lock that comes too late. While such a
/// thread exists, other waits poll instead. A daemon that tries again and again would
/// otherwise collect threads and descriptors while another process holds the lock.
fn wait_for_lock(file: &File, deadline: Deadline) -> io::Result<bool> {
    if try_lock(file)? {
        return Ok(true);
    }
    if WAITING.load(Ordering::Relaxed) > 0 {
        return poll_lock(file, deadline);
    }
    // A duplicate shares the lock with its original.
    let duplicate = file.try_clone()?;
    let (sender, receiver) = mpsc::channel();
    let waiting = Waiting::begin();
    std::thread::Builder::new().spawn(move || {
        let result = duplicate.lock_exclusive();
        drop(waiting);
        if sender.send(result).is_err() {
            let _ = FileExt::unlock(&duplicate);
        }
    })?;
    match receiver.recv_timeout(deadline.left()) {
        Ok(result) => result.map(|()| true),
        Err(mpsc::RecvTimeoutError::Timeout) => Ok(false),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// A thread counted in [`WAITING`], even if it cannot be started.
struct Waiting;

impl Waiting {
    fn begin() -> Self {
        WAITING.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock_exclusive() {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == fs2::lock_contended_error().kind() => Ok(false),
        Err(error) => Err(error),
    }
}

fn poll_lock(file: &File, deadline: Deadline) -> io::Result<bool> {
    const PAUSE: Duration = Duration::from_millis(20);
    while !try_lock(file)? {
        if deadline.has_passed() {
            return Ok(false);
        }
        std::thread::sleep(PAUSE.min(deadline.left()));
    }
    Ok(true)
}

fn read_holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    match text.lines().next() {
        Some(line) if read.is_ok() && !line.is_empty() => line.to_owned(),
        _ => "another process".to_owned(),
    }
}

/// Writes the holder's description. It is only for people, so errors are ignored.
fn write_holder(file: &mut File, length: u64, purpose: &str) {
    let line = format!("process {} ({purpose})\n", std::process::id());
    let emptied = match length {
        0 => Ok(()),
        _ => file.rewind().and_then(|()| file.set_len(0)),
    };
    let _ = emptied.and_then(|()| file.write_all(line.as_bytes()));
}

#[cfg(test)]
mod tests;
