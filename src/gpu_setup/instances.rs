//! The GPU instances of a GPU as they are, with their users, and what its pools need of them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use serde::Serialize;

use super::{steps::NamedPlace, users::User, wanted::MigPool};
use crate::{
    capacity::mig::{
        Board, InInstances, Instance, InstanceId, InstanceNeed, Layout, Occupied, PoolNeed,
        ProfileId, Slots, gpu_need,
    },
    device::{
        nvml::{
            Failure, FailureKind, GpuFacts, GpuInstance, InstancePlace, Scheduler, SchedulerLimits,
            SchedulerPolicy, Told, TypeFacts,
        },
        our_instances::{self, OurInstances, UsedInstance},
    },
    host::{Host, since_boot},
    model::{PciAddress, PoolName, VgpuTypeId, short_name},
};

/// MIG's part of a GPU as it is.
#[derive(Debug, Clone)]
pub struct MigState {
    pub(super) gpu: PciAddress,
    /// Whether the mode is on.
    pub on: bool,
    /// Whether it is on as soon as a change that waits has taken effect.
    pub pending: bool,
    /// What the GPU can be divided into.
    pub board: Board,
    /// The GPU instances, with their users.
    pub instances: Vec<Instance>,
    /// Their numbers and places as NVML tells them.
    told: Vec<GpuInstance>,
    /// The frame buffer of the vGPUs in each GPU instance that has some, in MiB.
    sizes: BTreeMap<u32, BTreeSet<u64>>,
    /// The types of the GPU.
    pub types: Vec<TypeFacts>,
    /// What its schedulers take; None: not told.
    pub(super) limits: Option<SchedulerLimits>,
    /// What is noted of earlier runs.
    pub noted: OurInstances,
}

/// Reads NVML's facts and the note about a GPU.
///
/// # Errors
/// Why it cannot be told, with the next step.
pub(super) fn read(
    host: &Host,
    gpu: PciAddress,
    facts: &Result<GpuFacts, Failure>,
    users: &[User],
) -> Result<MigState, NotTold> {
    let noted = our_instances::read(host, gpu).map_err(|error| NotTold::Note(error.to_string()))?;
    let facts = facts.as_ref().map_err(|failure| told(&failure.message))?;
    let on = match &facts.mig {
        Told::Value(on) => *on,
        Told::Unavailable(failure) => return Err(unavailable(failure)),
    };
    let found = match &facts.instances {
        Told::Value(found) => found,
        Told::Unavailable(failure) => return Err(unavailable(failure)),
    };
    let types = match &facts.types {
        Told::Value(types) => types.clone(),
        Told::Unavailable(failure) => return Err(unavailable(failure)),
    };
    let strange = |what: String| NotTold::Other(what);
    let board = Board::told(&found.profiles).map_err(|error| strange(error.to_string()))?;
    let inhabited = Inhabitants::of(host, users, &types);
    let mut instances = Vec::new();
    for one in &found.instances {
        instances.push(instance(one, &noted, &inhabited).map_err(strange)?);
    }
    Ok(MigState {
        gpu,
        on,
        pending: found.pending,
        board,
        instances,
        told: found.instances.clone(),
        sizes: inhabited.sizes,
        types,
        limits: facts.scheduler_limits.value().cloned(),
        noted,
    })
}

/// Why MIG's part of a GPU is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTold {
    /// The GPU has no MIG.
    NoMig,
    /// The note of virt-vgpu cannot be read; with the next step.
    Note(String),
    /// Another reason, with the next step if there is one.
    Other(String),
}

impl std::fmt::Display for NotTold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoMig => "it has no MIG",
            Self::Note(why) | Self::Other(why) => why,
        })
    }
}

fn told(message: &str) -> NotTold {
    NotTold::Other(message.to_owned())
}

fn unavailable(failure: &Failure) -> NotTold {
    match failure.kind {
        FailureKind::NotSupported | FailureKind::NoSymbol => NotTold::NoMig,
        _ => told(&failure.message),
    }
}

