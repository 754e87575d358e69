//! Every effect on the system: sysfs, files, the lock, processes, the clock,
//! the journal, and (for the command only) libvirt. All paths are given as they
//! are on the host; [`Host`] puts them below its root, so a directory can stand
//! in for the machine.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use driver_child::{DriverChild, ReversibleWrite};
#[cfg(feature = "cli")]
use nix::sys::resource::{Resource, setrlimit};
use slow_driver::SlowDrivers;

use crate::{
    apply::Acts,
    device::{
        self, InterfaceAddress, Sysfs,
        nvml::{Failure, Question},
        step::Attribute,
    },
};

mod addresses;
mod clock;
mod config_files;
#[cfg(feature = "cli")]
mod device_events;
pub mod driver_child;
mod fault;
mod files;
mod journal;
#[cfg(feature = "cli")]
pub mod libvirt;
mod lock;
#[cfg(feature = "cli")]
mod new_directory;
mod nvml;
mod pci_ids;
mod poll;
mod process;
mod program;
mod replacing;
#[cfg(feature = "cli")]
mod service;
mod slow_driver;
mod terminal;
mod trust;
#[cfg(feature = "cli")]
mod udev_database;
#[cfg(feature = "cli")]
mod watch;

pub use clock::{Deadline, boot_id, patience, since_1970, since_boot, utc_now};
#[cfg(feature = "cli")]
pub use device_events::{DeviceEvents, DeviceNews};
pub use files::read_at_most;
pub use files::{DirectoryStamp, FileState};
pub use journal::start_logging;
#[cfg(feature = "cli")]
pub(crate) use lock::EDITS;
pub use lock::{
    ClaimLock, DeviceLock, DiscLock, DriverLock, EditLock, GpuLock, HostLock, LockError,
    MaintenanceLock,
};
#[cfg(feature = "cli")]
pub use new_directory::{GivenFile, NewDirectory, NewFile};
pub use nvml::{NVML_PROGRAM, NvmlChild};
pub use pci_ids::PciIds;
pub use process::{Holder, Opener, ProcessId, Processes, gpu_openers, opener_of};
pub use program::Ended;
#[cfg(feature = "cli")]
pub use service::{tell_alive, tell_ready, tell_status};
pub use terminal::complain;
#[cfg(feature = "cli")]
pub(crate) use terminal::{ask, directory_there, usage};
#[cfg(feature = "cli")]
pub use udev_database::{HwdbNames, UdevDatabase};

/// The machine, or a directory that stands in for it.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    /// The deadline for all work.
    deadline: Mutex<Option<Deadline>>,
    /// The child that asks drivers, once it is needed.
    writer: Mutex<Option<DriverChild>>,
    /// Whether attributes of drivers are read by the child.
    asks_drivers_apart: bool,
    /// Whether there is time for a driver that is slow.
    waits_for_drivers: AtomicBool,
    /// GPUs whose drivers do not answer, or slowly.
    slow: Mutex<SlowDrivers>,
    /// Earlier children that may still hang in a driver. An ended child is a zombie until
    /// this process waits for it.
    former: Mutex<Vec<Child>>,
}

impl Host {
    /// The variable that names another root, for tests and for `--root`.
    pub const ROOT_VARIABLE: &'static str = "VIRT_VGPU_ROOT";

    /// A driver that needs longer than this to create or remove a device counts as hanging.
    /// It is less than the time for which other processes wait for a claim's lock.
    pub const PATIENCE: Duration = Duration::from_secs(8);

