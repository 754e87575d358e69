//! NVML's answers about the GPUs that follow tables, from the present state of their
//! twins, as `virt-vgpu-nvml` gives them.

use lab_nvidia::{boards::VgpuType, control, model};
use nix::errno::Errno;
use virt_vgpu::{
    device::nvml::{
        Answer, Engines, Failure, FailureKind, GpuFacts, GpuInstance, GuestDriver, GuestFacts,
        Guests, Heterogeneous, InstanceFacts, InstancePlace, InstancePlacements, InstanceProfile,
        Licence, LicenceState, LicenceTerm, Nvml, Placements, Question, Scheduler, SchedulerLimits,
        SchedulerPolicy, Told, TypeFacts, VgpuFacts,
    },
    model::{PciAddress, VgpuTypeId},
};

use super::{Kernel, Target, card::Card};

const POLICIES: [SchedulerPolicy; 3] = [
    SchedulerPolicy::BestEffort,
    SchedulerPolicy::EqualShare,
    SchedulerPolicy::FixedShare,
];
/// The version of the driver.
const HOST_DRIVER: &str = "580.65.05";
/// Of adaptive round robin, as NVML has it; 0 is the driver's default.
const ARR_OFF: u32 = 1;
const ARR_ON: u32 = 2;

fn failure(kind: FailureKind, message: &str) -> Failure {
    let message = message.to_owned();
    Failure { kind, message }
}

fn not_supported<T>() -> Told<T> {
    Told::Unavailable(failure(FailureKind::NotSupported, "Not Supported"))
}

/// NVML's error for the driver's answer.
fn refused(errno: Errno) -> Failure {
    let (kind, words) = match errno {
        Errno::EBUSY => (FailureKind::InUse, "In use by another client"),
        Errno::EINVAL => (FailureKind::Invalid, "Invalid Argument"),
        Errno::ENODEV | Errno::ENOENT => (FailureKind::NoGpu, "Not Found"),
        Errno::ENOSPC => (FailureKind::Other, "Insufficient Resources"),
        // What the program says without asking the driver.
        Errno::ESRCH => (FailureKind::Other, "there is no such GPU instance"),
        Errno::EAGAIN => (
            FailureKind::Pending,
            "it is pending: In use by another client",
        ),
        Errno::EOPNOTSUPP => (FailureKind::NotSupported, "Not Supported"),
        Errno::EPERM => (FailureKind::NoPermission, "Insufficient Permissions"),
        _ => (FailureKind::Other, "Unknown Error"),
    };
    failure(kind, words)
}

/// 0 means the driver's own choice.
fn chosen(number: u32) -> Option<u32> {
    (number != 0).then_some(number)
}

/// Best effort has no parameters.
fn scheduler(known: &model::Scheduler) -> Scheduler {
    let policy = POLICIES[usize::try_from(known.policy).unwrap() - 1];
    let chosen = |number| chosen(number).filter(|_| policy != SchedulerPolicy::BestEffort);
    Scheduler {
        policy,
        strict_round_robin: chosen(known.arr).map(|arr| arr == ARR_ON),
        averaging_factor: chosen(known.factor),
        frequency: chosen(known.frequency),
        time_slice_ns: chosen(known.slice_ns),
    }
}

fn to_driver(wanted: &Scheduler) -> model::Scheduler {
    let place = POLICIES.iter().position(|policy| *policy == wanted.policy);
    model::Scheduler {
        policy: u32::try_from(place.unwrap() + 1).unwrap(),
        arr: match wanted.strict_round_robin {
            None => 0,
            Some(false) => ARR_OFF,
            Some(true) => ARR_ON,
        },
        factor: wanted.averaging_factor.unwrap_or(0),
        frequency: wanted.frequency.unwrap_or(0),
        slice_ns: wanted.time_slice_ns.unwrap_or(0),
    }
}

