//! The facts of NVIDIA's management library about a GPU, as plain data: the questions
//! to `virt-vgpu-nvml` and its answers, one JSON value each. The library may hang or
//! crash, so only that program loads it.
//!
//! Names and units are those of NVIDIA's `nvml.h`. Facts that we do not need are left
//! out.

use serde::{Deserialize, Serialize};

use crate::model::{DomainUuid, MdevUuid, PciAddress, VgpuTypeId};

/// One question. The program answers it once and ends. By then it has closed the
/// driver, because an open handle would keep `sriov-manage` from its lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do", deny_unknown_fields)]
pub enum Question {
    /// The facts about all GPUs of the driver.
    Gpus,
    /// The facts about one GPU.
    Gpu {
        /// The physical function.
        gpu: PciAddress,
    },
    /// NVIDIA's driver in the guests, of all vGPUs that VMs have open.
    Guests,
    /// Switch mixed sizes on or off (`nvmlDeviceSetVgpuHeterogeneousMode`).
    SetHeterogeneous {
        /// The physical function.
        gpu: PciAddress,
        /// The mode.
        on: bool,
    },
    /// Set how vGPUs share the time (`nvmlDeviceSetVgpuSchedulerState`, or the function
    /// that replaces it in newer drivers).
    SetScheduler {
        /// The physical function.
        gpu: PciAddress,
        /// The complete settings: None means the driver's default.
        scheduler: Scheduler,
    },
    /// Switch mixed sizes in one GPU instance on or off
    /// (`nvmlGpuInstanceSetVgpuHeterogeneousMode`). A vGPU in it, running or not, is in the way:
    /// [`FailureKind::InUse`]. The mode lasts as long as the GPU instance.
    SetInstanceHeterogeneous {
        /// The physical function.
        gpu: PciAddress,
        /// Where the GPU instance is.
        place: InstancePlace,
        /// The mode.
        on: bool,
    },
    /// Set how the vGPUs in one GPU instance share its time
    /// (`nvmlGpuInstanceSetVgpuSchedulerState`, or its `_v2` if the driver has only that). A
    /// vGPU in it, running or not, is in the way: [`FailureKind::InUse`]. The setting lasts as
    /// long as the GPU instance.
    SetInstanceScheduler {
        /// The physical function.
        gpu: PciAddress,
        /// Where the GPU instance is.
        place: InstancePlace,
        /// The complete settings: None means the driver's default.
        scheduler: Scheduler,
    },
    /// Switch MIG mode on or off (`nvmlDeviceSetMigMode`). That the change has to wait is a
    /// failure of the kind [`FailureKind::Pending`].
    SetMig {
        /// The physical function.
        gpu: PciAddress,
        /// The mode.
        on: bool,
    },
    /// Create a GPU instance (`nvmlDeviceCreateGpuInstanceWithPlacement`).
    CreateInstance {
        /// The physical function.
        gpu: PciAddress,
        /// Its profile and its slots.
        place: InstancePlace,
    },
    /// Destroy the GPU instance that is there, with its compute instances
    /// (`nvmlGpuInstanceDestroy`). Without one there is nothing to do.
    DestroyInstance {
        /// The physical function.
        gpu: PciAddress,
        /// Its profile and its slots.
        place: InstancePlace,
    },
}

/// What names a GPU instance: its id may be another one's once it is destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstancePlace {
    /// The id of its profile, which differs between GPUs.
    pub profile: u32,
    /// The first of its memory slots.
    pub start: u32,
    /// How many memory slots it has.
    pub size: u32,
}

impl std::fmt::Display for InstancePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            profile,
            start,
            size,
        } = self;
        write!(f, "profile {profile}, {size} slots from {start}")
    }
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The answer to [`Question::Gpus`] and, with one GPU, to [`Question::Gpu`].
    Gpus(Vec<GpuFacts>),
    /// The answer to [`Question::Guests`].
    Guests(Guests),
    /// The setting was made and reads back as requested.
    Done,
    /// The request failed; a sentence for people, with NVML's own words.
    Failed(Failure),
}