/// The number of a GPU instance that is not there yet: NVML's number for none.
pub(super) const NOT_YET: u32 = u32::MAX;

/// How vGPUs share the time of a GPU instance that was just created.
const AS_IT_BEGINS: Scheduler = Scheduler {
    policy: SchedulerPolicy::BestEffort,
    strict_round_robin: None,
    averaging_factor: None,
    frequency: None,
    time_slice_ns: None,
};

/// The driver first puts a vGPU into any GPU instance of its profile, and it must not be moved
/// between those that mix sizes and those that do not (`kernel_vgpu_mgr.c`).
fn one_mode_for_each_profile(pools: &[PoolNeed]) -> Result<(), String> {
    let its = |pool: &PoolNeed| Some((pool.pool.clone(), pool.in_instances?));
    let known: Vec<_> = pools.iter().filter_map(its).collect();
    for (at, (pool, one)) in known.iter().enumerate() {
        let differs = |(_, other): &&(PoolName, InInstances)| {
            other.profile == one.profile && other.mixes_sizes != one.mixes_sizes
        };
        if let Some((other_pool, other)) = known[at..].iter().find(differs) {
            return Err(format!(
                "pool '{pool}' wants heterogeneous = {} and pool '{other_pool}' wants \
                 heterogeneous = {}, and their vGPUs are in GPU instances of one profile; make the \
                 two agree, or let their rules match different GPUs",
                one.mixes_sizes, other.mixes_sizes
            ));
        }
    }
    Ok(())
}

/// Who has vGPUs in which GPU instance.
#[derive(Debug, Default)]
struct Inhabitants {
    by_instance: BTreeMap<u32, Vec<String>>,
    /// Those whose GPU instance is not known: any could be theirs.
    anywhere: Vec<String>,
    sizes: BTreeMap<u32, BTreeSet<u64>>,
}

impl Inhabitants {
    fn of(host: &Host, users: &[User], types: &[TypeFacts]) -> Self {
        let mut found = Self::default();
        for user in users {
            let name = match &user.domain {
                Some(domain) => format!("domain '{domain}'"),
                None => format!("vGPU {}", user.device),
            };
            // A vGPU that is still to come is in the one that was chosen for it.
            let is_in = our_instances::of(host, user.device).or(user.instance);
            let Some(id) = is_in else {
                found.anywhere.push(name);
                continue;
            };
            let its = found.by_instance.entry(id).or_default();
            if !its.contains(&name) {
                its.push(name);
            }
            let type_id = our_instances::type_of(host, user.device);
            let size = type_id.and_then(|id| framebuffer(types, id));
            found.sizes.entry(id).or_default().extend(size);
        }
        for names in found.by_instance.values_mut() {
            names.sort();
        }
        found
    }
}

fn framebuffer(types: &[TypeFacts], id: VgpuTypeId) -> Option<u64> {
    let one = types.iter().find(|one| one.id == id)?;
    Some(one.framebuffer_mib)
}

/// Whether a start has just made it, and will put its vGPU there.
fn is_about_to_be_used(noted: &OurInstances, place: InstancePlace) -> bool {
    /// Longer than a start takes.
    const START: u64 = 30;
    let mut used = noted.used.iter();
    let made = used.find(|used| used.place == place);
    made.and_then(|made| made.demanded)
        .is_some_and(|made| since_boot().as_secs().saturating_sub(made) < START)
}

