//! How each kind of device is found on the host and prepared, one file for each kind.
//! The code here reads through [`Sysfs`] and proposes steps as data. It writes nothing
//! and knows no pool files, no claims and no libvirt.

use std::io;

// Of `core`, because these are numbers: `std::net` would also open sockets.
use core::net::Ipv4Addr;

use crate::model::ParentName;

pub mod critical;
pub mod driver;
pub mod driver_option;
pub mod firmware;
pub mod gpu;
pub mod gpu_fields;
pub mod group_needs;
pub mod iommu;
pub mod maintenance;
pub mod mdev;
pub mod near;
pub mod numa;
pub mod nvml;
pub mod our_instances;
pub mod parameters;
pub mod pci;
mod pci_serial;
pub mod readiness;
mod remembered;
pub mod step;
pub mod topology;
pub mod vendor_vfio;

pub use remembered::Remembered;

/// A text that differs after each boot of the kernel (`drivers/char/random.c`); None if it cannot
/// be read.
#[must_use]
pub fn boot_id(sysfs: &dyn Sysfs) -> Option<String> {
    sysfs.read("/proc/sys/kernel/random/boot_id").ok()
}

/// The IPv4 addresses of a host that is a directory: lines of `INTERFACE ADDRESS`, as in
/// `eth0 192.0.2.10`. The kernel has no such file (its `if_inet6` has the IPv6 addresses);
/// a real host asks the kernel by netlink.
pub const IPV4_ADDRESSES: &str = "/proc/net/if_inet";

/// An IPv4 address of a network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface.
    pub interface: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// All PCI functions, links named by address.
pub const PCI_DEVICES: &str = "/sys/bus/pci/devices";

/// Reading access to the host's `/sys`.
///
/// Paths are absolute as on the host (`/sys/class/mdev_bus`); the implementation adds
/// its root. A text is returned without trailing white space, because every sysfs
/// attribute ends in a newline.
pub trait Sysfs {
    /// One attribute's text.
    ///
    /// # Errors
    /// The kernel's errno; `InvalidData` for text that is not UTF-8.
    fn read(&self, path: &str) -> io::Result<String>;

    /// The texts of several attributes of one device, which may be asked for at once.
    fn read_each(&self, paths: &[String]) -> Vec<io::Result<String>> {
        paths.iter().map(|path| self.read(path)).collect()
    }

    /// A text in which users choose names, of any bytes: what is not UTF-8 is replaced. This
    /// default serves only texts that have nothing to replace.
    ///
    /// # Errors
    /// The kernel's errno.
    fn read_lossily(&self, path: &str) -> io::Result<String> {
        self.read(path)
    }

    /// The first bytes of a binary attribute; fewer if it is shorter. This default serves
    /// only texts.
    ///
    /// # Errors
    /// The kernel's errno.
    fn read_bytes(&self, path: &str, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = self.read(path)?.into_bytes();
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Whether a process has a VFIO group open (`/dev/vfio/N`): the kernel lets one process
    /// at a time open it. False if this cannot be told.
    fn is_group_open(&self, node: &str) -> bool {
        let _ = node;
        false
    }

    /// The target of a link, as written.
    ///
    /// # Errors
    /// The kernel's errno; `EINVAL` when it is not a link.
    fn read_link(&self, path: &str) -> io::Result<String>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// The kernel's errno.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// Whether something exists there. A broken link counts as existing, and so does a
    /// path that cannot be checked: reading it then gives the error.
    fn exists(&self, path: &str) -> bool;

    /// Whether something could not be read because time has run out, so that more
    /// questions are useless.
    fn is_too_late(&self) -> bool {
        false
    }

    /// Whether a driver answers for the attribute, and not the kernel itself: drivers
    /// can be slow.
    fn is_of_driver(&self, path: &str) -> bool {
        let _ = path;
        false
    }

    /// The IPv4 addresses of the host's network interfaces. This default reads
    /// [`IPV4_ADDRESSES`].
    ///
    /// # Errors
    /// When they cannot be read.
    fn ipv4_addresses(&self) -> io::Result<Vec<InterfaceAddress>> {
        written_ipv4_addresses(self)
    }
}

/// The addresses in [`IPV4_ADDRESSES`].
///
/// # Errors
/// When the file cannot be read or has another form.
pub fn written_ipv4_addresses<S: Sysfs + ?Sized>(sysfs: &S) -> io::Result<Vec<InterfaceAddress>> {
    let text = sysfs.read(IPV4_ADDRESSES);
    let text = text.map_err(|error| at(IPV4_ADDRESSES, &error))?;
    let mut addresses = Vec::new();
    for line in text.lines() {
        let address = line.split_once(' ').and_then(|(interface, address)| {
            let address = address.trim().parse().ok()?;
            let interface = interface.to_owned();
            Some(InterfaceAddress { interface, address })
        });
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "not INTERFACE ADDRESS");
        addresses.push(address.ok_or_else(|| at(IPV4_ADDRESSES, &wrong()))?);
    }
    Ok(addresses)
}

/// The last component of a link's target: sysfs names drivers, types, IOMMU groups and
/// physical functions in this way.
///
/// # Errors
/// As [`Sysfs::read_link`], with the path.
pub fn link_name(sysfs: &dyn Sysfs, path: &str) -> io::Result<String> {
    let target = sysfs.read_link(path).map_err(|error| at(path, &error))?;
    Ok(target.rsplit('/').next().unwrap_or_default().to_owned())
}

/// The device nodes through which a process can open a VFIO device: the group's node,
/// and the character device of newer kernels. `directory` is the device's in sysfs.
///
/// # Errors
/// When sysfs cannot be read.
pub fn vfio_nodes(sysfs: &dyn Sysfs, directory: &str) -> io::Result<Vec<String>> {
    let mut nodes = Vec::new();
    if let Some(group) = optional(link_name(sysfs, &format!("{directory}/iommu_group")))? {
        nodes.push(format!("/dev/vfio/{group}"));
    }
    for name in optional(list(sysfs, &format!("{directory}/vfio-dev")))?.unwrap_or_default() {
        nodes.push(format!("/dev/vfio/devices/{name}"));
    }
    Ok(nodes)
}

/// The board of a parent: the physical function of a virtual function, otherwise the
/// parent itself.
#[must_use]
pub fn board_of(sysfs: &dyn Sysfs, parent: &ParentName) -> ParentName {
    let physical = link_name(sysfs, &format!("{PCI_DEVICES}/{parent}/physfn")).ok();
    let physical = physical.and_then(|name| name.parse().ok());
    physical.unwrap_or_else(|| parent.clone())
}

/// Adds the path to an errno, which alone says too little.
#[must_use]
pub fn at(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

/// Reads an attribute.
///
/// # Errors
/// As [`Sysfs::read`], with the path.
pub fn read(sysfs: &dyn Sysfs, path: &str) -> io::Result<String> {
    sysfs.read(path).map_err(|error| at(path, &error))
}

/// Reads a text in which users choose names.
///
/// # Errors
/// As [`Sysfs::read_lossily`], with the path.
pub fn read_lossily(sysfs: &dyn Sysfs, path: &str) -> io::Result<String> {
    sysfs.read_lossily(path).map_err(|error| at(path, &error))
}

/// Lists a directory.
///
/// # Errors
/// As [`Sysfs::list`], with the path.
pub fn list(sysfs: &dyn Sysfs, path: &str) -> io::Result<Vec<String>> {
    sysfs.list(path).map_err(|error| at(path, &error))
}

/// `None` for an attribute that does not exist, an error for everything else.
///
/// # Errors
/// Any but `ENOENT`.
pub fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
