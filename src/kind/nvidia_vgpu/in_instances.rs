//! GPUs in MIG mode: each vGPU lives in a GPU instance, and `host apply` has noted which GPU
//! instances are for which pools. The driver itself would put a vGPU into any GPU instance of
//! its profile, also into one that is for another pool or that is to have fewer vGPUs.

use std::{cell::RefCell, collections::BTreeMap, io, num::NonZeroU32, rc::Rc};

use super::{mixed, new_instances};
use crate::{
    capacity::{Fit, Placement, mig::Cost},
    device::{
        gpu,
        mdev::Offer,
        nvml::{Placements, Scheduler, TypeFacts},
        our_instances::{self, OurInstances, UsedInstance},
        readiness,
    },
    kind::{Candidate, HostView, MigSettings, PlacementChoice},
    model::{Handle, MdevTypeId, ParentName, PciAddress, TypeSelector},
};

/// The GPU instances of a GPU.
#[derive(Debug)]
pub(super) struct OnGpu {
    pub(super) noted: OurInstances,
    /// How many vGPUs each has; none for one that has none.
    vgpus: BTreeMap<u32, u32>,
}

/// What is known of each GPU, or why it is not; empty until it is needed.
#[derive(Debug, Default)]
struct Found(RefCell<BTreeMap<PciAddress, Known>>);

type Known = Rc<Result<OnGpu, String>>;

fn on_gpu(view: &HostView<'_>, gpu: PciAddress) -> Known {
    let found = view.found::<Found>();
    if let Some(known) = found.0.borrow().get(&gpu) {
        return known.clone();
    }
    let sysfs = view.sysfs();
    let read = || -> io::Result<OnGpu> {
        let noted = our_instances::read(sysfs, gpu)?;
        let vgpus = our_instances::counts(sysfs, gpu)?;
        Ok(OnGpu { noted, vgpus })
    };
    let known = Rc::new(read().map_err(|error| error.to_string()));
    found.0.borrow_mut().insert(gpu, known.clone());
    known
}

/// What a pool wants of GPU instances.
#[derive(Debug, Clone, Copy)]
pub(super) struct InInstances<'p> {
    /// The profile of its vGPUs.
    pub(super) profile: &'p TypeSelector,
    /// Its GPU instances.
    pub(super) settings: MigSettings,
    /// Whether they have vGPUs of several sizes.
    pub(super) mixes_sizes: bool,
    /// How these share the time of one; None: any way.
    pub(super) scheduler: Option<Scheduler>,
}

impl InInstances<'_> {
    /// What makes it differ from other pools.
    pub(super) fn wishes(&self) -> String {
        format!("{self:?}")
    }

    /// Whether GPU instances that a start would make count.
    pub(super) fn counts_new(&self, view: &HostView<'_>) -> bool {
        self.settings.are_made_on_demand() && !view.detail().existing_instances_only
    }
}

impl OnGpu {
    /// The GPU instances for the pool, as noted, each with the number of its vGPUs.
    pub(super) fn instances<'k>(
        &'k self,
        pool: &'k InInstances<'_>,
    ) -> impl Iterator<Item = (&'k UsedInstance, u32)> {
        let most = pool.settings.vgpus_per_instance.map(NonZeroU32::get);
        let is_meant = move |one: &&UsedInstance| match one.vgpus {
            None => pool.mixes_sizes,
            Some(vgpus) => !pool.mixes_sizes && vgpus == most.unwrap_or(one.room),
        };
        let means =
            |one: &&UsedInstance| one.types.iter().any(|name| pool.profile.means_name(name));
        let used = self.noted.used.iter();
        let used = used.filter(|one| one.scheduler == pool.scheduler);
        let meant = used.filter(is_meant).filter(means);
        meant.map(|one| (one, self.vgpus_in(one.id, &[])))
    }

    /// How many vGPUs a GPU instance has, with those that are chosen for it and do not exist yet.
    pub(super) fn vgpus_in(&self, id: u32, taken: &[Placement]) -> u32 {
        let there = self.vgpus.get(&id).copied().unwrap_or_default();
        let chosen = taken.iter().filter(|one| one.instance == Some(id)).count();
        there.saturating_add(u32::try_from(chosen).unwrap_or(u32::MAX))
    }
}

