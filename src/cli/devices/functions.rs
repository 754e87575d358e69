//! PCI functions, printed.

use std::fmt;

use crate::{cli::output::Table, report::devices::FunctionList};

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
