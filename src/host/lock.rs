//! The host lock: one `flock` on `/run/virt-vgpu/lock`, held while devices are
//! counted, planned and made. A lock for each domain whose definition is edited,
//! one for each GPU that is being set, and one for what takes the driver of all
//! GPUs to itself. The kernel drops a lock when its holder dies.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
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
        io::ErrorKind::PermissionDenied => "run as root",
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

    /// Waits until nobody has the lock, for who only looks and may have seen something
    /// half done; whether that is so before `deadline`. Who may not open the file sees
    /// nobody.
    pub fn wait_until_free(host: &Host, deadline: Deadline) -> bool {
        let Ok(file) = File::open(host.path(LOCK)) else {
            return true;
        };
        // Shared, and let go of at once: it keeps no start from anything.
        deadline.wait_until(|| FileExt::try_lock_shared(&file).is_ok())
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

/// Threads that wait for a lock.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Takes the lock, or gives up at the deadline. The kernel wakes who waits for
/// a lock, but knows no deadline, so a thread waits and is left behind when time
/// is up: it ends with the process, or lets go of what it got too late. While there
/// is one, other waits do without: a daemon that tries again and again would gather
/// threads and descriptors as long as somebody else holds the lock.
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

/// A thread counted in [`WAITING`], also one that cannot be started.
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

/// For people only, so a full disk is no reason to fail.
fn write_holder(file: &mut File, purpose: &str) {
    let line = format!("process {} ({purpose})\n", std::process::id());
    let _ = file
        .rewind()
        .and_then(|()| file.set_len(0))
        .and_then(|()| file.write_all(line.as_bytes()));
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// The descriptors of this process that lead to the file.
    fn descriptors(file: &Path) -> usize {
        let entries = std::fs::read_dir("/proc/self/fd").unwrap();
        entries
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| target == file)
            .count()
    }

    #[test]
    fn waits_in_vain_do_not_gather() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let within = |span| HostLock::acquire(&host, "test", Deadline::after(span));
        let held = within(PATIENCE).unwrap();
        let path = host.path(LOCK).canonicalize().unwrap();
        for _ in 0..3 {
            let refused = within(Duration::from_millis(30)).unwrap_err().to_string();
            let holder = format!("locked for 0 s by process {} (test);", std::process::id());
            assert!(refused.contains(&holder), "{refused}");
        }
        // The holder's, and that of a thread that may wait.
        assert!(descriptors(&path) <= 2);
        drop(held);
        within(PATIENCE).unwrap();
        assert!(Deadline::after(PATIENCE).wait_until(|| descriptors(&path) == 0));
    }

    /// One of them is woken by the kernel, the others ask.
    #[test]
    fn all_who_wait_get_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let host = Arc::new(Host::new(root.path()));
        let within = |host: &Host| HostLock::acquire(host, "test", Deadline::after(PATIENCE));
        let held = within(&host).unwrap();
        let (started, waits) = mpsc::channel();
        let waiter = || {
            let (host, started) = (Arc::clone(&host), started.clone());
            std::thread::spawn(move || {
                started.send(()).unwrap();
                within(&host).map(drop)
            })
        };
        let waiters = [waiter(), waiter(), waiter()];
        for _ in &waiters {
            waits.recv().unwrap();
        }
        drop(held);
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
    }
}
