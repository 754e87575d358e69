//! A device that a person names for a new pool: found on the host, checked for the type,
//! and turned into a rule.

use crate::{
    device::{
        mdev::{MdevHost, MdevType, Offer, Parent},
        near,
    },
    kind::{Named, NewDevice},
    model::TypeSelector,
    rule::spelling::{self, nearest},
};

/// Finds the device of that address or name.
pub(super) fn named(
    mdev: &MdevHost<'_>,
    device_type: &TypeSelector,
    text: &str,
) -> Result<Named, String> {
    let name = near::canonical(text);
    let indices = near::parents_named(mdev, text).map_err(|error| error.to_string())?;
    let parents: Vec<&Parent> = indices.iter().map(|&i| &mdev.parents()[i]).collect();
    let Some(first) = parents.first() else {
        return Err(near::unknown_parent(mdev, text, "mdev"));
    };
    let mut doubt = None;
    for parent in &parents {
        match mdev.offer(parent, device_type) {
            Offer::Type { .. } => {
                return Ok(if first.name.to_string() == name {
                    Named {
                        device: NewDevice::Itself(name),
                        note: None,
                    }
                } else {
                    virtual_functions(name, parents.len())
                });
            }
            Offer::NoSuchType => {}
            Offer::Unreadable(why) | Offer::Taken(why) | Offer::NoRoom(why) => {
                doubt = Some(format!("{} cannot be read: {why}", parent.name));
            }
        }
    }
    match doubt {
        Some(doubt) => Err(doubt),
        None => Err(no_such_type(mdev, first, device_type)),
    }
}

fn virtual_functions(name: String, count: usize) -> Named {
    let functions = if count == 1 {
        "its virtual function is".to_owned()
    } else {
        format!("its {count} virtual functions are")
    };
    Named {
        note: Some(format!(
            "{name} is a physical function: {functions} in the pool, and those made later"
        )),
        device: NewDevice::VirtualFunctionsOf(name),
    }
}

fn no_such_type(mdev: &MdevHost<'_>, parent: &Parent, wanted: &TypeSelector) -> String {
    let types = match mdev.types(parent) {
        Ok(types) => types,
        Err(error) => return format!("{}: cannot read its types: {error}", parent.name),
    };
    let meant = meant(wanted.as_str(), &types)
        .map(|name| format!(" (did you mean '{name}'?)"))
        .unwrap_or_default();
    let listed: Vec<String> = types.iter().map(listed).collect();
    let listed = if listed.is_empty() {
        "it has none".to_owned()
    } else {
        format!("it has {}", listed.join(", "))
    };
    format!("{} has no type '{wanted}'{meant}; {listed}", parent.name)
}

fn listed(one: &MdevType) -> String {
    match &one.name {
        Some(name) if name != one.id.as_str() => format!("{} ({})", one.id, spelling::shown(name)),
        _ => one.id.to_string(),
    }
}

/// The id or name that was meant: `l40s-12q` for `NVIDIA L40S-12Q`, else the one
/// with the fewest slips.
fn meant<'t>(wanted: &str, types: &'t [MdevType]) -> Option<&'t str> {
    let names = types
        .iter()
        .flat_map(|one| one.name.as_deref().into_iter().chain([one.id.as_str()]));
    let lower = wanted.to_lowercase();
    // A type's last word is what documents call it.
    let is_last_word = |name: &&str| {
        let name = name.to_lowercase();
        name == lower || name.ends_with(&format!(" {lower}"))
    };
    if let Some(name) = names.clone().find(is_last_word) {
        return Some(name);
    }
    // Ids differ by their number, so the nearest id is as often wrong as right:
    // only a slip in the words in front of the number is told.
    let names: Vec<&str> = names.collect();
    nearest(wanted, &names).filter(|name| has_same_digits(name, wanted))
}

fn has_same_digits(one: &str, other: &str) -> bool {
    let digits = |text: &str| -> String { text.chars().filter(char::is_ascii_digit).collect() };
    digits(one) == digits(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_suggested_by_its_last_word_or_for_a_slip() {
        let one = |id: &str, name: &str| MdevType {
            id: id.parse().unwrap(),
            name: Some(name.to_owned()),
            description: None,
            available: 1,
            device_api: String::new(),
        };
        let types = [
            one("nvidia-558", "NVIDIA L40S-12Q"),
            one("nvidia-559", "NVIDIA L40S-2Q"),
        ];
        for (wanted, found) in [
            ("l40s-12q", Some("NVIDIA L40S-12Q")),
            ("L40S-2Q", Some("NVIDIA L40S-2Q")),
            ("nvidia l40s-2q", Some("NVIDIA L40S-2Q")),
            ("nvdia-558", Some("nvidia-558")),
            ("nvidia_559", Some("nvidia-559")),
            ("nvidia-557", None),
            ("q", None),
        ] {
            assert_eq!(meant(wanted, &types), found, "{wanted}");
        }
    }
}
