//! The host lock: one `flock` on `/run/virt-vgpu/lock`, held while devices are
//! counted, planned and made. A lock for each domain whose definition is edited,
//! one for each GPU that is being set, and one for what takes the driver of all
//! GPUs to itself. The kernel drops a lock when its holder dies.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::mpsc,
    time::Duration,
};

use fs2::FileExt;

use super::{Deadline, Host};
use crate::model::{DomainUuid, PciAddress};

/// The lock's file.
const LOCK: &str = "/run/virt-vgpu/lock";

/// Directory of the locks on domains' definitions.
pub(crate) const EDITS: &str = "/run/virt-vgpu/edits";

/// Directory of the locks on GPUs.
const GPUS: &str = "/run/virt-vgpu/host";

/// Directory of the lock and the claims.
pub(crate) const RUNTIME: &str = "/run/virt-vgpu";

/// Proof that this process holds the host lock. Dropping it lets go.
#[derive(Debug)]
pub struct HostLock {
    /// Closing the file drops the lock.
    _file: File,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else held it all the time.
    #[error(
        "{} has been locked for {:.0} s by {holder}; try again when it is done",
        path.display(), waited.as_secs_f64()
    )]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// How long we waited.
        waited: Duration,
        /// What the holder wrote about itself.
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
        io::ErrorKind::PermissionDenied => "devices are handed out by root only (qemu:///system)",
        io::ErrorKind::ReadOnlyFilesystem => "/run must be writable",
        io::ErrorKind::StorageFull => "make room in /run",
        _ => "check /run/virt-vgpu",
    }
}

impl HostLock {
    /// Takes the lock, waiting until `deadline`. `purpose` tells those who wait
    /// in vain what it is held for.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(host: &Host, purpose: &str, deadline: Deadline) -> Result<Self, LockError> {
        let file = lock(host, (RUNTIME, LOCK), purpose, deadline)?;
        Ok(Self { _file: file })
    }
}

/// Proof that no other of our processes edits that domain's definition. The
/// host lock would not do: the hook waits for it while libvirt keeps the domain
/// to itself, and an edit waits for libvirt.
#[derive(Debug)]
pub struct EditLock {
    _file: File,
}

impl EditLock {
    /// Takes the lock of a domain, waiting until `deadline`. The file stays: it
    /// is empty but for its holder, and gone at the next boot.
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
        let file = lock(host, (EDITS, &path), purpose, deadline)?;
        Ok(Self { _file: file })
    }
}

/// Proof that no other of our processes sets this GPU. Held longer than a hook
/// can wait for the host lock: `sriov-manage` and the driver take their time.
#[derive(Debug)]
pub struct GpuLock {
    _file: File,
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
        let file = lock(host, (GPUS, &path), purpose, deadline)?;
        Ok(Self { _file: file })
    }
}

/// Proof that no other of our processes that set GPUs runs `sriov-manage` or asks
/// NVML: each of the two is refused while the other is at work, on whatever GPU.
#[derive(Debug)]
pub struct DriverLock {
    _file: File,
}

impl DriverLock {
    /// Takes the lock, waiting until `deadline`.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(host: &Host, purpose: &str, deadline: Deadline) -> Result<Self, LockError> {
        let path = format!("{GPUS}/driver.lock");
        let file = lock(host, (GPUS, &path), purpose, deadline)?;
        Ok(Self { _file: file })
    }
}

fn lock(
    host: &Host,
    (directory, path): (&str, &str),
    purpose: &str,
    deadline: Deadline,
) -> Result<File, LockError> {
    let path = host.path(path);
    let io_error = |cause| LockError::Io {
        path: path.clone(),
        cause,
    };
    let started = std::time::Instant::now();
    host.make_directory(directory, 0o755).map_err(io_error)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error)?;
    match wait_for_lock(&file, deadline) {
        Ok(true) => {}
        Ok(false) => {
            let holder = read_holder(&mut file);
            let waited = started.elapsed();
            return Err(LockError::Held {
                path,
                waited,
                holder,
            });
        }
        Err(cause) => return Err(io_error(cause)),
    }
    write_holder(&mut file, purpose);
    Ok(file)
}

/// Takes the lock, or gives up at the deadline. The kernel wakes who waits for
/// a lock, but knows no deadline, so a thread waits and is left behind when time
/// is up: it ends with the process, or lets go of what it got too late.
fn wait_for_lock(file: &File, deadline: Deadline) -> io::Result<bool> {
    match file.try_lock_exclusive() {
        Err(error) if error.kind() == fs2::lock_contended_error().kind() => {}
        result => return result.map(|()| true),
    }
    // A duplicate shares the lock with its original.
    let duplicate = file.try_clone()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new().spawn(move || {
        let result = duplicate.lock_exclusive();
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

fn read_holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    match text.lines().next() {
        Some(line) if read.is_ok() && !line.is_empty() => line.to_owned(),
        _ => "another process".to_owned(),
    }
}

/// For people only, so a full disk is no reason to fail.
fn write_holder(file: &mut File, purpose: &str) {
    let line = format!("process {} ({purpose})\n", std::process::id());
    let _ = file
        .rewind()
        .and_then(|()| file.set_len(0))
        .and_then(|()| file.write_all(line.as_bytes()));
}
