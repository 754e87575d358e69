//! Lines for people about foreign devices on the devices of our pools.

use crate::{
    config::mdevctl::Start,
    report::{Foreign, ForeignDevice},
};

impl Foreign {
    /// In lines for people.
    pub(super) fn notes(&self) -> Vec<String> {
        let is_there = |device: &&ForeignDevice| device.active;
        let mdevs: Vec<_> = self
            .devices
            .iter()
            .filter(is_there)
            .filter(|device| device.uuid.is_some())
            .collect();
        let functions: Vec<_> = self
            .devices
            .iter()
            .filter(is_there)
            .filter(|device| device.uuid.is_none())
            .collect();
        let defined = |start| -> Vec<_> {
            self.devices
                .iter()
                .filter(|device| !device.active && device.mdevctl == Some(start))
                .collect()
        };
        let (coming, by_hand) = (defined(Start::Auto), defined(Start::Manual));
        let (pools, parent) = (self.pools_in_words(), &self.parent);
        let mut notes = Vec::new();
        if !mdevs.is_empty() {
            notes.push(format!(
                "{pools}: {parent} has {} {}: {}",
                count(mdevs.len(), "mediated device"),
                self.whose(mdevs.len()),
                self.list(&mdevs)
            ));
        }
        if !functions.is_empty() {
            notes.push(format!(
                "{pools}: {parent} has {} with a vGPU type {}: {}",
                count(functions.len(), "virtual function"),
                self.whose(1),
                self.list(&functions)
            ));
        }
        if !coming.is_empty() {
            notes.push(format!(
                "{pools}: mdevctl will make {} on {parent} at the next boot: {}",
                count(coming.len(), "mediated device"),
                self.list(&coming)
            ));
        }
        if !by_hand.is_empty() {
            notes.push(format!(
                "{pools}: mdevctl has {} defined on {parent}, to be started by hand only: {}",
                count(by_hand.len(), "mediated device"),
                self.list(&by_hand)
            ));
        }
        notes
    }

    fn pools_in_words(&self) -> String {
        let names: Vec<String> = self.pools.iter().map(|name| format!("'{name}'")).collect();
        let word = if names.len() == 1 { "pool" } else { "pools" };
        format!("{word} {}", names.join(", "))
    }

    fn whose(&self, count: usize) -> &'static str {
        match (self.in_doubt, count) {
            (true, _) => "that no readable claim names",
            (false, 1) => "that is not ours",
            (false, _) => "that are not ours",
        }
    }

    fn list(&self, devices: &[&ForeignDevice]) -> String {
        /// A GPU may have as many as it has virtual functions.
        const SHOWN: usize = 8;
        let shown = devices.iter().take(SHOWN);
        let mut words: Vec<String> = shown.map(|device| self.in_words(device)).collect();
        if let Some(more @ 1..) = devices.len().checked_sub(SHOWN) {
            words.push(format!("{more} more (--json has them all)"));
        }
        words.join(", ")
    }

    fn in_words(&self, device: &ForeignDevice) -> String {
        let ForeignDevice {
            uuid,
            parent,
            type_id,
            ..
        } = device;
        let Some(uuid) = uuid else {
            return format!("{parent} (type {type_id})");
        };
        let place = if *parent == self.parent {
            String::new()
        } else {
            format!(" on {parent}")
        };
        let defined = match device.mdevctl {
            Some(Start::Auto) if device.active => ", defined in mdevctl with autostart",
            Some(Start::Manual) if device.active => ", defined in mdevctl",
            _ => "",
        };
        format!("{uuid}{place} ({type_id}{defined})")
    }
}

fn count(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}
