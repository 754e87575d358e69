//! What `/proc` tells: which processes live, which domain a QEMU belongs to and
//! who holds a device node open.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::Host;
use crate::{device::Sysfs, model::DomainUuid};

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// Clock ticks from boot to its start (`/proc/PID/stat`, field 22).
    pub start_time: u64,
}

impl ProcessId {
    /// The process with that number, if there is one.
    #[must_use]
    pub fn of(host: &Host, pid: u32) -> Option<Self> {
        // The command in field 2 may hold spaces and parentheses: count from its end.
        const START_TIME_AFTER_COMMAND: usize = 19;
        let stat = host.read(&format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let start_time = fields
            .split_whitespace()
            .nth(START_TIME_AFTER_COMMAND)?
            .parse()
            .ok()?;
        Some(Self { pid, start_time })
    }

    /// The process that started this one: the libvirt daemon, for a hook. One that
    /// cannot be looked at counts as ended.
    #[must_use]
    pub fn parent(host: &Host) -> Self {
        const OF_NO_PROCESS: u64 = u64::MAX;
        let pid = std::os::unix::process::parent_id();
        Self::of(host, pid).unwrap_or(Self {
            pid,
            start_time: OF_NO_PROCESS,
        })
    }

    /// Whether it still lives.
    #[must_use]
    pub fn is_alive(self, host: &Host) -> bool {
        Self::of(host, self.pid) == Some(self)
    }
}

/// One look at all processes: the domains that run and the VFIO nodes that are
/// open.
#[derive(Debug, Default)]
pub struct Processes {
    domains: BTreeSet<DomainUuid>,
    holders: BTreeMap<String, Vec<u32>>,
}

impl Processes {
    /// Looks at every process. Those that end meanwhile are passed over.
    ///
    /// # Errors
    /// When `/proc` cannot be listed, or a living process's descriptors cannot
    /// be: then nobody can say that a device is not in use.
    pub fn scan(host: &Host) -> io::Result<Self> {
        let mut seen = Self::default();
        let names = match host.list("/proc") {
            Ok(names) => names,
            // A directory that stands in for a host need not have processes.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !host.is_real() => Vec::new(),
            Err(error) => return Err(error),
        };
        for pid in names.iter().filter_map(|name| name.parse::<u32>().ok()) {
            if let Ok(bytes) = Self::command_line(host, pid) {
                seen.domains.extend(domain_of(&bytes));
            }
            seen.add_descriptors(&host.path(&format!("/proc/{pid}/fd")), pid)?;
        }
        Ok(seen)
    }

    /// A process's arguments, each ended by a zero byte.
    ///
    /// # Errors
    /// The kernel's errno, as when the process has ended.
    pub fn command_line(host: &Host, pid: u32) -> io::Result<Vec<u8>> {
        std::fs::read(host.path(&format!("/proc/{pid}/cmdline")))
    }

    fn add_descriptors(&mut self, directory: &Path, pid: u32) -> io::Result<()> {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if has_ended(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if has_ended(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            if let Some(node) = target.to_str().and_then(vfio_node) {
                self.holders.entry(node.to_owned()).or_default().push(pid);
            }
        }
        Ok(())
    }

    /// Whether a QEMU runs under that domain UUID, whatever started it.
    #[must_use]
    pub fn runs(&self, domain: DomainUuid) -> bool {
        self.domains.contains(&domain)
    }

    /// The first process that has one of the nodes open.
    #[must_use]
    pub fn holder(&self, nodes: &[String]) -> Option<u32> {
        nodes
            .iter()
            .find_map(|node| self.holders.get(node)?.first().copied())
    }
}

/// The processes that have a GPU of NVIDIA's driver open, each with its command's
/// name. One that cannot be looked at is left out: this is for people.
#[must_use]
pub fn gpu_openers(host: &Host) -> Vec<(u32, String)> {
    // Neither the services' own node nor those of other functions of the driver.
    let is_gpu = |node: &str| {
        let rest = node.strip_prefix("/dev/nvidia");
        rest.is_some_and(|rest| rest == "ctl" || rest.parse::<u8>().is_ok())
    };
    let names = host.list("/proc").unwrap_or_default();
    let pids = names.iter().filter_map(|name| name.parse::<u32>().ok());
    let opener = |pid: u32| {
        let entries = std::fs::read_dir(host.path(&format!("/proc/{pid}/fd"))).ok()?;
        let mut targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        targets
            .any(|target| target.to_str().is_some_and(is_gpu))
            .then(|| {
                (
                    pid,
                    host.read(&format!("/proc/{pid}/comm")).unwrap_or_default(),
                )
            })
    };
    pids.filter_map(opener).collect()
}

/// libvirt removes a node from QEMU's own `/dev` as soon as the device has left the
/// machine's bus; QEMU closes it a moment later.
fn vfio_node(target: &str) -> Option<&str> {
    let node = target.strip_suffix(" (deleted)").unwrap_or(target);
    node.starts_with("/dev/vfio/").then_some(node)
}

fn has_ended(error: &io::Error) -> bool {
    const ESRCH: i32 = 3;
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}

/// The UUID that libvirt gives to QEMU (`-uuid UUID`, `qemuBuildSmbiosCommandLine`
/// and `qemuBuildCommandLine`).
fn domain_of(command_line: &[u8]) -> Option<DomainUuid> {
    let mut arguments = command_line.split(|&byte| byte == 0);
    arguments.by_ref().find(|argument| *argument == b"-uuid")?;
    std::str::from_utf8(arguments.next()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_is_read_from_the_uuid_argument() {
        let line = b"/usr/bin/qemu-system-x86_64\0-name\0guest=a\0-uuid\0aaaaaaaa-0000-4000-8000-000000000001\0-S\0";
        assert_eq!(
            domain_of(line),
            "aaaaaaaa-0000-4000-8000-000000000001".parse().ok()
        );
        for other in [
            &b""[..],
            b"-uuid",
            b"-uuid\0",
            b"-uuid\0nonsense\0",
            b"\xff\0-uuid\0\xff\0",
        ] {
            assert_eq!(domain_of(other), None);
        }
    }

    #[test]
    fn a_node_is_open_also_after_its_removal() {
        assert_eq!(vfio_node("/dev/vfio/12"), Some("/dev/vfio/12"));
        assert_eq!(vfio_node("/dev/vfio/12 (deleted)"), Some("/dev/vfio/12"));
        assert_eq!(vfio_node("/dev/nvidia0 (deleted)"), None);
    }

    #[test]
    fn this_process_is_alive_and_a_later_one_is_not_it() {
        let host = Host::new("/");
        let own = ProcessId::of(&host, std::process::id()).unwrap();
        assert!(own.is_alive(&host));
        assert!(
            !ProcessId {
                start_time: own.start_time + 1,
                ..own
            }
            .is_alive(&host)
        );
    }
}
