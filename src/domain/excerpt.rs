//! Devices cut out of a domain's XML exactly as they are written there, so that a
//! device can be put back with its guest address and everything else that we do not
//! know.

use std::ops::Range;

use super::{
    DomainDef, DomainError, GuestPlace, Hostdev,
    hostdev::source_address,
    parse::parse,
    reader::{Item, Scanner, Space},
};
use crate::model::Handle;

/// The text of that hostdev.
///
/// # Errors
/// When the text is not well-formed.
pub fn hostdev_text(xml: &str, hostdev: &Hostdev) -> Result<Option<String>, DomainError> {
    find(xml, "hostdev", |piece| piece.hostdevs.contains(hostdev))
}

/// The document in which that hostdev names another device of its kind, with every
/// other byte unchanged; None when it has no such hostdev, or the new device is of
/// another kind.
///
/// # Errors
/// When the text is not well-formed.
pub fn with_source(
    xml: &str,
    hostdev: &Hostdev,
    handle: Handle,
) -> Result<Option<String>, DomainError> {
    if hostdev.handle.pci().is_some() != handle.pci().is_some() {
        return Ok(None);
    }
    let xml = Scanner::new(xml)?.xml();
    let is_it = |piece: &DomainDef| piece.hostdevs.contains(hostdev);
    let Some(whole) = find_span(xml, "hostdev", is_it)? else {
        return Ok(None);
    };
    let text = xml.get(whole.clone()).unwrap_or_default();
    let Some(address) = source_address_span(text)? else {
        return Ok(None);
    };
    let start = whole.start;
    let mut moved = xml.to_owned();
    moved.replace_range(
        start + address.start..start + address.end,
        &source_address(handle),
    );
    Ok(Some(moved))
}

/// A single hostdev with another device of its kind, and with that guest address if one is
/// given. Every other byte is unchanged.
///
/// # Errors
/// When the text is not well-formed.
pub(super) fn retargeted(
    hostdev: &str,
    handle: Handle,
    guest: Option<&GuestPlace>,
) -> Result<String, DomainError> {
    let mut text = hostdev.to_owned();
    if let Some(place) = guest {
        match guest_address_span(&text)? {
            Some(span) => text.replace_range(span, &place.to_string()),
            None => {
                let end = text.rfind("</").unwrap_or(text.len());
                let before = text.get(..end).unwrap_or_default();
                let indent = before.get(before.trim_end().len()..).unwrap_or_default();
                let deeper = if indent.is_empty() { "" } else { "  " };
                text.insert_str(end - indent.len(), &format!("{indent}{deeper}{place}"));
            }
        }
    }
    if let Some(span) = source_address_span(&text)? {
        text.replace_range(span, &source_address(handle));
    }
    Ok(text)
}

/// The place of that hostdev in the document.
pub(super) fn span_of(xml: &str, hostdev: &Hostdev) -> Result<Option<Range<usize>>, DomainError> {
    find_span(xml, "hostdev", |piece| piece.hostdevs.contains(hostdev))
}

/// A single hostdev without its guest address: a device that is plugged into a running
/// domain gets any free address.
///
/// # Errors
/// When the text is not well-formed.
pub fn without_guest_address(hostdev: &str) -> Result<String, DomainError> {
    let Some(span) = guest_address_span(hostdev)? else {
        return Ok(Scanner::new(hostdev)?.xml().to_owned());
    };
    let before = hostdev.get(..span.start).unwrap_or_default().trim_end();
    let after = hostdev.get(span.end..).unwrap_or_default();
    Ok(format!("{before}{after}"))
}

/// The span of the guest's `<address>` of a single hostdev.
fn guest_address_span(hostdev: &str) -> Result<Option<Range<usize>>, DomainError> {
    let mut scanner = Scanner::new(hostdev)?;
    let mut start = None;
    loop {
        match scanner.next()? {
            Item::Start(tag) if scanner.depth() == 2 && tag.local == "address" => {
                start = Some(tag.span.start);
            }
            Item::End(span) if scanner.depth() == 1 => {
                if let Some(from) = start {
                    return Ok(Some(from..span.end));
                }
            }
            Item::Start(_) | Item::End(_) | Item::Text(_) | Item::Aside => {}
            Item::Eof => return Ok(None),
        }
    }
}

/// The span of the `<address>` in the `<source>` of a single hostdev.
fn source_address_span(hostdev: &str) -> Result<Option<Range<usize>>, DomainError> {
    let mut scanner = Scanner::new(hostdev)?;
    let (mut in_source, mut start) = (false, None);
    loop {
        match scanner.next()? {
            Item::Start(tag) => match scanner.depth() {
                2 => in_source = tag.local == "source",
                3 if in_source && tag.local == "address" => start = Some(tag.span.start),
                _ => {}
            },
            Item::End(span) if scanner.depth() == 2 => {
                if let Some(from) = start {
                    return Ok(Some(from..span.end));
                }
            }
            Item::End(_) | Item::Text(_) | Item::Aside => {}
            Item::Eof => return Ok(None),
        }
    }
}

/// The text of the disk at that target.
///
/// # Errors
/// When the text is not well-formed.
pub fn disk_text(xml: &str, target: &str) -> Result<Option<String>, DomainError> {
    find(xml, "disk", |piece| {
        piece.disks.iter().any(|disk| disk.target == target)
    })
}

/// The first device of that kind that passes the test, read as the only device of a
/// domain.
fn find(
    xml: &str,
    kind: &str,
    is_it: impl Fn(&DomainDef) -> bool,
) -> Result<Option<String>, DomainError> {
    // Offsets do not count a byte order mark.
    let xml = Scanner::new(xml)?.xml();
    let span = find_span(xml, kind, is_it)?;
    Ok(span.and_then(|span| xml.get(span)).map(ToOwned::to_owned))
}