/// A question that could not be answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure it is, for programs.
    pub kind: FailureKind,
    /// What was tried and what the result was, for people; no full stop.
    pub message: String,
}

/// The kind of a failure, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The library is missing or does not initialise: there is no driver, or it has
    /// another version.
    NoLibrary,
    /// The library has no such function.
    NoSymbol,
    /// The GPU or its driver cannot do it (`NOT_SUPPORTED`).
    NotSupported,
    /// Refused while there are vGPUs (`IN_USE`; for a scheduler also `NOT_SUPPORTED`
    /// while there are some on the GPU or in the GPU instance).
    InUse,
    /// Refused for this user (`NO_PERMISSION`).
    NoPermission,
    /// The driver has no GPU with that address, or has lost it.
    NoGpu,
    /// The card does not accept the value.
    Invalid,
    /// The change was accepted, and takes effect later: when nobody uses the GPU, or after a
    /// reset of it.
    Pending,
    /// Anything else.
    Other,
}

/// A value that a driver may not give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told<T> {
    /// The driver gives it.
    Value(T),
    /// The driver does not give it; why.
    Unavailable(Failure),
}

impl<T> Told<T> {
    /// The value, if there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Unavailable(_) => None,
        }
    }
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuFacts {
    /// The physical function.
    pub address: PciAddress,
    /// Product name, `NVIDIA L40S`.
    pub name: Told<String>,
    /// `GPU-…`.
    pub uuid: Told<String>,
    /// All of its memory.
    pub memory_mib: Told<u64>,
    /// Whether the GPU can host vGPUs (`nvmlDeviceGetVirtualizationMode` says 3).
    pub hosts_vgpus: Told<bool>,
    /// Whether MIG mode is on now.
    pub mig: Told<bool>,
    /// What MIG can cut it into, and has.
    pub instances: Told<InstanceFacts>,
    /// Mixed sizes.
    pub heterogeneous: Told<Heterogeneous>,
    /// Whether one VM may have vGPUs of several sizes of the GPU's series
    /// (driver capability `HETEROGENEOUS_MULTI_VGPU`).
    pub heterogeneous_multi_vgpu: Told<bool>,
    /// How vGPUs share the time now.
    pub scheduler: Told<Scheduler>,
    /// The limits of the card's scheduler.
    pub scheduler_limits: Told<SchedulerLimits>,
    /// The types that the GPU supports, in ascending order of their numbers.
    pub types: Told<Vec<TypeFacts>>,
    /// The vGPUs that VMs have open now.
    pub vgpus: Told<Vec<VgpuFacts>>,
}

/// MIG's part of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceFacts {
    /// Whether MIG mode is on as soon as a change that waits has taken effect.
    pub pending: bool,
    /// The profiles that it has, in MIG mode or not, in ascending order of their ids.
    pub profiles: Vec<InstanceProfile>,
    /// The GPU instances that there are, in ascending order of their ids; none while MIG mode
    /// is off.
    pub instances: Vec<GpuInstance>,
}

/// A profile of GPU instances (`nvmlGpuInstanceProfileInfo_v3_t`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceProfile {
    /// The driver's number: it differs between GPUs, and 0 is one like any other.
    pub id: u32,
    /// `1g.24gb+gfx`; None: an older driver does not say.
    pub name: Option<String>,
    /// How many slices of compute it has.
    pub compute_slices: u32,
    /// How many of them the GPU can have at once.
    pub most: u32,
    /// The usable memory, which is less than the name says.
    pub memory_mib: u64,
    /// How many memory slots it has.
    pub size: u32,
    /// The memory slots at which it can begin, in ascending order.
    pub starts: Vec<u32>,
    /// Whether it can do graphics; None: an older driver does not say.
    pub graphics: Option<bool>,
    /// The engines that it has for itself: a GPU has few, and an instance may find none left
    /// although there are slots.
    pub engines: Engines,
}

/// How many engines for media a GPU instance has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engines {
    /// Video decoders (NVDEC).
    pub decoders: u32,
    /// Video encoders (NVENC).
    pub encoders: u32,
    /// JPEG decoders (NVJPG).
    pub jpeg: u32,
    /// Optical flow accelerators (OFA).
    pub optical_flow: u32,
}

