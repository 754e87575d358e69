//! GPUs with mixed sizes: each vGPU has a place in the GPU's memory, and only NVML
//! knows the places.

use super::functions;
use crate::{
    capacity::{Placement, choose_placement, no_place},
    device::{
        mdev::Offer,
        nvml::{Placements, Told, TypeFacts},
    },
    kind::{Candidate, HostView, PlacementChoice},
    model::TypeSelector,
};

/// The offer of a candidate with mixed sizes: it needs a free place. `offer` is the
/// offer without mixed sizes.
pub(super) fn offer(
    view: &HostView<'_>,
    profile: &TypeSelector,
    candidate: &Candidate,
    offer: Offer,
) -> Offer {
    let gpu = &view.board_of(candidate);
    let facts = match view.facts_of(gpu) {
        Ok(facts) => facts,
        Err(why) => return Offer::Unreadable(format!("sizes are mixed on {gpu}, but {why}")),
    };
    match &facts.heterogeneous {
        Told::Value(mode) if mode.enabled => {}
        Told::Value(_) => {
            return Offer::Taken(format!(
                "{gpu} is not set to mix sizes yet; run 'virt-vgpu host apply {gpu}'"
            ));
        }
        Told::Unavailable(failure) => return Offer::Unreadable(failure.message.clone()),
    }
    let types = facts.types.value().map(Vec::as_slice).unwrap_or_default();
    let wanted = types.iter().find(|one| profile.means_name(&one.name));
    let placements = wanted.and_then(|one| Some((&one.name, one.placements.as_ref()?)));
    let is_spoken_for = || {
        let function = candidate.function();
        function.is_some_and(|function| functions::is_spoken_for(view, function))
    };
    let full = !matches!(offer, Offer::NoSuchType) && !is_spoken_for();
    match placements {
        Some((name, placements)) if full && placements.creatable.is_empty() => {
            Offer::NoRoom(no_place(name, placements))
        }
        Some(_) if full && !candidate.has_device => as_nvml_says(offer, wanted),
        _ => offer,
    }
}

/// The offer of a free function. While sizes are mixed, the driver's files go on counting as
/// if they were equal, and leave out types that can be created; NVML does not (open GPU
/// kernel modules, `kernel_vgpu_mgr.c`).
pub(super) fn as_nvml_says(offer: Offer, wanted: Option<&TypeFacts>) -> Offer {
    let Some(wanted) = wanted.filter(|wanted| wanted.creatable) else {
        return offer;
    };
    let id = match &offer {
        Offer::Type { id, available: 0 } => Some(id.clone()),
        // Only virtual functions with types say this, and their types are numbers.
        Offer::NoRoom(_) => wanted.id.to_string().parse().ok(),
        _ => None,
    };
    match id {
        Some(id) => Offer::Type { id, available: 1 },
        None => offer,
    }
}

/// The place for the next vGPU of the profile on the candidate's GPU, in addition to
/// existing vGPUs and to the places that are taken.
pub(super) fn place(
    view: &HostView<'_>,
    profile: &TypeSelector,
    candidate: &Candidate,
    taken: &[Placement],
) -> PlacementChoice {
    let places = places(view, candidate, taken);
    let Some(wanted) = of_profile(profile, &places) else {
        return PlacementChoice::Anywhere;
    };
    best(wanted, &places).map_or(PlacementChoice::Nowhere, PlacementChoice::At)
}

/// The places of the profile among those of all types.
pub(super) fn of_profile<'p>(
    profile: &TypeSelector,
    places: &'p [(String, Placements)],
) -> Option<&'p Placements> {
    let mut named = places.iter();
    let (_, its) = named.find(|(name, _)| profile.means_name(name))?;
    Some(its)
}

/// The place that leaves the most for all types.
pub(super) fn best(wanted: &Placements, all: &[(String, Placements)]) -> Option<Placement> {
    choose_placement(wanted, all.iter().map(|(_, places)| places))
}

/// Without the places that are taken, of the whole GPU or of that GPU instance.
pub(super) fn not_taken(places: &mut Placements, instance: Option<u32>, taken: &[Placement]) {
    let size = places.size;
    places.creatable.retain(|&id| {
        let place = Placement {
            instance,
            ..Placement::in_memory(id, size)
        };
        !taken.iter().any(|one| one.overlaps(place))
    });
}

/// The names of all types of the candidate's GPU and their possible places other than
/// those that are taken; empty if they are unknown.
fn places(
    view: &HostView<'_>,
    candidate: &Candidate,
    taken: &[Placement],
) -> Vec<(String, Placements)> {
    let facts = view.facts_of(&view.board_of(candidate)).ok();
    let types = facts.and_then(|facts| facts.types.value());
    let places = types.into_iter().flatten();
    let places = places.filter_map(|one| Some((one.name.clone(), one.placements.clone()?)));
    let mut places: Vec<(String, Placements)> = places.collect();
    for (_, of_type) in &mut places {
        not_taken(of_type, None, taken);
    }
    places
}
