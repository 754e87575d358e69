//! NVIDIA's GPUs as the host sees them: physical functions, their virtual functions,
//! whether these can make vGPUs yet, and all existing vGPUs, whoever made them. Nothing
//! here depends on the generation of a board; it uses only what the driver shows.

use std::io;

use super::{PCI_DEVICES, Sysfs, gpu, link_name, mdev, optional, pci, read, vendor_vfio};
use crate::model::{Handle, ParentName, PciAddress};

/// The driver of GPUs that make vGPUs.
pub const DRIVER: &str = "nvidia";

/// The driver of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// The driver that makes vGPUs.
    Nvidia,
    /// No driver.
    None,
    /// Another driver: the GPU cannot make vGPUs.
    Other(String),
}

/// A vGPU that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vgpu {
    /// The mediated device or the virtual function of the vGPU.
    pub device: Handle,
    /// The function that it was made on.
    pub parent: ParentName,
}

/// The state of a GPU's virtual functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Functions {
    /// How many virtual functions it can have; 0: no SR-IOV.
    pub total: u32,
    /// How many it has now.
    pub enabled: u32,
    /// The functions that should list vGPU types but do not yet.
    pub unready: Vec<PciAddress>,
}

impl Functions {
    /// Whether it can have virtual functions but has none.
    #[must_use]
    pub fn are_missing(&self) -> bool {
        self.total > 0 && self.enabled == 0
    }

    /// A text that names the functions without types.
    #[must_use]
    pub fn unready_in_words(&self) -> String {
        match self.unready.as_slice() {
            _ if self.total == 0 => "the driver offers no vGPU types".to_owned(),
            [one] => format!("virtual function {one} has no vGPU types"),
            [first, .., last] => format!(
                "{} virtual functions have no vGPU types ({first} to {last})",
                self.unready.len()
            ),
            [] => "all functions have vGPU types".to_owned(),
        }
    }
}

fn path(gpu: PciAddress) -> String {
    format!("{PCI_DEVICES}/{gpu}")
}

/// Whether the function is an NVIDIA display or 3D controller (PCI base class 03) and a
/// physical function.
#[must_use]
pub fn is_gpu(sysfs: &dyn Sysfs, gpu: PciAddress) -> bool {
    const VENDOR: &str = "0x10de";
    const DISPLAY: &str = "0x03";
    let reads = |name: &str, start: &str| {
        let text = sysfs.read(&format!("{}/{name}", path(gpu)));
        text.is_ok_and(|text| text.starts_with(start))
    };
    reads("vendor", VENDOR)
        && reads("class", DISPLAY)
        && !sysfs.exists(&format!("{}/physfn", path(gpu)))
}

/// Every GPU that is bound to NVIDIA's driver or to none, in ascending order.
///
/// # Errors
/// When the PCI bus cannot be listed, or a driver cannot be read.
pub fn all(sysfs: &dyn Sysfs) -> io::Result<Vec<PciAddress>> {
    let mut found = Vec::new();
    for (gpu, _) in pci::functions(sysfs)? {
        if is_gpu(sysfs, gpu) && !matches!(driver(sysfs, gpu)?, Driver::Other(_)) {
            found.push(gpu);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The driver of a GPU.
///
/// # Errors
/// When the link cannot be read.
pub fn driver(sysfs: &dyn Sysfs, gpu: PciAddress) -> io::Result<Driver> {
    let link = format!("{}/driver", path(gpu));
    let name = optional(link_name(sysfs, &link))?;
    Ok(match name {
        Some(name) if name == DRIVER => Driver::Nvidia,
        Some(name) => Driver::Other(name),
        None => Driver::None,
    })
}

/// The GPU's virtual functions and their state. A GPU that makes mediated devices
/// itself, or has no SR-IOV, needs no virtual functions.
///
/// # Errors
/// The kernel's errno with the path; `InvalidData` for a text that is not a number.
pub fn functions(sysfs: &dyn Sysfs, gpu: PciAddress) -> io::Result<Functions> {
    let total = number(sysfs, &format!("{}/sriov_totalvfs", path(gpu)))?;
    let enabled = number(sysfs, &format!("{}/sriov_numvfs", path(gpu)))?;
    if total == 0 || has_types(sysfs, gpu) {
        let unready = if has_types(sysfs, gpu) {
            Vec::new()
        } else {
            vec![gpu]
        };
        return Ok(Functions {
            total: 0,
            enabled: 0,
            unready,
        });
    }
    let mut unready = gpu::functions(sysfs, gpu)?;
    unready.retain(|&function| {
        !vendor_vfio::is_function(sysfs, function) && !has_types(sysfs, function)
    });
    Ok(Functions {
        total,
        enabled,
        unready,
    })
}

/// Whether the GPU needs virtual functions that are not enabled yet. False if this
/// cannot be read.
#[must_use]
pub fn lacks_functions(sysfs: &dyn Sysfs, gpu: PciAddress) -> bool {
    functions(sysfs, gpu).is_ok_and(|functions| functions.are_missing())
}

/// The vGPUs on the GPU.
///
/// # Errors
/// When sysfs cannot be read; the GPU must not count as empty then.
pub fn vgpus(sysfs: &dyn Sysfs, gpu: PciAddress) -> io::Result<Vec<Vgpu>> {
    let functions = gpu::functions(sysfs, gpu)?;
    let mut found = Vec::new();
    let mut makers = functions.clone();
    makers.retain(|function| vendor_vfio::is_function(sysfs, *function));
    let types = vendor_vfio::current_of_each(sysfs, &makers);
    for (function, current) in makers.into_iter().zip(types) {
        if current?.is_some() {
            found.push(Vgpu {
                device: Handle::Pci(function),
                parent: function.into(),
            });
        }
    }
    for (uuid, parent) in mdev::MdevHost::without_parents(sysfs).parents_in_use()? {
        let maker = parent.pci();
        if maker.is_some_and(|maker| maker == gpu || functions.contains(&maker)) {
            found.push(Vgpu {
                device: Handle::Mdev(uuid),
                parent,
            });
        }
    }
    Ok(found)
}

/// The driver registers a parent of mediated devices once it knows its types.
fn has_types(sysfs: &dyn Sysfs, function: PciAddress) -> bool {
    let types = sysfs.list(&format!("{}/mdev_supported_types", path(function)));
    types.is_ok_and(|types| !types.is_empty())
}

/// 0 if the attribute does not exist.
fn number(sysfs: &dyn Sysfs, path: &str) -> io::Result<u32> {
    let Some(text) = optional(read(sysfs, path))? else {
        return Ok(0);
    };
    text.parse().map_err(|_| {
        let what = format!("{path}: '{text}' is not a number");
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}
