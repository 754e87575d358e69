//! What `/proc` tells: which processes live, which domain a QEMU belongs to and
//! who holds a device node open.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use nix::{fcntl::OFlag, sys::stat};
use serde::{Deserialize, Serialize};

use super::Host;
use crate::{
    device::{Sysfs, at, critical::DeviceNode, optional},
    model::DomainUuid,
};

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// Clock ticks from boot to its start (`/proc/PID/stat`, field 22).
    pub start_time: u64,
}

impl ProcessId {
    /// The start of an unreadable process: any process with its number may be the same one.
    const UNKNOWN: u64 = u64::MAX - 1;

    /// The process with that number, if there is one.
    ///
    /// # Errors
    /// When it has not ended and cannot be looked at.
    pub fn of(host: &Host, pid: u32) -> io::Result<Option<Self>> {
        // The command in field 2 may hold spaces and parentheses: count from its end.
        const START_TIME_AFTER_COMMAND: usize = 19;
        let path = format!("/proc/{pid}/stat");
        let stat = match host.read(&path) {
            Err(error) if has_ended(&error) => return Ok(None),
            stat => stat.map_err(|error| at(&path, &error))?,
        };
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
        let start_time = fields
            .and_then(|fields| fields.split_whitespace().nth(START_TIME_AFTER_COMMAND))
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| {
                let what = format!("{path}: it does not say when the process started");
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?;
        Ok(Some(Self { pid, start_time }))
    }

    /// The process that started this one: the libvirt daemon, for a hook.
    #[must_use]
    pub fn parent(host: &Host) -> Self {
        Self::noted(host, std::os::unix::process::parent_id())
    }

    /// The record of the process with that number. An unreadable process counts as alive
    /// while any process has its number.
    #[must_use]
    pub fn noted(host: &Host, pid: u32) -> Self {
        const OF_NO_PROCESS: u64 = u64::MAX;
        let start_time = match Self::of(host, pid) {
            Ok(Some(found)) => found.start_time,
            Ok(None) => OF_NO_PROCESS,
            Err(_) => Self::UNKNOWN,
        };
        Self { pid, start_time }
    }

    /// Whether the process still lives, or may still live.
    #[must_use]
    pub fn is_alive(self, host: &Host) -> bool {
        match Self::of(host, self.pid) {
            Ok(Some(found)) => found == self || self.start_time == Self::UNKNOWN,
            Ok(None) => false,
            Err(_) => true,
        }
    }
}

/// One look at all processes: the domains that run and the VFIO nodes that are
/// open.
#[derive(Debug, Default)]
pub struct Processes {
    domains: BTreeSet<DomainUuid>,
    holders: BTreeMap<String, Vec<u32>>,
    hidden: Vec<Hidden>,
    may_ask_nodes: bool,
}

/// A process that can be seen only in part: the process is confined, or this one is.
#[derive(Debug)]
struct Hidden {
    pid: u32,
    /// The part that could not be read, with the errno.
    why: String,
}

/// Who has a device open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// That process.
    Process(u32),
    /// Unknown; the text names the doubt, for people.
    Unknown(String),
}

impl Processes {
    /// Looks at every process. Processes that end meanwhile are skipped. A living process
    /// that cannot be read is a doubt ([`Holder::Unknown`]).
    ///
    /// # Errors
    /// When `/proc` cannot be listed.
    pub fn scan(host: &Host) -> io::Result<Self> {
        let mut seen = Self::default();
        let names = match host.list("/proc") {
            Ok(names) => names,
            // A directory that stands in for a host need not have processes.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !host.is_real() => Vec::new(),
            Err(error) => return Err(error),
        };
        for pid in names.iter().filter_map(|name| name.parse::<u32>().ok()) {
            let mut unseen = None;
            match Self::command_line(host, pid) {
                Ok(Some(bytes)) => {
                    let domain = domain_of(&bytes).filter(|_| may_be_qemu(host, pid));
                    seen.domains.extend(domain);
                }
                Ok(None) => {}
                Err(error) => unseen = Some(error.to_string()),
            }
            let unseen_files = seen.add_descriptors(host, pid);
            let why = unseen.or(unseen_files);
            seen.hidden.extend(why.map(|why| Hidden { pid, why }));
        }
        Ok(seen)
    }

