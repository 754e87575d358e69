//! The keyboards of the host and what they hang on.

use std::io;

use super::{function::Function, need::Need, place};
use crate::{
    device::{Sysfs, at, read_lossily},
    model::PciAddress,
};

const DEVICES: &str = "/proc/bus/input/devices";

/// The host's keyboards.
#[derive(Debug, Default)]
pub(super) struct Keyboards {
    keyboards: Vec<Keyboard>,
    unread: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Keyboard {
    name: String,
    /// Directories in `/sys`: its own, or those of the Bluetooth adapters.
    places: Vec<String>,
}

impl Keyboard {
    fn hangs_on(&self, function: PciAddress) -> bool {
        let mut places = self.places.iter();
        places.any(|path| place::functions(path).contains(&function))
    }
}

impl Keyboards {
    /// Reads them.
    pub(super) fn read(sysfs: &dyn Sysfs) -> Self {
        match keyboards(sysfs) {
            Ok(keyboards) => Self {
                keyboards,
                unread: None,
            },
            Err(error) => Self {
                keyboards: Vec::new(),
                unread: Some(error.to_string()),
            },
        }
    }

    /// Why the host needs a function for a keyboard, if all functions of `taken` are taken
    /// from it together.
    pub(super) fn needs(&self, function: &Function, taken: &[PciAddress], needs: &mut Vec<Need>) {
        let address = function.address;
        let is_lost = |keyboard: &Keyboard| taken.iter().any(|one| keyboard.hangs_on(*one));
        if self.keyboards.iter().all(is_lost) {
            for keyboard in &self.keyboards {
                let mut places = keyboard.places.iter();
                let mine = places.find(|path| place::functions(path).contains(&address));
                if let Some(path) = mine {
                    let mut rest = place::steps(path, address);
                    rest.push(format!("last keyboard ({})", keyboard.name));
                    needs.push(Need::used(address, rest));
                }
            }
        }
        // Keyboards hang on USB; those of laptops on other serial buses.
        let may_have = matches!(function.class, 0x0c03 | 0x0c80 | 0x1180);
        if let (Some(why), true) = (&self.unread, may_have) {
            needs.push(Need::unread(address, why));
        }
    }
}

fn keyboards(sysfs: &dyn Sysfs) -> io::Result<Vec<Keyboard>> {
    let text = read_lossily(sysfs, DEVICES)?;
    let text = format!("\n{text}");
    let mut adapters: Option<Vec<String>> = None;
    let mut keyboards = Vec::new();
    // A device chooses its name, line breaks too.
    let mut blocks = text.split("\nI: ");
    let before = blocks.next().unwrap_or_default();
    if !before.trim().is_empty() {
        let wrong = io::Error::new(io::ErrorKind::InvalidData, "a device has another form");
        return Err(at(DEVICES, &wrong));
    }
    for block in blocks {
        let input = match Input::parse(block) {
            Some(input) if input.is_keyboard => input,
            Some(_) => continue,
            None => {
                let wrong = io::Error::new(io::ErrorKind::InvalidData, "a device has another form");
                return Err(at(DEVICES, &wrong));
            }
        };
        let places = if input.is_bluetooth {
            if adapters.is_none() {
                let found = place::of_class(sysfs, "bluetooth")?;
                adapters = Some(found.into_iter().map(|(_, path)| path).collect());
            }
            adapters.clone().unwrap_or_default()
        } else if input.path.starts_with("/devices/virtual/") {
            // A program makes it, from another keyboard or from nothing.
            continue;
        } else {
            vec![format!("/sys{}", input.path)]
        };
        let name = input.name.to_owned();
        keyboards.push(Keyboard { name, places });
    }
    Ok(keyboards)
}

/// One block of the list, without what its first line begins with
/// (`input_devices_seq_show`).
#[derive(Debug)]
struct Input<'a> {
    name: &'a str,
    path: &'a str,
    is_bluetooth: bool,
    is_keyboard: bool,
}

impl<'a> Input<'a> {
    fn parse(block: &'a str) -> Option<Self> {
        let line = |start: &str| block.lines().find_map(|line| line.strip_prefix(start));
        let keys = line("B: KEY=").unwrap_or_default();
        let ids = block.lines().next()?;
        let name = line("N: Name=").unwrap_or_default();
        Some(Self {
            name: name.trim_matches('"'),
            path: line("S: Sysfs=")?.trim_end(),
            is_bluetooth: ids.contains("Bus=0005"),
            is_keyboard: is_keyboard(keys),
        })
    }
}

/// Whether a device has the keys from Escape to S (1 to 31), as udev judges keyboards.
/// Power buttons, mice and headsets do not. The last word has the lowest keys.
fn is_keyboard(keys: &str) -> bool {
    const KEYS: u64 = 0xffff_fffe;
    let last = keys.split_ascii_whitespace().next_back();
    let bits = last.and_then(|word| u64::from_str_radix(word, 16).ok());
    bits.is_some_and(|bits| bits & KEYS == KEYS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_keyboard_has_letters() {
        assert!(is_keyboard(
            "402000007 ff9f207ac14057ff febeffdfffefffff fffffffffffffffe"
        ));
        assert!(is_keyboard(
            "402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe"
        ));
        // A power button, a mouse, none.
        assert!(!is_keyboard("10000000000000 0"));
        assert!(!is_keyboard("ff0000 0 0 0 0"));
        assert!(!is_keyboard(""));
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, keys in "[0-9a-f ]*") {
            let _ = (Input::parse(&text).is_some(), is_keyboard(&keys), is_keyboard(&text));
        }
    }
}
