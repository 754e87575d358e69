//! How many more vGPUs of a pool's profile fit on a GPU, over all functions that make
//! vGPUs on it.

use std::{
    cell::{LazyCell, OnceCell},
    collections::BTreeMap,
};

use super::{idle, in_instances, pool::NvidiaVgpuPool};
use crate::{
    capacity::{Fit, more_of, room_by_number},
    device::{
        gpu::Framework,
        mdev::{Offer, Parent},
    },
    kind::{Candidate, Devices, GpuInstances, HostView, Placeholder},
    model::{MdevTypeId, ParentName},
};

/// All candidates on NVIDIA's GPUs, by GPU, or why they cannot be listed. All pools
/// share them.
#[derive(Debug, Default)]
struct OnGpus(OnceCell<Result<BTreeMap<ParentName, Vec<Candidate>>, String>>);

impl NvidiaVgpuPool {
    /// A GPU's offer for the profile. False: the number is only an upper bound.
    pub(super) fn room_on(&self, view: &HostView<'_>, gpu: &Parent) -> (Offer, bool) {
        let on_gpus = view.found::<OnGpus>();
        let on_it = match on_gpus.0.get_or_init(|| self.sorted(view)) {
            Ok(gpus) => gpus.get(&gpu.name),
            Err(why) => return (Offer::Unreadable(why.clone()), true),
        };
        let fit = LazyCell::new(|| self.fit(view, &gpu.name));
        let mut offers = Vec::new();
        for one in on_it.into_iter().flatten() {
            let offer = self.offer(view, one);
            // One offer is enough, because the sums describe the whole GPU. If the
            // driver says that the type can be created, at least one fits, whatever the
            // sums say.
            if matches!(offer, Offer::Type { available: 1.., .. }) {
                if let Some((id, fit)) = &*fit {
                    let (id, available) = (id.clone(), fit.most().max(1));
                    return (Offer::Type { id, available }, fit.is_exact());
                }
            }
            offers.push(offer);
        }
        let unready = offers.is_empty().then(|| idle::unready(view, &gpu.name));
        match unready.flatten().map_or_else(|| sum(offers), Offer::Taken) {
            offer @ Offer::Type { available: 1.., .. } => (offer, false),
            offer => (offer, true),
        }
    }

    fn sorted(&self, view: &HostView<'_>) -> Result<BTreeMap<ParentName, Vec<Candidate>>, String> {
        let mut gpus: BTreeMap<ParentName, Vec<Candidate>> = BTreeMap::new();
        for candidate in self.candidates(view, &Placeholder::Any)? {
            let on_it = gpus.entry(view.board_of(&candidate));
            on_it.or_default().push(candidate);
        }
        Ok(gpus)
    }

    /// How many more fit on a GPU, and whether that is exact; None if only a plan can
    /// tell.
    fn fit(&self, view: &HostView<'_>, gpu: &ParentName) -> Option<(MdevTypeId, Fit)> {
        let state = view.gpu(gpu, true)?;
        let mut types = state.types.iter();
        let wanted = types.find(|one| self.profile.means_name(&one.name))?;
        let id = match state.framework? {
            Framework::VendorVfio => wanted.id.to_string().parse().ok()?,
            Framework::LegacyMdev | Framework::SriovMdev => {
                format!("nvidia-{}", wanted.id).parse().ok()?
            }
        };
        let fit = more_of(&state, wanted.id);
        let GpuInstances::Made(its) = self.settings.gpu_instances else {
            return Some((id, fit));
        };
        let pool = self.in_instances(its);
        let further = in_instances::further_room(view, &pool, gpu);
        let ours = match in_instances::room(view, &pool, gpu) {
            // The GPU has fewer functions than vGPUs would fit, or the note is old.
            Some(ours) => ours.within(fit.most()),
            None if further.most() > 0 => Fit::Exactly(0),
            None => return None,
        };
        let fit: Fit = [ours, further].into_iter().sum();
        Some((id, fit.within(room_by_number(&state, wanted.id))))
    }
}

/// Combines the offers of all functions of one GPU.
fn sum(offers: Vec<Offer>) -> Offer {
    let mut total: Option<(MdevTypeId, u32)> = None;
    let mut no_room = None;
    for offer in offers {
        match offer {
            Offer::Type { id, available } => {
                let (_, sum) = total.get_or_insert((id, 0));
                *sum = sum.saturating_add(available);
            }
            // An unreadable function counts more than the refusal of another.
            Offer::Unreadable(_) => no_room = Some(offer),
            Offer::NoSuchType | Offer::Taken(_) | Offer::NoRoom(_) => {
                no_room = no_room.or(Some(offer));
            }
        }
    }
    match (total, no_room) {
        (Some((id, available)), _) => Offer::Type { id, available },
        (None, Some(offer)) => offer,
        (None, None) => Offer::Taken("its driver makes no vGPUs on it".to_owned()),
    }
}
