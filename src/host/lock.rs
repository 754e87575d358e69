//! The host lock: one `flock` on `/run/virt-vgpu/lock`, held while devices are
//! counted, planned and made. And a lock for each domain whose definition is
//! edited. The kernel drops a lock when its holder dies.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::Duration,
};

use fs2::FileExt;

use super::{Deadline, Host};
use crate::model::DomainUuid;

/// The lock's file.
const LOCK: &str = "/run/virt-vgpu/lock";

/// Directory of the locks on domains' definitions.
const EDITS: &str = "/run/virt-vgpu/edits";

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
        "{} has been locked for {} s by {holder}; try again when it is done",
        path.display(), waited.as_secs()
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
    #[error("cannot lock {}: {source}; {}", path.display(), next_step(source))]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// The kernel's errno.
        source: io::Error,
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

fn lock(
    host: &Host,
    (directory, path): (&str, &str),
    purpose: &str,
    deadline: Deadline,
) -> Result<File, LockError> {
    let path = host.path(path);
    let io_error = |source| LockError::Io {
        path: path.clone(),
        source,
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
    let busy = fs2::lock_contended_error().kind();
    let mut failure = None;
    let locked = deadline.wait_until(|| match file.try_lock_exclusive() {
        Ok(()) => true,
        Err(error) if error.kind() == busy => false,
        Err(error) => {
            failure = Some(error);
            true
        }
    });
    if let Some(source) = failure {
        return Err(io_error(source));
    }
    if !locked {
        let holder = read_holder(&mut file);
        return Err(LockError::Held {
            path: path.clone(),
            waited: started.elapsed(),
            holder,
        });
    }
    write_holder(&mut file, purpose);
    Ok(file)
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