/// A GPU instance (`nvmlGpuInstanceInfo_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuInstance {
    /// The driver's number; 0 is one like any other.
    pub id: u32,
    /// The id of its profile.
    pub profile: u32,
    /// The first of its memory slots.
    pub start: u32,
    /// How many memory slots it has.
    pub size: u32,
    /// How many compute instances the host has made in it.
    pub compute_instances: u32,
    /// Whether vGPUs of several sizes may be in it
    /// (`nvmlGpuInstanceGetVgpuHeterogeneousMode`); None: the driver does not tell, as where a
    /// GPU instance holds only one vGPU.
    pub heterogeneous: Option<bool>,
    /// How its vGPUs share its time now (`nvmlGpuInstanceGetVgpuSchedulerState`, or its `_v2`);
    /// None: the driver does not tell, as where a GPU instance holds only one vGPU.
    pub scheduler: Option<Scheduler>,
}

impl GpuInstance {
    /// Where it is.
    #[must_use]
    pub fn place(&self) -> InstancePlace {
        InstancePlace {
            profile: self.profile,
            start: self.start,
            size: self.size,
        }
    }
}

/// Mixed sizes on one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heterogeneous {
    /// Whether the GPU supports it (capability `HETEROGENEOUS_TIMESLICE_SIZES`).
    pub supported: bool,
    /// Whether it is on.
    pub enabled: bool,
}

/// A vGPU type on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeFacts {
    /// The driver's number.
    pub id: VgpuTypeId,
    /// Full name, `NVIDIA L40S-12Q`.
    pub name: String,
    /// Frame buffer in MiB.
    pub framebuffer_mib: u64,
    /// The number of displays.
    pub heads: Option<u32>,
    /// Width and height of the largest display.
    pub max_resolution: Option<(u32, u32)>,
    /// Frames per second; None: not limited or unknown.
    pub frame_rate_limit: Option<u32>,
    /// The most vGPUs of this type on the GPU.
    pub max_instances: u32,
    /// The most of them in one VM; None: unknown.
    pub max_per_vm: Option<u32>,
    /// The profile of its GPU instance; None: time-sliced.
    pub gpu_instance_profile: Option<u32>,
    /// How many of this type alone one such GPU instance holds; None: time-sliced, or an
    /// older driver does not say.
    pub most_per_instance: Option<u32>,
    /// Whether one can be created now.
    pub creatable: bool,
    /// Its places when sizes are mixed; None if the driver does not list them.
    pub placements: Option<Placements>,
    /// Its free places in each GPU instance of its profile that mixes sizes, in ascending order
    /// of the instances' ids. One whose places the driver does not list is left out.
    pub instance_placements: Vec<InstancePlacements>,
}

/// Places in a GPU's memory. A vGPU with placement id `n` covers `n` to `n + size`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placements {
    /// Length, in the unit of the ids.
    pub size: u32,
    /// Every id that the type can have when sizes are mixed, in ascending order.
    pub supported: Vec<u32>,
    /// The ids that are free now: empty while the mode is off.
    pub creatable: Vec<u32>,
}

/// Free places in a GPU instance that mixes sizes
/// (`nvmlGpuInstanceGetVgpuTypeCreatablePlacements`). They are counted from its beginning, so
/// they say nothing about the GPU's memory slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstancePlacements {
    /// The id of the GPU instance.
    pub instance: u32,
    /// Length, in the unit of the ids.
    pub size: u32,
    /// The ids that are free now, in ascending order. Limits on the number of vGPUs hold as well.
    pub creatable: Vec<u32>,
}

/// A vGPU that a VM has open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VgpuFacts {
    /// Its type's number.
    pub type_id: VgpuTypeId,
    /// The VM, if the driver knows its UUID.
    pub vm: Option<DomainUuid>,
    /// The mediated device of the vGPU.
    pub mdev: Option<MdevUuid>,
    /// Its place; None: unknown, or not placed.
    pub placement: Option<u32>,
}

/// NVIDIA's driver on both sides of the vGPUs that VMs have open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guests {
    /// The version of the host's driver (`nvmlSystemGetDriverVersion`).
    pub host_driver: Option<String>,
    /// The vGPUs, in the order in which the driver lists them.
    pub vgpus: Vec<GuestFacts>,
}

