//! Edits our metadata element: adds, changes or removes a request and leaves all other
//! bytes of the element as they are. The element may be in our namespace, under any
//! prefix, or in none, as `virDomainGetMetadata` returns it.

use std::ops::Range;

use super::{
    ATTRIBUTES, Attribute, MAX_REQUESTS, NAMESPACE, PREFIX, Request,
    error::{DomainError, Problem},
    metadata::root,
    reader::{Item, Scanner, Space, Tag},
    tag::{check_devices_tag, described, read_request},
};
use crate::model::DeviceName;

/// The requests in a single metadata element.
///
/// # Errors
/// When the text is not our metadata element, or a request in it is invalid.
pub fn requests(element: &str) -> Result<Vec<Request>, DomainError> {
    let outline = outline(element)?;
    Ok(outline
        .devices
        .into_iter()
        .map(|device| device.request)
        .collect())
}

/// The element with one more request at its end; a new element if there is none yet.
///
/// # Errors
/// When the element is invalid, already has a request of that name, or is full.
pub fn add_request(existing: Option<&str>, request: &Request) -> Result<String, DomainError> {
    let Some(existing) = existing else {
        let device = request.to_xml(&format!("{PREFIX}:device"));
        return Ok(format!(
            "<{PREFIX}:devices xmlns:{PREFIX}=\"{NAMESPACE}\">\n  {device}\n</{PREFIX}:devices>"
        ));
    };
    let outline = outline(existing)?;
    let fail = |problem| {
        let element = format!("<{}device name='{}'>", outline.prefix, request.name);
        DomainError::new(problem).element(element)
    };
    if outline.find(&request.name).is_some() {
        return Err(fail(Problem::DuplicateName));
    }
    if outline.devices.len() == MAX_REQUESTS {
        return Err(fail(Problem::TooMany));
    }
    let xml = outline.xml;
    let device = request.to_xml(&format!("{}device", outline.prefix));
    let (at, text) = if let Some(last) = outline.devices.last() {
        let indent = xml.get(leading_space(xml, last.span.start)..last.span.start);
        (
            last.span.end,
            format!("{}{device}", indent.unwrap_or_default()),
        )
    } else if outline.end.is_empty() {
        // <devices/> becomes <devices>…</devices>.
        let name = format!("{}devices", outline.prefix);
        let open = xml.get(..outline.end.start).unwrap_or_default();
        let open = open.trim_end_matches("/>").trim_end();
        let rest = xml.get(outline.end.start..).unwrap_or_default();
        return Ok(format!("{open}>\n  {device}\n</{name}>{rest}"));
    } else {
        let at = leading_space(xml, outline.end.start);
        let indent = xml.get(at..outline.end.start).unwrap_or_default();
        let deeper = if indent.is_empty() { "" } else { "  " };
        (at, format!("{indent}{deeper}{device}"))
    };
    Ok(splice(xml, &[(at..at, text)]))
}

/// The element without that request; unchanged if it has no such request. `None` when
/// nothing is left that somebody may want to keep.
///
/// # Errors
/// When the element is invalid.
pub fn remove_request(existing: &str, name: &DeviceName) -> Result<Option<String>, DomainError> {
    let outline = outline(existing)?;
    let found = outline.find(name);
    let left = outline.devices.len() - usize::from(found.is_some());
    if left == 0 && !outline.other_content {
        return Ok(None);
    }
    let Some(device) = found else {
        return Ok(Some(existing.to_owned()));
    };
    let from = leading_space(outline.xml, device.span.start);
    Ok(Some(splice(
        outline.xml,
        &[(from..device.span.end, String::new())],
    )))
}

/// The element with the request of that name changed to this one. Unchanged attributes,
/// foreign attributes and children stay as they are.
///
/// # Errors
/// When the element is invalid or has no request of that name.
pub fn replace_request(existing: &str, request: &Request) -> Result<String, DomainError> {
    let outline = outline(existing)?;
    let device = outline.find(&request.name).ok_or_else(|| {
        let element = format!("<{}device name='{}'>", outline.prefix, request.name);
        DomainError::new(Problem::NoSuchDevice).element(element)
    })?;
    let mut changes = Vec::new();
    for (name, whole, value) in &device.attributes {
        let Some(attribute) = Attribute::find(name) else {
            continue;
        };
        match attribute.text(request) {
            Some(text) if attribute.text(&device.request).as_ref() != Some(&text) => {
                changes.push((value.clone(), text));
            }
            Some(_) => {}
            None => changes.push((whole.clone(), String::new())),
        }
    }
    let added: String = ATTRIBUTES
        .iter()
        .filter(|attribute| attribute.text(&device.request).is_none())
        .filter_map(|attribute| {
            Some(format!(
                " {}='{}'",
                attribute.name,
                attribute.text(request)?
            ))
        })
        .collect();
    changes.push((device.attributes_end..device.attributes_end, added));
    Ok(splice(outline.xml, &changes))
}

