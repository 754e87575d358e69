//! Edits a whole domain's XML: adds a UUID or devices, changes the device of a hostdev,
//! the medium of the CD-ROM, or a request. Each edit leaves every other byte unchanged.

use std::ops::Range;

use super::{
    DomainDef, DomainError, Hostdev, Problem, Request,
    edit::replace_request,
    excerpt::find_span,
    metadata::{Cut, find_metadata},
    reader::{Item, Scanner, Space},
};
use crate::model::DomainUuid;

/// The document with a UUID after its name; None when it already has one.
///
/// # Errors
/// When the text is not well-formed or has no name.
pub fn with_uuid(xml: &str, uuid: DomainUuid) -> Result<Option<String>, DomainError> {
    let mut scanner = Scanner::new(xml)?;
    let xml = scanner.xml();
    let (mut name, mut start) = (None, None);
    loop {
        match scanner.next()? {
            Item::Start(tag) if scanner.depth() == 2 && tag.space == Space::None => match tag.local
            {
                "uuid" => return Ok(None),
                "name" => start = Some(tag.span.start),
                _ => {}
            },
            Item::End(span) if scanner.depth() == 1 => {
                name = name.or(start.take().map(|from| from..span.end));
            }
            Item::Start(_) | Item::End(_) | Item::Text(_) | Item::Aside => {}
            Item::Eof => break,
        }
    }
    let name: Range<usize> =
        name.ok_or_else(|| DomainError::new(Problem::MissingElement("name")))?;
    let element = format!("{}<uuid>{uuid}</uuid>", indentation(xml, name.start));
    Ok(Some(inserted(xml, name.end, &element)))
}

/// The document with one more device, after the others.
///
/// # Errors
/// When the text is not well-formed.
pub fn with_device(xml: &str, device: &str) -> Result<String, DomainError> {
    let mut scanner = Scanner::new(xml)?;
    let xml = scanner.xml();
    let mut in_devices = false;
    let (mut devices, mut child, mut last) = (None, None, None);
    let mut root_end = 0..0;
    loop {
        match scanner.next()? {
            Item::Start(tag) => match scanner.depth() {
                2 if devices.is_none() => {
                    in_devices = tag.space == Space::None && tag.local == "devices";
                    devices = in_devices.then(|| (tag.span.clone(), tag.span.end..tag.span.end));
                }
                3 if in_devices => child = Some(tag.span.start),
                _ => {}
            },
            Item::End(span) => match (scanner.depth(), &mut devices) {
                (2, _) => last = child.take().map(|from| from..span.end).or(last),
                (1, Some((_, end))) if in_devices => {
                    *end = span;
                    in_devices = false;
                }
                (0, _) => root_end = span,
                _ => {}
            },
            Item::Text(_) | Item::Aside => {}
            Item::Eof => break,
        }
    }
    let Some((start, end)) = devices else {
        let indent = indentation(xml, root_end.start);
        let (line, deeper) = if indent.is_empty() {
            ("", "")
        } else {
            ("\n", "  ")
        };
        let element = format!("<devices>{}</devices>", block(device, line));
        return Ok(inserted_line(xml, root_end.start, &element, deeper));
    };
    if let Some(last) = last {
        let indent = indentation(xml, last.start);
        return Ok(inserted(
            xml,
            last.end,
            &(indent.to_owned() + &indented(device, indent)),
        ));
    }
    let indent = indentation(xml, start.start);
    if !end.is_empty() {
        let deeper = if indent.is_empty() { "" } else { "  " };
        return Ok(inserted_line(xml, end.start, device, deeper));
    }
    // <devices/> becomes <devices>…</devices>.
    let tag = xml.get(start.clone()).unwrap_or_default();
    let open = tag.trim_end_matches("/>").trim_end();
    let element = format!("{open}>{}</devices>", block(device, indent));
    Ok(replaced(xml, start, &element))
}

/// The document with that hostdev replaced by another one; None when it has no such
/// hostdev.
///
/// # Errors
/// When the text is not well-formed.
pub fn with_hostdev(
    xml: &str,
    old: &Hostdev,
    new: &Hostdev,
) -> Result<Option<String>, DomainError> {
    let xml = Scanner::new(xml)?.xml();
    let is_it = |piece: &DomainDef| piece.hostdevs.contains(old);
    let Some(whole) = find_span(xml, "hostdev", is_it)? else {
        return Ok(None);
    };
    let new = indented(&new.to_xml(), indentation(xml, whole.start));
    Ok(Some(replaced(xml, whole, &new)))
}

