//! All PCI functions of the host.

use std::{fmt, process::ExitCode};

use anyhow::{Context, anyhow};
use serde::Serialize;

use super::{Devices, FieldValues, fields_of};
use crate::{
    cli::{
        near,
        output::{self, Table},
    },
    device::pci::{self, DeviceFields},
    host::{Host, PciIds},
    model::PciAddress,
    rule::{Field, Fields, Kind},
};

#[derive(Debug, Serialize)]
struct Report {
    devices: Vec<FunctionReport>,
}

#[derive(Debug, Serialize)]
struct FunctionReport {
    address: PciAddress,
    class: Option<String>,
    vendor_id: Option<String>,
    device_id: Option<String>,
    vendor: Option<String>,
    device: Option<String>,
    driver: Option<String>,
    physical_function: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<FieldValues>,
}

pub(super) fn run(verb: &Devices, host: &Host) -> anyhow::Result<ExitCode> {
    let report = gather(verb, host)?;
    if verb.json {
        output::json(&report)?;
    } else {
        output::text(&report.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn gather(verb: &Devices, host: &Host) -> anyhow::Result<Report> {
    let names = PciIds::new(host);
    let mut functions = pci::functions(host).context("cannot list PCI functions")?;
    functions.sort_unstable();
    if !verb.addresses.is_empty() {
        let mut wanted = Vec::new();
        for text in &verb.addresses {
            let parsed = text.parse::<PciAddress>();
            match parsed {
                Ok(address) if functions.iter().any(|(have, _)| *have == address) => {
                    wanted.push(address);
                }
                _ => return Err(unknown(text, &functions)),
            }
        }
        functions.retain(|(address, _)| wanted.contains(address));
    }
    let report = |(address, path): &(PciAddress, String)| {
        let name = address.to_string();
        let device = fields_of(host, &names, &name, path);
        function_report(*address, &device, verb.fields)
    };
    Ok(Report {
        devices: functions.iter().map(report).collect(),
    })
}

fn unknown(text: &str, functions: &[(PciAddress, String)]) -> anyhow::Error {
    let have: Vec<String> = { functions.iter() }
        .map(|(address, _)| address.to_string())
        .collect();
    anyhow!(
        "there is no PCI function '{}': {}; 'virt-vgpu devices --kind pci' lists all",
        near::one_line(text),
        near::what_there_is(&near::canonical(text), &have)
    )
}

fn function_report(
    address: PciAddress,
    device: &DeviceFields<'_>,
    with_fields: bool,
) -> FunctionReport {
    let value = |field: Field| {
        let value = device.field(field)?;
        Some(field.info().value_type.print(&value))
    };
    FunctionReport {
        address,
        class: value(Field::Class),
        vendor_id: value(Field::VendorId),
        device_id: value(Field::DeviceId),
        vendor: value(Field::Vendor),
        device: value(Field::Device),
        driver: value(Field::Driver),
        physical_function: value(Field::PhysicalFunction),
        fields: with_fields.then(|| FieldValues::read(device, Kind::Pci)),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.devices.is_empty() {
            return writeln!(f, "no PCI functions");
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
            let names: Vec<&str> = { [&device.vendor, &device.device].into_iter() }
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
