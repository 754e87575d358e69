//! The domain that a verb works on: found through libvirt, its definition read.

use std::{io::ErrorKind, time::Duration};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::{
    domain::{self, DomainDef, DomainError},
    host::{
        Deadline, EditLock, Host, LockError,
        libvirt::{Domain, Libvirt, uri_or_default},
    },
    model::DomainUuid,
};

/// Which libvirt daemon to talk to.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// Connect to this libvirt URI [default: as virsh, else qemu:///system].
    #[arg(short = 'c', long = "connect", value_name = "URI")]
    uri: Option<String>,
}

/// What verbs that edit a definition take besides.
#[derive(Debug, Args)]
pub(super) struct Edit {
    /// Only say what would change.
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) connection: Connection,
}

/// A persistent definition.
#[derive(Debug)]
pub(super) struct Definition {
    /// The XML that the next start uses.
    pub(super) xml: String,
    pub(super) def: DomainDef,
    /// Our metadata element in it.
    pub(super) element: Option<String>,
}

impl Definition {
    pub(super) fn read(xml: String) -> Result<Self, DomainError> {
        Ok(Self {
            def: domain::parse(&xml)?,
            element: domain::metadata_element(&xml)?,
            xml,
        })
    }
}

/// A domain with its definition.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) domain: Domain,
    pub(super) definition: Definition,
    pub(super) running: bool,
    /// Whether the next start resumes a saved state instead.
    pub(super) saved: bool,
    /// Held from reading the definition to the last edit.
    _lock: Option<EditLock>,
}

/// libvirt keeps a domain to itself while it starts, our hook's time included.
const PATIENCE: Duration = Duration::from_secs(60);

impl Connection {
    /// The domain, of whatever daemon.
    pub(super) fn find(&self, name: &str) -> anyhow::Result<Domain> {
        let uri = uri_or_default(self.uri.as_deref());
        Ok(Libvirt::open(&uri)?.domain(name)?)
    }

    /// The domain, of a daemon whose domains this host's hook serves.
    pub(super) fn find_served(&self, name: &str) -> anyhow::Result<Domain> {
        Ok(self.open_served()?.domain(name)?)
    }

    /// A daemon whose domains this host's hook serves.
    pub(super) fn open_served(&self) -> anyhow::Result<Libvirt> {
        let uri = uri_or_default(self.uri.as_deref());
        check_served(&uri)?;
        let libvirt = Libvirt::open(&uri)?;
        // An alias of libvirt.conf is known only now.
        check_served(&libvirt.uri())?;
        Ok(libvirt)
    }
}

/// Refuses daemons that do not run this host's hook as root.
fn check_served(uri: &str) -> anyhow::Result<()> {
    let (_, rest) = uri.split_once("://").unwrap_or(("", uri));
    let (server, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let path = path.split('?').next().unwrap_or_default();
    if path == "/session" {
        bail!(
            "{uri}: domains of a session run without root and get no devices; \
             use '--connect qemu:///system'"
        );
    }
    let user_and_port_off = |server: &str| {
        let (_, host) = server.rsplit_once('@').unwrap_or(("", server));
        host.split(':').next().unwrap_or_default().to_owned()
    };
    let local = server.is_empty() || user_and_port_off(server) == "localhost";
    ensure!(
        local,
        "{uri}: pools are those of the host that runs the domain; run virt-vgpu on '{server}'"
    );
    Ok(())
}

/// Two edits at once could both take the same name, and the later would write
/// over the earlier's request. Who may not write to /run (a member of group
/// libvirt) goes without the lock.
fn lock(host: &Host, domain: DomainUuid) -> anyhow::Result<Option<EditLock>> {
    let deadline = Deadline::after(PATIENCE);
    match EditLock::acquire(host, domain, "virt-vgpu", deadline) {
        Err(LockError::Io { cause, .. }) if cause.kind() == ErrorKind::PermissionDenied => Ok(None),
        lock => Ok(Some(lock?)),
    }
}

impl Target {
    /// Reads the persistent definition, to edit it.
    pub(super) fn read(host: &Host, domain: Domain, name: &str) -> anyhow::Result<Self> {
        let lock = lock(host, domain.uuid()?)?;
        ensure!(
            domain.is_persistent()?,
            "domain '{name}' is transient: it has no definition that could be edited; \
             'virsh define' it, or put request and hostdev into the XML it is created from"
        );
        let definition = Definition::read(domain.inactive_xml()?).with_context(|| {
            format!("domain '{name}' cannot be edited; correct it with 'virsh edit'")
        })?;
        Ok(Self {
            running: domain.is_active()?,
            saved: domain.has_managed_save()?,
            domain,
            definition,
            _lock: lock,
        })
    }

    /// When an edit takes effect, as the end of a sentence.
    pub(super) fn takes_effect(&self) -> String {
        let name = &self.definition.def.name;
        if self.running {
            format!("{name} is running: takes effect after it is shut down and started again")
        } else if self.saved {
            format!(
                "{name} has a saved state: takes effect after it is resumed and shut down, \
                 or after 'virsh managedsave-remove {name}'"
            )
        } else {
            "takes effect at the next start".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_systems_own_daemon_is_served() {
        for good in [
            "qemu:///system",
            "qemu+unix:///system?socket=/run/x/session",
            "qemu+tcp://localhost/system",
            "qemu+ssh://root@localhost:22/system",
            "qemu:///embed?root=/session",
            "test:///default",
        ] {
            assert!(check_served(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("qemu:///session", "without root"),
            ("qemu+unix:///session?socket=/s", "without root"),
            ("qemu+ssh://root@kvm2/system", "on 'root@kvm2'"),
        ] {
            let error = check_served(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