fn instance(
    one: &GpuInstance,
    noted: &OurInstances,
    inhabited: &Inhabitants,
) -> Result<Instance, String> {
    let strange = || format!("GPU instance {} has no place or profile", one.id);
    let its = inhabited.by_instance.get(&one.id);
    let mut users: Vec<String> = its.into_iter().flatten().cloned().collect();
    users.extend(inhabited.anywhere.iter().cloned());
    let has_vgpus = its.is_some();
    // We make none; the guest's driver makes them, and so does who uses it on the host.
    if one.compute_instances > 0 && users.is_empty() {
        users.push("a compute instance of the host".to_owned());
    }
    if users.is_empty() && is_about_to_be_used(noted, one.place()) {
        users.push("a VM that is starting".to_owned());
    }
    Ok(Instance {
        id: InstanceId::new(one.id).ok_or_else(strange)?,
        profile: ProfileId::new(one.profile).ok_or_else(strange)?,
        slots: Slots::new(one.start, one.size).ok_or_else(strange)?,
        ours: noted.made.contains(&one.place()),
        has_vgpus,
        users,
    })
}

/// A GPU instance, as reports show it.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceReport {
    /// Its number; 0 is one like any other.
    pub id: u32,
    /// The name of its profile.
    pub profile: String,
    /// The first of its memory slots.
    pub start: u32,
    /// How many memory slots it has.
    pub size: u32,
    /// Whether virt-vgpu has created it.
    pub ours: bool,
    /// Whether a start of a VM has, and it goes again when it is not in use any more.
    pub on_demand: bool,
    /// The pools that it is for.
    pub pools: Vec<PoolName>,
    /// Who uses it.
    pub users: Vec<String>,
    /// Whether sizes are mixed in it; None: the driver does not tell.
    pub heterogeneous: Option<bool>,
    /// How its time is shared; None: the driver does not tell.
    pub scheduler: Option<Scheduler>,
}

/// What the pools need of the GPU, and what is worth saying about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// The GPU instances.
    pub instances: Vec<InstanceNeed>,
    /// Room that a pool leaves unused: a sentence each.
    pub unused: Vec<String>,
}

impl MigState {
    /// What these pools need.
    ///
    /// # Errors
    /// A pool that wants what the GPU does not have; a sentence with the next step.
    pub fn needs(&self, pools: &[MigPool]) -> Result<Needs, String> {
        let gpu = self.gpu;
        let mut needs = Needs::default();
        let mut of_pools = Vec::new();
        for wanted in pools {
            let MigPool {
                pool,
                profile,
                settings,
                ..
            } = wanted;
            let mut types = self.types.iter();
            let Some(one) = types.find(|one| profile.means_name(&one.name)) else {
                return Err(format!(
                    "pool '{pool}' wants profile '{profile}', which this GPU does not have; \
                     'virt-vgpu profiles {gpu}' lists those that it has"
                ));
            };
            let Some(instance) = one.gpu_instance_profile.and_then(ProfileId::new) else {
                return Err(format!(
                    "pool '{pool}' wants GPU instances for profile '{profile}', whose vGPUs are \
                     time-sliced; take [mig] out of the pool, or choose another profile"
                ));
            };
            // A driver that does not tell puts one into each.
            let most = one.most_per_instance.unwrap_or(1).max(1);
            let wanted_in_one = settings.vgpus_per_instance.map_or(most, |its| its.get());
            if wanted_in_one > most {
                return Err(format!(
                    "pool '{pool}' wants vgpus-per-instance = {wanted_in_one}, and a GPU instance \
                     takes {most} of {profile}; write {most} or less"
                ));
            }
            if wanted_in_one < most {
                needs.unused.push(format!(
                    "a GPU instance takes {most} of {}; pool '{pool}' puts {wanted_in_one} into \
                     each and leaves the rest unused",
                    short_name(&one.name)
                ));
            }
            let vgpus = settings.gpu_instances.saturating_mul(wanted_in_one);
            let later = match settings.are_made_on_demand() {
                true => {
                    let most = Occupied::NOTHING.more(&self.board, instance);
                    let limit = Some(wanted.limit).filter(|limit| *limit > 0);
                    most.saturating_mul(wanted_in_one)
                        .min(limit.unwrap_or(u32::MAX))
                }
                false => 0,
            };
            of_pools.push(PoolNeed {
                pool: pool.clone(),
                in_instances: Some(InInstances {
                    profile: instance,
                    framebuffer_mib: one.framebuffer_mib,
                    most_per_instance: wanted_in_one,
                    vgpus,
                    later: later.saturating_sub(vgpus),
                    mixes_sizes: wanted.mixes_sizes,
                    scheduler: wanted.scheduler,
                }),
            });
        }
        one_mode_for_each_profile(&of_pools)?;
        let need = gpu_need(&of_pools).map_err(|conflict| conflict.to_string())?;
        needs.instances = need.map(|need| need.instances).unwrap_or_default();
        Ok(needs)
    }

