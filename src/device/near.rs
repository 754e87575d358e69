//! Help with names that do not exist: similar names on the host, nearest first, and why
//! an existing device is not of the wanted kind.

use super::{PCI_DEVICES, Sysfs, link_name, mdev::MdevHost, readiness};
use crate::{
    model::{ParentName, PciAddress},
    rule::spelling,
};

/// A device's name as in sysfs, for a name in any notation.
#[must_use]
pub fn canonical(text: &str) -> String {
    text.parse::<PciAddress>()
        .map_or_else(|_| text.to_owned(), |address| address.to_string())
}

/// `the nearest are A, B and C`, or a text that there is none.
#[must_use]
pub fn what_there_is(wanted: &str, have: &[String]) -> String {
    /// More names would hide the one that was meant.
    const NAMED: usize = 4;
    let mut nearest: Vec<&String> = have.iter().collect();
    nearest.sort_by_key(|name| std::cmp::Reverse(same_places(wanted, name)));
    let named: Vec<&str> = nearest
        .iter()
        .take(NAMED)
        .map(|name| name.as_str())
        .collect();
    match named.split_last() {
        None => "this host has none".to_owned(),
        Some((only, [])) => format!("the only one is {only}"),
        Some((last, others)) if have.len() <= NAMED => {
            format!("there are {} and {last}", others.join(", "))
        }
        Some((last, others)) => format!("the nearest are {} and {last}", others.join(", ")),
    }
}

/// How many characters are equal at the same position. Addresses have one length, so
/// this distinguishes `3c` instead of `3b` from a completely different card.
fn same_places(one: &str, other: &str) -> usize {
    one.chars()
        .zip(other.chars())
        .filter(|(a, b)| a == b)
        .count()
}

/// The indexes in the list of parents: of the parent that the text names, or of the
/// virtual functions of the board that it names.
///
/// # Errors
/// When sysfs cannot be read.
pub fn parents_named(mdev: &MdevHost<'_>, text: &str) -> std::io::Result<Vec<usize>> {
    let Ok(name) = canonical(text).parse::<ParentName>() else {
        return Ok(Vec::new());
    };
    let parents = mdev.parents();
    if let Some(index) = parents.iter().position(|parent| parent.name == name) {
        return Ok(vec![index]);
    }
    let mut functions = Vec::new();
    for (index, parent) in parents.iter().enumerate() {
        if mdev.board(parent) == name {
            functions.push(index);
        }
    }
    Ok(functions)
}

/// Why a text names no parent: WHAT: WHY; NEXT STEP. `kind`: that of pools of such parents.
#[must_use]
pub fn unknown_parent(mdev: &MdevHost<'_>, text: &str, kind: &str) -> String {
    let sysfs = mdev.sysfs();
    let name = canonical(text);
    let path = format!("{PCI_DEVICES}/{name}");
    if name.parse::<PciAddress>().is_ok() && sysfs.exists(&path) {
        return not_a_parent(sysfs, &name, &path, kind);
    }
    let shown = spelling::shown(text);
    if mdev.parents().is_empty() {
        return format!(
            "there is no mdev parent '{shown}': this host has none; load the driver that makes \
             mediated devices"
        );
    }
    let have: Vec<String> = mdev
        .parents()
        .iter()
        .map(|parent| parent.name.to_string())
        .collect();
    format!(
        "there is no mdev parent '{shown}': {}; 'virt-vgpu devices --kind {kind}' lists all",
        what_there_is(&name, &have)
    )
}

fn not_a_parent(sysfs: &dyn Sysfs, name: &str, path: &str, kind: &str) -> String {
    let address = name.parse::<PciAddress>();
    if address.is_ok_and(|address| readiness::lacks_functions(sysfs, address)) {
        return format!(
            "{name} is not an mdev parent: its virtual functions are not enabled; enable them \
             (for NVIDIA: /usr/lib/nvidia/sriov-manage -e {name})"
        );
    }
    let why = match link_name(sysfs, &format!("{path}/driver")) {
        Ok(driver) => format!("its driver '{driver}' offers no mdev types"),
        Err(_) => "no driver is bound to it".to_owned(),
    };
    format!(
        "{name} is not an mdev parent: {why}; 'virt-vgpu devices --kind {kind}' lists those that \
         are"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_come_first() {
        let have = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        assert_eq!(what_there_is("x", &[]), "this host has none");
        assert_eq!(what_there_is("x", &have(&["mtty"])), "the only one is mtty");
        assert_eq!(
            what_there_is("0000:5e:00.1", &have(&["0000:3b:00.0", "0000:5e:00.0"])),
            "there are 0000:5e:00.0 and 0000:3b:00.0"
        );
        let many = have(&["a1", "a2", "a3", "a4", "b5"]);
        assert_eq!(
            what_there_is("b6", &many),
            "the nearest are b5, a1, a2 and a3"
        );
    }
}
