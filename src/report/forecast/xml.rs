//! From a domain's XML to its forecast: what asks for nothing, and what cannot be used.

use anyhow::Context;

use super::{Forecast, XmlOf};
use crate::{
    allocate::AllocateError,
    claims,
    domain::{self, DomainDef, DomainError, Problem},
    host::Host,
    model::{DomainName, DomainUuid},
};

/// For a domain of libvirt's.
///
/// # Errors
/// When the XML is not even a domain's.
pub fn of_domain(host: &Host, xml: &str) -> anyhow::Result<Forecast> {
    let near_misses = domain::near_misses(xml).unwrap_or_default();
    let notes = near_misses.iter().map(ToString::to_string);
    let identity = domain::identity(xml).ok().flatten();
    let forecast = match &identity {
        Some((uuid, name)) if !domain::mentions_requests(xml.as_bytes()) => {
            Forecast::nothing(name.clone(), Some(*uuid))
        }
        _ => match domain::parse(xml) {
            Ok(def) => make(host, &def, XmlOf::Domain),
            Err(cause) => unusable(identity, cause, XmlOf::Domain)?,
        },
    };
    Ok(forecast.with_notes(notes))
}

/// For XML that a person has, which need be no domain's yet.
///
/// # Errors
/// When it is not XML of a domain.
pub fn of_file(host: &Host, xml: &str) -> anyhow::Result<Forecast> {
    /// Stands in for one that libvirt will make up; it gives no domain this one.
    const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";
    let identity = domain::identity(xml).ok().flatten();
    if let Err(cause) = domain::check_well_formed(xml) {
        return unusable(identity, cause, XmlOf::File);
    }
    let near_misses = domain::near_misses(xml).unwrap_or_default();
    let notes = near_misses
        .iter()
        .map(|miss| format!("line {}: {miss}", miss.line));
    let (parsed, xml_of) = match domain::parse(xml) {
        Err(error) if *error.problem() == Problem::MissingElement("uuid") => {
            let whole = domain::with_uuid(xml, NO_UUID.parse()?)?;
            let whole = whole.as_deref().unwrap_or(xml);
            (domain::parse(whole), XmlOf::FileWithoutUuid)
        }
        parsed => (parsed, XmlOf::File),
    };
    let forecast = match parsed {
        Ok(def) if def.requests.is_empty() && !domain::mentions_requests(xml.as_bytes()) => {
            let uuid = (xml_of != XmlOf::FileWithoutUuid).then_some(def.uuid);
            Forecast::nothing(def.name, uuid)
        }
        Ok(def) => make(host, &def, xml_of),
        Err(cause) => unusable(identity, cause, xml_of)?,
    };
    Ok(forecast.with_notes(notes))
}

/// Nobody waits for who only looks.
fn make(host: &Host, def: &DomainDef, xml_of: XmlOf) -> Forecast {
    claims::while_settled(host, || Forecast::make(host, def, xml_of))
}

/// The hook's answer to such XML; an error if it is not the XML of a domain.
fn unusable(
    identity: Option<(DomainUuid, DomainName)>,
    cause: DomainError,
    xml_of: XmlOf,
) -> anyhow::Result<Forecast> {
    let Some((uuid, name)) = identity else {
        return Err(cause).context("the domain XML cannot be used");
    };
    let error = AllocateError::Domain {
        domain: name.to_string(),
        cause,
    };
    Ok(Forecast::refused(name, Some(uuid), &error, xml_of))
}