    /// The machine whose root directory is `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            deadline: Mutex::new(None),
            writer: Mutex::new(None),
            asks_drivers_apart: false,
            waits_for_drivers: AtomicBool::new(false),
            slow: Mutex::default(),
            former: Mutex::new(Vec::new()),
        }
    }

    /// The same for a program that can start itself as the child
    /// ([`driver_child::act_if_asked`]): the child asks drivers, and the program continues
    /// when a driver does not answer.
    #[must_use]
    pub fn that_outlives_drivers(self) -> Self {
        Self {
            asks_drivers_apart: true,
            ..self
        }
    }

    /// From now on a driver may take as long for an answer as for making a device. This is
    /// for setting up GPUs: their drivers are busy with the previous step, and no start
    /// waits for this process.
    pub fn wait_for_drivers(&self) {
        self.waits_for_drivers.store(true, Ordering::Relaxed);
    }

    /// The root named by [`Self::ROOT_VARIABLE`], else `/`.
    #[must_use]
    pub fn from_environment() -> Self {
        match std::env::var_os(Self::ROOT_VARIABLE) {
            Some(root) if !root.is_empty() => Self::new(PathBuf::from(root)),
            _ => Self::new("/"),
        }
    }

    /// Whether this is the real machine.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where a path of the host lies.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl Sysfs for Host {
    fn read(&self, path: &str) -> io::Result<String> {
        if slow_driver::is_asked(path) {
            lock::is_about_to_ask_a_driver(path);
            if self.asks_drivers_apart {
                return self.ask_driver(path);
            }
        }
        let place = self.path(path);
        if path.starts_with("/sys/") {
            files::read_attribute(&place)
        } else {
            files::read_text(&place, files::longest(path))
        }
    }

    fn read_each(&self, paths: &[String]) -> Vec<io::Result<String>> {
        let are_asked = paths.iter().all(|path| slow_driver::is_asked(path));
        if are_asked && self.asks_drivers_apart {
            paths
                .iter()
                .for_each(|path| lock::is_about_to_ask_a_driver(path));
            return self.ask_driver_for_each(paths);
        }
        paths.iter().map(|path| self.read(path)).collect()
    }

    fn read_lossily(&self, path: &str) -> io::Result<String> {
        files::read_lossily(&self.path(path), files::longest(path))
    }

    fn read_bytes(&self, path: &str, length: usize) -> io::Result<Vec<u8>> {
        files::read_bytes(&self.path(path), length)
    }

    fn is_group_open(&self, node: &str) -> bool {
        /// Another program that asks in the same way has it open for microseconds.
        const MOMENT: Duration = Duration::from_millis(20);
        !Deadline::after(MOMENT).wait_until(|| {
            // Only root may open it, so for others every group looks free.
            let opened = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.path(node));
            // `vfio_group_fops_open`.
            !matches!(opened, Err(error) if error.kind() == io::ErrorKind::ResourceBusy)
        })
    }

    fn read_link(&self, path: &str) -> io::Result<String> {
        std::fs::read_link(self.path(path))?
            .into_os_string()
            .into_string()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "link target is not UTF-8"))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        files::list(&self.path(path))
    }

    fn is_of_driver(&self, path: &str) -> bool {
        slow_driver::is_asked(path)
    }

    fn exists(&self, path: &str) -> bool {
        match self.path(path).symlink_metadata() {
            Ok(_) => true,
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ),
        }
    }

    fn ipv4_addresses(&self) -> io::Result<Vec<InterfaceAddress>> {
        if self.is_real() {
            addresses::of_interfaces()
        } else {
            device::written_ipv4_addresses(self)
        }
    }
}

impl Acts for Host {
    fn write(&self, attribute: &Attribute, undo: Option<&Attribute>) -> io::Result<()> {
        lock::is_about_to_ask_a_driver(&attribute.path);
        fault::before("attribute", &attribute.path)?;
        let order = ReversibleWrite {
            write: self.place(attribute)?,
            undo: undo.map(|undo| self.place(undo)).transpose()?,
        };
        let patience = self.patience_left();
        let carried_out = self.with_child(|child| child.carry_out(&order, patience));
        if matches!(&carried_out, Err(error) if error.kind() == io::ErrorKind::TimedOut) {
            self.leave_alone(attribute);
        }
        carried_out??;
        fault::after("attribute", &attribute.path);
        Ok(())
    }

    fn change_gpu(&self, change: &Question, undo: Option<&Question>) -> Result<(), Failure> {
        NvmlChild::for_change(self, change).change(change, undo)
    }
}

