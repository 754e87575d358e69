//! What is asked of a domain, and what is done to it.

use virt::{domain::MigrateParameters, sys};

use super::{Libvirt, LibvirtError, failed};
use crate::{
    domain::{NAMESPACE, PREFIX, SetMetadata},
    host::fault,
    model::DomainUuid,
};

/// A domain. Its edits are to the persistent definition alone, or where they say so to the
/// run alone.
#[derive(Debug, Clone)]
pub struct Domain(pub(super) virt::domain::Domain);

/// Where a domain is migrated to.
#[derive(Debug)]
pub struct Destination {
    /// The other host.
    pub libvirt: Libvirt,
    /// Where the data goes, as `tcp://10.0.0.2`; None: as the other host tells.
    pub data: Option<String>,
    /// The address on which the other host listens for it; None: as it is configured.
    pub listen_address: Option<String>,
}

impl Domain {
    /// Its UUID.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn uuid(&self) -> Result<DomainUuid, LibvirtError> {
        let uuid = self.0.uuid().map_err(failed("read the domain's UUID"))?;
        Ok(DomainUuid::from(uuid))
    }

    /// Its name.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn name(&self) -> Result<String, LibvirtError> {
        self.0.name().map_err(failed("read the domain's name"))
    }

    /// The XML of its run; that of the next start while it does not run.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn live_xml(&self) -> Result<String, LibvirtError> {
        self.0.xml_desc(0).map_err(failed("read the domain's XML"))
    }

    /// The XML that the next start uses.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn inactive_xml(&self) -> Result<String, LibvirtError> {
        self.0
            .xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)
            .map_err(failed("read the domain's XML"))
    }

    /// The same with the passwords in it, so that a start from it differs in nothing.
    ///
    /// # Errors
    /// libvirt's reason, as for a user who may start domains but not read passwords.
    pub fn inactive_xml_with_passwords(&self) -> Result<String, LibvirtError> {
        self.0
            .xml_desc(sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE)
            .map_err(failed("read the domain's XML with its passwords"))
    }

    /// Whether it has a definition that outlives its run.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn is_persistent(&self) -> Result<bool, LibvirtError> {
        self.0
            .is_persistent()
            .map_err(failed("tell whether the domain is persistent"))
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn is_active(&self) -> Result<bool, LibvirtError> {
        self.0
            .is_active()
            .map_err(failed("tell whether the domain runs"))
    }

    /// Whether its next start resumes a saved state, from the XML saved with it.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn has_managed_save(&self) -> Result<bool, LibvirtError> {
        self.0
            .has_managed_save(0)
            .map_err(failed("tell whether the domain has a saved state"))
    }

    /// Sets or, with `None`, removes the metadata element of our namespace.
    ///
    /// # Errors
    /// libvirt's reason; the metadata is then as before.
    pub fn set_metadata(&self, element: Option<&SetMetadata>) -> Result<(), LibvirtError> {
        self.set_metadata_of(element, sys::VIR_DOMAIN_AFFECT_CONFIG)
    }

    /// Sets or, with `None`, removes the metadata element of our namespace in the XML of the
    /// run.
    ///
    /// # Errors
    /// libvirt's reason, also when it does not run; the metadata is then as before.
    pub fn set_metadata_live(&self, element: Option<&SetMetadata>) -> Result<(), LibvirtError> {
        self.set_metadata_of(element, sys::VIR_DOMAIN_AFFECT_LIVE)
    }

    fn set_metadata_of(
        &self,
        element: Option<&SetMetadata>,
        flags: sys::virDomainModificationImpact,
    ) -> Result<(), LibvirtError> {
        // The binding wants an int where C's enum is unsigned.
        const ELEMENT: i32 = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
        let key = element.map_or(PREFIX, |element| &element.key);
        let xml = element.map(|element| element.xml.as_str());
        self.0
            .set_metadata(ELEMENT, xml, Some(key), Some(NAMESPACE), flags)
            .map_err(failed("write the domain's metadata"))
    }

    /// Starts it, from its saved state where it has one.
    ///
    /// # Errors
    /// libvirt's reason, with what a hook printed in it.
    pub fn start(&self) -> Result<(), LibvirtError> {
        self.0
            .create()
            .map(|_| ())
            .map_err(failed("start the domain"))
    }

    /// Asks the guest to shut down, by its agent or by ACPI, as the hypervisor thinks best. The
    /// guest may take its time, or not listen.
    ///
    /// # Errors
    /// libvirt's reason, also when it does not run.
    pub fn shut_down(&self) -> Result<(), LibvirtError> {
        self.0.shutdown().map_err(failed("shut down the domain"))
    }

    /// Moves its run to another host, and its definition with it if it has one. Waits for the
    /// end; if this process ends before, libvirt gives it up. It is done as virsh does it: by
    /// daemons that talk to each other, the reason of a refusal may be lost (`qemuMigrationSrcPerformPeer2Peer`
    /// closes its connection after it).
    ///
    /// # Errors
    /// libvirt's reason; the domain then runs here as before.
    pub fn migrate_to(&self, to: &Destination) -> Result<(), LibvirtError> {
        let definition = match self.is_persistent()? {
            true => sys::VIR_MIGRATE_PERSIST_DEST | sys::VIR_MIGRATE_UNDEFINE_SOURCE,
            false => 0,
        };
        let flags = sys::VIR_MIGRATE_LIVE | definition;
        let parameters = MigrateParameters {
            uri: to.data.clone(),
            listen_address: to.listen_address.clone(),
            ..MigrateParameters::default()
        };
        self.0
            .migrate3(&to.libvirt.connection, parameters, flags)
            .map(|_| ())
            .map_err(failed(format!("migrate the domain to {}", to.libvirt.uri)))
    }

    /// Adds a device; `what` names it in an error.
    ///
    /// # Errors
    /// libvirt's reason; the definition is then as before.
    pub fn attach(&self, xml: &str, what: &str) -> Result<(), LibvirtError> {
        self.0
            .attach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_CONFIG)
            .map_err(failed(format!("attach {what}")))
            .inspect(|()| fault::after("edit", what))
    }

    /// Takes a device out; `what` names it in an error.
    ///
    /// # Errors
    /// libvirt's reason; the definition is then as before.
    pub fn detach(&self, xml: &str, what: &str) -> Result<(), LibvirtError> {
        self.0
            .detach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_CONFIG)
            .map_err(failed(format!("detach {what}")))
            .inspect(|()| fault::after("edit", what))
    }

    /// Adds a device to the run alone; `what` names it in an error.
    ///
    /// # Errors
    /// libvirt's reason, also when it does not run; the run is then as before.
    pub fn attach_live(&self, xml: &str, what: &str) -> Result<(), LibvirtError> {
        self.0
            .attach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_LIVE)
            .map_err(failed(format!("plug in {what}")))
    }

    /// Asks the guest to let go of a device of the run alone; `what` names it in an error.
    /// When it has, [`Event::DeviceRemoved`](super::Event::DeviceRemoved) says so: libvirt
    /// waits 5 s for that, and then returns as if it had happened.
    ///
    /// # Errors
    /// libvirt's reason, also when it does not run; the device is then still there.
    pub fn detach_live(&self, xml: &str, what: &str) -> Result<(), LibvirtError> {
        self.0
            .detach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_LIVE)
            .map_err(failed(format!("unplug {what}")))
    }

    /// Changes the medium of a drive of the run alone, or takes it out; `what` names it in an
    /// error. With `force` also when the guest has locked the drive.
    ///
    /// # Errors
    /// libvirt's reason, also when it does not run; the drive then has the medium that it had.
    pub fn change_medium(&self, xml: &str, force: bool, what: &str) -> Result<(), LibvirtError> {
        let force = if force {
            sys::VIR_DOMAIN_DEVICE_MODIFY_FORCE
        } else {
            0
        };
        self.0
            .update_device_flags(xml, sys::VIR_DOMAIN_AFFECT_LIVE | force)
            .map(|_| ())
            .map_err(failed(what))
    }
}