    /// The same before devices are given back. If a process cannot be read, the devices'
    /// nodes are opened for a moment to find out. So it must not be used for devices that a
    /// VM may be about to open.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn scan_to_free(host: &Host) -> io::Result<Self> {
        Ok(Self {
            may_ask_nodes: true,
            ..Self::scan(host)?
        })
    }

    /// A process's arguments, each ended by a zero byte; None when it has ended.
    ///
    /// # Errors
    /// The kernel's errno with the path.
    pub fn command_line(host: &Host, pid: u32) -> io::Result<Option<Vec<u8>>> {
        let path = format!("/proc/{pid}/cmdline");
        match std::fs::read(host.path(&path)) {
            Ok(line) => Ok(Some(line)),
            Err(error) if has_ended(&error) => Ok(None),
            Err(error) => Err(at(&path, &error)),
        }
    }

    /// The doubt about its open files.
    fn add_descriptors(&mut self, host: &Host, pid: u32) -> Option<String> {
        let directory = format!("/proc/{pid}/fd");
        let mut unseen = None;
        let mut note = |path: &str, error: &io::Error| {
            if !has_ended(error) && unseen.is_none() {
                unseen = Some(format!("{path}: {error}"));
            }
        };
        match std::fs::read_dir(host.path(&directory)) {
            Err(error) => note(&directory, &error),
            Ok(entries) => {
                for entry in entries {
                    let entry = match entry {
                        Ok(entry) => entry,
                        Err(error) => {
                            note(&directory, &error);
                            break;
                        }
                    };
                    match std::fs::read_link(entry.path()) {
                        Ok(target) => {
                            if let Some(node) = target.to_str().and_then(vfio_node) {
                                self.holders.entry(node.to_owned()).or_default().push(pid);
                            }
                        }
                        Err(error) => {
                            let name = entry.file_name();
                            note(&format!("{directory}/{}", name.to_string_lossy()), &error);
                        }
                    }
                }
            }
        }
        unseen
    }

    /// Whether a QEMU runs under that domain UUID, whatever started it.
    #[must_use]
    pub fn runs(&self, domain: DomainUuid) -> bool {
        self.domains.contains(&domain)
    }

    /// The first visible process that has one of the nodes open.
    #[must_use]
    pub fn opener(&self, nodes: &[String]) -> Option<u32> {
        nodes
            .iter()
            .find_map(|node| self.holders.get(node)?.first().copied())
    }

    /// The process that has one of a device's nodes open. If not all processes are visible,
    /// the device's IOMMU group decides: the kernel allows only one open of a group
    /// (`vfio_group_fops_open`), and none while the device's other node is open for use
    /// (`vfio_device_block_group`).
    #[must_use]
    pub fn holder(&self, host: &Host, nodes: &[String]) -> Holder {
        if let Some(pid) = self.opener(nodes) {
            return Holder::Process(pid);
        }
        let Some(first) = self.hidden.first().filter(|_| !nodes.is_empty()) else {
            return Holder::Nobody;
        };
        let groups: Vec<&String> = nodes.iter().filter(|node| is_group(node)).collect();
        let mut answer = None;
        if self.may_ask_nodes && !groups.is_empty() {
            match groups.iter().try_for_each(|node| open_group(host, node)) {
                Ok(()) => return Holder::Nobody,
                Err(why) => answer = Some(why),
            }
        }
        let more = match self.hidden.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let asked = answer.map(|why| format!("; {why}")).unwrap_or_default();
        Holder::Unknown(format!(
            "process {}{more} cannot be looked at ({}) and may have {} open{asked}",
            first.pid,
            first.why,
            nodes.join(" or ")
        ))
    }
}

