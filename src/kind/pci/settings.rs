//! `[pci]` in a pool file.

use std::{collections::BTreeMap, path::Path};

use crate::{
    document::{ConfigError, Table, Written},
    model::Rom,
    rule::spelling::{did_you_mean, shown},
};

/// The name of the table.
pub(super) const TABLE: &str = "pci";

/// The key of the file with the option ROM.
const ROM_FILE: &str = "rom-file";

/// Its keys.
pub(super) const KEYS: &[&str] = &[
    "multifunction",
    "keep-bound",
    "rom",
    ROM_FILE,
    "placeholder",
];

/// When the VM gets the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum TimeOfPlug {
    /// From power-on: the XML names the address of a device.
    #[default]
    PowerOn,
    /// When the VM has started: the XML names no device.
    HotPlug,
}

/// The values of `placeholder`.
const PLACEHOLDERS: &[&str] = &[ADDRESS, HOTPLUG];
const ADDRESS: &str = "address";
const HOTPLUG: &str = "hotplug";

/// The values of `rom`.
const SWITCH: &[&str] = &[ON, OFF];
const ON: &str = "on";
const OFF: &str = "off";

/// `[pci]`, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// Whether the VM gets the other functions of the card, those that share the IOMMU group
    /// of the first one, on one slot with it.
    pub(super) multifunction: bool,
    /// Whether the devices stay bound to `vfio-pci` after their VM has stopped.
    pub(super) keep_bound: bool,
    /// The option ROM that the guest's firmware sees.
    pub(super) rom: Rom,
    /// When the VM gets the device.
    pub(super) placeholder: TimeOfPlug,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            multifunction: true,
            keep_bound: false,
            rom: Rom::default(),
            placeholder: TimeOfPlug::default(),
        }
    }
}

impl Settings {
    /// Reads the table at the top of a pool file, if it is there.
    pub(super) fn read(top: &Table<'_, '_>) -> Result<Self, ConfigError> {
        let Some(node) = top.get(TABLE) else {
            return Ok(Self::default());
        };
        let file = top.file();
        let table = node.table("a table, [pci]")?;
        table.check_keys(KEYS, |_| None)?;
        let placeholder = table.choice("placeholder", PLACEHOLDERS)?;
        let placeholder = placeholder.map(|text| time_of_plug(file, &text));
        let placeholder = placeholder.transpose()?.unwrap_or_default();
        Ok(Self {
            multifunction: multifunction(&table, placeholder)?,
            keep_bound: table.flag("keep-bound")?.unwrap_or_default(),
            rom: rom(&table)?,
            placeholder,
        })
    }

    /// The settings as the file would have them.
    pub(super) fn by_key(&self) -> BTreeMap<&'static str, serde_json::Value> {
        let bar = self.rom.bar.map(|shown| if shown { ON } else { OFF });
        let placeholder = match self.placeholder {
            TimeOfPlug::PowerOn => ADDRESS,
            TimeOfPlug::HotPlug => HOTPLUG,
        };
        BTreeMap::from([
            ("multifunction", self.multifunction.into()),
            ("keep-bound", self.keep_bound.into()),
            ("rom", bar.into()),
            (ROM_FILE, self.rom.file.clone().into()),
            ("placeholder", placeholder.into()),
        ])
    }
}

/// Whether other functions come along. libvirt plugs only single functions into a running
/// VM ("only PCI device addresses with function=0 are supported").
fn multifunction(table: &Table<'_, '_>, placeholder: TimeOfPlug) -> Result<bool, ConfigError> {
    let plugged_in = placeholder == TimeOfPlug::HotPlug;
    let Some(node) = table.get("multifunction") else {
        return Ok(!plugged_in);
    };
    let chosen = node.flag()?;
    if chosen && plugged_in {
        let what = "cannot be true with placeholder = \"hotplug\": only single functions can be \
                    plugged into a running VM";
        return Err(node.refuse(what, &[]));
    }
    Ok(chosen)
}

fn rom(table: &Table<'_, '_>) -> Result<Rom, ConfigError> {
    let file = table.file();
    let bar = table.choice("rom", SWITCH)?;
    let bar = bar.map(|text| switch(file, &text)).transpose()?;
    let Some(written) = table.text(ROM_FILE)? else {
        return Ok(Rom { bar, file: None });
    };
    if bar == Some(false) {
        let what = "has no effect with rom = \"off\": the guest's firmware would see no ROM; leave \
                    one of the two out";
        return Err(written.at.refuse(file, what, &[]));
    }
    Ok(Rom {
        bar,
        file: Some(absolute(file, written)?),
    })
}

