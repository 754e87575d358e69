//! Whether a set of requests can all be served at once: a bipartite matching of
//! requests to slots with room for several (Kuhn's augmenting paths). Greedy
//! choice alone would let a request that has alternatives take the only device
//! of one that has none.

use std::collections::{BTreeMap, BTreeSet};

use super::Wanted;
use crate::model::{MdevTypeId, ParentName};

/// A parent and the type to be made on it.
pub(super) type Slot = (ParentName, MdevTypeId);

/// Requests of one pool have the same candidates, so their order cannot matter;
/// looking ahead pays only when pools differ.
pub(super) fn is_needed(wanted: &[Wanted<'_>]) -> bool {
    wanted
        .windows(2)
        .any(|pair| pair[0].pool.name != pair[1].pool.name)
}

/// Whether each list of acceptable slots can get one of its own, given how many
/// each slot holds.
pub(super) fn all_served(choices: &[Vec<Slot>], room: &BTreeMap<Slot, u32>) -> bool {
    let mut holders: BTreeMap<&Slot, Vec<usize>> = BTreeMap::new();
    (0..choices.len())
        .all(|request| assign(request, choices, room, &mut holders, &mut BTreeSet::new()))
}

fn assign<'a>(
    request: usize,
    choices: &'a [Vec<Slot>],
    room: &BTreeMap<Slot, u32>,
    holders: &mut BTreeMap<&'a Slot, Vec<usize>>,
    tried: &mut BTreeSet<&'a Slot>,
) -> bool {
    for slot in &choices[request] {
        let size = room.get(slot).copied().unwrap_or(0);
        if size == 0 || !tried.insert(slot) {
            continue;
        }
        let present = holders.entry(slot).or_default().clone();
        if present.len() < usize::try_from(size).unwrap_or(usize::MAX) {
            holders.entry(slot).or_default().push(request);
            return true;
        }
        for (place, other) in present.into_iter().enumerate() {
            if assign(other, choices, room, holders, tried) {
                holders.entry(slot).or_default()[place] = request;
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot(number: usize) -> Slot {
        (
            format!("0000:{number:02x}:00.0").parse().unwrap(),
            "t-1".parse().unwrap(),
        )
    }

    /// Tries every assignment.
    fn naive(choices: &[Vec<Slot>], room: &mut BTreeMap<Slot, u32>) -> bool {
        let Some((first, rest)) = choices.split_first() else {
            return true;
        };
        first.iter().any(|slot| {
            if room[slot] == 0 {
                return false;
            }
            *room.get_mut(slot).unwrap() -= 1;
            let fits = naive(rest, room);
            *room.get_mut(slot).unwrap() += 1;
            fits
        })
    }

    proptest! {
        #[test]
        fn agrees_with_trying_everything(
            sizes in prop::collection::vec(0u32..3, 4),
            wishes in prop::collection::vec(prop::collection::btree_set(0usize..4, 0..4), 0..6),
        ) {
            let mut room: BTreeMap<Slot, u32> =
                sizes.iter().enumerate().map(|(n, &size)| (slot(n), size)).collect();
            let choices: Vec<Vec<Slot>> =
                wishes.iter().map(|set| set.iter().map(|&n| slot(n)).collect()).collect();
            prop_assert_eq!(all_served(&choices, &room), naive(&choices, &mut room));
        }
    }
}