/// A vGPU that a VM has open, and what runs in the guest. NVML does not tell its virtual
/// function: `nvmlVgpuInstanceGetGpuPciId` is the address that the guest sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFacts {
    /// The physical function.
    pub gpu: PciAddress,
    /// Its type's number.
    pub type_id: VgpuTypeId,
    /// The VM, if the driver knows its UUID.
    pub vm: Option<DomainUuid>,
    /// The mediated device of the vGPU; None: it is a virtual function.
    pub mdev: Option<MdevUuid>,
    /// The driver in the guest.
    pub driver: GuestDriver,
    /// The licence of the guest; None: unknown, as long as no driver runs there.
    pub licence: Option<Licence>,
}

/// NVIDIA's driver in a guest (`nvmlVgpuInstanceGetVmDriverVersion`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestDriver {
    /// The host's driver does not tell.
    Unknown,
    /// None runs there: the guest has none, or is still starting.
    NotLoaded,
    /// Its version, as the guest says it.
    Version(String),
}

/// The licence of a guest (`nvmlVgpuLicenseInfo_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Licence {
    /// Whether it has one.
    pub state: LicenceState,
    /// How long it has it.
    pub term: LicenceTerm,
}

/// `NVML_GRID_LICENSE_STATE_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LicenceState {
    /// 0, or a number that is not known here.
    Unknown,
    /// 1: the guest has not asked for one yet (`UNINITIALIZED`).
    NotAskedFor,
    /// 2: without one, and not slowed down (`UNLICENSED_UNRESTRICTED`).
    Unrestricted,
    /// 3: without one, and slowed down (`UNLICENSED_RESTRICTED`).
    Restricted,
    /// 4: without one (`UNLICENSED`).
    Unlicensed,
    /// 5: with one.
    Licensed,
}

/// How long a guest has its licence (`nvmlVgpuLicenseExpiry_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LicenceTerm {
    /// The driver does not tell, or there is none.
    Unknown,
    /// Until then: year, month, day, hour, minute and second in UTC, not checked.
    Until([u32; 6]),
    /// For ever.
    Permanent,
}

/// How vGPUs share the time of a GPU or of a GPU instance (`nvmlVgpuSchedulerGetState_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scheduler {
    /// The policy.
    pub policy: SchedulerPolicy,
    /// Adaptive ("strict") round robin; None: the driver's default.
    pub strict_round_robin: Option<bool>,
    /// 1 to 60; only with strict round robin.
    pub averaging_factor: Option<u32>,
    /// In Hz; only with strict round robin.
    pub frequency: Option<u32>,
    /// In ns; only without strict round robin.
    pub time_slice_ns: Option<u32>,
}

/// `NVML_VGPU_SCHEDULER_POLICY_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SchedulerPolicy {
    /// 1: round robin; time that one vGPU does not use goes to others.
    BestEffort,
    /// 2: the same share for all running vGPUs.
    EqualShare,
    /// 3: the share that a vGPU would get if the GPU were full.
    FixedShare,
}

/// The limits of a card's scheduler (`nvmlVgpuSchedulerCapabilities_t`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerLimits {
    /// The policies, ascending.
    pub policies: Vec<SchedulerPolicy>,
    /// Whether it supports strict round robin.
    pub strict_round_robin: bool,
    /// Shortest and longest time slice, in ns.
    pub time_slice_ns: (u32, u32),
    /// Lowest and highest frequency, in Hz.
    pub frequency: (u32, u32),
    /// Lowest and highest averaging factor.
    pub averaging_factor: (u32, u32),
}

/// Access to NVML.
pub trait Nvml {
    /// The facts about all GPUs that answer, as of now.
    ///
    /// # Errors
    /// Why there is no answer.
    fn gpus(&self) -> Result<Vec<GpuFacts>, Failure>;

    /// The facts about one GPU, as of now.
    ///
    /// # Errors
    /// Why there is no answer.
    fn gpu(&self, gpu: PciAddress) -> Result<GpuFacts, Failure>;
}