/// A metadata element's parts, by their position in its text.
struct Outline<'x> {
    xml: &'x str,
    /// The root's prefix with its colon.
    prefix: String,
    devices: Vec<Device>,
    /// The root's end tag; empty for an empty element.
    end: Range<usize>,
    /// The root's end tag; empty for an empty element.
    /// or attributes.
    other_content: bool,
}

struct Device {
    request: Request,
    /// The whole element.
    span: Range<usize>,
    /// For each attribute: its name, all of it with the white space before it, and its
    /// value.
    attributes: Vec<(String, Range<usize>, Range<usize>)>,
    /// The end of the last attribute, or of the name.
    attributes_end: usize,
}

impl Outline<'_> {
    fn find(&self, name: &DeviceName) -> Option<&Device> {
        self.devices
            .iter()
            .find(|device| device.request.name == *name)
    }
}

fn outline(element: &str) -> Result<Outline<'_>, DomainError> {
    // The line numbers are those of the element, not of the domain, so they are left
    // out.
    read_outline(element).map_err(DomainError::without_line)
}

fn read_outline(element: &str) -> Result<Outline<'_>, DomainError> {
    let mut scanner = Scanner::new(element)?;
    let mut outline = Outline {
        xml: scanner.xml(),
        prefix: String::new(),
        devices: Vec::new(),
        end: 0..0,
        other_content: false,
    };
    let mut naked = false;
    // Whether each open element is ours.
    let mut path: Vec<bool> = Vec::new();
    loop {
        match scanner.next()? {
            Item::Start(tag) => {
                let ours = match path.as_slice() {
                    [] => {
                        root(&scanner, &tag)?;
                        naked = tag.space == Space::None;
                        tag.prefix().clone_into(&mut outline.prefix);
                        check_devices_tag(&scanner, &tag)?;
                        outline.other_content |= scanner
                            .pieces(&tag)?
                            .iter()
                            .any(|(name, _)| !name.starts_with("xmlns"));
                        true
                    }
                    [.., parent] => {
                        let named = tag.space == Space::Ours || (naked && tag.space == Space::None);
                        *parent && named
                    }
                };
                match (path.len(), ours) {
                    (0, _) => {}
                    (1, true) => outline.begin_device(&scanner, &tag)?,
                    (1, false) => outline.other_content = true,
                    (_, true) => {
                        let problem = Problem::UnknownElement("none");
                        let error = scanner.fail(tag.span.start, problem);
                        return Err(error.element(described(&tag)));
                    }
                    (_, false) => {}
                }
                path.push(ours);
            }
            Item::End(span) => {
                let ours = path.pop().unwrap_or_default();
                match path.len() {
                    0 => outline.end = span,
                    1 if ours => {
                        if let Some(device) = outline.devices.last_mut() {
                            device.span.end = span.end;
                        }
                    }
                    _ => {}
                }
            }
            Item::Text(text) => {
                outline.other_content |= path.len() < 2 && !text.trim().is_empty();
            }
            Item::Aside => outline.other_content |= path.len() < 2,
            Item::Eof => return Ok(outline),
        }
    }
}

impl Outline<'_> {
    fn begin_device<'x>(
        &mut self,
        scanner: &Scanner<'x>,
        tag: &Tag<'x>,
    ) -> Result<(), DomainError> {
        let fail = |problem| {
            scanner
                .fail(tag.span.start, problem)
                .element(described(tag))
        };
        if tag.local != "device" {
            return Err(fail(Problem::UnknownElement("device")));
        }
        let request = read_request(scanner, tag)?;
        if self.find(&request.name).is_some() {
            return Err(fail(Problem::DuplicateName));
        }
        if self.devices.len() == MAX_REQUESTS {
            return Err(fail(Problem::TooMany));
        }
        let attributes: Vec<_> = scanner
            .pieces(tag)?
            .into_iter()
            .map(|(name, piece)| (name, piece.whole, piece.value))
            .collect();
        let name_end = tag.span.start + 1 + tag.name.len();
        self.devices.push(Device {
            request,
            span: tag.span.clone(),
            attributes_end: attributes
                .last()
                .map_or(name_end, |(_, whole, _)| whole.end),
            attributes,
        });
        Ok(())
    }
}

/// Where the line break and indentation before that position begin; the position itself
/// when it does not begin a line.
fn leading_space(xml: &str, place: usize) -> usize {
    let before = xml.get(..place).unwrap_or_default();
    let text = before.trim_end_matches([' ', '\t']);
    match text.strip_suffix('\n') {
        Some(line) => line.strip_suffix('\r').unwrap_or(line).len(),
        None => place,
    }
}

/// The text with each range, in order, replaced.
fn splice(text: &str, changes: &[(Range<usize>, String)]) -> String {
    let mut spliced = String::with_capacity(text.len() + 128);
    let mut at = 0;
    for (range, replacement) in changes {
        spliced.push_str(text.get(at..range.start).unwrap_or_default());
        spliced.push_str(replacement);
        at = range.end;
    }
    spliced.push_str(text.get(at..).unwrap_or_default());
    spliced
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
