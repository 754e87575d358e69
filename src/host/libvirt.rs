//! libvirt, for the command only: a domain found as virsh finds it, and edits to
//! its persistent definition. It passes XML through and knows nothing of what is
//! in it. The hook cannot reach this module: it exists only with feature `cli`.

use virt::{connect::Connect, error::clear_error_callback, sys};

use crate::{
    domain::{NAMESPACE, SetMetadata},
    model::DomainUuid,
};

/// What virsh takes for its `--connect` when none is given, and what libvirt's
/// library does (`virsh(1)`, `virConnectOpen`).
const URI_VARIABLES: [&str; 2] = ["VIRSH_DEFAULT_CONNECT_URI", "LIBVIRT_DEFAULT_URI"];

/// The hook serves domains of the system's daemon only, so that is the default
/// for every user.
const SYSTEM_URI: &str = "qemu:///system";

/// A call that libvirt has refused, with libvirt's own words.
#[derive(Debug, thiserror::Error)]
pub enum LibvirtError {
    /// No connection.
    #[error("cannot connect to libvirt at {uri}: {}; is libvirtd (or virtqemud) running?", .error.message())]
    Connect {
        /// The URI that was tried.
        uri: String,
        /// libvirt's error.
        error: virt::error::Error,
    },
    /// No such domain, by ID, UUID or name.
    #[error("there is no domain '{domain}' at {uri}; see 'virsh list --all'")]
    NoDomain {
        /// What was looked for.
        domain: String,
        /// Where.
        uri: String,
    },
    /// Any other call.
    #[error("cannot {what}: {}", .error.message())]
    Call {
        /// What was tried.
        what: String,
        /// libvirt's error.
        error: virt::error::Error,
    },
}

fn failed(what: impl Into<String>) -> impl FnOnce(virt::error::Error) -> LibvirtError {
    |error| LibvirtError::Call {
        what: what.into(),
        error,
    }
}

/// A connection to a libvirt daemon.
#[derive(Debug)]
pub struct Libvirt {
    connection: Connect,
    uri: String,
}

/// The URI to connect to: the one given, else where virsh would, else the
/// system's QEMU daemon.
#[must_use]
pub fn uri_or_default(uri: Option<&str>) -> String {
    let from_environment = || {
        let set = URI_VARIABLES.into_iter().map(std::env::var);
        set.flatten().find(|value| !value.is_empty())
    };
    uri.map(ToOwned::to_owned)
        .or_else(from_environment)
        .unwrap_or_else(|| SYSTEM_URI.to_owned())
}

impl Libvirt {
    /// Connects to that URI.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn open(uri: &str) -> Result<Self, LibvirtError> {
        // libvirt's default is to print every error besides returning it.
        clear_error_callback();
        let uri = uri.to_owned();
        match Connect::open(Some(&uri)) {
            Ok(connection) => Ok(Self { connection, uri }),
            Err(error) => Err(LibvirtError::Connect { uri, error }),
        }
    }

    /// The URI as libvirt completes it; that of the arguments where it does not
    /// say.
    #[must_use]
    pub fn uri(&self) -> String {
        self.connection.uri().unwrap_or_else(|_| self.uri.clone())
    }

    /// The version of the daemon: major × 1,000,000 + minor × 1000 + release.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn version(&self) -> Result<u32, LibvirtError> {
        self.connection
            .lib_version()
            .map_err(failed("ask for libvirt's version"))
    }

    /// The XML that the next start of each domain uses; that of its run for a
    /// domain without a definition. A domain that goes meanwhile is left out.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn definitions(&self) -> Result<Vec<String>, LibvirtError> {
        let domains = self.connection.list_all_domains(0);
        let domains = domains.map_err(failed("list the domains"))?;
        let xml = |domain: virt::domain::Domain| domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).ok();
        Ok(domains.into_iter().filter_map(xml).collect())
    }

    /// The domain of that ID, UUID or name, in virsh's order.
    ///
    /// # Errors
    /// When there is none, or libvirt cannot tell.
    pub fn domain(&self, domain: &str) -> Result<Domain, LibvirtError> {
        const UUID_LENGTH: usize = 36;
        let by_id = domain.parse().ok().and_then(|id| {
            let found = self.connection.lookup_domain_by_id(id);
            found.ok()
        });
        let by_uuid = || {
            let is_uuid = domain.len() == UUID_LENGTH;
            let found = is_uuid.then(|| self.connection.lookup_domain_by_uuid_string(domain));
            found?.ok()
        };
        if let Some(found) = by_id.or_else(by_uuid) {
            return Ok(Domain(found));
        }
        match self.connection.lookup_domain_by_name(domain) {
            Ok(found) => Ok(Domain(found)),
            Err(error) if error.code().is(virt::error::ErrorNumber::NoDomain) => {
                Err(LibvirtError::NoDomain {
                    domain: domain.to_owned(),
                    uri: self.uri.clone(),
                })
            }
            Err(error) => Err(failed(format!("look for domain '{domain}'"))(error)),
        }
    }
}