/// `/dev/vfio/12`; the other nodes of VFIO have no number there.
fn is_group(node: &str) -> bool {
    let number = node.strip_prefix("/dev/vfio/");
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Opens the node of a group and closes it again.
fn open_group(host: &Host, node: &str) -> Result<(), String> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let flags = (OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits();
    let opened = options.read(true).write(true).custom_flags(flags);
    match opened.open(host.path(node)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            Err(format!("somebody has {node} open"))
        }
        Err(error) => Err(format!("{node} does not say either: {error}")),
    }
}

/// Whether a process can be a QEMU that libvirt has started: a process of root or of the
/// user that libvirt runs QEMU as. Every user can write a UUID into the arguments of a
/// program, but cannot change its real user. A QEMU of another user (a domain's own
/// `<seclabel>`) is found by libvirt's pidfile, and by its open devices.
fn may_be_qemu(host: &Host, pid: u32) -> bool {
    let text = match host.read(&format!("/proc/{pid}/status")) {
        Ok(text) => text,
        Err(error) => return !has_ended(&error),
    };
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    let Some(user) = line.and_then(|line| line.split_whitespace().next()?.parse::<u32>().ok())
    else {
        return true;
    };
    // If QEMU's user is unknown, it may be any user.
    user == 0 || qemu_users(host).map_or(true, |users| users.contains(&user))
}

/// The users that libvirt runs QEMU as: the user in `qemu.conf`, and the defaults of the
/// distributions.
fn qemu_users(host: &Host) -> io::Result<BTreeSet<u32>> {
    let text = |path| Ok::<_, io::Error>(optional(host.read_file(path))?.unwrap_or_default());
    let conf = text("/etc/libvirt/qemu.conf")?;
    let named = conf.lines().find_map(|line| {
        let (key, value) = line.trim().split_once('=')?;
        (key.trim() == "user").then(|| value.trim().trim_matches('"').to_owned())
    });
    let names: Vec<&str> = named
        .as_deref()
        .into_iter()
        .chain(["libvirt-qemu", "qemu"])
        .collect();
    let number = named
        .as_deref()
        .and_then(|name| name.trim_start_matches('+').parse().ok());
    let mut users: BTreeSet<u32> = number.into_iter().collect();
    for line in text("/etc/passwd")?.lines() {
        let mut fields = line.split(':');
        if fields.next().is_some_and(|name| names.contains(&name)) {
            users.extend(fields.nth(1).and_then(|number| number.parse::<u32>().ok()));
        }
    }
    Ok(users)
}

/// A process that has a device open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opener {
    /// Its number.
    pub pid: u32,
    /// Its command's name.
    pub command: String,
    /// The service of systemd that it belongs to, if it is of one.
    pub unit: Option<String>,
}

/// `nvidia-smi (process 4711)`, `nv-hostengine (process 812 of nvidia-dcgm.service)`.
impl std::fmt::Display for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pid, command, unit } = self;
        match unit {
            Some(unit) => write!(f, "{command} (process {pid} of {unit})"),
            None => write!(f, "{command} (process {pid})"),
        }
    }
}

/// The service of a process, by the name of its control group, as systemd has it
/// (`systemd.resource-control(5)`, `cgroup_path_get_unit`).
fn unit_of(host: &Host, pid: u32) -> Option<String> {
    let groups = std::fs::read_to_string(host.path(&format!("/proc/{pid}/cgroup"))).ok()?;
    let mut paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    // Version 2, or systemd's own hierarchy of version 1: all name the service alike.
    let unit = paths.find_map(|path| {
        let mut parts = path.rsplit('/');
        parts.find(|part| part.ends_with(".service"))
    });
    unit.map(|unit| crate::model::visible(unit).into_owned())
}