/// The offer of a candidate. `offer` is the one without regard to pools.
pub(super) fn offer(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    candidate: &Candidate,
    offer: Offer,
) -> Offer {
    let Some(gpu) = gpu_of(view, candidate) else {
        return offer;
    };
    match offer {
        // What is said of the function itself is true whatever the GPU instances are.
        Offer::Unreadable(_) | Offer::Taken(_) => return offer,
        Offer::Type { .. } | Offer::NoRoom(_) | Offer::NoSuchType => {}
    }
    let known = on_gpu(view, gpu);
    let on_gpu = match &*known {
        Ok(on_gpu) => on_gpu,
        Err(why) => return Offer::Unreadable(why.clone()),
    };
    let of_existing = in_existing(view, pool, candidate, gpu, on_gpu, offer);
    let is_full = matches!(of_existing, Offer::Taken(_) | Offer::NoRoom(_));
    match pool.counts_new(view) && is_full {
        true => in_a_new_one(view, pool, candidate, (gpu, on_gpu), of_existing),
        false => of_existing,
    }
}

/// The offer of the GPU instances that there are.
fn in_existing(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    candidate: &Candidate,
    gpu: PciAddress,
    on_gpu: &OnGpu,
    offer: Offer,
) -> Offer {
    let profile = pool.profile;
    let instances: Vec<(&UsedInstance, u32)> = on_gpu.instances(pool).collect();
    if instances.is_empty() {
        return match pool.settings.are_made_on_demand() {
            true => Offer::NoRoom(format!("it has no GPU instance for {profile} now")),
            false => Offer::Taken(format!(
                "it has no GPU instances for {profile} yet; 'virt-vgpu host apply {gpu}' makes them"
            )),
        };
    }
    if pool.mixes_sizes {
        return mixed_offer(view, pool, candidate, offer);
    }
    let mut left: u32 = instances.iter().map(|(one, there)| left(one, *there)).sum();
    if let (Offer::Type { id, .. }, None) = (&offer, candidate.function()) {
        left = left.saturating_sub(mediated(view, gpu, id));
    }
    match (&offer, instances.as_slice()) {
        (_, [(one, _)]) if left == 0 => Offer::NoRoom(match one.vgpus {
            Some(1) => format!("its GPU instance for {profile} has the one vGPU that it takes"),
            most => format!(
                "its GPU instance for {profile} has all {} vGPUs that it takes",
                most.unwrap_or_default()
            ),
        }),
        (_, several) if left == 0 => Offer::NoRoom(format!(
            "its {} GPU instances for {profile} have all the vGPUs that they take",
            several.len()
        )),
        (Offer::NoRoom(_) | Offer::NoSuchType, _) => Offer::NoRoom(format!(
            "its driver makes no {profile} now, although its GPU instances have room; 'virt-vgpu \
             host apply {gpu}' looks whether they are still there"
        )),
        _ => offer,
    }
}

/// The offer of a GPU instance that a start would make. `full` is that of those that there are.
fn in_a_new_one(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    candidate: &Candidate,
    (gpu, on_gpu): (PciAddress, &OnGpu),
    full: Offer,
) -> Offer {
    let (Offer::Taken(why) | Offer::NoRoom(why)) = &full else {
        return full;
    };
    match new_instances::further(view, pool, gpu, on_gpu) {
        Ok((_, further)) if further.is_empty() => {
            Offer::NoRoom(format!("{why}, and no further one fits"))
        }
        Ok((wanted, _)) => {
            let id = match candidate.function() {
                Some(_) => wanted.id.to_string().parse(),
                None => format!("nvidia-{}", wanted.id).parse(),
            };
            id.map_or(full, |id| Offer::Type { id, available: 1 })
        }
        Err(unknown) => Offer::NoRoom(format!(
            "{why}, and whether a further one fits is not known: {unknown}"
        )),
    }
}

/// How many mediated devices of the type are on the GPU. Which GPU instance each is in does not
/// matter: there, each takes one.
fn mediated(view: &HostView<'_>, gpu: PciAddress, type_id: &MdevTypeId) -> u32 {
    let sysfs = view.sysfs();
    let vgpus = readiness::vgpus(sysfs, gpu).unwrap_or_default();
    let wanted = gpu::number(type_id.as_str());
    let alike = vgpus
        .iter()
        .filter(|vgpu| our_instances::type_of(sysfs, vgpu.device) == wanted);
    u32::try_from(alike.count()).unwrap_or(u32::MAX)
}

/// How many more vGPUs a GPU instance of one size takes.
fn left(one: &UsedInstance, there: u32) -> u32 {
    one.vgpus.unwrap_or_default().saturating_sub(there)
}

fn gpu_of(view: &HostView<'_>, candidate: &Candidate) -> Option<PciAddress> {
    view.board_of(candidate).pci()
}

