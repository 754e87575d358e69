//! Each device that a pool could take, in lines for people.

use crate::{
    cli::output::{self, Table},
    model::PoolName,
    report::pool::Candidate,
};

/// The devices in the pool, a row each.
pub(super) fn members(candidates: &[Candidate]) -> Table {
    let mut table = Table::new(&["DEVICE", "TAKEN BY", "AVAILABLE", "ALSO IN POOL"]);
    for one in candidates.iter().filter(|one| one.matches) {
        let also_in: Vec<&str> = one.also_in.iter().map(PoolName::as_str).collect();
        let available = match &one.problem {
            Some(problem) => problem.clone(),
            None if one.exact => one.available.to_string(),
            None => format!("at most {}", one.available),
        };
        table.row([
            one.address.to_string(),
            one.rule.clone().unwrap_or_default(),
            available,
            also_in.join(", "),
        ]);
    }
    table
}

/// The devices that are not in the pool, each with what every rule missed.
pub(super) fn rejected(candidates: &[Candidate]) -> String {
    let mut text = String::new();
    for one in candidates.iter().filter(|one| !one.matches) {
        text.push_str(&format!("  {}\n", one.address));
        for reason in &one.reasons {
            text.push_str(&format!("    {}\n", output::one_line(reason)));
        }
    }
    text
}
