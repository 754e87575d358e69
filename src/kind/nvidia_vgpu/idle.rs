//! GPUs that a pool's rules take but that make nothing for the pool now. They are no
//! candidates, but a refusal must name them too.

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
    /// The GPUs that the rules take but that have no candidate for `placeholder`.
    pub(super) fn idle_gpus(
        &self,
        view: &HostView<'_>,
        placeholder: &Placeholder,
        takes: &dyn Fn(&Parent) -> bool,
    ) -> Vec<Idle> {
        // An error of this listing was already reported by the caller.
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
                        "its vGPUs are virtual functions, but the XML has a mediated device; \
                         'virt-vgpu sync' corrects that"
                    }
                    _ => {
                        "its vGPUs are mediated devices, but the XML has a virtual function; \
                         'virt-vgpu sync' corrects that"
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

/// The missing condition without which a GPU makes no vGPUs; None if nothing is missing, or
/// this cannot be read.
pub(super) fn unready(view: &HostView<'_>, gpu: &ParentName) -> Option<String> {
    let functions = readiness::functions(view.sysfs(), gpu.pci()?).ok()?;
    if functions.are_missing() {
        Some(format!(
            "its virtual functions do not exist yet; run 'virt-vgpu host apply {gpu}'"
        ))
    } else if functions.unready.is_empty() {
        None
    } else {
        Some(format!(
            "{}; 'systemctl status nvidia-vgpud' shows whether NVIDIA's types were loaded",
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
