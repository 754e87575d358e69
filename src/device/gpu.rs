//! A GPU that makes vGPUs, whatever the interface: its types, its vGPUs and its free
//! space. The facts come from sysfs, and from NVML if the caller has asked NVML.
//! Unknown facts are None. This module knows no board model.

use std::{collections::BTreeSet, fmt, io};

use serde::Serialize;

use super::{
    PCI_DEVICES, Sysfs, link_name, list,
    mdev::{self, MdevHost, MdevType},
    nvml::{FailureKind, GpuFacts, GpuInstance, Placements, Told, TypeFacts},
    optional, our_instances, vendor_vfio,
};
use crate::model::{MdevUuid, PciAddress, ProfileParts, VgpuTypeId};

/// How vGPUs of a GPU appear. This depends on the kernel and the driver, not on the
/// board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framework {
    /// Mediated devices of the physical function.
    LegacyMdev,
    /// Mediated devices of virtual functions, one each.
    SriovMdev,
    /// Virtual functions that have a type.
    VendorVfio,
}

impl fmt::Display for Framework {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LegacyMdev => "mediated devices",
            Self::SriovMdev => "mediated devices on virtual functions",
            Self::VendorVfio => "vendor-specific VFIO",
        })
    }
}

/// A GPU at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuState {
    /// The physical function.
    pub address: PciAddress,
    /// How its vGPUs appear; None if its driver offers no vGPUs.
    pub framework: Option<Framework>,
    /// Its virtual functions; None if vGPUs are made without them.
    pub functions: Option<Functions>,
    /// Whether sizes are mixed now; None: unknown.
    pub heterogeneous: Option<bool>,
    /// Whether MIG mode is on; None: unknown.
    pub mig: Option<bool>,
    /// Its types, in ascending order of their numbers. Without NVML the list may have
    /// only types that can be created now.
    pub types: Vec<VgpuType>,
    /// The vGPUs that exist, whoever made them.
    pub vgpus: Vec<Vgpu>,
    /// The GPU instances; None: not told.
    pub instances: Option<Vec<GpuInstance>>,
}

/// The virtual functions of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Functions {
    /// How many there are.
    pub total: u32,
    /// How many of them can become a vGPU.
    pub free: u32,
}

/// A vGPU type on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VgpuType {
    /// The driver's number.
    pub id: VgpuTypeId,
    /// Full name, `NVIDIA L40S-12Q`.
    pub name: String,
    /// Frame buffer in MiB.
    pub framebuffer_mib: Option<u64>,
    /// The number of displays.
    pub heads: Option<u32>,
    /// Width and height of the largest display.
    pub max_resolution: Option<(u32, u32)>,
    /// Frames per second; None: not limited or unknown.
    pub frame_rate_limit: Option<u32>,
    /// The most vGPUs of this type on the GPU, if all have its size.
    pub max_instances: Option<u32>,
    /// Whether its vGPUs are in GPU instances (MIG).
    pub in_gpu_instance: bool,
    /// The profile of those GPU instances; None: none, or not told.
    pub gpu_instance_profile: Option<u32>,
    /// How many of this type alone one GPU instance holds; None: not told.
    pub most_per_instance: Option<u32>,
    /// Whether one can be created now.
    pub creatable: bool,
    /// How many more can be created according to the driver; known only if vGPUs are
    /// mediated devices of the physical function.
    pub available: Option<u32>,
    /// Its places when sizes are mixed; None: unknown.
    pub placements: Option<Placements>,
}

/// A vGPU that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vgpu {
    /// Its type's number; None while the kernel is removing the vGPU.
    pub type_id: Option<VgpuTypeId>,
    /// Its place; None: unknown, or not placed.
    pub placement: Option<u32>,
    /// Its GPU instance; None: unknown, or in none.
    pub instance: Option<u32>,
}

impl GpuState {
    /// The type with that number.
    #[must_use]
    pub fn vgpu_type(&self, id: VgpuTypeId) -> Option<&VgpuType> {
        self.types.iter().find(|one| one.id == id)
    }
}

