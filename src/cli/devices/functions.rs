//! PCI functions, printed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use crate::{
    cli::output::{self, Table},
    device::pci::NO_RESET,
    kind::{self, Subject},
    model::PciAddress,
    report::devices::{FunctionList, FunctionReport, Link, WholeFunction},
};

impl fmt::Display for FunctionList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_list(f)?;
        for problem in &self.problems {
            writeln!(f, "\nproblem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}

impl FunctionList {
    fn fmt_list(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        // Most GPUs have no MIG.
        let has_mig = self.devices.iter().any(|device| device.mig.is_some());
        let mut columns = vec!["ADDRESS", "CLASS", "ID", "DRIVER"];
        columns.extend(has_mig.then_some("MIG"));
        columns.push("NAME");
        let mut table = Table::new(&columns);
        for device in &self.devices {
            let or_unknown = |text: &Option<String>| text.clone().unwrap_or_default();
            let mut row = vec![
                device.address.to_string(),
                or_unknown(&device.class),
                ids(device),
                or_unknown(&device.driver),
            ];
            row.extend(has_mig.then(|| mig(device)));
            row.push(name(device));
            table.row(row);
        }
        write!(f, "{table}")
    }

    /// The functions in the order of the table; below each GPU, marked, its companions,
    /// whether they were asked for or not.
    fn rows(&self) -> Vec<(&FunctionReport, &WholeFunction, bool)> {
        fn whole(device: &FunctionReport) -> Option<(&FunctionReport, &WholeFunction)> {
            Some((device, device.whole.as_ref()?))
        }
        let all = self.devices.iter().filter_map(whole);
        let beside = self.beside.iter().filter_map(whole);
        let known: BTreeMap<PciAddress, _> = all
            .clone()
            .chain(beside)
            .map(|one| (one.0.address, one))
            .collect();
        let of_gpus: BTreeSet<PciAddress> = all
            .clone()
            .flat_map(|(_, whole)| whole.companions.iter().copied())
            .collect();
        let mut rows = Vec::new();
        for (device, whole) in all {
            if of_gpus.contains(&device.address) {
                continue;
            }
            rows.push((device, whole, false));
            let companions = whole.companions.iter().filter_map(|one| known.get(one));
            rows.extend(companions.map(|(device, whole)| (*device, *whole, true)));
        }
        rows
    }

    /// Functions that can be handed out whole: a line each, and below what cannot be said in
    /// a column.
    fn fmt_whole(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&[
            "ADDRESS", "CLASS", "ID", "DRIVER", "GROUP", "NODE", "RESET", "LINK", "POOLS", "USER",
            "NAME",
        ]);
        let rows = self.rows();
        for (device, whole, is_beside) in &rows {
            let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
            let mark = if whole.is_in_shared_group() { "*" } else { "" };
            let indent = if *is_beside { "  " } else { "" };
            table.row([
                format!("{indent}{}", device.address),
                or_none(&device.class),
                ids(device),
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
                name(device),
            ]);
        }
        write!(f, "{table}")?;
        let groups = shared_groups(&rows);
        let mut remarks = Remarks::default();
        for (device, whole, _) in rows {
            let address = device.address;
            // A GPU has a reason for each of its virtual functions.
            const MOST: usize = 8;
            const FIRST: usize = 2;
            let told = match whole.critical.len() {
                0..=MOST => MOST,
                _ => FIRST,
            };
            for why in whole.critical.iter().take(told) {
                remarks.add(address, why.clone());
            }
            if let more @ 1.. = whole.critical.len().saturating_sub(told) {
                let what = format!("{more} more things of the host need it; --json lists them");
                remarks.add(address, what);
            }
            for pool in &whole.taken_from_host_by {
                let why = format!("pool '{pool}' takes it all the same (allow-critical)");
                remarks.add(address, why);
            }
            if let Some(why) = &whole.quarantined {
                remarks.add(address, format!("quarantined: {why}"));
            }
            let is_needed = !whole.critical.is_empty() && whole.taken_from_host_by.is_empty();
            if let Some(why) = whole.unavailable.as_ref().filter(|_| !is_needed) {
                remarks.add(address, why.clone());
            }
            if whole.reset_methods.is_empty() && whole.free {
                remarks.add(address, NO_RESET.to_owned());
            }
        }
        if !groups.is_empty() || !remarks.all.is_empty() {
            writeln!(f)?;
        }
        for (group, members) in groups {
            let members: Vec<PciAddress> = members.into_iter().collect();
            writeln!(f, "IOMMU group {group}: {}", joined(&members))?;
        }
        for (why, functions) in remarks.all {
            writeln!(f, "{}: {why}", some_of(&functions))?;
        }
        let of_parents = kind::names_about(Subject::Parent);
        let list = format!("'virt-vgpu devices --kind {of_parents}'");
        match self.parents {
            None | Some(0) => Ok(()),
            Some(1) => writeln!(f, "\n1 device makes mediated devices: {list}"),
            Some(count) => writeln!(f, "\n{count} devices make mediated devices: {list}"),
        }
    }
}

/// What is said below the table: the text, and the functions that it is about.
#[derive(Default)]
struct Remarks {
    all: Vec<(String, BTreeSet<PciAddress>)>,
    places: HashMap<String, usize>,
}

impl Remarks {
    /// Many functions have the same reason if something is missing for all.
    fn add(&mut self, function: PciAddress, text: String) {
        match self.places.get(&text) {
            Some(place) => {
                self.all[*place].1.insert(function);
            }
            None => {
                self.places.insert(text.clone(), self.all.len());
                self.all.push((text, BTreeSet::from([function])));
            }
        }
    }
}

/// The first functions, and how many more there are.
fn some_of(functions: &BTreeSet<PciAddress>) -> String {
    const NAMED: usize = 8;
    let named: Vec<&PciAddress> = functions.iter().take(NAMED).collect();
    match functions.len().saturating_sub(NAMED) {
        0 => joined(&named),
        more => format!("{} and {more} more", joined(&named)),
    }
}

/// The IOMMU groups of several devices, in the order of the table, each with all its members.
fn shared_groups<'l>(
    rows: &[(&'l FunctionReport, &'l WholeFunction, bool)],
) -> Vec<(&'l str, BTreeSet<PciAddress>)> {
    let mut groups: Vec<(&str, BTreeSet<PciAddress>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (device, whole, _) in rows {
        let Some(group) = whole.iommu_group.as_deref() else {
            continue;
        };
        if !whole.is_in_shared_group() {
            continue;
        }
        let place = *places.entry(group).or_insert_with(|| {
            // The others know the same of it.
            let members = whole.shares_group_with.iter().copied();
            groups.push((group, members.collect()));
            groups.len() - 1
        });
        groups[place].1.insert(device.address);
    }
    groups
}

/// The names of its vendor and of itself; where that is not known, of its class.
fn name(device: &FunctionReport) -> String {
    let class = || Some(format!("({})", device.class_name.as_ref()?));
    let itself = device.device.clone().or_else(class);
    let names = [device.vendor.clone(), itself].into_iter();
    names.flatten().collect::<Vec<String>>().join(" ")
}

/// Whether MIG mode is on, and the number of GPU instances.
fn mig(device: &FunctionReport) -> String {
    match (device.mig, device.gpu_instances) {
        (Some(true), Some(1)) => "on, 1 GPU instance".to_owned(),
        (Some(true), Some(count)) => format!("on, {count} GPU instances"),
        (Some(true), None) => "on".to_owned(),
        (Some(false), _) => "off".to_owned(),
        (None, _) => String::new(),
    }
}

/// The ids of vendor and device; nothing where neither can be read.
fn ids(device: &FunctionReport) -> String {
    const UNKNOWN: &str = "-";
    match (&device.vendor_id, &device.device_id) {
        (None, None) => String::new(),
        (vendor, its) => {
            let or_unknown = |id: &Option<String>| id.clone().unwrap_or_else(|| UNKNOWN.to_owned());
            format!("{}:{}", or_unknown(vendor), or_unknown(its))
        }
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
