//! Disks that do not lie below a PCI function: heads of NVMe multipath, NVMe over
//! fabrics, and iSCSI. Each has controllers or sessions, and these lie below PCI
//! functions or come from a server.

use std::io;

use super::{block::Remote, place};
use crate::device::{Sysfs, list, optional, read};

/// What was found of one disk.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Directories of its controllers.
    pub(super) places: Vec<String>,
    /// The servers that it comes from.
    pub(super) remotes: Vec<Remote>,
    /// What could not be read.
    pub(super) unread: Vec<String>,
}

/// The controllers and servers of the disk at that path.
pub(super) fn places(sysfs: &dyn Sysfs, disk: &str, path: &str) -> Found {
    let mut found = Found::default();
    let directory = place::parent(path);
    if directory.contains("/nvme-subsystem/") {
        found.note(|found| found.add_controllers(sysfs, disk, directory));
    } else if directory.contains("/nvme-fabrics/") {
        found.note(|found| found.add_controller(sysfs, directory));
    } else if place::functions(path).is_empty() {
        let mut names = directory.split('/');
        if let Some(session) = names.find(|name| place::is_numbered(name, "session")) {
            found.note(|found| found.add_session(sysfs, session));
        }
    }
    found
}

impl Found {
    fn note(&mut self, act: impl FnOnce(&mut Self) -> io::Result<()>) {
        if let Err(error) = act(self) {
            self.unread.push(error.to_string());
        }
    }

    /// The controllers of a head, which lies in its subsystem. `nvme0c1n1` is the path of
    /// `nvme0n1` through the controller `nvme1`.
    fn add_controllers(
        &mut self,
        sysfs: &dyn Sysfs,
        head: &str,
        subsystem: &str,
    ) -> io::Result<()> {
        let mut others = Vec::new();
        let before = self.places.len() + self.remotes.len();
        for name in list(sysfs, subsystem)? {
            if !place::is_numbered(&name, "nvme") {
                continue;
            }
            let controller = match place::target(sysfs, &format!("{subsystem}/{name}")) {
                Ok(controller) => controller,
                Err(error) if place::is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            match is_path_of(sysfs, &controller, head) {
                Ok(false) => others.push(controller),
                Ok(true) | Err(_) => self.add_controller(sysfs, &controller)?,
            }
        }
        if self.places.len() + self.remotes.len() == before {
            for controller in others {
                self.add_controller(sysfs, &controller)?;
            }
        }
        Ok(())
    }

    fn add_controller(&mut self, sysfs: &dyn Sysfs, controller: &str) -> io::Result<()> {
        if !controller.contains("/nvme-fabrics/") {
            // Its own name is a step of the chain.
            self.places.push(format!("{controller}/path"));
            return Ok(());
        }
        let transport = read(sysfs, &format!("{controller}/transport"))?;
        let address = read(sysfs, &format!("{controller}/address"))?;
        let part = |key: &str| {
            let mut parts = address.split(',');
            parts.find_map(|part| part.trim().strip_prefix(key)?.strip_prefix('='))
        };
        let name = place::name(controller).to_owned();
        match (transport.as_str(), part("traddr"), part("host_traddr")) {
            ("tcp" | "rdma", Some(address), _) => {
                let address = address.to_owned();
                self.remotes.push(Remote { name, address });
                Ok(())
            }
            ("fc", _, Some(port)) => {
                let adapter = fibre_channel_adapter(sysfs, port)?;
                self.places.push(format!("{adapter}/{name}/path"));
                Ok(())
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{controller}/address: no device of this host has '{address}' ({transport})"
                ),
            )),
        }
    }

    fn add_session(&mut self, sysfs: &dyn Sysfs, session: &str) -> io::Result<()> {
        const CONNECTIONS: &str = "/sys/class/iscsi_connection";
        let number = session.trim_start_matches("session");
        let ours = format!("connection{number}:");
        for name in list(sysfs, CONNECTIONS)? {
            if name.starts_with(&ours) {
                // `address` is missing while the session is not logged in.
                let address = match optional(read(sysfs, &format!("{CONNECTIONS}/{name}/address")))
                {
                    Ok(Some(address)) => address,
                    _ => read(sysfs, &format!("{CONNECTIONS}/{name}/persistent_address"))?,
                };
                let name = session.to_owned();
                self.remotes.push(Remote { name, address });
            }
        }
        Ok(())
    }
}

/// Whether a controller has a path of a head.
fn is_path_of(sysfs: &dyn Sysfs, controller: &str, head: &str) -> io::Result<bool> {
    let names = list(sysfs, controller)?;
    let is_path = |name: &String| {
        let split = name.split_once('c');
        let rest = split.and_then(|(start, rest)| Some((start, rest.find('n')?, rest)));
        rest.is_some_and(|(start, at, rest)| format!("{start}{}", &rest[at..]) == head)
    };
    Ok(names.iter().any(is_path))
}

/// The directory of the Fibre Channel adapter with that port (`nn-0x…:pn-0x…`).
fn fibre_channel_adapter(sysfs: &dyn Sysfs, port: &str) -> io::Result<String> {
    let wanted = port.rsplit("pn-").next().unwrap_or_default();
    for (host, path) in place::of_class(sysfs, "fc_host")? {
        let name = format!("/sys/class/fc_host/{host}/port_name");
        if read(sysfs, &name)?.eq_ignore_ascii_case(wanted) {
            // It is `…/host7/fc_host/host7`.
            return Ok(place::parent(place::parent(&path)).to_owned());
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("/sys/class/fc_host: no adapter has the port {port}"),
    ))
}
