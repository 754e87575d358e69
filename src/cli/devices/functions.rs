//! PCI functions, printed.

use std::fmt;

use crate::{
    cli::output::Table,
    device::pci::NO_RESET,
    report::devices::{FunctionList, Link, WholeFunction},
};

impl fmt::Display for FunctionList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.devices.is_empty() {
            return writeln!(f, "{}", self.if_none);
        }
        let has_fields = self.devices.iter().any(|device| device.fields.is_some());
        if has_fields {
            for (index, device) in self.devices.iter().enumerate() {
                let gap = if index > 0 { "\n" } else { "" };
                writeln!(f, "{gap}{}", device.address)?;
                if let Some(fields) = &device.fields {
                    write!(f, "{fields}")?;
                }
            }
            return Ok(());
        }
        if self.devices.iter().any(|device| device.whole.is_some()) {
            return self.fmt_whole(f);
        }
        let mut table = Table::new(&["ADDRESS", "CLASS", "ID", "DRIVER", "NAME"]);
        for device in &self.devices {
            let or_unknown = |text: &Option<String>| text.clone().unwrap_or_default();
            let ids = format!(
                "{}:{}",
                or_unknown(&device.vendor_id),
                or_unknown(&device.device_id)
            );
            let names: Vec<&str> = [&device.vendor, &device.device]
                .into_iter()
                .filter_map(|name| name.as_deref())
                .collect();
            table.row([
                device.address.to_string(),
                or_unknown(&device.class),
                ids,
                or_unknown(&device.driver),
                names.join(" "),
            ]);
        }
        write!(f, "{table}")
    }
}

impl FunctionList {
    /// Functions that can be handed out whole: a line each, and below what cannot be said in
    /// a column.
    fn fmt_whole(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&[
            "ADDRESS", "CLASS", "ID", "DRIVER", "GROUP", "NODE", "RESET", "LINK", "POOLS", "USER",
            "NAME",
        ]);
        for device in &self.devices {
            let Some(whole) = &device.whole else { continue };
            let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
            let names = [&device.vendor, &device.device].into_iter();
            let names: Vec<&str> = names.filter_map(|name| name.as_deref()).collect();
            let mark = if whole.shares_group_with.is_empty() {
                ""
            } else {
                "*"
            };
            table.row([
                device.address.to_string(),
                or_none(&device.class),
                format!(
                    "{}:{}",
                    or_none(&device.vendor_id),
                    or_none(&device.device_id)
                ),
                or_none(&device.driver),
                whole
                    .iommu_group
                    .as_ref()
                    .map_or_else(String::new, |group| format!("{group}{mark}")),
                whole
                    .numa_node
                    .map_or_else(String::new, |node| node.to_string()),
                whole.reset_methods.join(" "),
                whole.link.as_ref().map_or_else(String::new, link),
                joined(&whole.pools),
                user(whole),
                names.join(" "),
            ]);
        }
        write!(f, "{table}")?;
        let mut gap = "\n";
        for device in &self.devices {
            let Some(whole) = &device.whole else { continue };
            let address = device.address;
            if !whole.shares_group_with.is_empty() {
                let group = whole.iommu_group.as_deref().unwrap_or_default();
                let others = joined(&whole.shares_group_with);
                writeln!(f, "{gap}{address}: IOMMU group {group} also holds {others}")?;
                gap = "";
            }
            for why in &whole.critical {
                writeln!(f, "{gap}{address}: {why}")?;
                gap = "";
            }
            if let Some(why) = &whole.quarantined {
                writeln!(f, "{gap}{address}: quarantined: {why}")?;
                gap = "";
            }
            if whole.reset_methods.is_empty() && whole.is_free() {
                writeln!(f, "{gap}{address}: {NO_RESET}")?;
                gap = "";
            }
        }
        Ok(())
    }
}

/// The present link, and what the device can do if that is more.
fn link(link: &Link) -> String {
    let short = |speed: &str| speed.trim_end_matches(" PCIe").replace(".0 ", " ");
    let now = format!("{} x{}", short(&link.speed), link.width);
    if link.is_reduced() {
        let most = format!("{} x{}", short(&link.max_speed), link.max_width);
        format!("{now} (of {most})")
    } else {
        now
    }
}

fn user(whole: &WholeFunction) -> String {
    match &whole.user {
        Some(domain) => domain.to_string(),
        None if whole.quarantined.is_some() => "quarantined".to_owned(),
        None if whole.is_bridge => "bridge".to_owned(),
        None if !whole.critical.is_empty() => "host".to_owned(),
        None => String::new(),
    }
}

fn joined<T: ToString>(all: &[T]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    all.join(", ")
}