impl Card {
    fn facts(&self) -> GpuFacts {
        let (board, known) = (self.twin.board(), self.known());
        // In MIG mode there is no other mode, whatever was set.
        let mixed = known.hetero && !known.mig;
        let address: PciAddress = self.twin.address().parse().unwrap();
        let has = board.features;
        let mut types: Vec<TypeFacts> = board
            .types
            .iter()
            .map(|kind| self.type_facts(kind, &known))
            .collect();
        types.sort_by_key(|kind| kind.id);
        GpuFacts {
            address,
            name: Told::Value(board.name.clone()),
            uuid: Told::Value(gpu_uuid(address)),
            memory_mib: Told::Value(board.memory_mib.into()),
            hosts_vgpus: Told::Value(true),
            mig: if has.mig {
                Told::Value(known.mig)
            } else {
                not_supported()
            },
            instances: if has.mig {
                Told::Value(self.instances(&known))
            } else {
                not_supported()
            },
            heterogeneous: Told::Value(Heterogeneous {
                supported: has.hetero,
                enabled: mixed,
            }),
            heterogeneous_multi_vgpu: Told::Value(true),
            scheduler: if known.mig {
                not_supported()
            } else {
                Told::Value(scheduler(&known.scheduler))
            },
            scheduler_limits: Told::Value(limits(has.arr)),
            types: Told::Value(types),
            vgpus: Told::Value(self.open_vgpus(&known)),
        }
    }

    fn instances(&self, known: &control::State) -> InstanceFacts {
        let profiles = self.twin.board().gi_profiles.iter();
        let mut profiles: Vec<InstanceProfile> = profiles
            .map(|profile| InstanceProfile {
                id: profile.id,
                name: Some(profile.name.clone()),
                compute_slices: profile.compute_slices,
                most: profile.max_instances,
                // As the library tells it (`mig::usable`).
                memory_mib: u64::from(profile.memory_mib) * 95 / 100,
                size: profile.memory_slots,
                starts: profile.starts.clone(),
                graphics: Some(profile.gfx),
                // Nothing depends on them here.
                engines: Engines {
                    decoders: 0,
                    encoders: 0,
                    jpeg: 0,
                    optical_flow: 0,
                },
            })
            .collect();
        profiles.sort_by_key(|profile| profile.id);
        let compute = |gi: u32| known.cis.iter().filter(|ci| ci.gi == gi).count();
        let has_several = self.twin.board().features.mig_timeslicing;
        let instances = known.gis.iter().map(|gi| GpuInstance {
            id: gi.id,
            profile: gi.profile,
            start: gi.start,
            size: gi.size,
            compute_instances: u32::try_from(compute(gi.id)).unwrap(),
            heterogeneous: has_several.then_some(gi.hetero),
            scheduler: has_several.then(|| scheduler(&gi.scheduler)),
        });
        InstanceFacts {
            pending: known.mig_pending,
            profiles,
            instances: instances.collect(),
        }
    }

    fn type_facts(&self, kind: &VgpuType, known: &control::State) -> TypeFacts {
        let is_many = matches!(kind.series(), 'Q' | 'C');
        let mixed = known.hetero && !known.mig;
        TypeFacts {
            id: type_id(kind.id),
            name: kind.name.clone(),
            framebuffer_mib: kind.framebuffer_mib.into(),
            heads: Some(kind.heads),
            max_resolution: Some(kind.resolution),
            frame_rate_limit: Some(kind.frame_rate_limit),
            max_instances: kind.max_instances,
            max_per_vm: Some(if is_many { 16 } else { 1 }),
            gpu_instance_profile: kind.gi_profile,
            most_per_instance: kind.max_per_gi,
            creatable: self.twin.available(kind) > 0,
            placements: self.placements(kind, mixed),
            instance_placements: self.instance_placements(kind, &known.gis),
        }
    }

    /// The places in the GPU instances of its profile that mix sizes.
    fn instance_placements(&self, kind: &VgpuType, gis: &[control::Gi]) -> Vec<InstancePlacements> {
        let mixing = |gi: &&control::Gi| gi.hetero && kind.gi_profile == Some(gi.profile);
        let placements = gis.iter().filter(mixing).map(|gi| InstancePlacements {
            instance: gi.id,
            size: kind.slots,
            creatable: self.twin.gi_placements(gi.id, kind.id).unwrap(),
        });
        placements.collect()
    }

    /// The lists describe mixed sizes: while that mode is off, no place is free.
    fn placements(&self, kind: &VgpuType, mixed: bool) -> Option<Placements> {
        let board = self.twin.board();
        if !board.features.hetero || kind.gi_profile.is_some() {
            return None;
        }
        let creatable = if mixed {
            self.twin.placements(kind.id).ok()?
        } else {
            Vec::new()
        };
        Some(Placements {
            size: kind.slots,
            supported: board.mixed.get(&kind.slots).cloned()?,
            creatable,
        })
    }

