//! A domain's persistent definition: found through libvirt, and read under the edit
//! lock so that it can be edited.

use std::{io::ErrorKind, time::Duration};

use anyhow::{Context, bail, ensure};

use crate::{
    domain::{self, DomainDef, DomainError},
    host::{
        Deadline, EditLock, Host, LockError,
        libvirt::{Domain, Libvirt, uri_or_default},
    },
    model::{DomainUuid, domain_word, proposed},
};

/// A persistent definition.
#[derive(Debug)]
pub struct Definition {
    /// The XML that the next start uses.
    pub xml: String,
    pub def: DomainDef,
    /// Our metadata element in it.
    pub element: Option<String>,
}

impl Definition {
    pub fn read(xml: String) -> Result<Self, DomainError> {
        Ok(Self {
            def: domain::parse(&xml)?,
            element: domain::metadata_element(&xml)?,
            xml,
        })
    }
}

/// A domain with its definition.
#[derive(Debug)]
pub struct Target {
    pub domain: Domain,
    pub definition: Definition,
    /// The XML of the run, if that is to be edited too.
    pub live: Option<Definition>,
    /// Whether the domain is transient, so that `definition` is that of its run.
    pub transient: bool,
    pub running: bool,
    /// Whether the next start resumes a saved state.
    pub saved: bool,
    /// Held from reading the definition to the last edit.
    _lock: Option<EditLock>,
}

/// libvirt keeps a domain locked while it starts, including the time of our hook.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens the daemon at that URI, or the one that virsh would use, if this host's hook
/// serves its domains.
///
/// # Errors
/// When the daemon belongs to another host or a session, or does not answer.
pub fn open_served(uri: Option<&str>) -> anyhow::Result<Libvirt> {
    let uri = uri_or_default(uri);
    check_served(&uri)?;
    let libvirt = Libvirt::open(&uri)?;
    // A URI alias of libvirt.conf is only resolved now.
    check_served(&libvirt.uri())?;
    Ok(libvirt)
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

/// Locks the editing of a domain. Without it, two edits could choose the same name, and
/// the later one would overwrite the earlier request. A user who may not write to /run
/// (a member of group libvirt) gets no lock.
pub fn edit_lock(host: &Host, domain: DomainUuid) -> anyhow::Result<Option<EditLock>> {
    edit_lock_within(host, domain, PATIENCE)
}

/// Like [`edit_lock`], with a shorter wait.
pub fn edit_lock_within(
    host: &Host,
    domain: DomainUuid,
    patience: Duration,
) -> anyhow::Result<Option<EditLock>> {
    let deadline = Deadline::after(patience);
    match EditLock::acquire(host, domain, "virt-vgpu", deadline) {
        Err(LockError::Io { cause, .. }) if cause.kind() == ErrorKind::PermissionDenied => Ok(None),
        lock => Ok(Some(lock?)),
    }
}

impl Target {
    /// Reads the persistent definition, to edit it.
    pub fn read(host: &Host, domain: Domain, name: &str) -> anyhow::Result<Self> {
        Self::read_within(host, domain, name, PATIENCE)
    }

    /// Like [`Self::read`], with a shorter wait.
    pub fn read_within(
        host: &Host,
        domain: Domain,
        name: &str,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let lock = edit_lock_within(host, domain.uuid()?, patience)?;
        ensure!(
            domain.is_persistent()?,
            "domain '{name}' is transient: it has no definition that could be edited; \
             'virt-vgpu attach --live' adds a device while it runs, 'detach --live' removes one, \
             'virt-vgpu create' makes a domain from XML that asks for one, 'virsh define' keeps it"
        );
        let definition = Definition::read(domain.inactive_xml()?).with_context(|| {
            format!("domain '{name}' cannot be edited; correct it with 'virsh edit'")
        })?;
        Ok(Self {
            running: domain.is_active()?,
            saved: domain.has_managed_save()?,
            domain,
            definition,
            live: None,
            transient: false,
            _lock: lock,
        })
    }

    /// Reads a running domain in order to edit its run too; a transient domain has only
    /// its run.
    pub fn read_running(host: &Host, domain: Domain, name: &str) -> anyhow::Result<Self> {
        ensure!(
            domain.is_active()?,
            "domain '{name}' is not running: '--live' works only on a running domain; \
             leave it out, or start the domain first"
        );
        let read = |domain: &Domain| -> anyhow::Result<Definition> {
            let live = Definition::read(domain.live_xml()?);
            live.with_context(|| format!("the XML of running domain '{name}' cannot be read"))
        };
        if domain.is_persistent()? {
            let mut target = Self::read(host, domain, name)?;
            target.live = Some(read(&target.domain)?);
            return Ok(target);
        }
        let lock = edit_lock(host, domain.uuid()?)?;
        Ok(Self {
            definition: read(&domain)?,
            live: Some(read(&domain)?),
            transient: true,
            running: true,
            saved: false,
            domain,
            _lock: lock,
        })
    }

    /// Reads the definition again after we edited it.
    pub fn read_again(&mut self) -> anyhow::Result<()> {
        self.definition = Definition::read(self.domain.inactive_xml()?)?;
        Ok(())
    }

    /// When an edit takes effect, as the end of a sentence.
    pub fn takes_effect(&self) -> String {
        let name = &self.definition.def.name;
        if self.running {
            format!("{name} is running: takes effect after it is shut down and started again")
        } else if self.saved {
            format!(
                "{name} has a saved state: takes effect after it is resumed and shut down, \
                 or after {}",
                proposed(
                    "virsh managedsave-remove",
                    domain_word(name, self.definition.def.uuid)
                )
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