    /// When a start made the GPU instance there, in seconds since boot; None: no start did.
    pub(super) fn demanded(&self, place: InstancePlace) -> Option<u64> {
        let mut used = self.noted.used.iter();
        used.find(|used| used.place == place)?.demanded
    }

    /// Notes that the GPU instance there was made for these pools just now.
    pub(super) fn made_for(&mut self, place: InstancePlace, pools: &[PoolName]) {
        let Some(told) = self.told_at(place) else {
            return;
        };
        self.noted.used.push(UsedInstance {
            id: told.id,
            place,
            pools: pools.to_vec(),
            types: Vec::new(),
            vgpus: None,
            room: 0,
            scheduler: None,
            demanded: Some(since_boot().as_secs()),
        });
    }

    /// The GPU instances that starts have made, or that are for no pool, and that nobody uses any
    /// more; those that were made first come first.
    pub(super) fn idle_and_demanded(&self) -> Vec<&Instance> {
        let demanded = |one: &&Instance| {
            let told = self.told.iter().find(|told| told.id == one.id.number())?;
            self.demanded(told.place())
        };
        let instances = self.instances.iter().filter(|one| one.is_idle_and_ours());
        // Those of no pool are what others have left.
        let goes = |one: &&Instance| demanded(one).is_some() || self.pools_at(one.id).is_empty();
        let mut found: Vec<_> = instances.filter(goes).collect();
        found.sort_by_key(|one| demanded(one));
        found
    }

    /// Whether the GPU instance there comes and goes with VMs: starts have made it, or another one
    /// of its pools, in place of which it stays when no VM uses it.
    pub(super) fn goes_with_vms(&self, place: InstancePlace) -> bool {
        let used = self.noted.used.iter();
        let pools = used.clone().find(|used| used.place == place);
        pools.is_some_and(|its| {
            let mut alike = used.filter(|other| other.pools == its.pools);
            alike.any(|other| other.demanded.is_some())
        })
    }

    /// The pools that a GPU instance is for.
    pub(super) fn pools_at(&self, id: InstanceId) -> &[PoolName] {
        let used = self.noted.used.iter().find(|used| used.id == id.number());
        used.map_or(&[], |used| used.pools.as_slice())
    }

    /// The needs for one more GPU instance of `its`, in addition to those that stay, and to
    /// those that have to be there ahead and are missing; and the numbers of those that stay for
    /// a need. Those that `go` do not count.
    pub(super) fn with_those_there(
        &self,
        needs: &Needs,
        its: &InstanceNeed,
        goes: impl Fn(&Instance) -> bool,
    ) -> (Vec<InstanceNeed>, BTreeSet<u32>) {
        let counted = self.told.iter().zip(&self.instances);
        let counted = counted.filter(|(_, one)| (one.ours || one.has_vgpus) && !goes(one));
        let there: Vec<GpuInstance> = counted.map(|(told, _)| *told).collect();
        let assigned = self.assigned(&there, &needs.instances);
        let with_those = needs.instances.iter().map(|need| {
            let is_its = |(_, other): &&(GpuInstance, &InstanceNeed)| *other == need;
            let has = u32::try_from(assigned.iter().filter(is_its).count()).unwrap_or(u32::MAX);
            let one_more = u32::from(need == its);
            let instances = need.instances.max(has).saturating_add(one_more);
            InstanceNeed {
                later: need.later.saturating_sub(instances - need.instances),
                instances,
                ..need.clone()
            }
        });
        let of_needs = assigned.iter().map(|(one, _)| one.id).collect();
        (with_those.collect(), of_needs)
    }

