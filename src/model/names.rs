//! Names and UUIDs of domains, devices and pools.

use std::{fmt, str::FromStr};

use uuid::Uuid;

use super::{InvalidName, checked_text, serde_as_text};

/// Parses the forms of UUID that libvirt writes: 32 hex digits with the usual four
/// hyphens, in any case. (The uuid crate alone would also accept braces and
/// `urn:uuid:`.)
pub(super) fn parse_uuid(text: &str) -> Option<Uuid> {
    const HYPHENATED: usize = 36;
    (text.len() == HYPHENATED)
        .then(|| Uuid::try_parse(text).ok())
        .flatten()
}

/// Parses a UUID as libvirt does (`virUUIDParse`): hyphens may be anywhere between two
/// bytes, and white space around the text is ignored.
pub(super) fn parse_libvirts_uuid(text: &str) -> Option<Uuid> {
    let mut bytes = [0; 16];
    let mut rest = text
        .trim_matches(|c: char| c.is_ascii_whitespace())
        .as_bytes();
    for byte in &mut bytes {
        while let [b'-', after @ ..] = rest {
            rest = after;
        }
        let ([high, low], after) = rest.split_first_chunk()?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        *byte = u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?;
        rest = after;
    }
    rest.is_empty().then(|| Uuid::from_bytes(bytes))
}

/// A libvirt domain's UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainUuid(Uuid);

impl DomainUuid {
    /// Reads the UUID as libvirt reads it in domain XML: hyphens are optional.
    ///
    /// # Errors
    /// When libvirt would not accept it as a UUID.
    pub fn from_xml(text: &str) -> Result<Self, InvalidName> {
        let uuid = parse_libvirts_uuid(text).map(Self);
        uuid.ok_or_else(|| InvalidName::new("a domain UUID", text))
    }

    /// The bare UUID.
    #[must_use]
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for DomainUuid {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for DomainUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for DomainUuid {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        parse_uuid(text)
            .map(Self)
            .ok_or_else(|| InvalidName::new("a domain UUID", text))
    }
}

serde_as_text!(DomainUuid);

fn is_domain_name(text: &str) -> bool {
    !text.is_empty()
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c == '/' || c.is_control())
}

checked_text!(
    /// A libvirt domain's name. libvirt refuses names with '/' and names that are only
    /// dots, so the name is safe as a file name (`virXMLCheckIllegalChars`,
    /// `virDomainDefPostParse`).
    DomainName,
    is_domain_name,
    "a domain name"
);

/// Lower-case letters, digits and hyphens, 1 to `max` of them.
fn is_label(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

checked_text!(
    /// The name of a requested device, unique in its domain. It is part of the
    /// hostdev's alias (`ua-vgpu-NAME`) and of the device's UUID.
    DeviceName,
    |text| is_label(text, 32),
    "a device name (1 to 32 of a-z, 0-9 and '-')"
);
fn is_driver_name(text: &str) -> bool {
    is_directory_name(text) && text.bytes().all(|b| b.is_ascii_graphic()) && text != "(null)"
}

checked_text!(
    /// The name of a driver of PCI functions: a directory in `/sys/bus/pci/drivers`.
    DriverName,
    is_driver_name,
    "the name of a driver"
);
checked_text!(
    /// A pool's name: the file `pools.d/NAME.toml` without its suffix.
    PoolName,
    |text| is_label(text, 64),
    "a pool name (1 to 64 of a-z, 0-9 and '-')"
);

/// A directory name as in sysfs: not empty, no '/', not '.' or '..', no control
/// characters, not longer than the kernel allows. Such a name can be joined to a path
/// without leaving it.
pub(super) fn is_directory_name(text: &str) -> bool {
    const NAME_MAX: usize = 255;
    !text.is_empty()
        && text.len() <= NAME_MAX
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c == '/' || c.is_control())
}

checked_text! {
    /// The name of a driver set: `nvidia-580.65.05`. It is the name of a directory as well.
    DriverSetName,
    |text: &str| {
        const LONGEST: usize = 64;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        begins && text.len() <= LONGEST && text.bytes().all(is_plain)
    },
    "the name of a driver set (letters, digits and ._-, at most 64)"
}

