//! Checks the rules that NVIDIA's driver would enforce only after the VM has started,
//! with unhelpful messages. They are checked here, before anything is made.

use super::{AllocateError, Demand, PlacedRequest, io_error};
use crate::{
    capacity::{VgpuOfVm, number_of_parts, unified_memory_allowed, vm_rules},
    config::Pool,
    device::{
        Sysfs, mdev,
        nvml::{GpuFacts, TypeFacts},
    },
    domain::{ATTRIBUTES, Attribute, DomainDef, Hostdev},
    kind,
    model::{InvalidName, ProfileName, TypeSelector},
    plan::{HostSupply, Placeholder, Plan},
};

impl Demand<'_> {
    /// Checks the devices together, and each with its parameters. NVML is asked only if
    /// names do not say enough; if it does not say either, the driver decides.
    pub(super) fn check_rules(&self, supply: &HostSupply<'_>) -> Result<(), AllocateError> {
        let wanted = self.wanted.iter();
        let pools = wanted.map(|placed| &self.pools[&placed.request.pool]);
        let profiles: Vec<&ProfileName> = self
            .beside
            .iter()
            .flatten()
            .map(|(pool, _)| pool)
            .chain(pools)
            .filter_map(profile)
            .collect();
        let facts = match profiles.len() {
            0 | 1 => &[],
            _ => supply.facts().unwrap_or_default(),
        };
        together(&profiles, facts).map_err(|why| AllocateError::Together {
            domain: self.domain.name.to_string(),
            why,
        })?;
        self.check_number()?;
        for placed in &self.wanted {
            let pool = &self.pools[&placed.request.pool];
            self.check_kind(placed, pool)?;
            self.parameters_allowed(placed, pool, supply)
                .map_err(|why| AllocateError::Parameter {
                    domain: self.domain.name.to_string(),
                    device: placed.request.name.to_string(),
                    why,
                })?;
        }
        Ok(())
    }

    /// Checks the number of devices, with those that a running domain has.
    fn check_number(&self) -> Result<(), AllocateError> {
        let wanted = self.wanted.iter();
        let wanted = wanted.map(|placed| &self.pools[&placed.request.pool]);
        let beside = self.beside.iter().flatten().map(|(pool, _)| pool);
        number_allowed(wanted.chain(beside)).map_err(|why| AllocateError::Together {
            domain: self.domain.name.to_string(),
            why,
        })
    }

    /// Checks that the XML passes no function with a device that does not go along with it:
    /// QEMU would open a function that is not ours to give.
    pub(super) fn check_cards(&self, plan: &Plan) -> Result<(), AllocateError> {
        for (assignment, placed) in plan.assignments.iter().zip(&self.wanted) {
            // An XML that still changes gets the right ones.
            let Placeholder::Function(first) = placed.placeholder else {
                continue;
            };
            let mut others = self.domain.others_of_card(&assignment.device);
            let wrong = others.find_map(|one| {
                let function = one.handle.pci()?;
                let goes_along = assignment.along.contains(&function);
                (!goes_along).then(|| (one.alias.clone().unwrap_or_default(), function))
            });
            if let Some((alias, function)) = wrong {
                return Err(AllocateError::OtherCard {
                    domain: self.domain.name.to_string(),
                    device: assignment.device.to_string(),
                    first,
                    alias,
                    function,
                });
            }
        }
        Ok(())
    }

    /// Checks that hostdevs have the model of the types that they get.
    pub(super) fn check_models(&self, sysfs: &dyn Sysfs, plan: &Plan) -> Result<(), AllocateError> {
        for assignment in &plan.assignments {
            let hostdev = self.domain.mdev(assignment.uuid);
            let Some(found) = hostdev.and_then(|hostdev| hostdev.model.as_ref()) else {
                continue;
            };
            if assignment.handle.mdev().is_none() {
                continue;
            }
            let parent = mdev::parent_named(sysfs, &assignment.parent);
            let wanted = mdev::model(sysfs, &parent, &assignment.type_id)
                .map_err(|cause| io_error("no device was made", cause))?;
            if let Some(wanted) = wanted.filter(|wanted| wanted.as_str() != found) {
                return Err(AllocateError::Model {
                    domain: self.domain.name.to_string(),
                    device: assignment.device.to_string(),
                    type_id: assignment.type_id.clone(),
                    parent: assignment.parent.clone(),
                    found: InvalidName::new("", found).found,
                    wanted,
                });
            }
        }
        Ok(())
    }

    /// Checks that the request and its hostdev are as devices of the pool's kind need them.
    fn check_kind(&self, placed: &PlacedRequest<'_>, pool: &Pool) -> Result<(), AllocateError> {
        let (domain, device) = (
            self.domain.name.to_string(),
            placed.request.name.to_string(),
        );
        if pool.kind.keeps_its_driver() && is_managed(self.domain, placed) {
            return Err(AllocateError::Managed { domain, device });
        }
        let own = pool.kind.keys().defaults;
        let foreign = |attribute: &&Attribute| {
            !own.contains(&attribute.name)
                && kind::is_anothers_default(attribute.name)
                && attribute.text(placed.request).is_some()
        };
        match ATTRIBUTES.iter().find(foreign) {
            Some(attribute) => Err(AllocateError::NotForKind {
                domain,
                device,
                key: attribute.name,
                kind: pool.kind.to_string(),
                pool: pool.name.clone(),
            }),
            None => Ok(()),
        }
    }

    fn parameters_allowed(
        &self,
        placed: &PlacedRequest<'_>,
        pool: &Pool,
        supply: &HostSupply<'_>,
    ) -> Result<(), String> {
        let parameters = placed.parameters(pool);
        if parameters.console_vnc == Some(false) && is_display(self.domain, placed) {
            return Err(
                "'console-vnc' is off, but its hostdev has display='on', which shows the same \
                 picture"
                    .to_owned(),
            );
        }
        match profile(pool) {
            Some(profile) if parameters.unified_memory == Some(true) => {
                let facts = supply.facts().unwrap_or_default();
                unified_memory_allowed(profile, type_of(profile, facts))
            }
            _ => Ok(()),
        }
    }
}

