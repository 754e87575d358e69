//! vGPUs on SR-IOV virtual functions that NVIDIA's own VFIO driver makes: a
//! function becomes one when a type is written to it and is free again at 0. The
//! paths, formats and errnos are those of the released `nvidia-vgpu-vfio` sources
//! and of dumps of real hosts; type numbers are read where they are used.

use std::io;

use super::{PCI_DEVICES, Sysfs, gpu::bound, link_name, optional, read};
use crate::{
    device::step::{Attribute, Check, Effect, GOES_WITH_THE_DEVICE, Setting, Step, Undo},
    model::{MdevTypeId, PciAddress, VgpuTypeId},
};

/// A type that a function can be given now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Creatable {
    /// The driver's number.
    pub id: VgpuTypeId,
    /// Its full name, `NVIDIA L40S-12Q`.
    pub name: String,
}

fn path(function: PciAddress) -> String {
    format!("{PCI_DEVICES}/{function}")
}

fn attribute(function: PciAddress, name: &str) -> String {
    format!("{PCI_DEVICES}/{function}/nvidia/{name}")
}

/// Whether the function's driver makes vGPUs this way. Its attributes come a
/// moment after the driver has bound, without a uevent.
#[must_use]
pub fn is_function(sysfs: &dyn Sysfs, function: PciAddress) -> bool {
    sysfs.exists(&attribute(function, "current_vgpu_type"))
}

/// The link that is there while a driver is bound to the function.
#[must_use]
pub fn driver_link(function: PciAddress) -> String {
    format!("{}/driver", path(function))
}

/// The GPU that a virtual function is part of; None when it is none.
///
/// # Errors
/// When sysfs cannot be read.
pub fn gpu(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Option<PciAddress>> {
    let name = optional(link_name(sysfs, &format!("{}/physfn", path(function))))?;
    Ok(name.and_then(|name| name.parse().ok()))
}

/// Whether the function is the first of its GPU's virtual functions.
#[must_use]
pub fn is_first(sysfs: &dyn Sysfs, function: PciAddress, gpu: PciAddress) -> bool {
    let first = link_name(sysfs, &format!("{}/virtfn0", path(gpu)));
    first.is_ok_and(|name| name.parse() == Ok(function))
}

/// Every virtual function of the host that is or can become a vGPU, with its GPU,
/// in ascending order.
///
/// # Errors
/// When sysfs cannot be read.
pub fn all_functions(sysfs: &dyn Sysfs) -> io::Result<Vec<(PciAddress, PciAddress)>> {
    let mut found = Vec::new();
    for function in bound(sysfs)? {
        if let Some(gpu) = gpu(sysfs, function)? {
            if is_function(sysfs, function) {
                found.push((function, gpu));
            }
        }
    }
    Ok(found)
}

/// The type that a function has; None when it is free.
///
/// # Errors
/// The kernel's errno with the path, `InvalidData` for what is no number.
pub fn current(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Option<VgpuTypeId>> {
    let path = attribute(function, "current_vgpu_type");
    let text = read(sysfs, &path)?;
    let number: u32 = text.parse().map_err(|_| {
        let what = format!("{path}: '{text}' is no number");
        io::Error::new(io::ErrorKind::InvalidData, what)
    })?;
    Ok(VgpuTypeId::new(number))
}

/// What the function can be given now: nothing when it has a type already, or
/// when its GPU has no room.
///
/// # Errors
/// The kernel's errno with the path.
pub fn creatable(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Vec<Creatable>> {
    let path = attribute(function, "creatable_vgpu_types");
    let text = read(sysfs, &path)?;
    Ok(text.lines().filter_map(creatable_line).collect())
}

/// `1155  : NVIDIA L40S-24Q`; the header has no number.
fn creatable_line(line: &str) -> Option<Creatable> {
    let (id, name) = line.split_once(':')?;
    let (id, name) = (id.trim().parse().ok()?, name.trim());
    let name = name.to_owned();
    (!name.is_empty()).then_some(Creatable { id, name })
}

/// The device nodes through which a process can have the function's vGPU open.
///
/// # Errors
/// When sysfs cannot be read.
pub fn nodes(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Vec<String>> {
    super::vfio_nodes(sysfs, &path(function))
}

/// Where the function's vGPU has its attributes.
#[must_use]
pub fn attributes(function: PciAddress) -> String {
    format!("{}/nvidia", path(function))
}

/// The write that gives a free function its type, its undo, and what is true
/// afterwards. A function with a type takes none: the driver answers `EPERM` even
/// to the one it has.
#[must_use]
pub fn assignment(function: PciAddress, id: &MdevTypeId, name: &str) -> Step {
    let device = path(function);
    let path = attribute(function, "current_vgpu_type");
    Step {
        what: format!("make {function} a {name} (type {id})"),
        write: Attribute {
            path: path.clone(),
            value: format!("{id}\n"),
        },
        undo: Some(release(function)),
        needs_no_undo: None,
        checks: vec![
            Check::Reads {
                path,
                value: id.to_string(),
            },
            Check::Openable { device },
        ],
    }
}

/// What frees a function. It is `EPERM` while QEMU has the vGPU open, and `EBUSY`
/// while the driver's plugin is still ending.
#[must_use]
pub fn release(function: PciAddress) -> Undo {
    let path = attribute(function, "current_vgpu_type");
    Undo {
        write: Attribute {
            path: path.clone(),
            value: "0\n".to_owned(),
        },
        effect: Effect::Setting(Setting {
            setting: path,
            free: "0".to_owned(),
        }),
    }
}

/// The write that puts a vGPU at a place of its GPU's memory, where sizes are
/// mixed; `directory` is where it has its attributes. The driver has placed it
/// already, so this moves it; the place goes with the vGPU.
#[must_use]
pub fn placing(directory: &str, place: u32) -> Step {
    let path = format!("{directory}/placement_id");
    Step {
        what: format!("place it at {place}"),
        write: Attribute {
            path: path.clone(),
            value: format!("{place}\n"),
        },
        undo: None,
        needs_no_undo: Some(GOES_WITH_THE_DEVICE),
        checks: vec![Check::Reads {
            path,
            value: place.to_string(),
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_types_is_read_without_its_header() {
        let line = |text| creatable_line(text).map(|one| (one.id.to_string(), one.name));
        let read = |id: &str, name: &str| Some((id.to_owned(), name.to_owned()));
        assert_eq!(line("ID    : vGPU Name"), None);
        assert_eq!(
            line("1145  : NVIDIA L40S-1B"),
            read("1145", "NVIDIA L40S-1B")
        );
        assert_eq!(line("  7:x"), read("7", "x"));
        for bad in ["", "1145", "1145 :", "0 : none", "-1 : x"] {
            assert_eq!(line(bad), None, "{bad:?}");
        }
    }
}
