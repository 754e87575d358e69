//! A running domain, as libvirt describes it: its requests, its devices, and the
//! devices of its next start.

use anyhow::Context;

use super::PlugError;
use crate::{
    claims::ClaimedDevice,
    definition::Definition,
    device::mdev,
    domain::{self, DomainDef, Hostdev},
    host::{Host, libvirt::Domain},
    model::{DeviceName, Handle},
};

/// The XML of the run, read before any lock is taken.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) def: DomainDef,
    /// The definition that the next start uses; None for a transient domain.
    pub(super) persistent: Option<Definition>,
}

impl Live {
    pub(super) fn read(domain: &Domain) -> Result<Self, PlugError> {
        let def = running(domain)?;
        let persistent = if domain.is_persistent()? {
            let definition = Definition::read(domain.inactive_xml()?);
            let definition = definition.with_context(|| cannot_be_read(&def));
            Some(definition.map_err(PlugError::Other)?)
        } else {
            None
        };
        Ok(Self { def, persistent })
    }

    /// The hostdev to attach: like the one in the definition, on the given function, at
    /// a free guest address.
    pub(super) fn hostdev(&self, host: &Host, device: &ClaimedDevice) -> anyhow::Result<String> {
        let written = match &self.persistent {
            Some(persistent) => written(persistent, device)?,
            None => None,
        };
        match written {
            Some(text) => Ok(domain::without_guest_address(&text)?),
            None => {
                let hostdev = match device.handle {
                    Handle::Pci(function) => Hostdev::placeholder(function, &device.name),
                    Handle::Mdev(uuid) => {
                        let parent = mdev::parent_named(host, &device.parent);
                        let model = mdev::model(host, &parent, &device.type_id)?;
                        Hostdev::mdev_placeholder(uuid, &device.name, model.unwrap_or_default())
                    }
                };
                Ok(hostdev.to_xml())
            }
        }
    }
}

fn cannot_be_read(def: &DomainDef) -> String {
    let name = &def.name;
    format!("the definition of domain '{name}' cannot be read; correct it with 'virsh edit'")
}

/// The XML of a domain's run; an error if it is not running.
pub(super) fn running(domain: &Domain) -> Result<DomainDef, PlugError> {
    if domain.is_active()? {
        definition(domain)
    } else {
        Err(PlugError::NotRunning(domain.name()?))
    }
}

/// The domain's XML as it is now.
pub(super) fn definition(domain: &Domain) -> Result<DomainDef, PlugError> {
    let xml = domain.live_xml()?;
    let def = domain::parse(&xml).context("the XML of the running domain cannot be read");
    def.map_err(PlugError::Other)
}

/// The hostdev from the definition, with the function that the device has now.
fn written(persistent: &Definition, device: &ClaimedDevice) -> anyhow::Result<Option<String>> {
    let handle = device.handle;
    let hostdev = match handle {
        Handle::Mdev(uuid) => persistent.def.mdev(uuid),
        Handle::Pci(_) => persistent.def.function_of(&device.name),
    };
    let Some(hostdev) = hostdev else {
        return Ok(None);
    };
    if hostdev.handle == handle {
        return Ok(domain::hostdev_text(&persistent.xml, hostdev)?);
    }
    let Some(moved) = domain::with_source(&persistent.xml, hostdev, handle)? else {
        return Ok(None);
    };
    let hostdev = Hostdev {
        handle,
        ..hostdev.clone()
    };
    Ok(domain::hostdev_text(&moved, &hostdev)?)
}

/// Whether a domain with that definition has the device.
pub(super) fn has(def: &DomainDef, device: &ClaimedDevice) -> bool {
    def.hostdevs.iter().any(|one| one.handle == device.handle)
}

/// Whether it has any device of that name.
pub(super) fn has_named(def: &DomainDef, name: &DeviceName) -> bool {
    let asked = def.requests.iter().any(|request| request.name == *name);
    asked && def.placeholder_of(name).is_some()
}

/// The hostdev of a name in a running domain, in the form needed to detach it.
pub(super) fn detachable(def: &DomainDef, name: &DeviceName) -> Option<String> {
    let hostdev = def.placeholder_of(name)?;
    Some(Hostdev::bare(hostdev.handle).to_xml())
}
