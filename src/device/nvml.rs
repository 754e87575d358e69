//! What NVIDIA's management library knows of a GPU, as plain data: the questions
//! that `virt-vgpu-nvml` takes and the answers that it gives, one JSON value each
//! way. The library may hang or crash, so nothing but that program loads it.
//!
//! Names and units are those of NVIDIA's `nvml.h`, less what nobody here asks for.

use serde::{Deserialize, Serialize};

use crate::model::{DomainUuid, MdevUuid, PciAddress, VgpuTypeId};

/// One question. A program that takes it answers once and ends, and has let go of
/// the driver by then: an open handle would keep `sriov-manage` from its lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do", deny_unknown_fields)]
pub enum Question {
    /// What there is to know about every GPU of the driver.
    Gpus,
    /// About one.
    Gpu {
        /// The physical function.
        gpu: PciAddress,
    },
    /// Switch mixed sizes on or off (`nvmlDeviceSetVgpuHeterogeneousMode`).
    SetHeterogeneous {
        /// The physical function.
        gpu: PciAddress,
        /// The mode.
        on: bool,
    },
    /// Set how time is shared (`nvmlDeviceSetVgpuSchedulerState`, or what a newer
    /// driver has instead).
    SetScheduler {
        /// The physical function.
        gpu: PciAddress,
        /// All of it: what is None is the driver's default.
        scheduler: Scheduler,
    },
}

/// The one answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Question::Gpus`] and, with one, to [`Question::Gpu`].
    Gpus(Vec<GpuFacts>),
    /// It is done, and reads back as asked for.
    Done,
    /// It cannot be had; a sentence for people, with NVML's own words.
    Failed(Failure),
}

/// A question that could not be answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure it is, for programs.
    pub kind: FailureKind,
    /// What was tried and what came back, for people; no full stop.
    pub message: String,
}

/// What a program can make of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// There is no library, or it will not start: no driver, or one of another version.
    NoLibrary,
    /// The library has no such function.
    NoSymbol,
    /// The GPU or its driver cannot do it (`NOT_SUPPORTED`).
    NotSupported,
    /// Not while there are vGPUs (`IN_USE`; the scheduler's `NOT_SUPPORTED` with some there).
    InUse,
    /// Not by this user (`NO_PERMISSION`).
    NoPermission,
    /// The driver has no GPU of that address, or has lost it.
    NoGpu,
    /// The value is not one that the card takes.
    Invalid,
    /// Anything else.
    Other,
}

/// A value that a driver may not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told<T> {
    /// It says so.
    Value(T),
    /// It does not say; why.
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
    /// Whether it is a host of vGPUs (`nvmlDeviceGetVirtualizationMode` says 3).
    pub hosts_vgpus: Told<bool>,
    /// Whether MIG mode is on now.
    pub mig: Told<bool>,
    /// Mixed sizes.
    pub heterogeneous: Told<Heterogeneous>,
    /// Whether one VM may have vGPUs of several sizes of the GPU's series
    /// (driver capability `HETEROGENEOUS_MULTI_VGPU`).
    pub heterogeneous_multi_vgpu: Told<bool>,
    /// How time is shared now.
    pub scheduler: Told<Scheduler>,
    /// What the card takes.
    pub scheduler_limits: Told<SchedulerLimits>,
    /// The types that the GPU supports, in ascending order of their numbers.
    pub types: Told<Vec<TypeFacts>>,
    /// The vGPUs that VMs have open now.
    pub vgpus: Told<Vec<VgpuFacts>>,
}

/// Mixed sizes on one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heterogeneous {
    /// Whether the GPU can (capability `HETEROGENEOUS_TIMESLICE_SIZES`).
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
    /// Displays.
    pub heads: Option<u32>,
    /// Width and height of the largest display.
    pub max_resolution: Option<(u32, u32)>,
    /// Frames per second; None: not limited or not told.
    pub frame_rate_limit: Option<u32>,
    /// The most that the GPU holds of it.
    pub max_instances: u32,
    /// The most that one VM may have; None: not told.
    pub max_per_vm: Option<u32>,
    /// The profile of the GPU instance behind it; None: time-sliced.
    pub gpu_instance_profile: Option<u32>,
    /// Whether one can be made now.
    pub creatable: bool,
    /// Where it can lie when sizes are mixed; None where the driver does not say.
    pub placements: Option<Placements>,
}

/// Places in a GPU's memory. A vGPU with placement id `n` covers `n` to `n + size`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placements {
    /// Length, in the unit of the ids.
    pub size: u32,
    /// Every id that the type can have with mixed sizes, in ascending order.
    pub supported: Vec<u32>,
    /// Those of them that can be had now: none while the mode is off.
    pub creatable: Vec<u32>,
}

/// A vGPU that a VM has open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VgpuFacts {
    /// Its type's number.
    pub type_id: VgpuTypeId,
    /// The VM, where the driver knows it by UUID.
    pub vm: Option<DomainUuid>,
    /// The mediated device that it is.
    pub mdev: Option<MdevUuid>,
    /// The virtual function that it is or lies on.
    pub function: Option<PciAddress>,
    /// Its place; None: not told, or not placed.
    pub placement: Option<u32>,
}

/// How vGPUs share the time of a GPU (`nvmlVgpuSchedulerGetState_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    /// The policy.
    pub policy: SchedulerPolicy,
    /// Adaptive ("strict") round robin; None: the driver's default.
    pub strict_round_robin: Option<bool>,
    /// 1 to 60; with strict round robin only.
    pub averaging_factor: Option<u32>,
    /// In Hz; with strict round robin only.
    pub frequency: Option<u32>,
    /// In ns; without strict round robin only.
    pub time_slice_ns: Option<u32>,
}

/// `NVML_VGPU_SCHEDULER_POLICY_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SchedulerPolicy {
    /// 1: round robin, time that one does not use goes to others.
    BestEffort,
    /// 2: the same for all that run.
    EqualShare,
    /// 3: what it would be if the GPU were full.
    FixedShare,
}

/// What a card's scheduler takes (`nvmlVgpuSchedulerCapabilities_t`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerLimits {
    /// The policies, ascending.
    pub policies: Vec<SchedulerPolicy>,
    /// Whether it knows strict round robin.
    pub strict_round_robin: bool,
    /// Shortest and longest time slice, in ns.
    pub time_slice_ns: (u32, u32),
    /// Lowest and highest frequency, in Hz.
    pub frequency: (u32, u32),
    /// Lowest and highest averaging factor.
    pub averaging_factor: (u32, u32),
}

/// Somebody who can ask NVML.
pub trait Nvml {
    /// Everything about one GPU, as of now.
    ///
    /// # Errors
    /// Why there is no answer.
    fn gpu(&self, gpu: PciAddress) -> Result<GpuFacts, Failure>;
}