/// A domain. Its edits are to the persistent definition alone.
#[derive(Debug)]
pub struct Domain(virt::domain::Domain);

impl Domain {
    /// Its UUID.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn uuid(&self) -> Result<DomainUuid, LibvirtError> {
        let uuid = self.0.uuid().map_err(failed("read the domain's UUID"))?;
        Ok(DomainUuid::from(uuid))
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
        // The binding wants an int where C's enum is unsigned.
        const ELEMENT: i32 = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
        let key = element.map_or(crate::domain::PREFIX, |element| &element.key);
        self.0
            .set_metadata(
                ELEMENT,
                element.map(|element| element.xml.as_str()),
                Some(key),
                Some(NAMESPACE),
                sys::VIR_DOMAIN_AFFECT_CONFIG,
            )
            .map_err(failed("write the domain's metadata"))
    }

    /// Starts it, from its saved state where it has one.
    ///
    /// # Errors
    /// libvirt's reason, with what a hook printed in it.
    pub fn start(&self) -> Result<(), LibvirtError> {
        { self.0.create() }
            .map(|_| ())
            .map_err(failed("start the domain"))
    }

    /// Adds a device; `what` names it in an error.
    ///
    /// # Errors
    /// libvirt's reason; the definition is then as before.
    pub fn attach(&self, xml: &str, what: &str) -> Result<(), LibvirtError> {
        self.0
            .attach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_CONFIG)
            .map_err(failed(format!("attach {what}")))
    }

    /// Takes a device out; `what` names it in an error.
    ///
    /// # Errors
    /// libvirt's reason; the definition is then as before.
    pub fn detach(&self, xml: &str, what: &str) -> Result<(), LibvirtError> {
        self.0
            .detach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_CONFIG)
            .map_err(failed(format!("detach {what}")))
    }
}

impl Domain {
    /// Its name.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn name(&self) -> Result<String, LibvirtError> {
        self.0.name().map_err(failed("read the domain's name"))
    }

    /// The XML of its run.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn live_xml(&self) -> Result<String, LibvirtError> {
        self.0
            .xml_desc(0)
            .map_err(failed("read the running domain's XML"))
    }

    /// Plugs a device into the running domain; `what` names it in an error.
    ///
    /// # Errors
    /// libvirt's reason; the domain is then as before.
    pub fn attach_live(&self, xml: &str, what: &str) -> Result<(), LibvirtError> {
        self.0
            .attach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_LIVE)
            .map_err(failed(format!("plug in {what}")))
    }

    /// Asks the guest for a device; `what` names it in an error. That libvirt has
    /// asked does not mean that the guest has let go.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn detach_live(&self, xml: &str, what: &str) -> Result<(), LibvirtError> {
        self.0
            .detach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_LIVE)
            .map_err(failed(format!("unplug {what}")))
    }

    /// Sets or, with `None`, removes the metadata element of our namespace in the
    /// running domain.
    ///
    /// # Errors
    /// libvirt's reason; the metadata is then as before.
    pub fn set_metadata_live(&self, element: Option<&SetMetadata>) -> Result<(), LibvirtError> {
        const ELEMENT: i32 = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
        let key = element.map_or(crate::domain::PREFIX, |element| &element.key);
        self.0
            .set_metadata(
                ELEMENT,
                element.map(|element| element.xml.as_str()),
                Some(key),
                Some(NAMESPACE),
                sys::VIR_DOMAIN_AFFECT_LIVE,
            )
            .map_err(failed("write the running domain's metadata"))
    }
}

impl Libvirt {
    /// Starts a domain that has no definition, from its XML.
    ///
    /// # Errors
    /// libvirt's reason, with what a hook printed in it.
    pub fn create_transient(&self, xml: &str) -> Result<Domain, LibvirtError> {
        let created = self.connection.create_domain_xml(xml, sys::VIR_DOMAIN_NONE);
        created.map(Domain).map_err(failed("create the domain"))
    }
}