    /// The GPU instance of that profile at those slots.
    pub(super) fn told_at(&self, place: InstancePlace) -> Option<GpuInstance> {
        self.told.iter().find(|one| one.place() == place).copied()
    }

    /// The GPU instances, in the order of their slots.
    #[must_use]
    pub fn report(&self) -> Vec<InstanceReport> {
        let all = self.told.iter().zip(&self.instances);
        let all = all.map(|(told, one)| InstanceReport {
            id: told.id,
            profile: self.board.name(one.profile),
            start: told.start,
            size: told.size,
            ours: one.ours,
            on_demand: self.demanded(told.place()).is_some(),
            pools: self.pools_at(one.id).to_vec(),
            users: one.users.clone(),
            heterogeneous: told.heterogeneous,
            scheduler: told.scheduler,
        });
        let mut all: Vec<InstanceReport> = all.collect();
        all.sort_by_key(|one| one.start);
        all
    }

    /// Whether there is a GPU instance of that profile at those slots.
    pub(super) fn is_there(&self, place: InstancePlace) -> bool {
        self.told.iter().any(|one| one.place() == place)
    }

    /// The GPU instances that virt-vgpu has not created.
    pub(super) fn foreign(&self) -> impl Iterator<Item = NamedPlace> {
        let foreign = self.instances.iter().filter(|one| !one.ours);
        foreign.map(|one| NamedPlace::of(&self.board, one.profile, one.slots))
    }

    /// How vGPUs share the time of the GPU instance there; None: there is none, or the driver
    /// does not tell.
    pub(super) fn scheduler_at(&self, place: InstancePlace) -> Option<Scheduler> {
        let mut told = self.told.iter();
        told.find(|one| one.place() == place)?.scheduler
    }

    /// The users of the GPU instance there.
    #[must_use]
    pub fn users_at(&self, place: InstancePlace) -> &[String] {
        // Both are in the order of NVML.
        let mut instances = self.told.iter().zip(&self.instances);
        let there = instances.find(|(told, _)| told.place() == place);
        there
            .map(|(_, instance)| instance)
            .map_or(&[], |instance| instance.users.as_slice())
    }