impl From<&TypeFacts> for VgpuType {
    fn from(facts: &TypeFacts) -> Self {
        Self {
            id: facts.id,
            name: facts.name.clone(),
            framebuffer_mib: Some(facts.framebuffer_mib),
            heads: facts.heads,
            max_resolution: facts.max_resolution,
            frame_rate_limit: facts.frame_rate_limit,
            max_instances: Some(facts.max_instances),
            in_gpu_instance: facts.gpu_instance_profile.is_some(),
            gpu_instance_profile: facts.gpu_instance_profile,
            most_per_instance: facts.most_per_instance,
            creatable: facts.creatable,
            available: None,
            placements: facts.placements.clone(),
        }
    }
}

/// All GPUs that are bound to NVIDIA's driver, in ascending order.
///
/// # Errors
/// When the driver is there but cannot be listed.
pub fn all(sysfs: &dyn Sysfs) -> io::Result<Vec<PciAddress>> {
    let is_physical = |&function: &PciAddress| !sysfs.exists(&format!("{}/physfn", path(function)));
    Ok(bound(sysfs)?.into_iter().filter(is_physical).collect())
}

/// All functions that are bound to NVIDIA's driver, including virtual ones: one look at
/// the driver instead of one at each function.
///
/// # Errors
/// When the driver is there but cannot be listed.
pub fn bound(sysfs: &dyn Sysfs) -> io::Result<BTreeSet<PciAddress>> {
    const BOUND: &str = "/sys/bus/pci/drivers/nvidia";
    let names = optional(list(sysfs, BOUND))?.unwrap_or_default();
    // The driver's own attributes are not addresses.
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The virtual functions of a GPU, in ascending order.
///
/// # Errors
/// When there is no such PCI function, or sysfs cannot be read.
pub fn functions(sysfs: &dyn Sysfs, gpu: PciAddress) -> io::Result<Vec<PciAddress>> {
    let path = path(gpu);
    let names = list(sysfs, &path)?;
    let mut functions = Vec::new();
    for name in names.iter().filter(|name| name.starts_with("virtfn")) {
        let function = optional(link_name(sysfs, &format!("{path}/{name}")))?;
        functions.extend(function.and_then(|name| name.parse::<PciAddress>().ok()));
    }
    functions.sort_unstable();
    Ok(functions)
}

/// Reads one GPU. Existing vGPUs and free space come from sysfs, `facts` come from NVML
/// and describe the same GPU, and `withheld` are virtual functions that do not count
/// as free although they are empty.
///
/// # Errors
/// When sysfs cannot be read.
pub fn read(
    sysfs: &dyn Sysfs,
    gpu: PciAddress,
    facts: Option<&GpuFacts>,
    withheld: &BTreeSet<PciAddress>,
) -> io::Result<GpuState> {
    let board = Board::find(sysfs, gpu)?;
    let functions_with_vgpus = board.functions_with_vgpus()?;
    let is_free = |with_vgpus: &&FunctionVgpus| {
        with_vgpus.vgpus.is_empty() && !withheld.contains(&with_vgpus.function)
    };
    let free: Vec<&FunctionVgpus> = functions_with_vgpus.iter().filter(is_free).collect();
    let functions = board.has_functions().then_some(Functions {
        total: count(board.functions.len()),
        free: count(free.len()),
    });
    // All functions of a GPU have the same types, and a free function lists what it can
    // become.
    let asked = free.first().copied().or(functions_with_vgpus.first());
    let told_types = facts.and_then(|facts| facts.types.value());
    let is_needed = told_types.is_none() || board.framework == Some(Framework::LegacyMdev);
    let listed = match asked.filter(|_| is_needed) {
        Some(with_vgpus) => board.types(with_vgpus.function)?,
        None => Vec::new(),
    };
    let types = match told_types {
        Some(types) => types.iter().map(|one| counted(one, &listed)).collect(),
        None => listed,
    };
    Ok(GpuState {
        address: gpu,
        framework: board.framework,
        functions,
        heterogeneous: facts.and_then(|facts| told(&facts.heterogeneous, |mode| mode.enabled)),
        mig: facts.and_then(|facts| told(&facts.mig, |&on| on)),
        types,
        vgpus: functions_with_vgpus
            .into_iter()
            .flat_map(|with_vgpus| with_vgpus.vgpus)
            .collect(),
        instances: facts
            .and_then(|facts| facts.instances.value())
            .map(|found| found.instances.clone()),
    })
}

/// A type from NVML, with the number available from sysfs.
fn counted(facts: &TypeFacts, listed: &[VgpuType]) -> VgpuType {
    let same = listed.iter().find(|one| one.id == facts.id);
    VgpuType {
        available: same.and_then(|one| one.available),
        ..VgpuType::from(facts)
    }
}

/// Whether a mode is on; a mode that the GPU or the library does not know is off.
fn told<T>(told: &Told<T>, is_on: impl FnOnce(&T) -> bool) -> Option<bool> {
    match told {
        Told::Value(mode) => Some(is_on(mode)),
        Told::Unavailable(failure) => match failure.kind {
            FailureKind::NotSupported | FailureKind::NoSymbol => Some(false),
            _ => None,
        },
    }
}

/// A function on which vGPUs can be made, with its vGPUs.
#[derive(Debug)]
struct FunctionVgpus {
    function: PciAddress,
    vgpus: Vec<Vgpu>,
}

/// A GPU in sysfs.
struct Board<'a> {
    sysfs: &'a dyn Sysfs,
    gpu: PciAddress,
    functions: Vec<PciAddress>,
    framework: Option<Framework>,
}