fn switch(file: &Path, text: &Written<String>) -> Result<bool, ConfigError> {
    match text.value.as_str() {
        ON => Ok(true),
        OFF => Ok(false),
        other => {
            let what = format!("'{}' is neither on nor off", shown(other));
            Err(text.at.refuse(file, &what, SWITCH))
        }
    }
}

fn absolute(file: &Path, text: Written<String>) -> Result<String, ConfigError> {
    if text.value.starts_with('/') {
        return Ok(text.value);
    }
    let what = format!(
        "'{}' is not the absolute path of a file",
        shown(&text.value)
    );
    Err(text.at.refuse(file, &what, &[]))
}

fn time_of_plug(file: &Path, text: &Written<String>) -> Result<TimeOfPlug, ConfigError> {
    match text.value.as_str() {
        ADDRESS => Ok(TimeOfPlug::PowerOn),
        HOTPLUG => Ok(TimeOfPlug::HotPlug),
        other => {
            let meant = did_you_mean(other, PLACEHOLDERS);
            let what = format!("unknown placeholder '{}'{meant}", shown(other));
            Err(text.at.refuse(file, &what, PLACEHOLDERS))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{LineEnds, TomlText};

    fn read(text: &str) -> Result<Settings, String> {
        let source = TomlText {
            file: Path::new("/p.toml"),
            text,
            line_ends: &LineEnds::of(text),
        };
        let document = source.parse().unwrap();
        Settings::read(&source.top(&document)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_table_says_how_devices_are_handed_out() {
        assert_eq!(read(""), Ok(Settings::default()));
        let text = "[pci]\nkeep-bound = true\nrom = 'on'\nrom-file = '/srv/vbios.rom'\n\
                    placeholder = 'hotplug'\n";
        let settings = Settings {
            multifunction: false,
            keep_bound: true,
            rom: Rom {
                bar: Some(true),
                file: Some("/srv/vbios.rom".to_owned()),
            },
            placeholder: TimeOfPlug::HotPlug,
        };
        assert_eq!(read(text), Ok(settings));
    }

    #[test]
    fn functions_come_along_unless_the_device_is_plugged_in_alone() {
        let multifunction = |text: &str| read(text).unwrap().multifunction;
        assert!(multifunction("[pci]\nkeep-bound = true\n"));
        assert!(multifunction("[pci]\nmultifunction = true\n"));
        assert!(!multifunction("[pci]\nmultifunction = false\n"));
        assert!(!multifunction("[pci]\nplaceholder = 'hotplug'\n"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, wrong) in [
            (
                "rom = 'yes'",
                "/p.toml:2: key 'pci.rom': 'yes' is neither on nor off; accepted: on, off",
            ),
            (
                "rom = true",
                "/p.toml:2: key 'pci.rom': wants a text in quotes, found true; accepted: on, off",
            ),
            (
                "rom = 'off'\nrom-file = '/srv/vbios.rom'",
                "/p.toml:3: key 'pci.rom-file': has no effect with rom = \"off\": the guest's \
                 firmware would see no ROM; leave one of the two out",
            ),
            (
                "rom-file = 'vbios.rom'",
                "/p.toml:2: key 'pci.rom-file': 'vbios.rom' is not the absolute path of a file",
            ),
            (
                "placeholder = 'hot-plug'",
                "/p.toml:2: key 'pci.placeholder': unknown placeholder 'hot-plug' (did you mean \
                 'hotplug'?); accepted: address, hotplug",
            ),
            (
                "multi-function = true",
                "/p.toml:2: key 'pci.multi-function': unknown key (did you mean 'multifunction'?); \
                 accepted: multifunction, keep-bound, rom, rom-file, placeholder",
            ),
            (
                "placeholder = 'hotplug'\nmultifunction = true",
                "/p.toml:3: key 'pci.multifunction': cannot be true with placeholder = \"hotplug\": \
                 only single functions can be plugged into a running VM",
            ),
        ] {
            let error = read(&format!("[pci]\n{text}\n")).unwrap_err();
            assert_eq!(error, wrong);
        }
    }
}