    /// Makes the change that a question asks for. The program does not set what is
    /// already set, because the driver would refuse even that while there are vGPUs. It
    /// also distinguishes the two reasons behind one answer about the scheduler.
    fn set(&mut self, question: &Question) -> Result<(), Errno> {
        let known = self.known();
        match question {
            Question::Gpus | Question::Gpu { .. } | Question::Guests => Ok(()),
            Question::SetHeterogeneous { on, .. } if *on == known.hetero && !known.mig => Ok(()),
            Question::SetHeterogeneous { on, .. } => self.twin.set_hetero(*on),
            Question::SetScheduler {
                scheduler: wanted, ..
            } => {
                if *wanted == scheduler(&known.scheduler) {
                    return Ok(());
                }
                let in_use = !known.vgpus.is_empty();
                let set = self.twin.set_scheduler(to_driver(wanted));
                set.map_err(|errno| if in_use { Errno::EBUSY } else { errno })
            }
            Question::SetInstanceHeterogeneous { place, on, .. } => {
                let gi = *instance_at(&known, *place).ok_or(Errno::ESRCH)?;
                if self.twin.board().features.mig_timeslicing && gi.hetero == *on {
                    return Ok(());
                }
                self.twin.set_gi_hetero(gi.id, *on)
            }
            Question::SetInstanceScheduler {
                place,
                scheduler: wanted,
                ..
            } => {
                let gi = *instance_at(&known, *place).ok_or(Errno::ESRCH)?;
                let has_several = self.twin.board().features.mig_timeslicing;
                // The program says so before it asks the driver.
                if gi.hetero && wanted.policy == SchedulerPolicy::FixedShare {
                    return Err(Errno::EINVAL);
                }
                if has_several && *wanted == scheduler(&gi.scheduler) {
                    return Ok(());
                }
                let in_use = known.vgpus.iter().any(|vgpu| vgpu.gi == Some(gi.id));
                let set = self.twin.set_gi_scheduler(gi.id, to_driver(wanted));
                set.map_err(|errno| match errno {
                    Errno::EOPNOTSUPP if has_several && in_use => Errno::EBUSY,
                    errno => errno,
                })
            }
            Question::SetMig { on, .. } => match self.twin.set_mig(*on)? {
                true => Ok(()),
                false => Err(Errno::EAGAIN),
            },
            Question::CreateInstance { place, .. } => {
                let made = self.twin.gi_create(place.profile, Some(place.start));
                made.map(|_| ())
            }
            Question::DestroyInstance { place, .. } => {
                let Some(gi) = instance_at(&known, *place) else {
                    return Ok(());
                };
                for ci in known.cis.iter().filter(|ci| ci.gi == gi.id) {
                    self.twin.ci_destroy(gi.id, ci.id)?;
                }
                self.twin.gi_destroy(gi.id)
            }
        }
    }

    fn open_vgpus(&self, known: &control::State) -> Vec<VgpuFacts> {
        let open = known.vgpus.iter().filter(|vgpu| vgpu.opener.is_some());
        open.map(|vgpu| VgpuFacts {
            type_id: type_id(vgpu.type_id),
            vm: vgpu.vm_uuid.as_ref().and_then(|uuid| uuid.parse().ok()),
            mdev: vgpu.mdev.as_ref().and_then(|uuid| uuid.parse().ok()),
            // NVML tells it only where sizes may differ.
            placement: vgpu.placement.filter(|_| known.hetero),
        })
        .collect()
    }
}

impl Card {
    fn guests(&self) -> Vec<GuestFacts> {
        let known = self.known();
        let open = known.vgpus.iter().filter(|vgpu| vgpu.opener.is_some());
        open.map(|vgpu| GuestFacts {
            gpu: self.twin.address().parse().unwrap(),
            type_id: type_id(vgpu.type_id),
            vm: vgpu.vm_uuid.as_ref().and_then(|uuid| uuid.parse().ok()),
            mdev: vgpu.mdev.as_ref().and_then(|uuid| uuid.parse().ok()),
            driver: match &vgpu.guest {
                Some(guest) => GuestDriver::Version(guest.driver.clone()),
                None => GuestDriver::NotLoaded,
            },
            licence: vgpu.guest.as_ref().map(licence),
        })
        .collect()
    }
}

fn licence(guest: &model::Guest) -> Licence {
    Licence {
        state: match guest.licence {
            1 => LicenceState::NotAskedFor,
            2 => LicenceState::Unrestricted,
            3 => LicenceState::Restricted,
            4 => LicenceState::Unlicensed,
            5 => LicenceState::Licensed,
            _ => LicenceState::Unknown,
        },
        term: match guest.expiry {
            2 => LicenceTerm::Until(guest.until),
            4 => LicenceTerm::Permanent,
            _ => LicenceTerm::Unknown,
        },
    }
}