impl Host {
    /// Asks the child, and starts one if there is none. A child that fails gets no more
    /// orders.
    fn with_child<T>(&self, ask: impl FnOnce(&mut DriverChild) -> io::Result<T>) -> io::Result<T> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = match writer.take() {
            Some(child) => child,
            None => DriverChild::start()?,
        };
        let answer = ask(&mut child);
        match &answer {
            Ok(_) => *writer = Some(child),
            Err(_) => {
                if let Some(child) = child.end() {
                    self.leave_behind(child);
                }
            }
        }
        answer
    }

    /// Sets one deadline for all writes to attributes. Later writes that undo or give back
    /// are still tried, with a short time limit.
    pub fn be_done_by(&self, deadline: Deadline) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
    }

    /// Removes the deadline of [`Self::be_done_by`], for a program that continues after its
    /// work: later work has its full time again.
    pub fn be_patient_again(&self) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Answers of other pieces of work are no reason to give up a driver now.
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        slow.begin_again();
    }

    fn patience_left(&self) -> Duration {
        self.at_most_left(Self::PATIENCE)
    }

    /// That span, or what is left until the deadline of [`Self::be_done_by`].
    fn at_most_left(&self, span: Duration) -> Duration {
        const LAST_TRY: Duration = Duration::from_secs(1);
        let deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        deadline.map_or(span, |deadline| span.min(deadline.left().max(LAST_TRY)))
    }

    /// The number of the directory or file that a path leads to.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn inode(&self, path: &str) -> io::Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(std::fs::metadata(self.path(path))?.ino())
    }

    /// NVML, with the time that is left.
    #[must_use]
    pub fn nvml(&self) -> NvmlChild<'_> {
        NvmlChild::new(self, Deadline::after(self.patience_left()))
    }

    /// Forks the child that writes attributes, so that it is ready for the first write. Only
    /// for a program that still has one thread and no lock. A failure shows again at the
    /// write.
    pub fn get_ready_to_write(&self) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.is_none() {
            *writer = DriverChild::split_off().ok();
        }
    }

    /// Ends the child that writes attributes, for a program that runs for a long time. A
    /// child that hangs in a driver is waited for at the next call.
    pub fn be_done_writing(&self) {
        const MOMENT: Duration = Duration::from_secs(1);
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut child) = writer.and_then(DriverChild::end) {
            let mut ended = || !matches!(child.try_wait(), Ok(None));
            if !Deadline::after(MOMENT).wait_until(&mut ended) {
                self.leave_behind(child);
            }
        }
        self.reap();
    }

    /// Keeps a child that has not ended yet.
    fn leave_behind(&self, child: Child) {
        self.reap();
        self.former
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(child);
    }

    /// Collects earlier children that have ended, without waiting.
    fn reap(&self) {
        let mut former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        former.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    fn place(&self, attribute: &Attribute) -> io::Result<(String, String)> {
        let path = self.path(&attribute.path).into_os_string().into_string();
        let path =
            path.map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the root is not UTF-8"))?;
        Ok((path, attribute.value.clone()))
    }
}

/// Whether this process is root's. Only root hands out devices.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// From now on Ctrl-C and a lost connection do not end this process: it does what must not be left
/// half-done. Programs that it starts are spared, too: without a reader of what they say, they
/// would end in the middle. `SIGTERM` still ends it. Threads that there are already do not count.
///
/// # Errors
/// The kernel's errno.
#[cfg(feature = "cli")]
pub fn refuse_interrupts() -> io::Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    Ok(SigSet::from_iter([Signal::SIGINT, Signal::SIGHUP]).thread_block()?)
}