/// With sizes mixed, the driver's files leave out what can be created; NVML does not, and it
/// alone knows the free places.
fn mixed_offer(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    candidate: &Candidate,
    offer: Offer,
) -> Offer {
    let gpu = &view.board_of(candidate);
    let facts = match view.facts_of(gpu) {
        Ok(facts) => facts,
        Err(why) => {
            let what = format!("sizes are mixed in its GPU instances, but {why}");
            return Offer::Unreadable(what);
        }
    };
    let types = facts.types.value().map(Vec::as_slice).unwrap_or_default();
    let Some(wanted) = types.iter().find(|one| pool.profile.means_name(&one.name)) else {
        return offer;
    };
    match places_left(view, pool, gpu) {
        Some(1..) => mixed::as_nvml_says(offer, Some(wanted)),
        Some(0) => Offer::NoRoom(format!(
            "no place for a {} is free in its GPU instances",
            pool.profile
        )),
        None => Offer::Taken(format!(
            "its GPU instances for {} are not set to mix sizes yet; run 'virt-vgpu host apply {gpu}'",
            pool.profile
        )),
    }
}

/// How many places of the profile are free in the pool's GPU instances, although they overlap;
/// None: none of these mixes sizes.
fn places_left(view: &HostView<'_>, pool: &InInstances<'_>, gpu: &ParentName) -> Option<usize> {
    let places = mixed_places(view, pool, gpu, &[]);
    let its = places.iter();
    let its = its.filter_map(|(_, types)| mixed::of_profile(pool.profile, types));
    let free = its.map(|its| its.creatable.len());
    (!places.is_empty()).then(|| free.sum())
}

/// For each GPU instance of the pool that mixes sizes, the names of types and their free places.
fn mixed_places(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    gpu: &ParentName,
    taken: &[Placement],
) -> Vec<(u32, Vec<(String, Placements)>)> {
    let (Some(address), Ok(facts)) = (gpu.pci(), view.facts_of(gpu)) else {
        return Vec::new();
    };
    let known = on_gpu(view, address);
    let Ok(on_gpu) = &*known else {
        return Vec::new();
    };
    let types = facts.types.value().map(Vec::as_slice).unwrap_or_default();
    let in_one = |id: u32| -> Vec<(String, Placements)> {
        let there = on_gpu.vgpus_in(id, taken);
        // Beside others too, a GPU instance has fewer vGPUs than one type alone fills it with.
        let is_full = |one: &TypeFacts| one.most_per_instance.is_some_and(|most| there >= most);
        let its = types.iter().filter_map(|one| {
            let mut told = one.instance_placements.iter();
            let told = told.find(|told| told.instance == id)?;
            let mut places = Placements {
                size: told.size,
                supported: told.creatable.clone(),
                creatable: told.creatable.clone(),
            };
            mixed::not_taken(&mut places, Some(id), taken);
            if is_full(one) {
                places.creatable.clear();
            }
            Some((one.name.clone(), places))
        });
        its.collect()
    };
    let instances = on_gpu
        .instances(pool)
        .map(|(one, _)| (one.id, in_one(one.id)));
    instances.filter(|(_, types)| !types.is_empty()).collect()
}

/// How many more vGPUs the GPU takes for the pool in the GPU instances that there are; None if it
/// is not known.
pub(super) fn room(view: &HostView<'_>, pool: &InInstances<'_>, gpu: &ParentName) -> Option<Fit> {
    if pool.mixes_sizes {
        let most = places_left(view, pool, gpu)?;
        return Some(match u32::try_from(most).unwrap_or(u32::MAX) {
            most @ (0 | 1) => Fit::Exactly(most),
            most => Fit::AtMost(most),
        });
    }
    let known = on_gpu(view, gpu.pci()?);
    let on_gpu = known.as_ref().as_ref().ok()?;
    let left = on_gpu.instances(pool).map(|(one, there)| left(one, there));
    Some(Fit::Exactly(left.sum()))
}

/// How many more it takes in GPU instances that starts would make; 0 if it makes none, or it is
/// not known.
pub(super) fn further_room(view: &HostView<'_>, pool: &InInstances<'_>, gpu: &ParentName) -> Fit {
    let further = || {
        let gpu = gpu.pci()?;
        let known = on_gpu(view, gpu);
        let on_gpu = known.as_ref().as_ref().ok()?;
        let (_, further) = new_instances::further(view, pool, gpu, on_gpu).ok()?;
        Some(further)
    };
    if !pool.counts_new(view) {
        return Fit::Exactly(0);
    }
    let further = further().unwrap_or_default();
    let most = further.iter().map(|one| match pool.mixes_sizes {
        true => one.room,
        false => one.vgpus.unwrap_or_default(),
    });
    let most: u32 = most.sum();
    match pool.mixes_sizes && most > 1 {
        true => Fit::AtMost(most),
        false => Fit::Exactly(most),
    }
}