fn instance_at(known: &control::State, place: InstancePlace) -> Option<&control::Gi> {
    let is_it = |gi: &&control::Gi| (gi.profile, gi.start) == (place.profile, place.start);
    known.gis.iter().find(is_it)
}

fn type_id(number: u32) -> VgpuTypeId {
    VgpuTypeId::new(number).unwrap()
}

fn gpu_uuid(address: PciAddress) -> String {
    let (domain, bus, slot, function) = address.parts();
    format!("GPU-5a000000-0000-4000-8000-{domain:04x}{bus:02x}{slot:02x}000{function}")
}

fn limits(arr: bool) -> SchedulerLimits {
    let limit = |low, high| if arr { (low, high) } else { (0, 0) };
    SchedulerLimits {
        policies: POLICIES.to_vec(),
        strict_round_robin: arr,
        time_slice_ns: (1_000_000, 30_000_000),
        frequency: limit(63, 960),
        averaging_factor: limit(1, 60),
    }
}

impl Kernel {
    /// How often NVML was asked about guests.
    pub fn guests_asked(&self) -> usize {
        self.state().guests_asked
    }

    /// NVML's answer, as of now; sleeps as long as an injected fault says.
    pub fn answer(&self, question: &Question) -> Answer {
        let gpu = match question {
            Question::Gpus | Question::Guests => None,
            Question::Gpu { gpu }
            | Question::SetHeterogeneous { gpu, .. }
            | Question::SetScheduler { gpu, .. }
            | Question::SetInstanceHeterogeneous { gpu, .. }
            | Question::SetInstanceScheduler { gpu, .. }
            | Question::SetMig { gpu, .. }
            | Question::CreateInstance { gpu, .. }
            | Question::DestroyInstance { gpu, .. } => Some(gpu.to_string()),
        };
        let places: Vec<&str> = gpu.iter().map(String::as_str).collect();
        let fault = self.state().strike(Target::Nvml, &places);
        if let Some(fault) = fault {
            std::thread::sleep(fault.delay);
            if let Some(errno) = fault.errno {
                return Answer::Failed(refused(errno));
            }
            if fault.pretends {
                return Answer::Done;
            }
        }
        match self.ask(question, gpu.as_deref()) {
            Ok(answer) => answer,
            Err(errno) => Answer::Failed(refused(errno)),
        }
    }

    fn ask(&self, question: &Question, gpu: Option<&str>) -> Result<Answer, Errno> {
        let mut state = self.state();
        let wanted = |card: &Card| gpu.is_none_or(|gpu| card.twin.address() == gpu);
        let mut cards: Vec<&mut Card> =
            state.cards.iter_mut().filter(|card| wanted(card)).collect();
        cards.sort_by_key(|card| card.twin.address().to_owned());
        if gpu.is_some() && cards.is_empty() {
            return Err(Errno::ENODEV);
        }
        for card in &mut cards {
            card.set(question)?;
        }
        let answer = match question {
            Question::Gpus | Question::Gpu { .. } => {
                Answer::Gpus(cards.iter().map(|card| card.facts()).collect())
            }
            Question::Guests => {
                let vgpus = cards.iter().flat_map(|card| card.guests()).collect();
                state.guests_asked += 1;
                Answer::Guests(Guests {
                    host_driver: Some(HOST_DRIVER.to_owned()),
                    vgpus,
                })
            }
            _ => Answer::Done,
        };
        // The possible places have changed with the mode.
        state.tree = None;
        Ok(answer)
    }
}

impl Nvml for Kernel {
    fn gpus(&self) -> Result<Vec<GpuFacts>, Failure> {
        match self.answer(&Question::Gpus) {
            Answer::Gpus(gpus) => Ok(gpus),
            Answer::Failed(failure) => Err(failure),
            Answer::Done | Answer::Guests(_) => {
                Err(failure(FailureKind::Other, "no answer to the question"))
            }
        }
    }

    fn gpu(&self, gpu: PciAddress) -> Result<GpuFacts, Failure> {
        match self.answer(&Question::Gpu { gpu }) {
            Answer::Gpus(mut gpus) => Ok(gpus.remove(0)),
            Answer::Failed(failure) => Err(failure),
            Answer::Done | Answer::Guests(_) => {
                Err(failure(FailureKind::Other, "no answer to the question"))
            }
        }
    }
}
