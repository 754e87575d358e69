//! A libvirt domain's XML, read into plain data, and the few texts that are written
//! into it: requests in its metadata, placeholder hostdevs, the CD-ROM with guest
//! drivers. This module works on text alone and does not know libvirt's API, files,
//! pools or the host.

mod card;
mod cdrom;
mod definition;
mod edit;
mod error;
mod excerpt;
mod fill;
mod hostdev;
mod identity;
mod metadata;
mod near_miss;
mod parse;
mod reader;
mod request;
mod tag;
mod well_formed;

pub use card::{
    Card, Exchange, ExchangeError, GuestPlace, GuestSlot, NoSlot, exchanges, name_on_card,
    other_of_card, with_card,
};
pub use cdrom::{
    CDROM_ALIAS, CdRom, MEDIA_DIRECTORY, cdrom, cdrom_with, detach_cdrom, find_cdrom, media_path,
};
pub use definition::{Controller, Disk, DomainDef, DrivePosition};
pub use edit::{add_request, remove_request, replace_request, requests};
pub use error::{DomainError, Problem};
pub use excerpt::{disk_text, hostdev_text, with_source, without_guest_address};
pub use fill::{with_device, with_hostdev, with_medium, with_request, with_uuid};
pub use hostdev::{ALIAS_PREFIX, Hostdev, alias};
pub use identity::identity;
pub use metadata::{SetMetadata, for_set_metadata, metadata_element};
pub use near_miss::{NearMiss, near_misses};
pub use parse::parse;
pub use reader::MAX_BYTES;
pub use request::{ATTRIBUTES, Attribute, MAX_REQUESTS, Request, accepted_attributes};
pub use well_formed::check_well_formed;

/// The XML namespace of our metadata element, and the URI under which libvirt stores it
/// (`virDomainSetMetadata`).
pub const NAMESPACE: &str = "urn:virt-vgpu:devices:1";

/// The prefix that we write if the user has not chosen one.
pub const PREFIX: &str = "vgpu";

/// Whether the bytes contain our namespace. The hook checks this before it parses
/// anything. libvirt writes the characters of this URI without entities, so a text
/// without it has no request.
#[must_use]
pub fn mentions_requests(xml: &[u8]) -> bool {
    contains(xml, NAMESPACE.as_bytes())
}

/// Whether the bytes contain a device of the host. The hook checks this before it parses
/// anything.
#[must_use]
pub fn mentions_hostdevs(xml: &[u8]) -> bool {
    contains(xml, b"<hostdev")
}

fn contains(xml: &[u8], text: &[u8]) -> bool {
    // A library's search would first ask the processor for its features. In a virtual
    // machine that costs more than searching the domain's XML.
    xml.windows(text.len()).any(|part| part == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_search_finds_the_namespace_anywhere() {
        assert!(mentions_requests(NAMESPACE.as_bytes()));
        assert!(mentions_requests(
            format!("\u{feff}<a xmlns:b=\"{NAMESPACE}\"/>").as_bytes()
        ));
        assert!(mentions_requests(
            &[b"\xff\xfe".as_slice(), NAMESPACE.as_bytes()].concat()
        ));
        for other in ["", "urn:virt-vgpu:devices", "urn:virt-vgpu:devices:2"] {
            assert!(!mentions_requests(other.as_bytes()), "{other:?}");
        }
    }
}
