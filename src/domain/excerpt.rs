//! Devices cut out of a domain's XML as they are written there, so that a device
//! can be put back with its guest address and everything else that we do not
//! know.

use super::{
    DomainDef, DomainError,
    parse::parse,
    reader::{Item, Scanner, Space},
};
use crate::model::MdevUuid;

/// The text of the first mediated hostdev with that UUID.
///
/// # Errors
/// When the text is not well-formed.
pub fn hostdev_text(xml: &str, uuid: MdevUuid) -> Result<Option<String>, DomainError> {
    find(xml, "hostdev", |piece| {
        piece.hostdevs.iter().any(|hostdev| hostdev.uuid == uuid)
    })
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

/// The first device of that kind which the test takes, read as the only device
/// of a domain.
fn find(
    xml: &str,
    kind: &str,
    is_it: impl Fn(&DomainDef) -> bool,
) -> Result<Option<String>, DomainError> {
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
                let text = start
                    .take()
                    .and_then(|from| xml_between(&scanner, from, span.end));
                if let Some(text) = text {
                    if is_it(&alone(text)?) {
                        return Ok(Some(text.to_owned()));
                    }
                }
            }
            Item::End(_) | Item::Text(_) | Item::Aside => {}
            Item::Eof => return Ok(None),
        }
    }
}

fn xml_between<'x>(scanner: &Scanner<'x>, from: usize, to: usize) -> Option<&'x str> {
    scanner.xml().get(from..to)
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
        let uuid = "714BC606-2078-5444-8c9c-4f8e98ae4dcc".parse().unwrap();
        assert_eq!(hostdev_text(&xml, uuid).unwrap(), Some(second));
        assert_eq!(disk_text(&xml, "sdb").unwrap().as_deref(), Some(disk));
        assert_eq!(disk_text(&xml, "sdc").unwrap(), None);
        assert!(disk_text("<domain>", "sdc").is_err());
    }
}
