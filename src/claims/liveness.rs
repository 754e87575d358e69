//! Whether a claim is still needed. Devices are freed only if the domain provably
//! neither runs nor is about to run; when in doubt, the claim counts as needed.

use std::{io, time::Duration};

use super::{Claim, State};
use crate::{
    device::{optional, read},
    host::{Holder, Host, Processes, since_boot},
};

/// How long after a step of a domain's start its claim is left alone while the libvirt
/// daemon that is starting it lives. Between `prepare` and the start of QEMU only the
/// time tells a slow start from a failed one.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(120);

/// For how long after a start a function's plugin may still be initialising.
const INITIALISING: Duration = Duration::from_secs(30);

/// Whether a claim's domain needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Liveness {
    /// The domain is running, or its devices are open; which.
    InUse(String),
    /// Unknown; the reason.
    Unknown(Doubt),
    /// The domain is not running and no process holds its devices.
    Stale,
}

/// Why a claim is left alone although its domain does not seem to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// The domain may be starting right now.
    Starting,
    /// The domain has just ended, and libvirt has not said how yet.
    Ending,
    /// There was no time left to check.
    NotReached,
    /// Another process is making or giving back its devices; which.
    AtWork(String),
    /// Something could not be read.
    Unreadable(String),
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Starting => f.write_str("the domain may be starting right now"),
            Self::Ending => f.write_str(
                "the domain has ended soon after its start, and libvirt is about to say how",
            ),
            Self::NotReached => f.write_str("it was not checked: others took too long"),
            Self::AtWork(who) => write!(f, "its devices are being changed by {who}"),
            Self::Unreadable(what) => f.write_str(what),
        }
    }
}

impl Claim {
    /// Decides whether the claim is still needed, from QEMU's pidfile, the running
    /// processes, and the device nodes that they hold.
    #[must_use]
    pub fn liveness(&self, host: &Host, processes: &Processes, grace: Duration) -> Liveness {
        if processes.runs(self.domain) {
            return Liveness::InUse(format!("domain '{}' is running", self.domain_name));
        }
        match self.qemu_by_pidfile(host) {
            Ok(None) => {}
            Ok(Some(pid)) => {
                let vm = &self.domain_name;
                let what = format!("domain '{vm}' is running as process {pid}");
                return Liveness::InUse(what);
            }
            Err(error) => return Liveness::Unknown(Doubt::Unreadable(error.to_string())),
        }
        let mut opened = Vec::new();
        for device in &self.devices {
            match device.nodes(host) {
                Ok(nodes) => {
                    if let Some(pid) = processes.opener(&nodes) {
                        return Liveness::InUse(format!(
                            "process {pid} has {} open",
                            device.handle
                        ));
                    }
                    opened.push(nodes);
                }
                Err(error) => return Liveness::Unknown(Doubt::Unreadable(error.to_string())),
            }
        }
        // Only the hook, which libvirt is about to call, is told how the domain ended.
        let may_be_ending = self.may_be_of_this_boot(host) && self.may_be_wedged();
        if self.may_be_starting(host, grace) {
            return Liveness::Unknown(Doubt::Starting);
        }
        if may_be_ending && !grace.is_zero() {
            return Liveness::Unknown(Doubt::Ending);
        }
        // No QEMU is about to open the nodes any more, so the nodes can be checked.
        for nodes in opened {
            match processes.holder(host, &nodes) {
                Holder::Nobody => {}
                Holder::Process(pid) => {
                    return Liveness::InUse(format!("process {pid} has {} open", nodes.join(", ")));
                }
                Holder::Unknown(why) => return Liveness::Unknown(Doubt::Unreadable(why)),
            }
        }
        Liveness::Stale
    }

    /// QEMU's process from libvirt's pidfile (`/run/libvirt/qemu/NAME.pid`), if that
    /// process is this domain's QEMU. A pidfile may be left over from a QEMU that was
    /// killed, and its number may belong to another process now.
    fn qemu_by_pidfile(&self, host: &Host) -> io::Result<Option<u32>> {
        let path = format!("/run/libvirt/qemu/{}.pid", self.domain_name);
        let Some(text) = optional(read(host, &path))? else {
            return Ok(None);
        };
        let pid: u32 = text.parse().map_err(|_| {
            let what = format!("{path}: '{text}' is not a process number");
            io::Error::new(io::ErrorKind::InvalidData, what)
        })?;
        let line = Processes::command_line(host, pid)?.unwrap_or_default();
        let uuid = self.domain.to_string();
        let is_its = line.windows(uuid.len()).any(|part| part == uuid.as_bytes());
        Ok(is_its.then_some(pid))
    }

    /// Whether the claim's VM has functions and started so recently that their plugin
    /// may still have been initialising. Initialising takes some seconds, as measured;
    /// a wedged function shows half a minute after the start.
    #[must_use]
    pub fn may_be_wedged(&self) -> bool {
        let is_committed = self.launched && self.state == State::Committed;
        self.wedging().next().is_some() && is_committed && self.age() < INITIALISING
    }

    pub(super) fn age(&self) -> Duration {
        since_boot().saturating_sub(Duration::from_millis(self.since_boot_ms))
    }

    fn may_be_starting(&self, host: &Host, grace: Duration) -> bool {
        if self.state == State::Releasing || !self.may_be_of_this_boot(host) {
            return false;
        }
        let daemon_lives = self.daemon.is_some_and(|daemon| daemon.is_alive(host));
        daemon_lives && self.age() < grace
    }
}
