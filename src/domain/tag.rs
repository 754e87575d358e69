//! Reads the tags of our own namespace: the attributes of a request, and the element
//! around the requests, which has no attributes. Both whole domains and single metadata
//! elements are read here.

use std::borrow::Cow;

use super::{
    cdrom::CDROM_NAME,
    error::{DomainError, Problem, one_line, shown},
    reader::{Scanner, Space, Tag},
    request::{ATTRIBUTES, Attribute, Request},
};

/// A tag as error messages show it.
pub(super) fn described(tag: &Tag<'_>) -> String {
    format!("<{}>", one_line(tag.name))
}

/// An attribute's name as written and its value.
type NameAndValue<'t> = (Cow<'t, str>, Cow<'t, str>);

/// The attributes that we must understand: those without a prefix, and those in our
/// namespace (which are wrong, and so must not be overlooked).
fn own_attributes<'x, 't>(
    scanner: &Scanner<'x>,
    tag: &'t Tag<'x>,
) -> Result<Vec<NameAndValue<'t>>, DomainError> {
    let mut own: Vec<NameAndValue<'_>> = Vec::new();
    for attribute in scanner.attributes(tag) {
        let (key, value) = attribute?;
        let foreign = key.as_namespace_binding().is_some()
            || (key.prefix().is_some() && scanner.space_of(key) != Space::Ours);
        if foreign {
            continue;
        }
        let key = String::from_utf8_lossy(key.into_inner());
        if own.iter().any(|(other, _)| *other == key) {
            return Err(scanner
                .fail(tag.span.start, Problem::RepeatedAttribute(shown(&key)))
                .element(described(tag)));
        }
        own.push((key, value));
        // With so many attributes one must be unknown, so the tag is refused anyway.
        if own.len() > ATTRIBUTES.len() {
            break;
        }
    }
    Ok(own)
}

/// Reads a request from its start tag.
pub(super) fn read_request<'x>(
    scanner: &Scanner<'x>,
    tag: &Tag<'x>,
) -> Result<Request, DomainError> {
    let given = own_attributes(scanner, tag)?;
    let value = |name: &str| given.iter().find(|(key, _)| key == name).map(|(_, v)| v);
    let fail = |problem| {
        let element = value("name").map_or_else(
            || described(tag),
            |name| format!("<{} name='{}'>", one_line(tag.name), shown(name)),
        );
        scanner.fail(tag.span.start, problem).element(element)
    };

    // Unknown attributes first: a misspelt attribute is also a missing one.
    for (key, _) in &given {
        if Attribute::find(key).is_none() {
            return Err(fail(Problem::UnknownAttribute(shown(key))));
        }
    }
    let required = |name| value(name).ok_or_else(|| fail(Problem::MissingAttribute(name)));
    let (name, pool) = (required("name")?, required("pool")?);
    let wrong = |name| move |wrong| Problem::AttributeValue { name, wrong };
    let mut request = Request::new(
        name.parse().map_err(wrong("name")).map_err(fail)?,
        pool.parse().map_err(wrong("pool")).map_err(fail)?,
    );
    for attribute in ATTRIBUTES.iter().filter(|attribute| !attribute.required) {
        if let Some(value) = value(attribute.name) {
            attribute.set(&mut request, value).map_err(fail)?;
        }
    }
    // The alias would be that of the CD-ROM.
    if request.name.as_str() == CDROM_NAME {
        return Err(fail(Problem::ReservedName));
    }
    Ok(request)
}

/// Checks the start tag of the element around the requests: it has no
/// attributes of its own.
pub(super) fn check_devices_tag<'x>(
    scanner: &Scanner<'x>,
    tag: &Tag<'x>,
) -> Result<(), DomainError> {
    match own_attributes(scanner, tag)?.first() {
        None => Ok(()),
        Some((key, _)) => Err(scanner
            .fail(tag.span.start, Problem::NoAttributes(shown(key)))
            .element(described(tag))),
    }
}