/// Whether one VM may have that many devices: one of each of these pools. Only parts of
/// devices are counted.
///
/// # Errors
/// The rule of NVIDIA's that forbids it.
pub fn number_allowed<'p>(pools: impl Iterator<Item = &'p Pool>) -> Result<(), String> {
    let parts = pools.filter(|pool| !pool.kind.is_of_whole_functions());
    number_of_parts(parts.count())
}

/// Whether one VM may have vGPUs of all these profiles; `facts` are NVML's facts about
/// the host's GPUs, needed only for several vGPUs.
///
/// # Errors
/// The rule of NVIDIA's that forbids it.
pub fn together(profiles: &[&ProfileName], facts: &[GpuFacts]) -> Result<(), String> {
    if profiles.len() < 2 {
        return Ok(());
    }
    let wanted: Vec<VgpuOfVm<'_>> = profiles
        .iter()
        .map(|profile| VgpuOfVm {
            profile,
            max_per_vm: type_of(profile, facts).and_then(|one| one.max_per_vm),
        })
        .collect();
    let told = |gpu: &GpuFacts| gpu.heterogeneous_multi_vgpu.value().copied();
    let has_all = |gpu: &&GpuFacts| {
        let gpus = std::slice::from_ref(*gpu);
        profiles
            .iter()
            .all(|profile| type_of(profile, gpus).is_some())
    };
    let mixed_sizes = facts.iter().filter(has_all).find_map(told);
    vm_rules(&wanted, mixed_sizes)
}

/// The profile of a pool of NVIDIA's vGPUs.
#[must_use]
pub fn profile(pool: &Pool) -> Option<&ProfileName> {
    match pool.devices.selector()? {
        TypeSelector::Profile(profile) => Some(profile),
        TypeSelector::IdOrName(_) => None,
    }
}

fn type_of<'f>(profile: &ProfileName, facts: &'f [GpuFacts]) -> Option<&'f TypeFacts> {
    let mut types = facts.iter().filter_map(|gpu| gpu.types.value()).flatten();
    types.find(|one| profile.means(&one.name))
}

fn is_managed(domain: &DomainDef, placed: &PlacedRequest<'_>) -> bool {
    let hostdev = domain.placeholder_of(&placed.request.name);
    hostdev.is_some_and(|one| one.managed)
}

/// Whether the domain's hostdev for the device is a display of the guest.
fn is_display(domain: &DomainDef, placed: &PlacedRequest<'_>) -> bool {
    let hostdev = domain.placeholder_of(&placed.request.name);
    hostdev.is_some_and(Hostdev::is_display)
}