/// The GPU instance for the next vGPU: the fullest one, so that whole ones stay free. `taken`
/// has those that are chosen for vGPUs which do not exist yet. Mediated devices do not exist
/// before they have a GPU instance, and stay in the one that the driver chooses.
pub(super) fn place(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    candidate: &Candidate,
    taken: &[Placement],
) -> PlacementChoice {
    let Some(gpu) = gpu_of(view, candidate) else {
        return PlacementChoice::Anywhere;
    };
    // Drivers that have no such attribute put one vGPU into each GPU instance.
    let is_chosen = candidate.function().is_some_and(|function| {
        let attribute = our_instances::attribute(Handle::Pci(function));
        view.sysfs().exists(&attribute)
    });
    if !is_chosen {
        let new = match has_room(view, pool, candidate, gpu) {
            true => None,
            false => new_place(view, pool, gpu, taken),
        };
        return new.map_or(PlacementChoice::Anywhere, PlacementChoice::At);
    }
    let existing = match pool.mixes_sizes {
        true => mixed_place(view, pool, &view.board_of(candidate), taken),
        false => counted_place(view, pool, gpu, taken),
    };
    let chosen = existing.or_else(|| new_place(view, pool, gpu, taken));
    chosen.map_or(PlacementChoice::Nowhere, PlacementChoice::At)
}

/// Whether a GPU instance that exists takes one more vGPU; only asked where new ones count.
fn has_room(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    candidate: &Candidate,
    gpu: PciAddress,
) -> bool {
    if !pool.counts_new(view) {
        return true;
    }
    let known = on_gpu(view, gpu);
    let Ok(on_gpu) = known.as_ref() else {
        return true;
    };
    let left = on_gpu.instances(pool).map(|(one, there)| left(one, there));
    let mediated = match candidate.function() {
        Some(_) => 0,
        None => new_instances::further(view, pool, gpu, on_gpu)
            .ok()
            .and_then(|(wanted, _)| format!("nvidia-{}", wanted.id).parse().ok())
            .map_or(0, |id| mediated(view, gpu, &id)),
    };
    left.sum::<u32>() > mediated
}

/// What the GPU loses when a GPU instance has to be made there for the next vGPU.
pub(super) fn cost(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    candidate: &Candidate,
) -> Option<Cost> {
    // Starts of all other pools ask it, too.
    if !pool.counts_new(view) {
        return None;
    }
    let gpu = gpu_of(view, candidate)?;
    if has_room(view, pool, candidate, gpu) {
        return None;
    }
    let known = on_gpu(view, gpu);
    new_instances::cost(view, pool, gpu, known.as_ref().as_ref().ok()?)
}

/// A place in a GPU instance that has to be made first.
fn new_place(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    gpu: PciAddress,
    taken: &[Placement],
) -> Option<Placement> {
    if !pool.counts_new(view) {
        return None;
    }
    let known = on_gpu(view, gpu);
    let on_gpu = known.as_ref().as_ref().ok()?;
    let (_, further) = new_instances::further(view, pool, gpu, on_gpu).ok()?;
    let further = further.iter();
    let further = further.map(|one| (one, left(one, on_gpu.vgpus_in(one.id, taken))));
    counted(further)
}

/// The next place in the fullest GPU instance that takes one more.
fn counted<'i>(left: impl Iterator<Item = (&'i UsedInstance, u32)>) -> Option<Placement> {
    let with_room = left.filter(|(_, left)| *left > 0);
    let (one, left) = with_room.min_by_key(|(one, left)| (*left, one.id))?;
    Some(Placement {
        instance: Some(one.id),
        id: one.vgpus.unwrap_or_default() - left,
        size: 1,
        is_counted: true,
    })
}

fn counted_place(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    gpu: PciAddress,
    taken: &[Placement],
) -> Option<Placement> {
    let known = on_gpu(view, gpu);
    let on_gpu = known.as_ref().as_ref().ok()?;
    let instances = on_gpu.instances(pool);
    counted(instances.map(|(one, _)| (one, left(one, on_gpu.vgpus_in(one.id, taken)))))
}

/// The place that leaves the most for others, in the GPU instance with the fewest free ones.
fn mixed_place(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    gpu: &ParentName,
    taken: &[Placement],
) -> Option<Placement> {
    let all = mixed_places(view, pool, gpu, taken);
    let choices = all.iter().filter_map(|(id, types)| {
        let wanted = mixed::of_profile(pool.profile, types)?;
        let place = mixed::best(wanted, types)?;
        Some((wanted.creatable.len(), *id, place))
    });
    let (_, id, place) = choices.min_by_key(|(free, id, _)| (*free, *id))?;
    Some(Placement {
        instance: Some(id),
        ..place
    })
}