/// From now on neither this process nor one that it starts leaves a core file when it crashes:
/// it has secrets.
///
/// # Errors
/// The kernel's errno.
#[cfg(feature = "cli")]
pub fn leave_no_core() -> io::Result<()> {
    // A limit of 0 would not hold back a core that is piped to a program; a limit of 1 does
    // (`do_coredump`). Children keep it, unlike `PR_SET_DUMPABLE`.
    const NONE: u64 = 1;
    let limit = |most| setrlimit(Resource::RLIMIT_CORE, most, most);
    // Only root may raise a limit of 0.
    Ok(limit(NONE).or_else(|_| limit(0))?)
}

/// Writes an attribute in one `write`. The file is neither created nor
/// truncated: a wrong path fails here as it does in the kernel.
///
/// # Errors
/// The kernel's errno; `WriteZero` when not all was taken.
pub fn write_attribute(path: &Path, value: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    let taken = file.write(value.as_bytes())?;
    if taken == value.len() {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("only {taken} bytes were taken"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_of_an_attribute_is_read_than_sysfs_gives() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        std::fs::create_dir(root.path().join("sys")).unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        for (file, length, read) in [
            ("/sys/name", 4096, Ok(4096)),
            ("/sys/name", 4097, Err("it holds more than 4096 bytes")),
            ("/sys/name", 70_000, Err("it holds more than 4096 bytes")),
            ("/name", 0, Ok(0)),
            ("/name", 70_000, Ok(70_000)),
            ("/name", 1 << 20, Ok(1 << 20)),
            (
                "/name",
                (1 << 20) + 1,
                Err("it holds more than 1048576 bytes"),
            ),
            // The mounts of a host with thousands of containers.
            ("/proc/name", (1 << 20) + 1, Ok((1 << 20) + 1)),
            ("/proc/name", 64 << 20, Ok(64 << 20)),
            (
                "/proc/name",
                (64 << 20) + 1,
                Err("it holds more than 67108864 bytes"),
            ),
        ] {
            std::fs::write(host.path(file), "x".repeat(length)).unwrap();
            let text = host.read(file).map(|text| text.len());
            let text = text.map_err(|error| error.to_string());
            assert_eq!(
                text.as_ref().map_err(String::as_str),
                read.as_ref().map_err(|e| *e),
                "{file} {length}"
            );
        }
    }

    /// The kernel gives such a list in whole lines: a read returns less than was asked for long
    /// before the end.
    #[test]
    fn a_list_of_the_kernel_is_read_to_its_end() {
        const SYMBOLS: &str = "/proc/kallsyms";
        let last = |text: &str| text.lines().last().map(str::to_owned);
        let text = Host::new("/").read(SYMBOLS).unwrap();
        let whole = std::fs::read_to_string(SYMBOLS).unwrap();
        assert!(text.len() > files::ATTRIBUTE, "{}", text.len());
        assert_eq!(last(&text), last(&whole));
    }

    #[test]
    fn what_is_no_regular_file_is_not_waited_for() {
        use std::os::unix::{fs::symlink, net::UnixListener};

        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let path = |name: &str| root.path().join(name);
        let made = std::process::Command::new("mkfifo")
            .arg(path("pipe"))
            .status();
        assert!(made.unwrap().success());
        let _socket = UnixListener::bind(path("socket")).unwrap();
        symlink("/dev/null", path("mask")).unwrap();
        symlink("/dev/zero", path("zeros")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        for (name, wanted) in [
            ("pipe", Err("it is no regular file")),
            ("zeros", Err("it is no regular file")),
            ("socket", Err("No such device or address (os error 6)")),
            ("folder", Err("Is a directory (os error 21)")),
            // This is how an administrator turns off a file of the system.
            ("mask", Ok("")),
        ] {
            let read = host.read(&format!("/{name}"));
            let read = read.map_err(|error| error.to_string());
            let wanted = wanted.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(read, wanted, "{name}");
        }
    }

    #[test]
    fn patience_comes_back_when_work_is_done() {
        let host = Host::new("/");
        host.be_done_by(Deadline::after(Duration::ZERO));
        assert_eq!(host.patience_left(), Duration::from_secs(1));
        host.be_patient_again();
        assert_eq!(host.patience_left(), Host::PATIENCE);
    }
}
