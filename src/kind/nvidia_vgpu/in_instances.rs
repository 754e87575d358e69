//! GPUs in MIG mode: each vGPU lives in a GPU instance, and `host apply` has noted which GPU
//! instances are for which pools. The driver itself would put a vGPU into any GPU instance of
//! its profile, also into one that is for another pool or that is to have fewer vGPUs.

use std::{cell::RefCell, collections::BTreeMap, io, rc::Rc};

use crate::{
    capacity::{Fit, Placement},
    device::{
        mdev::Offer,
        our_instances::{self, OurInstances, UsedInstance},
    },
    kind::{Candidate, HostView, MigSettings, PlacementChoice},
    model::{Handle, ParentName, PciAddress, TypeSelector},
};

/// The GPU instances of a GPU.
#[derive(Debug)]
struct OnGpu {
    noted: OurInstances,
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

/// A GPU instance for the pool, and how many more vGPUs it takes.
struct Room<'k> {
    instance: &'k UsedInstance,
    left: u32,
}

impl OnGpu {
    /// The GPU instances for vGPUs of that profile, with those settings.
    fn rooms(&self, profile: &TypeSelector, settings: MigSettings) -> Vec<Room<'_>> {
        let is_meant = |one: &&UsedInstance| {
            let most = settings
                .vgpus_per_instance
                .map_or(one.room, |its| its.get());
            one.vgpus == most && one.types.iter().any(|name| profile.means_name(name))
        };
        let meant = self.noted.used.iter().filter(is_meant);
        let room = |instance: &'_ UsedInstance| {
            let there = self.vgpus.get(&instance.id).copied().unwrap_or_default();
            instance.vgpus.saturating_sub(there)
        };
        meant
            .map(|instance| Room {
                left: room(instance),
                instance,
            })
            .collect()
    }
}

/// The offer of a candidate. `offer` is the one without regard to pools.
pub(super) fn offer(
    view: &HostView<'_>,
    profile: &TypeSelector,
    settings: MigSettings,
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
    let rooms = on_gpu.rooms(profile, settings);
    let left: u32 = rooms.iter().map(|room| room.left).sum();
    match (&offer, rooms.len()) {
        (_, 0) => Offer::Taken(format!(
            "it has no GPU instances for {profile} yet; 'virt-vgpu host apply {gpu}' makes them"
        )),
        (_, 1) if left == 0 => Offer::NoRoom(format!(
            "its GPU instance for {profile} has all {} vGPUs that it takes",
            rooms[0].instance.vgpus
        )),
        (_, number) if left == 0 => Offer::NoRoom(format!(
            "its {number} GPU instances for {profile} have all the vGPUs that they take"
        )),
        (Offer::NoRoom(_), _) => Offer::NoRoom(format!(
            "its driver makes no {profile} now, although its GPU instances have room; 'virt-vgpu \
             host apply {gpu}' looks whether they are still there"
        )),
        _ => offer,
    }
}

fn gpu_of(view: &HostView<'_>, candidate: &Candidate) -> Option<PciAddress> {
    view.board_of(candidate).pci()
}

/// How many more vGPUs the GPU takes for the pool; None if it is not known.
pub(super) fn room(
    view: &HostView<'_>,
    profile: &TypeSelector,
    settings: MigSettings,
    gpu: &ParentName,
) -> Option<Fit> {
    let known = on_gpu(view, gpu.pci()?);
    let rooms = known.as_ref().as_ref().ok()?.rooms(profile, settings);
    Some(Fit::Exactly(rooms.iter().map(|room| room.left).sum()))
}

/// The GPU instance for the next vGPU: the fullest one, so that whole ones stay free. `taken`
/// has those that are chosen for vGPUs which do not exist yet. Mediated devices do not exist
/// before they have a GPU instance, and stay in the one that the driver chooses.
pub(super) fn place(
    view: &HostView<'_>,
    profile: &TypeSelector,
    settings: MigSettings,
    candidate: &Candidate,
    taken: &[Placement],
) -> PlacementChoice {
    let (Some(gpu), Some(function)) = (gpu_of(view, candidate), candidate.function()) else {
        return PlacementChoice::Anywhere;
    };
    // Drivers that have no such attribute put one vGPU into each GPU instance.
    let attribute = our_instances::attribute(Handle::Pci(function));
    if !view.sysfs().exists(&attribute) {
        return PlacementChoice::Anywhere;
    }
    let known = on_gpu(view, gpu);
    let Ok(on_gpu) = &*known else {
        return PlacementChoice::Nowhere;
    };
    let beside = |id: u32| {
        let chosen = taken.iter().filter(|one| one.instance == Some(id));
        u32::try_from(chosen.count()).unwrap_or(u32::MAX)
    };
    let rooms = on_gpu.rooms(profile, settings).into_iter();
    let left = rooms.map(|room| {
        (
            room.left.saturating_sub(beside(room.instance.id)),
            room.instance,
        )
    });
    let fullest = left
        .filter(|(left, _)| *left > 0)
        .min_by_key(|(left, one)| (*left, one.id));
    match fullest {
        Some((left, one)) => PlacementChoice::At(Placement {
            instance: Some(one.id),
            id: one.vgpus - left,
            size: 1,
        }),
        None => PlacementChoice::Nowhere,
    }
}
