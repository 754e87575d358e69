//! The daemon's notes for `virt-vgpu status`, in a file: its process, and the problems that
//! it could not solve.

use std::{collections::BTreeSet, io};

use serde::{Deserialize, Serialize};

use crate::{
    host::{Host, ProcessId},
    model::{DeviceName, DomainUuid},
};

/// The file.
const PATH: &str = "/run/virt-vgpu/daemon.json";

/// The daemon's notes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonNotes {
    /// The daemon. When it does not live any more, the rest is of the past.
    process: Option<ProcessId>,
    /// Whether it has a connection to libvirt.
    pub connected: bool,
    /// The problems, a line each.
    pub problems: Vec<String>,
    /// Devices that were unplugged on purpose: the next daemon must not plug them in again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub let_go: BTreeSet<(DomainUuid, DeviceName)>,
}

impl DaemonNotes {
    /// Those of this process.
    pub fn new(
        host: &Host,
        connected: bool,
        problems: Vec<String>,
        let_go: BTreeSet<(DomainUuid, DeviceName)>,
    ) -> Self {
        Self {
            process: Some(ProcessId::noted(host, std::process::id())),
            connected,
            problems,
            let_go,
        }
    }

    /// Puts them where `status` finds them.
    pub fn publish(&self, host: &Host) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        host.make_directory("/run/virt-vgpu", 0o755)
            .and_then(|()| host.replace_file(PATH, text.as_bytes(), 0o644))
            .map_err(|error| io::Error::new(error.kind(), format!("cannot write {PATH}: {error}")))
    }

    /// The notes of the last daemon since boot, if there are any.
    ///
    /// # Errors
    /// When the file cannot be read or understood. The daemon writes a new file at its
    /// next event.
    pub fn read(host: &Host) -> io::Result<Option<Self>> {
        let cannot =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot read {PATH}: {error}"));
        match host.read_file(PATH) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| cannot(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot(error)),
        }
    }

    /// Whether the daemon that has said it lives.
    pub fn is_current(&self, host: &Host) -> bool {
        self.process.is_some_and(|process| process.is_alive(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_as_if_no_daemon_had_been_there() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let read = || DaemonNotes::read(&host).map_err(|error| error.to_string());
        assert_eq!(read(), Ok(None));
        let notes = DaemonNotes::new(&host, true, Vec::new(), BTreeSet::new());
        notes.publish(&host).unwrap();
        assert_eq!(read(), Ok(Some(notes)));
        std::fs::write(host.path(PATH), "{}").unwrap();
        let error = read().unwrap_err();
        let start = "cannot read /run/virt-vgpu/daemon.json: missing field";
        assert!(error.starts_with(start), "{error}");
        std::fs::remove_file(host.path(PATH)).unwrap();
        std::fs::create_dir(host.path(PATH)).unwrap();
        let error = "cannot read /run/virt-vgpu/daemon.json: Is a directory (os error 21)";
        assert_eq!(read(), Err(error.to_owned()));
    }
}
