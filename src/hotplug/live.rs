//! A domain that runs, as libvirt describes it: what it asks for, which devices it
//! has, and what its next start would give it.

use anyhow::Context;

use super::PlugError;
use crate::{
    allocate::has_placeholder,
    claims::ClaimedDevice,
    definition::Definition,
    device::mdev,
    domain::{self, DomainDef, alias},
    host::{Host, libvirt::Domain},
    model::{DeviceName, Handle, MdevUuid, PciAddress},
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

    /// The hostdev to attach: as the definition has it, on that function, and where
    /// the guest has room.
    pub(super) fn hostdev(&self, host: &Host, device: &ClaimedDevice) -> anyhow::Result<String> {
        let written = match &self.persistent {
            Some(persistent) => written(&persistent.xml, device)?,
            None => None,
        };
        match written {
            Some(text) => Ok(domain::without_guest_address(&text)?),
            None => Ok(match function(device)? {
                Some(function) => domain::function_placeholder(function, &device.name),
                None => {
                    let parent = mdev::parent_named(host, &device.parent);
                    let model = mdev::model(host, &parent, &device.type_id)?;
                    domain::placeholder_of(device.uuid, &device.name, model.unwrap_or_default())
                }
            }),
        }
    }
}

fn cannot_be_read(def: &DomainDef) -> String {
    let name = &def.name;
    format!("the definition of domain '{name}' cannot be read; correct it with 'virsh edit'")
}

/// What the run of a domain looks like that must be running.
pub(super) fn running(domain: &Domain) -> Result<DomainDef, PlugError> {
    if domain.is_active()? {
        definition(domain)
    } else {
        Err(PlugError::NotRunning(domain.name()?))
    }
}

/// What it looks like now.
pub(super) fn definition(domain: &Domain) -> Result<DomainDef, PlugError> {
    let xml = domain.live_xml()?;
    let def = domain::parse(&xml).context("the XML of the running domain cannot be read");
    def.map_err(PlugError::Other)
}

/// The function that the device is; None for a mediated device.
pub(super) fn function(device: &ClaimedDevice) -> anyhow::Result<Option<PciAddress>> {
    match device.handle {
        Handle::Mdev(_) => Ok(None),
        Handle::Pci(address) => Ok(Some(address)),
    }
}

fn written(xml: &str, device: &ClaimedDevice) -> anyhow::Result<Option<String>> {
    let Some(function) = function(device)? else {
        return Ok(domain::hostdev_text(xml, device.uuid)?);
    };
    let alias = alias(&device.name);
    match domain::with_function(xml, &alias, function)? {
        Some(moved) => Ok(domain::function_text(&moved, &alias)?),
        None => Ok(None),
    }
}

/// Whether a domain of that definition has the device.
pub(super) fn has(def: &DomainDef, device: &ClaimedDevice) -> bool {
    match device.handle {
        Handle::Mdev(uuid) => def.hostdevs.iter().any(|one| one.uuid == uuid),
        Handle::Pci(address) => {
            let mut functions = def.pci_hostdevs.iter();
            functions.any(|one| one.address == address)
        }
    }
}

/// Whether it has a device of that name, whichever.
pub(super) fn has_named(def: &DomainDef, name: &DeviceName) -> bool {
    let request = def.requests.iter().find(|request| request.name == *name);
    request.is_some_and(|request| has_placeholder(def, request))
}

/// The hostdevs of a name in a domain that runs, as detaching wants them.
pub(super) fn detachable(def: &DomainDef, name: &DeviceName) -> Option<String> {
    let uuid = MdevUuid::for_device(def.uuid, name);
    if def.hostdevs.iter().any(|one| one.uuid == uuid) {
        return Some(domain::detachable(uuid));
    }
    let function = def.function_of(name)?;
    Some(domain::detachable_function(function.address))
}