/// The document with another file in the disk of that target; None when it has no such
/// disk with a file.
///
/// # Errors
/// When the text is not well-formed.
pub fn with_medium(xml: &str, target: &str, path: &str) -> Result<Option<String>, DomainError> {
    let xml = Scanner::new(xml)?.xml();
    let is_it = |piece: &DomainDef| piece.disks.iter().any(|disk| disk.target == target);
    let Some(whole) = find_span(xml, "disk", is_it)? else {
        return Ok(None);
    };
    let mut scanner = Scanner::new(xml.get(whole.clone()).unwrap_or_default())?;
    loop {
        match scanner.next()? {
            Item::Start(tag) if scanner.depth() == 2 && tag.local == "source" => {
                let mut pieces = scanner.pieces(&tag)?.into_iter();
                let Some((_, file)) = pieces.find(|(name, _)| name == "file") else {
                    return Ok(None);
                };
                let place = whole.start + file.value.start..whole.start + file.value.end;
                let path = quick_xml::escape::escape(path);
                return Ok(Some(replaced(xml, place, &path)));
            }
            Item::Eof => return Ok(None),
            Item::Start(_) | Item::End(_) | Item::Text(_) | Item::Aside => {}
        }
    }
}

/// The document with the request of that name changed to this one.
///
/// # Errors
/// When the text is not well-formed, or does not ask for a device of that name.
pub fn with_request(xml: &str, request: &Request) -> Result<String, DomainError> {
    let no_such = || {
        let element = format!("<device name='{}'>", request.name);
        DomainError::new(Problem::NoSuchDevice).element(element)
    };
    let found = find_metadata(xml)?;
    let xml = Scanner::new(xml)?.xml();
    let (cut, end): (Cut, usize) = found.ok_or_else(no_such)?;
    let place = cut.place(end);
    let alone = cut.alone(xml, end).ok_or_else(no_such)?;
    // Removes the namespace declarations that were added so that the element can stand
    // alone.
    let name = xml.get(place.start..cut.name_end()).unwrap_or_default();
    let rest = xml.get(cut.name_end()..end).unwrap_or_default();
    let added = alone.get(name.len()..alone.len() - rest.len());
    let changed = replace_request(&alone, request)?;
    let behind = name.len() + added.unwrap_or_default().len();
    let changed = format!("{name}{}", changed.get(behind..).unwrap_or_default());
    Ok(replaced(xml, place, &changed))
}

/// The document with another text in that place; a new text is indented like the former one.
pub(super) fn replaced_whole(xml: &str, span: Range<usize>, text: &str, is_new: bool) -> String {
    let indent = if is_new {
        indentation(xml, span.start)
    } else {
        ""
    };
    replaced(xml, span, &indented(text, indent))
}

/// The document without that part, and without the line on which it stands.
pub(super) fn without_span(xml: &str, span: Range<usize>) -> String {
    let indent = indentation(xml, span.start).len();
    replaced(xml, span.start - indent..span.end, "")
}

/// The line break and white space before that position, when it begins a line.
fn indentation(xml: &str, place: usize) -> &str {
    let before = xml.get(..place).unwrap_or_default();
    let text = before.trim_end_matches([' ', '\t']);
    let Some(line) = text.strip_suffix('\n') else {
        return "";
    };
    let line = line.strip_suffix('\r').unwrap_or(line);
    before.get(line.len()..).unwrap_or_default()
}

/// A text of several lines, with the later lines indented like the first.
fn indented(text: &str, indent: &str) -> String {
    if indent.is_empty() {
        text.to_owned()
    } else {
        text.replace('\n', indent)
    }
}

/// A device on lines of its own, between the tags of an element with that indentation.
fn block(device: &str, indent: &str) -> String {
    if indent.is_empty() {
        return device.to_owned();
    }
    let deeper = format!("{indent}  ");
    format!("{deeper}{}{indent}", indented(device, &deeper))
}

/// The text with something inserted before an end tag; indented one step further when
/// the end tag begins a line.
fn inserted_line(xml: &str, end_tag: usize, text: &str, step: &str) -> String {
    let indent = indentation(xml, end_tag);
    let deeper = format!("{indent}{step}");
    let text = format!("{deeper}{}", indented(text, &deeper));
    inserted(xml, end_tag - indent.len(), &text)
}

fn inserted(xml: &str, place: usize, text: &str) -> String {
    replaced(xml, place..place, text)
}

fn replaced(xml: &str, place: Range<usize>, text: &str) -> String {
    let mut changed = xml.to_owned();
    changed.replace_range(place, text);
    changed
}

#[cfg(test)]
#[path = "fill_tests.rs"]
mod tests;