impl<'a> Board<'a> {
    fn find(sysfs: &'a dyn Sysfs, gpu: PciAddress) -> io::Result<Self> {
        let functions = functions(sysfs, gpu)?;
        let has_types = |function| sysfs.exists(&types_of(function));
        let framework = if has_types(gpu) {
            Some(Framework::LegacyMdev)
        } else if functions.iter().any(|&function| has_types(function)) {
            Some(Framework::SriovMdev)
        } else if functions
            .iter()
            .any(|&function| vendor_vfio::is_function(sysfs, function))
        {
            Some(Framework::VendorVfio)
        } else {
            None
        };
        Ok(Self {
            sysfs,
            gpu,
            functions,
            framework,
        })
    }

    /// Whether its vGPUs are made on virtual functions, now or once they are enabled.
    fn has_functions(&self) -> bool {
        match self.framework {
            Some(framework) => framework != Framework::LegacyMdev,
            None => {
                let path = format!("{}/sriov_totalvfs", path(self.gpu));
                let total = self.sysfs.read(&path).ok();
                total.is_some_and(|total| total != "0")
            }
        }
    }

    fn functions_with_vgpus(&self) -> io::Result<Vec<FunctionVgpus>> {
        let functions = self.functions.iter().copied();
        match self.framework {
            None => Ok(Vec::new()),
            Some(Framework::LegacyMdev) => Ok(vec![self.mdev_vgpus(self.gpu)?]),
            Some(Framework::SriovMdev) => functions
                .filter(|&function| self.sysfs.exists(&types_of(function)))
                .map(|function| self.mdev_vgpus(function))
                .collect(),
            Some(Framework::VendorVfio) => functions
                .filter(|&function| vendor_vfio::is_function(self.sysfs, function))
                .map(|function| self.vfio_vgpus(function))
                .collect(),
        }
    }

    /// Mediated devices by their directories. A directory stays until the device is
    /// completely gone and its space is free.
    fn mdev_vgpus(&self, function: PciAddress) -> io::Result<FunctionVgpus> {
        let path = path(function);
        let mut vgpus = Vec::new();
        for name in list(self.sysfs, &path)? {
            if name.parse::<MdevUuid>().is_ok() {
                let kind = optional(link_name(self.sysfs, &format!("{path}/{name}/mdev_type")))?;
                let attributes = format!("{path}/{name}/nvidia");
                vgpus.push(Vgpu {
                    type_id: kind.and_then(|id| number(&id)),
                    placement: self.placement(&attributes),
                    instance: our_instances::instance_at(
                        self.sysfs,
                        &format!("{attributes}/gpu_instance_id"),
                    ),
                });
            }
        }
        Ok(FunctionVgpus { function, vgpus })
    }