    /// Which of these GPU instances is for which need. One stays with the pools that it was for,
    /// and one that has vGPUs is for pools with vGPUs of their size.
    fn assigned<'n>(
        &self,
        instances: &[GpuInstance],
        needs: &'n [InstanceNeed],
    ) -> Vec<(GpuInstance, &'n InstanceNeed)> {
        let mut left: Vec<GpuInstance> = instances.to_vec();
        let mut assigned = Vec::new();
        let is_of_another = |one: &GpuInstance, need: &InstanceNeed| {
            let mut used = self.noted.used.iter();
            let before = used.find(|used| used.place == one.place());
            before.is_some_and(|before| {
                let mut others = needs.iter().filter(|other| *other != need);
                before.pools != need.pools && others.any(|other| other.pools == before.pools)
            })
        };
        let mut assign = |need: &'n InstanceNeed, count: fn(&InstanceNeed) -> u32, takes: bool| {
            let suits = |one: &&GpuInstance| {
                let sizes = self.sizes.get(&one.id);
                let has_its_size = need.vgpus.is_none_or(|wanted| {
                    let mut sizes = sizes.into_iter().flatten();
                    sizes.all(|size| *size == wanted.framebuffer_mib)
                });
                let is_free = takes || !is_of_another(one, need);
                one.profile == need.profile.number() && has_its_size && is_free
            };
            // Larger comes first: what it was for, then what it has.
            let rank = |one: &GpuInstance| {
                let before = self
                    .noted
                    .used
                    .iter()
                    .find(|used| used.place == one.place());
                let is_same = before.is_some_and(|before| before.pools == need.pools);
                let is_of_others = before.is_some() && !is_same;
                let is_used = self.sizes.contains_key(&one.id);
                (is_same, is_used, !is_of_others, Reverse(one.start))
            };
            for _ in 0..count(need) {
                let suiting = left.iter().filter(suits);
                let Some(best) = suiting.max_by_key(|one| rank(one)).copied() else {
                    break;
                };
                left.retain(|one| one.place() != best.place());
                assigned.push((best, need));
            }
        };
        // What has to be there comes before what starts may make, which is never what another
        // pool has.
        needs
            .iter()
            .for_each(|need| assign(need, |need| need.instances, true));
        needs
            .iter()
            .for_each(|need| assign(need, |need| need.later, false));
        assigned.sort_by_key(|(one, _)| one.start);
        assigned
    }

    /// The GPU instances that a layout keeps and creates, each with the need that it is for. One
    /// that is created is as the driver begins.
    pub(super) fn after<'n>(
        &self,
        layout: &Layout,
        needs: &'n [InstanceNeed],
    ) -> Vec<(GpuInstance, &'n InstanceNeed)> {
        let kept = layout.kept.iter().filter_map(|kept| {
            let mut told = self.told.iter();
            told.find(|one| one.id == kept.id.number()).copied()
        });
        let has_settings = self.types.iter().any(|one| one.most_per_instance > Some(1));
        let created = layout.created.iter().map(|new| GpuInstance {
            id: NOT_YET,
            profile: new.profile.number(),
            start: new.slots.start(),
            size: new.slots.size(),
            compute_instances: 0,
            // Where one vGPU fills it, it has neither.
            heterogeneous: has_settings.then_some(false),
            scheduler: has_settings.then_some(AS_IT_BEGINS),
        });
        let there: Vec<GpuInstance> = kept.chain(created).collect();
        self.assigned(&there, needs)
    }

    /// The note about these GPU instances when they are as the pools need them: who made them,
    /// and which pools each is for.
    #[must_use]
    pub fn note(
        &self,
        needs: &[InstanceNeed],
        pools: &[MigPool],
        boot: Option<String>,
    ) -> OurInstances {
        // Those of others are for pools only if VMs of these are in them already.
        let is_for_pools = |one: &&GpuInstance| {
            self.noted.made.contains(&one.place()) || self.sizes.contains_key(&one.id)
        };
        let there: Vec<GpuInstance> = self.told.iter().filter(is_for_pools).copied().collect();
        let used = self.assigned(&there, needs).into_iter();
        let used = used.map(|(one, need)| {
            let types = self.types_of(need, pools);
            let most = types.iter().filter_map(|one| one.most_per_instance).max();
            let vgpus = need.vgpus.map(|size| size.most);
            UsedInstance {
                id: one.id,
                place: one.place(),
                pools: need.pools.clone(),
                types: types.iter().map(|one| one.name.clone()).collect(),
                vgpus,
                scheduler: need.scheduler,
                room: most.unwrap_or(1).max(vgpus.unwrap_or(1)),
                demanded: self.demanded(one.place()),
            }
        });
        OurInstances {
            switched_on: self.noted.switched_on && (self.on || self.pending),
            boot,
            made: {
                let made = self.noted.made.iter().copied();
                made.filter(|place| self.is_there(*place)).collect()
            },
            used: used.collect(),
        }
    }

    /// The types of the pools of the need.
    fn types_of(&self, need: &InstanceNeed, pools: &[MigPool]) -> Vec<&TypeFacts> {
        let its = || pools.iter().filter(|pool| need.pools.contains(&pool.pool));
        let is_meant = |one: &&TypeFacts| its().any(|pool| pool.profile.means_name(&one.name));
        self.types.iter().filter(is_meant).collect()
    }
}
