//! GPUs that a pool's rules take and that make nothing for it as the host stands. No
//! candidate stands for them, and a refusal without them would be wrong.

use std::collections::BTreeSet;

use super::{NvidiaVgpu, pool::NvidiaVgpuPool, unbound};
use crate::{
    device::{
        mdev::{self, Offer, Parent},
        readiness,
    },
    kind::{Devices, HostView, Idle, Kind, Placeholder, Rejection},
    model::ParentName,
};

impl NvidiaVgpuPool {
    /// The GPUs that the rules take and that no candidate for `placeholder` stands for.
    pub(super) fn idle_gpus(
        &self,
        view: &HostView<'_>,
        placeholder: &Placeholder,
        takes: &dyn Fn(&Parent) -> bool,
    ) -> Vec<Idle> {
        // What cannot be listed has been told where it was asked for.
        let any = self.candidates(view, &Placeholder::Any).unwrap_or_default();
        let (mut served, mut otherwise) = (BTreeSet::new(), BTreeSet::new());
        for one in &any {
            let gpus = match placeholder.takes(one) {
                true => &mut served,
                false => &mut otherwise,
            };
            gpus.insert(view.board(&one.parent));
        }
        let mut found = Vec::new();
        let gpus = NvidiaVgpu.subjects(view).unwrap_or_default();
        for gpu in gpus.iter().filter(|gpu| takes(gpu)) {
            let name = &gpu.name;
            if served.contains(name) {
                continue;
            }
            if otherwise.contains(name) {
                let reason = match placeholder {
                    Placeholder::Mdev => {
                        "it makes vGPUs of its virtual functions, and the XML has a mediated \
                         device; 'virt-vgpu sync' changes that"
                    }
                    _ => {
                        "it makes mediated devices, and the XML has a virtual function; \
                         'virt-vgpu sync' changes that"
                    }
                };
                found.push(idle(name, reason.to_owned(), false));
            } else if let Some(reason) = unready(view, name) {
                found.push(idle(name, reason, true));
            } else if let Offer::Taken(why) | Offer::NoRoom(why) | Offer::Unreadable(why) =
                self.room_on(view, gpu).0
            {
                found.push(idle(name, why, false));
            }
        }
        for (gpu, why) in unbound::all(view) {
            if takes(&mdev::pci_function(gpu)) {
                found.push(idle(&gpu.into(), why, false));
            }
        }
        found
    }
}

/// What a GPU lacks before it can make vGPUs; None where that cannot be told, or
/// nothing is lacking.
pub(super) fn unready(view: &HostView<'_>, gpu: &ParentName) -> Option<String> {
    let functions = readiness::functions(view.sysfs(), gpu.pci()?).ok()?;
    if functions.are_missing() {
        Some(format!(
            "its virtual functions are not there; run 'virt-vgpu host apply {gpu}'"
        ))
    } else if functions.unready.is_empty() {
        None
    } else {
        Some(format!(
            "{}; 'systemctl status nvidia-vgpud' tells whether NVIDIA's types were loaded",
            functions.unready_in_words()
        ))
    }
}

fn idle(gpu: &ParentName, reason: String, is_unready: bool) -> Idle {
    Idle {
        rejection: Rejection {
            candidate: gpu.clone(),
            reason,
        },
        is_unready,
    }
}
