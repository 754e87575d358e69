//! Parents of mediated devices, printed.

use std::fmt;

use crate::{
    cli::output::{self, Table},
    device::mdev::MdevType,
    report::devices::{MdevReport, OwnerReport, ParentList, ParentReport},
};

impl fmt::Display for ParentList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.devices.is_empty() {
            writeln!(f, "{}", self.if_none)?;
        }
        for (index, alike) in self.folded().iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write_alike(f, alike)?;
        }
        for problem in &self.problems {
            writeln!(f, "\nproblem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}

impl ParentList {
    /// Idle virtual functions of one board that offer the same are shown once: a
    /// card with 32 of them and 25 types each would fill 800 lines.
    fn folded(&self) -> Vec<Vec<&ParentReport>> {
        let mut groups: Vec<Vec<&ParentReport>> = Vec::new();
        for device in &self.devices {
            let group = groups
                .iter_mut()
                .find(|group| self.may_fold && group.iter().all(|other| is_alike(other, device)));
            match group {
                Some(group) => group.push(device),
                None => groups.push(vec![device]),
            }
        }
        groups
    }
}

fn is_alike(one: &ParentReport, other: &ParentReport) -> bool {
    let is_idle =
        |device: &ParentReport| device.mdevs.is_empty() && device.physical_function.is_some();
    is_idle(one)
        && is_idle(other)
        && one.fields.is_none()
        && one.problem == other.problem
        && one.physical_function == other.physical_function
        && one.types == other.types
}

fn write_alike(f: &mut fmt::Formatter<'_>, alike: &[&ParentReport]) -> fmt::Result {
    /// Addresses of one group that are written out.
    const NAMED: usize = 4;
    let Some(first) = alike.first() else {
        return Ok(());
    };
    let named: Vec<String> = alike
        .iter()
        .take(NAMED)
        .map(|device| device.address.to_string())
        .collect();
    write!(f, "{}", named.join(", "))?;
    if let Some(more @ 1..) = alike.len().checked_sub(NAMED) {
        write!(f, " and {more} more")?;
    }
    match (&first.physical_function, alike.len()) {
        (None, _) => writeln!(f)?,
        (Some(board), 1) => writeln!(f, " (virtual function of {board})")?,
        (Some(board), _) => writeln!(f, " (virtual functions of {board}), each:")?,
    }
    if let Some(fields) = &first.fields {
        return write!(f, "{fields}");
    }
    match &first.problem {
        Some(problem) => writeln!(f, "  {}", output::one_line(problem))?,
        None => write_types(f, &first.types)?,
    }
    write_mdevs(f, &first.mdevs)
}

fn write_types(f: &mut fmt::Formatter<'_>, types: &[MdevType]) -> fmt::Result {
    let mut table = Table::new(&["TYPE", "NAME", "AVAILABLE", "DESCRIPTION"]);
    for one in types {
        let text = |text: &Option<String>| {
            // Drivers of integrated GPUs describe a type in several lines.
            let lines: Vec<&str> = text
                .iter()
                .flat_map(|text| text.lines())
                .map(|line| line.trim().trim_end_matches(','))
                .collect();
            lines.join(", ")
        };
        table.row([
            one.id.to_string(),
            text(&one.name),
            one.available.to_string(),
            text(&one.description),
        ]);
    }
    if table.is_empty() {
        return writeln!(f, "  no types");
    }
    write!(f, "{}", table.indented())
}

fn write_mdevs(f: &mut fmt::Formatter<'_>, mdevs: &[MdevReport]) -> fmt::Result {
    let mut table = Table::new(&["MDEV", "TYPE", "OWNER"]);
    for mdev in mdevs {
        let owner = match &mdev.claim {
            Some(OwnerReport {
                domain,
                device,
                pool,
            }) => {
                format!("domain '{domain}' ('{device}' from pool '{pool}')")
            }
            None => "not ours".to_owned(),
        };
        table.row([mdev.uuid.to_string(), mdev.type_id.to_string(), owner]);
    }
    if table.is_empty() {
        return Ok(());
    }
    write!(f, "{}", table.indented())
}
