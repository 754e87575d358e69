//! The GPU instances of a GPU that virt-vgpu has made, and which pools each GPU instance is
//! for: a note that `host apply` writes and that starts of VMs read. The driver forgets GPU
//! instances at each reboot, and their numbers come back for others, so the note is true for
//! one boot only. That MIG mode was switched on by virt-vgpu stays true: on some GPUs the mode
//! outlives a reboot.

use std::{collections::BTreeMap, io};

use serde::{Deserialize, Serialize};

use super::{
    Sysfs, at, boot_id, gpu, link_name,
    nvml::{InstancePlace, Scheduler},
    optional, vendor_vfio,
};
use crate::model::{Handle, PciAddress, PoolName, VgpuTypeId};

/// The directory of the notes, with one file for each GPU.
pub const DIRECTORY: &str = "/var/lib/virt-vgpu/gpu-instances";

/// What is noted of a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OurInstances {
    /// Whether virt-vgpu switched MIG mode on.
    pub switched_on: bool,
    /// The boot in which the lists below were true.
    pub boot: Option<String>,
    /// Where virt-vgpu has made GPU instances; before one is made and until it is destroyed.
    pub made: Vec<InstancePlace>,
    /// The GPU instances that pools use.
    pub used: Vec<UsedInstance>,
}

impl OurInstances {
    /// Whether something on the GPU is ours.
    #[must_use]
    pub fn is_anything(&self) -> bool {
        self.switched_on || !self.made.is_empty()
    }
}

/// A GPU instance for vGPUs of some pools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UsedInstance {
    /// Its number; 0 is one like any other.
    pub id: u32,
    /// Its profile and memory slots.
    pub place: InstancePlace,
    /// The pools whose vGPUs it takes.
    pub pools: Vec<PoolName>,
    /// The full names of their types.
    pub types: Vec<String>,
    /// How many vGPUs the pools put into it, all of one size; None: it mixes sizes.
    pub vgpus: Option<u32>,
    /// How many of the smallest type it has room for.
    pub room: u32,
    /// How the pools want its time to be shared; None: any way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// When a start of a VM made it, in seconds since boot: it goes again when it is not in use
    /// any more. None: it is there before VMs start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demanded: Option<u64>,
}

/// The file with the note of a GPU.
#[must_use]
pub fn path(gpu: PciAddress) -> String {
    format!("{DIRECTORY}/{gpu}.json")
}

/// The note of a GPU; nothing when there is none. Lists of another boot are left out.
///
/// # Errors
/// The kernel's errno with the path; `InvalidData` for a text that is no note.
pub fn read(sysfs: &dyn Sysfs, gpu: PciAddress) -> io::Result<OurInstances> {
    let path = path(gpu);
    let text = optional(super::read(sysfs, &path)).map_err(|error| {
        let what = format!("{error}; remove it, then run 'virt-vgpu host apply {gpu}'");
        io::Error::new(error.kind(), what)
    });
    let Some(text) = text? else {
        return Ok(OurInstances::default());
    };
    let mut noted: OurInstances = serde_json::from_str(&text).map_err(|error| {
        let what = format!(
            "{path}: {error}; remove the file: 'virt-vgpu host apply {gpu}' writes it anew, and \
             takes GPU instances that exist for those of others"
        );
        io::Error::new(io::ErrorKind::InvalidData, what)
    })?;
    if noted.boot.is_none() || noted.boot != boot_id(sysfs) {
        noted.boot = None;
        noted.made.clear();
        noted.used.clear();
    }
    Ok(noted)
}

/// Its name.
pub const ATTRIBUTE: &str = "gpu_instance_id";

/// The attribute that tells the GPU instance of a vGPU, and that moves the vGPU to another one.
#[must_use]
pub fn attribute(device: Handle) -> String {
    match device {
        Handle::Pci(function) => format!("{}/{ATTRIBUTE}", vendor_vfio::attributes(function)),
        Handle::Mdev(_) => format!("{}/nvidia/{ATTRIBUTE}", device.sysfs_path()),
    }
}

/// The GPU instance of a vGPU. None: it has none, or the driver does not tell.
#[must_use]
pub fn of(sysfs: &dyn Sysfs, device: Handle) -> Option<u32> {
    instance_at(sysfs, &attribute(device))
}

/// What such an attribute tells.
pub(super) fn instance_at(sysfs: &dyn Sysfs, attribute: &str) -> Option<u32> {
    told(&sysfs.read(attribute).ok()?)
}

/// All ones, and words, mean none; 0 is a GPU instance.
fn told(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

/// The type of a vGPU; None if it cannot be told.
#[must_use]
pub fn type_of(sysfs: &dyn Sysfs, device: Handle) -> Option<VgpuTypeId> {
    match device {
        Handle::Pci(function) => vendor_vfio::current(sysfs, function).ok().flatten(),
        Handle::Mdev(_) => {
            let link = format!("{}/mdev_type", device.sysfs_path());
            gpu::number(&link_name(sysfs, &link).ok()?)
        }
    }
}

/// How many virtual functions of the GPU have a vGPU in each GPU instance.
///
/// # Errors
/// When sysfs cannot be read.
pub fn counts(sysfs: &dyn Sysfs, gpu: PciAddress) -> io::Result<BTreeMap<u32, u32>> {
    let functions = gpu::functions(sysfs, gpu)?;
    let attributes = functions.into_iter().map(|one| attribute(Handle::Pci(one)));
    let attributes: Vec<String> = attributes.collect();
    let mut counts = BTreeMap::new();
    for (path, text) in attributes.iter().zip(sysfs.read_each(&attributes)) {
        match text {
            Ok(text) => {
                if let Some(id) = told(&text) {
                    *counts.entry(id).or_default() += 1;
                }
            }
            // Whatever is there may be full.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(at(path, &error)),
            // A function without a vGPU has nothing to read there.
            Err(_) => {}
        }
    }
    Ok(counts)
}