/// The processes that have a GPU of NVIDIA's driver open. Unreadable processes are left out,
/// because the list is only for people.
#[must_use]
pub fn gpu_openers(host: &Host) -> Vec<Opener> {
    // Neither the services' own node nor those of other functions of the driver.
    let is_gpu = |node: &str| {
        let rest = node.strip_prefix("/dev/nvidia");
        rest.is_some_and(|rest| rest == "ctl" || rest.parse::<u8>().is_ok())
    };
    let is_open = |descriptor: &Path| {
        let target = std::fs::read_link(descriptor);
        target.is_ok_and(|target| target.to_str().is_some_and(is_gpu))
    };
    let openers = openers(host, is_open).map(|(pid, command)| Opener {
        pid,
        command,
        unit: unit_of(host, pid),
    });
    openers.collect()
}

/// The first process that has one of the nodes open, under any name, with its command's name:
/// a container can have another name for a node. Unreadable processes are left out.
#[must_use]
pub fn opener_of(host: &Host, nodes: &[DeviceNode]) -> Option<(u32, String)> {
    openers(host, |descriptor| is_one_of(descriptor, nodes)).next()
}

/// The processes that have such a file open, each with its command's name; the file is given
/// by its link in `/proc/PID/fd`. Unreadable processes are left out.
fn openers(host: &Host, is_it: impl Fn(&Path) -> bool) -> impl Iterator<Item = (u32, String)> {
    let names = host.list("/proc").unwrap_or_default();
    let pids = names.into_iter().filter_map(|name| name.parse().ok());
    pids.filter_map(move |pid: u32| {
        let entries = std::fs::read_dir(host.path(&format!("/proc/{pid}/fd"))).ok()?;
        let mut descriptors = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let is_open = descriptors.any(|descriptor| is_it(&descriptor));
        is_open.then(|| (pid, command(host, pid)))
    })
}

fn is_one_of(descriptor: &Path, nodes: &[DeviceNode]) -> bool {
    let Ok(target) = std::fs::read_link(descriptor) else {
        return false;
    };
    // Not a socket, a pipe and the like.
    let Some(target) = target.to_str().filter(|target| target.starts_with('/')) else {
        return false;
    };
    let name = target.strip_suffix(" (deleted)").unwrap_or(target);
    if nodes.iter().any(|node| node.path() == name) {
        return true;
    }
    let Ok(opened) = std::fs::metadata(descriptor) else {
        return false;
    };
    let is_block = opened.file_type().is_block_device();
    if !is_block && !opened.file_type().is_char_device() {
        return false;
    }
    let device = opened.rdev();
    let number = (stat::major(device), stat::minor(device));
    let number = (u32::try_from(number.0).ok(), u32::try_from(number.1).ok());
    let (Some(major), Some(minor)) = number else {
        return false;
    };
    let mut nodes = nodes.iter();
    nodes.any(|node| node.is_block() == is_block && node.number() == Some((major, minor)))
}