    fn vfio_vgpus(&self, function: PciAddress) -> io::Result<FunctionVgpus> {
        let current = vendor_vfio::current(self.sysfs, function)?;
        let attributes = vendor_vfio::attributes(function);
        let vgpu = current.map(|id| Vgpu {
            type_id: Some(id),
            placement: self.placement(&attributes),
            instance: our_instances::instance_at(
                self.sysfs,
                &format!("{attributes}/gpu_instance_id"),
            ),
        });
        let vgpus = vgpu.into_iter().collect();
        Ok(FunctionVgpus { function, vgpus })
    }

    /// Also None for `Not Applicable`.
    fn placement(&self, attributes: &str) -> Option<u32> {
        let text = self.sysfs.read(&format!("{attributes}/placement_id"));
        text.ok()?.parse().ok()
    }

    /// The types that a function of the GPU lists: all types for mediated devices,
    /// otherwise only those that can be created.
    fn types(&self, function: PciAddress) -> io::Result<Vec<VgpuType>> {
        let mut types: Vec<VgpuType> = match self.framework {
            Some(Framework::VendorVfio) => {
                let creatable = vendor_vfio::creatable(self.sysfs, function)?;
                let one = |one: vendor_vfio::Creatable| VgpuType::named(one.id, one.name, true);
                creatable.into_iter().map(one).collect()
            }
            _ => {
                let mdev = MdevHost::without_parents(self.sysfs);
                let types = mdev.types(&mdev::pci_function(function))?;
                let is_whole = self.framework == Some(Framework::LegacyMdev);
                let one = |one: &MdevType| VgpuType::of_mdev(one, is_whole);
                types.iter().filter_map(one).collect()
            }
        };
        types.sort_by_key(|one| one.id);
        Ok(types)
    }
}

impl VgpuType {
    /// A type of which only this much is known.
    pub(crate) fn named(id: VgpuTypeId, name: String, creatable: bool) -> Self {
        let parts = ProfileParts::of(&name);
        Self {
            id,
            in_gpu_instance: parts.is_some_and(|parts| parts.slices.is_some()),
            name,
            gpu_instance_profile: None,
            most_per_instance: None,
            framebuffer_mib: None,
            heads: None,
            max_resolution: None,
            frame_rate_limit: None,
            max_instances: None,
            creatable,
            available: None,
            placements: None,
        }
    }

    /// A type of mediated devices; the driver puts its properties into the description.
    fn of_mdev(mdev: &MdevType, is_whole: bool) -> Option<Self> {
        let name = mdev.name.clone()?;
        let mut one = Self::named(number(mdev.id.as_str())?, name, mdev.available > 0);
        // A virtual function counts only itself: 1 or 0.
        one.available = is_whole.then_some(mdev.available);
        one.describe(mdev.description.as_deref().unwrap_or_default());
        Some(one)
    }

    /// Reads `num_heads=4, frl_config=60, framebuffer=4096M,
    /// max_resolution=7680x4320, max_instance=4`.
    fn describe(&mut self, description: &str) {
        for part in description.split(',') {
            let Some((key, value)) = part.split_once('=') else {
                continue;
            };
            let value = value.trim();
            match key.trim() {
                "num_heads" => self.heads = value.parse().ok(),
                "frl_config" => self.frame_rate_limit = value.parse().ok(),
                "framebuffer" => {
                    let mib = value.strip_suffix('M');
                    self.framebuffer_mib = mib.and_then(|mib| mib.parse().ok());
                }
                "max_resolution" => {
                    let numbers = value.split_once('x');
                    self.max_resolution = numbers.and_then(|(width, height)| {
                        Some((width.parse().ok()?, height.parse().ok()?))
                    });
                }
                "max_instance" => self.max_instances = value.parse().ok(),
                _ => {}
            }
        }
    }
}

fn path(function: PciAddress) -> String {
    format!("{PCI_DEVICES}/{function}")
}

fn types_of(function: PciAddress) -> String {
    format!("{PCI_DEVICES}/{function}/mdev_supported_types")
}

/// The number in `nvidia-558`; None for a type of another driver.
pub(crate) fn number(type_id: &str) -> Option<VgpuTypeId> {
    type_id.strip_prefix("nvidia-")?.parse().ok()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
