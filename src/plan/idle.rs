//! GPUs that a pool's rules take and that make nothing for it as the host stands. No
//! candidate stands for them, and a refusal without them would be wrong.

use std::collections::BTreeSet;

use super::{HostSupply, Interface, Rejection, Source, Supply};
use crate::{
    config::Pool,
    device::{
        gpu,
        mdev::{self, Offer},
        pci,
        readiness::{self, Driver},
    },
    model::{ParentName, PciAddress},
    rule::Verdict,
};

/// Such a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    /// The GPU, and why it makes nothing.
    pub rejection: Rejection,
    /// Whether it is only not set up yet: 'virt-vgpu host apply' is for that.
    pub is_unready: bool,
}

impl HostSupply<'_> {
    /// The GPUs that the pool's rules take and that no candidate for `source` stands
    /// for. Pools of other kinds have none: what is no parent of mediated devices is
    /// none of theirs.
    #[must_use]
    pub fn idle_gpus(&self, pool: &Pool, source: &Source) -> Vec<Idle> {
        if !pool.is_of_gpus() {
            return Vec::new();
        }
        // What cannot be listed has been told where it was asked for.
        let any = self.candidates(pool, &Source::Any).unwrap_or_default();
        let stands = |interface: Interface| match source {
            Source::Mdev => interface == Interface::Mdev,
            Source::Function(_) | Source::Functions => interface != Interface::Mdev,
            Source::Any => true,
        };
        let (mut served, mut otherwise) = (BTreeSet::new(), BTreeSet::new());
        for one in &any {
            let gpus = match stands(one.interface) {
                true => &mut served,
                false => &mut otherwise,
            };
            gpus.insert(self.board(&one.parent));
        }
        let mut idle = Vec::new();
        for standing in self.standings(pool).unwrap_or_default() {
            let gpu = &standing.parent.name;
            if !matches!(standing.verdict, Verdict::Match { .. }) || served.contains(gpu) {
                continue;
            }
            if otherwise.contains(gpu) {
                let reason = match source {
                    Source::Mdev => {
                        "it makes vGPUs of its virtual functions, and the XML has a \
                                     mediated device; 'virt-vgpu sync' changes that"
                    }
                    _ => {
                        "it makes mediated devices, and the XML has a virtual function; \
                          'virt-vgpu sync' changes that"
                    }
                };
                idle.push(Idle::new(gpu, reason.to_owned(), false));
            } else if let Some(reason) = self.unready(gpu) {
                idle.push(Idle::new(gpu, reason, true));
            } else if let Offer::Taken(why) | Offer::NoRoom(why) | Offer::Unreadable(why) =
                self.room(pool, &standing.parent).0
            {
                idle.push(Idle::new(gpu, why, false));
            }
        }
        for (gpu, why) in self.unbound() {
            let verdict = self.verdict(pool, &mdev::pci_function(*gpu));
            if matches!(verdict, Verdict::Match { .. }) {
                idle.push(Idle::new(&ParentName::from(*gpu), why.clone(), false));
            }
        }
        idle
    }

    /// NVIDIA's GPUs that its driver does not have, each with what has it.
    #[must_use]
    pub fn unbound(&self) -> &[(PciAddress, String)] {
        self.unbound.get_or_init(|| self.find_unbound())
    }

    fn find_unbound(&self) -> Vec<(PciAddress, String)> {
        let sysfs = self.mdev().sysfs();
        let functions = pci::functions(sysfs).unwrap_or_default();
        // One look at the driver spares one at each of its virtual functions.
        let bound = gpu::bound(sysfs).unwrap_or_default();
        let gpus = functions
            .iter()
            .map(|(address, _)| *address)
            .filter(|address| !bound.contains(address));
        let mut found: Vec<(PciAddress, String)> = gpus
            .filter(|&gpu| readiness::is_gpu(sysfs, gpu))
            .filter_map(|gpu| {
                let why = match readiness::driver(sysfs, gpu) {
                    Ok(Driver::Nvidia) => return None,
                    Ok(Driver::None) => {
                        "no driver is bound to it; 'modprobe nvidia' loads NVIDIA's".to_owned()
                    }
                    Ok(Driver::Other(driver)) => {
                        format!("its driver is '{driver}', not nvidia, which makes vGPUs")
                    }
                    Err(error) => error.to_string(),
                };
                Some((gpu, why))
            })
            .collect();
        found.sort();
        found
    }

    /// What a GPU lacks before it can make vGPUs; None where that cannot be told, or
    /// nothing is lacking.
    pub(super) fn unready(&self, gpu: &ParentName) -> Option<String> {
        let sysfs = self.mdev().sysfs();
        let functions = readiness::functions(sysfs, gpu.pci()?).ok()?;
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
}

impl Idle {
    fn new(gpu: &ParentName, reason: String, is_unready: bool) -> Self {
        Self {
            rejection: Rejection {
                candidate: gpu.clone(),
                reason,
            },
            is_unready,
        }
    }
}