/// A process's name, which it can choose: any bytes, line breaks too.
fn command(host: &Host, pid: u32) -> String {
    let name = std::fs::read(host.path(&format!("/proc/{pid}/comm"))).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
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
        let own = ProcessId::of(&host, std::process::id()).unwrap().unwrap();
        assert!(own.is_alive(&host));
        assert!(
            !ProcessId {
                start_time: own.start_time + 1,
                ..own
            }
            .is_alive(&host)
        );
    }

    /// A host whose processes' files cannot be read: what is there is a directory.
    fn with_unreadable(paths: &[&str]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            std::fs::create_dir_all(root.path().join(path)).unwrap();
        }
        let host = Host::new(root.path());
        (root, host)
    }

    #[test]
    fn a_process_that_cannot_be_looked_at_may_be_alive() {
        let (root, host) = with_unreadable(&["proc/7/stat"]);
        let error = ProcessId::of(&host, 7).unwrap_err().to_string();
        assert!(error.starts_with("/proc/7/stat: Is a directory"), "{error}");
        let seen_before = ProcessId {
            pid: 7,
            start_time: 70,
        };
        let never_seen = ProcessId::noted(&host, 7);
        assert!(seen_before.is_alive(&host) && never_seen.is_alive(&host));

        // Who can look may see any process there, which may be the one.
        std::fs::remove_dir(root.path().join("proc/7/stat")).unwrap();
        let fields = format!("7 (a ) b) S{} 71 0\n", " 0".repeat(18));
        std::fs::write(root.path().join("proc/7/stat"), fields).unwrap();
        assert!(!seen_before.is_alive(&host));
        assert!(never_seen.is_alive(&host));
        assert_eq!(ProcessId::noted(&host, 7).start_time, 71);

        std::fs::write(root.path().join("proc/7/stat"), "7 (sh) S 1\n").unwrap();
        let error = ProcessId::of(&host, 7).unwrap_err().to_string();
        let odd = "/proc/7/stat: it does not say when the process started";
        assert_eq!(error, odd);

        std::fs::remove_file(root.path().join("proc/7/stat")).unwrap();
        assert!(!seen_before.is_alive(&host) && !never_seen.is_alive(&host));
        assert!(!ProcessId::noted(&host, 7).is_alive(&host));
    }

    #[test]
    fn a_process_without_readable_arguments_may_have_every_device() {
        let (root, host) = with_unreadable(&["proc/7/cmdline", "proc/7/fd"]);
        let nodes = ["/dev/vfio/12".to_owned()];
        let seen = Processes::scan(&host).unwrap();
        let doubt = "process 7 cannot be looked at (/proc/7/cmdline: Is a directory (os error 21)) \
                     and may have /dev/vfio/12 open";
        assert_eq!(
            seen.holder(&host, &nodes),
            Holder::Unknown(doubt.to_owned())
        );
        std::fs::remove_dir(root.path().join("proc/7/cmdline")).unwrap();
        let seen = Processes::scan(&host).unwrap();
        assert_eq!(seen.holder(&host, &nodes), Holder::Nobody);
    }

    #[test]
    fn a_device_is_open_under_any_name() {
        let node = |path: &str, number| vec![DeviceNode::new(path.to_owned(), number, false)];
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        std::fs::create_dir_all(root.path().join("proc/7/fd")).unwrap();
        std::fs::write(root.path().join("proc/7/comm"), "qemu\n").unwrap();
        let descriptor = root.path().join("proc/7/fd/3");
        let opener = (7, "qemu".to_owned());
        for (target, path) in [
            ("/dev/nvme0", "/dev/nvme0"),
            ("/dev/bus/usb/003/002 (deleted)", "/dev/bus/usb/003/002"),
        ] {
            std::os::unix::fs::symlink(target, &descriptor).unwrap();
            assert_eq!(opener_of(&host, &node(path, None)), Some(opener.clone()));
            assert_eq!(opener_of(&host, &node("/dev/nvme1", None)), None);
            std::fs::remove_file(&descriptor).unwrap();
        }
        // The number of /dev/null, under another name.
        std::os::unix::fs::symlink("/dev/null", &descriptor).unwrap();
        let null = node("/dev/other", Some((1, 3)));
        assert_eq!(opener_of(&host, &null), Some(opener));
        let full = node("/dev/other", Some((1, 7)));
        assert_eq!(opener_of(&host, &full), None);
        let disk = vec![DeviceNode::new("/dev/other".to_owned(), Some((1, 3)), true)];
        assert_eq!(opener_of(&host, &disk), None);
    }

    #[test]
    fn any_user_may_be_qemus_where_that_cannot_be_read() {
        let domain: DomainUuid = "aaaaaaaa-0000-4000-8000-000000000001".parse().unwrap();
        for (unreadable, runs) in [
            ("etc/libvirt/qemu.conf", true),
            ("etc/passwd", true),
            ("etc/shadow", false),
        ] {
            let (root, host) = with_unreadable(&["proc/7/fd", unreadable]);
            let put = |file: &str, text: String| {
                std::fs::write(root.path().join(file), text).unwrap();
            };
            put("proc/7/cmdline", format!("sh\0-uuid\0{domain}\0"));
            put("proc/7/status", "Uid:\t1000\t1000\t1000\t1000\n".into());
            let seen = Processes::scan(&host).unwrap();
            assert_eq!(seen.runs(domain), runs, "{unreadable}");
        }
    }
}