/// The span of that device.
pub(super) fn find_span(
    xml: &str,
    kind: &str,
    is_it: impl Fn(&DomainDef) -> bool,
) -> Result<Option<Range<usize>>, DomainError> {
    let mut scanner = Scanner::new(xml)?;
    let mut in_devices = false;
    let mut start = None;
    loop {
        match scanner.next()? {
            Item::Start(tag) => match scanner.depth() {
                2 => in_devices = tag.space == Space::None && tag.local == "devices",
                3 if in_devices && tag.space == Space::None && tag.local == kind => {
                    start = Some(tag.span.start);
                }
                _ => {}
            },
            Item::End(span) if scanner.depth() == 2 => {
                let whole = start.take().map(|from| from..span.end);
                if let Some(whole) = whole {
                    let text = xml.get(whole.clone()).unwrap_or_default();
                    if is_it(&alone(text)?) {
                        return Ok(Some(whole));
                    }
                }
            }
            Item::End(_) | Item::Text(_) | Item::Aside => {}
            Item::Eof => return Ok(None),
        }
    }
}

fn alone(device: &str) -> Result<DomainDef, DomainError> {
    parse(&format!(
        "<domain><name>-</name><uuid>00000000-0000-4000-8000-000000000000</uuid>\
         <devices>{device}</devices></domain>"
    ))
    .map_err(DomainError::without_line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::GuestSlot,
        model::{MdevUuid, PciAddress},
    };

    #[test]
    fn a_function_is_moved_and_nothing_else_changes() {
        let device = |alias: &str, address: &str| {
            format!(
                "<hostdev mode='subsystem' type='pci' managed='no'>\n <!-- <address/> -->\
                 <driver name='vfio'/><source>\n  {address}\n </source><alias name='{alias}'/>\
                 <address type='pci' domain='0x0000' bus='0x06' slot='0x00' function='0x0'/></hostdev>"
            )
        };
        let old = "<address domain='0x0000' bus='0x3b' slot='0x00' function='0x4' />";
        let new = "<address domain='0x0000' bus='0xaf' slot='0x01' function='0x7'/>";
        let domain = |first: &str, second: &str| {
            let (first, second) = (
                device("ua-vgpu-gpu0", first),
                device("ua-vgpu-gpu1", second),
            );
            format!(
                "<?xml version='1.0'?><domain><name>d</name><devices>{first}\n{second}</devices></domain>\n"
            )
        };
        let hostdev = |address: &str, name: &str| {
            let address: PciAddress = address.parse().unwrap();
            Hostdev {
                guest: Some(GuestPlace {
                    at: GuestSlot { bus: 6, slot: 0 },
                    function: 0,
                    multifunction: false,
                }),
                ..Hostdev::placeholder(address, &name.parse().unwrap())
            }
        };
        let (from, to) = ("0000:3b:00.4", "0000:af:01.7");
        let moved = |from: &Hostdev| {
            let to = hostdev(to, "gpu1").handle;
            with_source(&domain(old, old), from, to).unwrap()
        };
        assert_eq!(moved(&hostdev(from, "gpu1")), Some(domain(old, new)));
        assert_eq!(moved(&hostdev(from, "gpu2")), None);
        assert_eq!(moved(&hostdev(to, "gpu1")), None);
        let text = hostdev_text(&domain(old, new), &hostdev(to, "gpu1")).unwrap();
        assert_eq!(text, Some(device("ua-vgpu-gpu1", new)));
    }

    #[test]
    fn the_guest_address_goes_and_the_source_stays() {
        let hostdev = |rest: &str| {
            format!(
                "<hostdev mode='subsystem' type='pci'>\n  <source><address bus='0x3b'/></source>\
                 <alias name='a'/>{rest}\n</hostdev>"
            )
        };
        for address in [
            "",
            "\n  <address type='pci' bus='0x06' slot='0x00'/>",
            "<address type='pci'>\n <zpci uid='1'/></address>",
        ] {
            let found = without_guest_address(&hostdev(address)).unwrap();
            assert_eq!(found, hostdev(""), "{address}");
        }
        assert!(without_guest_address("<hostdev>").is_err());
    }

    #[test]
    fn devices_come_out_as_they_are_written() {
        let hostdev = |uuid: &str| {
            format!(
                "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>\n <!-- mine -->\
                 <source><address uuid='{uuid}'/></source><address type='pci' slot='0x07'/></hostdev >"
            )
        };
        let first = hostdev("614bc606-2078-5444-8c9c-4f8e98ae4dcc");
        let second = hostdev("714bc606-2078-5444-8c9c-4f8e98ae4dcc");
        let disk = "<disk device='cdrom'><target dev='sdb' bus='sata'/></disk>";
        let xml = format!(
            "<domain><name>d</name><metadata><devices>{second}</devices></metadata>\
             <devices><disk><target dev='sda'/></disk>{disk}<hostdev/>{first}{second}</devices></domain>"
        );
        let uuid: MdevUuid = "714BC606-2078-5444-8c9c-4f8e98ae4dcc".parse().unwrap();
        let found = hostdev_text(&xml, &Hostdev::bare(uuid.into())).unwrap();
        assert_eq!(found, Some(second));
        assert_eq!(disk_text(&xml, "sdb").unwrap().as_deref(), Some(disk));
        assert_eq!(disk_text(&xml, "sdc").unwrap(), None);
        assert!(disk_text("<domain>", "sdc").is_err());
    }
}
