//! The serial number of a PCI device: the manufacturer's, from the vital product data, or
//! the number of the PCI Express card. Formats: PCI Local Bus Specification 3.0, appendix I
//! (vital product data); PCI Express Base Specification, "Device Serial Number Extended
//! Capability". The texts are as `lspci -vv` shows them.

use super::Sysfs;

/// The serial number, if the device has one. Reading the vital product data takes some
/// milliseconds, so the number of the card is read first only where there are no such data.
pub(super) fn read(sysfs: &dyn Sysfs, path: &str) -> Option<String> {
    /// All of it, as the kernel limits it (`PCI_VPD_MAX_SIZE`).
    const PRODUCT_DATA: usize = 32 * 1024;
    /// The configuration space of PCI Express.
    const CONFIGURATION: usize = 4096;
    let data = sysfs.read_bytes(&format!("{path}/vpd"), PRODUCT_DATA);
    let of_product = data.ok().and_then(|data| in_product_data(&data));
    of_product.or_else(|| {
        let space = sysfs.read_bytes(&format!("{path}/config"), CONFIGURATION);
        in_configuration(&space.ok()?)
    })
}

/// The keyword `SN` of the read-only part.
fn in_product_data(data: &[u8]) -> Option<String> {
    const END: u8 = 0x78;
    const LARGE: u8 = 0x80;
    const READ_ONLY: u8 = 0x90;
    let mut rest = data;
    loop {
        let (tag, after) = rest.split_first()?;
        if *tag & LARGE == 0 {
            if *tag == END {
                return None;
            }
            let length = usize::from(*tag & 0x07);
            rest = after.get(length..)?;
            continue;
        }
        let (length, after) = after.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_le_bytes(*length));
        // Some devices say that they have more than they have.
        let resource = after.get(..length.min(after.len()))?;
        if *tag == READ_ONLY {
            return serial_keyword(resource);
        }
        rest = after.get(length..)?;
    }
}

fn serial_keyword(resource: &[u8]) -> Option<String> {
    let mut rest = resource;
    loop {
        let (&[a, b, length], after) = rest.split_first_chunk::<3>()?;
        let value = after.get(..usize::from(length))?;
        if [a, b] == *b"SN" {
            let text = std::str::from_utf8(value).ok()?;
            let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
            let is_text = !text.is_empty() && !text.contains(char::is_control);
            return is_text.then(|| text.to_owned());
        }
        rest = after.get(usize::from(length)..)?;
    }
}

/// The number in the extended capabilities.
fn in_configuration(space: &[u8]) -> Option<String> {
    const FIRST: usize = 0x100;
    const SERIAL_NUMBER: u32 = 0x0003;
    /// Each capability takes at least eight bytes, so there cannot be more.
    const MOST: usize = 480;
    let word = |at: usize| {
        let bytes = space.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let mut at = FIRST;
    for _ in 0..MOST {
        let header = word(at)?;
        if header == 0 || header == u32::MAX {
            return None;
        }
        if header & 0xffff == SERIAL_NUMBER {
            let number = u64::from(word(at + 8)?) << 32 | u64::from(word(at + 4)?);
            let bytes = number.to_be_bytes().map(|byte| format!("{byte:02x}"));
            return (number != 0).then(|| bytes.join("-"));
        }
        at = usize::try_from(header >> 20).ok()?;
        if at < FIRST {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn configuration(capabilities: &[(usize, u32, &[u32])]) -> Vec<u8> {
        let mut space = vec![0; 4096];
        for (at, header, words) in capabilities {
            for (number, word) in [header].into_iter().chain(words.iter()).enumerate() {
                space[at + 4 * number..][..4].copy_from_slice(&word.to_le_bytes());
            }
        }
        space
    }

    #[test]
    fn the_number_of_the_card_is_in_its_capabilities() {
        let errors = 0x0001 | 1 << 16 | 0x140 << 20;
        let serial = 0x0003 | 1 << 16 | 0x160 << 20;
        let space = configuration(&[
            (0x100, errors, &[]),
            (0x140, serial, &[0xffa2_0410, 0x001b_21ff]),
        ]);
        let read = in_configuration(&space);
        assert_eq!(read.as_deref(), Some("00-1b-21-ff-ff-a2-04-10"));
        // A list that leads back to itself ends.
        let circle = configuration(&[(0x100, 0x0001 | 0x100 << 20, &[])]);
        assert_eq!(in_configuration(&circle), None);
        // Only root reads more than 64 bytes; a dead device reads as ones.
        assert_eq!(in_configuration(&space[..64]), None);
        assert_eq!(in_configuration(&[0xff; 4096]), None);
    }

    #[test]
    fn the_makers_number_is_in_the_product_data() {
        let mut data = vec![0x82, 4, 0];
        data.extend(b"Card");
        data.extend([0x90, 16, 0]);
        data.extend(b"PN\x03123SN\x07AB 42\0\0");
        data.push(0x78);
        assert_eq!(in_product_data(&data).as_deref(), Some("AB 42"));
        let without = [0x82, 1, 0, b'x', 0x78, 0x90];
        assert_eq!(in_product_data(&without), None);
        let not_text = [0x90, 5, 0, b'S', b'N', 2, 0xff, 0xfe, 0x78];
        assert_eq!(in_product_data(&not_text), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(data in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = in_product_data(&data);
            let mut space = vec![0; 0x100];
            space.extend(&data);
            let _ = in_configuration(&space);
        }
    }
}
