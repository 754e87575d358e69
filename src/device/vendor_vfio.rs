//! vGPUs on SR-IOV virtual functions that NVIDIA's own VFIO driver makes: a function
//! becomes a vGPU when a type is written to it, and is free again when 0 is written.
//! The paths, formats and errnos are those of the released `nvidia-vgpu-vfio` sources
//! and of dumps of real hosts. Type numbers are never stored.

use std::io;

use super::{PCI_DEVICES, Sysfs, at, gpu::bound, link_name, optional, read};
use crate::model::{PciAddress, VgpuTypeId};

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
    format!("{}/{name}", attributes(function))
}

/// The attribute that tells the function's type, and that it is given one by.
#[must_use]
pub fn type_attribute(function: PciAddress) -> String {
    attribute(function, "current_vgpu_type")
}

/// Whether the function's driver makes vGPUs this way. Its attributes appear a moment
/// after the driver has bound, without a uevent.
#[must_use]
pub fn is_function(sysfs: &dyn Sysfs, function: PciAddress) -> bool {
    sysfs.exists(&type_attribute(function))
}

/// The link that exists while a driver is bound to the function.
#[must_use]
pub fn driver_link(function: PciAddress) -> String {
    format!("{}/driver", path(function))
}

/// The GPU of a virtual function; None when it is not a virtual function.
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
/// The kernel's errno with the path; `InvalidData` for a text that is not a number.
pub fn current(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Option<VgpuTypeId>> {
    let path = type_attribute(function);
    type_told(&path, sysfs.read(&path))
}

/// The same for several functions of one GPU, whose driver is asked once.
pub fn current_of_each(
    sysfs: &dyn Sysfs,
    functions: &[PciAddress],
) -> Vec<io::Result<Option<VgpuTypeId>>> {
    let paths: Vec<String> = functions.iter().map(|one| type_attribute(*one)).collect();
    let texts = sysfs.read_each(&paths);
    let types = paths.iter().zip(texts);
    types.map(|(path, text)| type_told(path, text)).collect()
}

fn type_told(path: &str, text: io::Result<String>) -> io::Result<Option<VgpuTypeId>> {
    let text = text.map_err(|error| at(path, &error))?;
    let number: u32 = text.parse().map_err(|_| {
        let what = format!("{path}: '{text}' is not a number");
        io::Error::new(io::ErrorKind::InvalidData, what)
    })?;
    Ok(VgpuTypeId::new(number))
}

/// The types that the function can be given now: none when it has a type already, or
/// when its GPU is full.
///
/// # Errors
/// The kernel's errno with the path.
pub fn creatable(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Vec<Creatable>> {
    let path = attribute(function, "creatable_vgpu_types");
    let text = read(sysfs, &path)?;
    Ok(text.lines().filter_map(creatable_line).collect())
}

/// `1155  : NVIDIA L40S-24Q`; the header line has no number.
fn creatable_line(line: &str) -> Option<Creatable> {
    let (id, name) = line.split_once(':')?;
    let (id, name) = (id.trim().parse().ok()?, name.trim());
    let name = name.to_owned();
    (!name.is_empty()).then_some(Creatable { id, name })
}

/// The device nodes through which a process can open the function's vGPU.
///
/// # Errors
/// When sysfs cannot be read.
pub fn nodes(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Vec<String>> {
    super::vfio_nodes(sysfs, &path(function))
}

/// The directory of the attributes of the function's vGPU.
#[must_use]
pub fn attributes(function: PciAddress) -> String {
    format!("{}/nvidia", path(function))
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
