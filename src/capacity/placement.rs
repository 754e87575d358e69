//! Chooses the place of a vGPU when sizes are mixed: of the places that the driver
//! accepts, the one that leaves the most space for others.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::count;
use crate::{
    device::{gpu::VgpuType, nvml::Placements},
    model::short_name,
};

/// A place in a GPU's memory: `id` to `id + size`, in the driver's own unit. Or one of the
/// places of a GPU instance, counted from 0.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Placement {
    /// The GPU instance, and then the value for `gpu_instance_id`; 0 is one like any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u32>,
    /// The value for `placement_id`, unless the place is only counted.
    pub id: u32,
    /// How much of the memory the place covers.
    pub size: u32,
    /// The id only counts: a GPU instance with vGPUs of one size, where the driver chooses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_counted: bool,
}

impl Placement {
    /// From this number on, a GPU instance is one that has to be made first. The driver's
    /// numbers are small, and all ones mean none.
    const NEW_INSTANCES: u32 = 1 << 31;

    /// The number that stands for a GPU instance that has to be made first, and for another one
    /// that comes `after` so many of them.
    #[must_use]
    pub fn new_instance(after: u32) -> u32 {
        Self::NEW_INSTANCES.saturating_add(after)
    }

    /// Whether its GPU instance has to be made first.
    #[must_use]
    pub fn needs_new_instance(self) -> bool {
        self.instance.is_some_and(|id| id >= Self::NEW_INSTANCES)
    }

    /// In the memory of the whole GPU.
    #[must_use]
    pub fn in_memory(id: u32, size: u32) -> Self {
        Self {
            instance: None,
            id,
            size,
            is_counted: false,
        }
    }

    /// Whether the two places overlap.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let end = |one: Self| u64::from(one.id) + u64::from(one.size);
        self.instance == other.instance
            && u64::from(self.id) < end(other)
            && u64::from(other.id) < end(self)
    }
}

/// `at 12 of its memory`, `in GPU instance 3`, `at 12 in GPU instance 3`,
/// `in a GPU instance that is made for it`.
impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.instance {
            Some(_) if self.needs_new_instance() => {
                f.write_str("in a GPU instance that is made for it")
            }
            Some(instance) if self.is_counted => write!(f, "in GPU instance {instance}"),
            Some(instance) => write!(f, "at {} in GPU instance {instance}", self.id),
            None => write!(f, "at {} of its memory", self.id),
        }
    }
}

/// The best of a type's free places: with it, the most types of the GPU can still be
/// created; if equal, the most memory can still be filled, summed over all sizes; then
/// the lowest id. None when the type has no free place. `all` are the places of all
/// types of the GPU, including the wanted type.
#[must_use]
pub fn choose_placement<'a>(
    wanted: &Placements,
    all: impl IntoIterator<Item = &'a Placements>,
) -> Option<Placement> {
    Places::of(all).best(wanted.size, &wanted.creatable)
}

/// A message that says why a type has no free place.
#[must_use]
pub fn no_place(type_name: &str, placements: &Placements) -> String {
    let name = short_name(type_name);
    let ids: Vec<String> = placements
        .supported
        .iter()
        .map(ToString::to_string)
        .collect();
    match ids.as_slice() {
        [] => format!("{name} has no placement id when sizes are mixed"),
        [only] => format!("no placement id of {name} is free: its only id {only} is covered"),
        [others @ .., last] => format!(
            "no placement id of {name} is free: its ids {} and {last} are covered",
            others.join(", ")
        ),
    }
}

/// How many more of a type fit beside each other, each at its best place, up to `most`;
/// None when the driver does not list its places.
pub(super) fn fitting(wanted: &VgpuType, types: &[VgpuType], most: u32) -> Option<u32> {
    let told = wanted.placements.as_ref().filter(|told| told.size > 0)?;
    let all = types.iter().filter(|other| !other.in_gpu_instance);
    let mut places = Places::of(all.filter_map(|other| other.placements.as_ref()));
    let mut free: Vec<u32> = told.creatable.clone();
    let mut found = 0;
    while found < most {
        let Some(place) = places.best(told.size, &free) else {
            break;
        };
        places.take(place);
        free = left(told.size, &free, place);
        found += 1;
    }
    Some(found)
}

/// Free places: how many types have them, by size and ids. Types of one size usually
/// have the same ids, so there are few entries.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Places(BTreeMap<(u32, Vec<u32>), u32>);

impl Places {
    fn of<'a>(types: impl IntoIterator<Item = &'a Placements>) -> Self {
        let mut places = BTreeMap::new();
        for Placements {
            size, creatable, ..
        } in types
        {
            let ids: BTreeSet<u32> = creatable.iter().copied().collect();
            let alike = places.entry((*size, ids.into_iter().collect()));
            *alike.or_insert(0) += 1;
        }
        Self(places)
    }

    fn best(&self, size: u32, ids: &[u32]) -> Option<Placement> {
        let places = ids.iter().map(|&id| Placement::in_memory(id, size));
        places.max_by_key(|&place| (self.worth_after(place), Reverse(place.id)))
    }

    /// After `place` is taken: how many types can still be created, and how much memory
    /// can still be filled with one size, summed over all sizes.
    fn worth_after(&self, place: Placement) -> (u32, u64) {
        let mut types = 0;
        let mut memory = 0;
        for ((size, ids), alike) in &self.0 {
            let ids = left(*size, ids, place);
            if !ids.is_empty() {
                types += alike;
            }
            memory += u64::from(*size) * u64::from(beside_each_other(*size, &ids));
        }
        (types, memory)
    }

    fn take(&mut self, place: Placement) {
        let mut after = BTreeMap::new();
        for ((size, ids), alike) in &self.0 {
            let ids = left(*size, ids, place);
            *after.entry((*size, ids)).or_insert(0) += alike;
        }
        self.0 = after;
    }
}

/// The ids that remain free if a place is taken.
pub(super) fn left(size: u32, ids: &[u32], taken: Placement) -> Vec<u32> {
    let is_free = |id: &u32| !taken.overlaps(Placement::in_memory(*id, size));
    ids.iter().copied().filter(is_free).collect()
}

/// How many of one size fit at once. For one size, filling from the lowest id is best.
/// The ids are in ascending order.
fn beside_each_other(size: u32, ids: &[u32]) -> u32 {
    let mut last: Option<Placement> = None;
    let fits = ids.iter().filter(|&&id| {
        let place = Placement::in_memory(id, size);
        let fits = last.is_none_or(|last| !last.overlaps(place));
        if fits {
            last = Some(place);
        }
        fits
    });
    count(fits.count())
}