impl DriverSetName {
    /// The directory of all driver sets.
    pub const DIRECTORY: &str = "/var/lib/virt-vgpu/drivers";

    /// The set's directory.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("{}/{self}", Self::DIRECTORY)
    }

    /// The image of the set's disc for guests.
    #[must_use]
    pub fn disc(&self) -> String {
        format!("{}/guest.iso", self.directory())
    }
}

/// `pool 'a'`, `pools 'a', 'b'`, `no pool`.
#[must_use]
pub fn pools_in_words(pools: &[PoolName]) -> String {
    if pools.is_empty() {
        return "no pool".to_owned();
    }
    let names: Vec<&str> = pools.iter().map(PoolName::as_str).collect();
    let noun = if names.len() == 1 { "pool" } else { "pools" };
    format!("{noun} '{}'", names.join("', '"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_keep_to_their_alphabet_and_length() {
        for good in ["gpu0", "a", "0", "-", &"x".repeat(32)] {
            assert_eq!(good.parse::<DeviceName>().unwrap().as_str(), good);
        }
        for bad in ["", "GPU0", "gpu_0", "gpu 0", "gpu.0", "ü", &"x".repeat(33)] {
            assert!(bad.parse::<DeviceName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(64).parse::<PoolName>().is_ok());
        assert!("x".repeat(65).parse::<PoolName>().is_err());
        assert!("../cad".parse::<PoolName>().is_err());
    }

    #[test]
    fn only_the_hyphenated_form_is_a_uuid() {
        let text = "AAAAAAAA-0000-4000-8000-000000000001";
        assert_eq!(
            text.parse::<DomainUuid>().unwrap().to_string(),
            text.to_lowercase()
        );
        for bad in [
            "",
            "aaaaaaaa00004000800000000000000001",
            "{aaaaaaaa-0000-4000-8000-000000000001}",
            "urn:uuid:aaaaaaaa-0000-4000-8000-000000000001",
            "gaaaaaaa-0000-4000-8000-000000000001",
        ] {
            assert!(bad.parse::<DomainUuid>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn in_xml_hyphens_are_optional() {
        let wanted: DomainUuid = "aaaaaaaa-0000-4000-8000-000000000001".parse().unwrap();
        for good in [
            "aaaaaaaa-0000-4000-8000-000000000001",
            "AAAAAAAA000040008000000000000001",
            "\n aaaaaaaa00004000-8000000000000001 ",
            "aa-aa-aa-aa--000040008000000000000001",
        ] {
            assert_eq!(DomainUuid::from_xml(good), Ok(wanted), "{good:?}");
        }
        for bad in [
            "",
            "aaaaaaaa00004000800000000000000",
            "aaaaaaaa0000400080000000000000011",
            "a-aaaaaaa000040008000000000000001",
            "{aaaaaaaa-0000-4000-8000-000000000001}",
            "gaaaaaaa000040008000000000000001",
            "aaaaaaaa-0000-4000-8000-000000000001-",
        ] {
            assert!(DomainUuid::from_xml(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn domain_names_cannot_leave_a_directory() {
        assert!("win11 büro".parse::<DomainName>().is_ok());
        for bad in ["", ".", "..", "a/b", "a\nb"] {
            assert!(bad.parse::<DomainName>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_a_uuid_is_one_in_xml(bits: u128) {
            let uuid = DomainUuid::from(Uuid::from_u128(bits));
            let text = uuid.to_string();
            prop_assert_eq!(DomainUuid::from_xml(&text), Ok(uuid));
            prop_assert_eq!(DomainUuid::from_xml(&text.replace('-', "")), Ok(uuid));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = DomainUuid::from_xml(&text);
            let _ = text.parse::<DomainUuid>();
            let _ = text.parse::<DomainName>();
            let _ = text.parse::<DeviceName>();
            let _ = text.parse::<PoolName>();
        }
    }
}
