//! What the host itself stands on: PCI functions that must not be taken from it, each with
//! the chain of devices that shows why. A use that cannot be ruled out, because something
//! cannot be read, counts as a use.
//!
//! No question here is answered by a driver of a device, so that none can hang: the kernel's
//! own files in `/sys` and `/proc`, udev's database, and the addresses of interfaces.

use std::{io, sync::OnceLock};

use crate::{device::Sysfs, model::PciAddress};

mod block;
mod display;
mod fabric;
mod function;
mod input;
mod made;
mod mounts;
mod need;
mod network;
mod nodes;
mod place;
mod platform;
mod routes;
mod storage;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unseen_tests;
mod zfs;

use function::Function;
pub use need::Need;
pub use nodes::DeviceNode;

/// The state of the host at one moment, as far as it says what the host needs.
#[derive(Debug)]
pub struct HostNeeds {
    /// Disks and interfaces are many on a large host, and do not concern every function:
    /// they are read when the first one is asked about that can have them.
    storage: OnceLock<(storage::Storage, Vec<storage::RemoteUse>)>,
    network: OnceLock<network::Network>,
    display: display::Display,
    keyboards: input::Keyboards,
    platform: platform::Platform,
    made: made::MadeDevices,
}

impl HostNeeds {
    /// Reads what concerns the whole host: at once, or when the first function is asked
    /// about that it can concern, and never twice. What cannot be read makes functions
    /// needed later.
    #[must_use]
    pub fn read(sysfs: &dyn Sysfs) -> Self {
        Self {
            storage: OnceLock::new(),
            network: OnceLock::new(),
            display: display::Display::read(sysfs),
            keyboards: input::Keyboards::read(sysfs),
            platform: platform::Platform::read(sysfs),
            made: made::MadeDevices::read(sysfs),
        }
    }

    /// The most important reason why the host needs a function, or another function of its
    /// IOMMU group. None: the function can be taken.
    #[must_use]
    pub fn of(&self, sysfs: &dyn Sysfs, function: PciAddress) -> Option<Need> {
        self.all(sysfs, function).into_iter().next()
    }

    /// All reasons, the most important first: those for the function itself, then those for
    /// the others of its IOMMU group.
    #[must_use]
    pub fn all(&self, sysfs: &dyn Sysfs, function: PciAddress) -> Vec<Need> {
        self.together(sysfs, &[function])
    }

    /// The nodes of the disks on a function and of their partitions, of its drives and
    /// controllers, and of USB devices: `/dev/nvme0n1`, `/dev/bus/usb/003/002`. A process that
    /// has one of them open, as a VM whose disk it is, loses it with the function's driver.
    #[must_use]
    pub fn nodes(&self, sysfs: &dyn Sysfs, function: PciAddress) -> Vec<DeviceNode> {
        let read = Function::read(sysfs, function);
        if read.is_ok_and(|function| !function.can_hold_devices()) {
            return Vec::new();
        }
        self.storage(sysfs).0.nodes_on(sysfs, function)
    }

    /// All reasons against taking several functions at once. Two keyboards on two
    /// controllers are the last ones only if both controllers are taken.
    #[must_use]
    pub fn together(&self, sysfs: &dyn Sysfs, functions: &[PciAddress]) -> Vec<Need> {
        let mut needs = Vec::new();
        let mut groups: Vec<Group> = Vec::new();
        for &function in functions {
            match Group::of(sysfs, function) {
                Ok(group) => groups.push(group),
                Err(error) => needs.push(Need::unread(function, &error.to_string())),
            }
        }
        let taken: Vec<PciAddress> = groups
            .iter()
            .flat_map(|group| {
                [group.asked]
                    .into_iter()
                    .chain(group.others.iter().copied())
            })
            .collect();
        let mut seen: Vec<PciAddress> = Vec::new();
        for group in &groups {
            let own = [group.asked].into_iter();
            for member in own.chain(group.others.iter().copied()) {
                if seen.contains(&member) {
                    continue;
                }
                seen.push(member);
                let is_other = !functions.contains(&member);
                let mut found = self.by_itself(sysfs, member, &taken, is_other);
                if is_other {
                    for need in &mut found {
                        need.group.clone_from(&group.number);
                    }
                }
                needs.extend(found);
            }
        }
        needs
    }

    fn storage(&self, sysfs: &dyn Sysfs) -> &(storage::Storage, Vec<storage::RemoteUse>) {
        self.storage.get_or_init(|| storage::Storage::read(sysfs))
    }

    fn network(&self, sysfs: &dyn Sysfs) -> &network::Network {
        let (_, servers) = self.storage(sysfs);
        let read = || network::Network::read(sysfs, servers);
        self.network.get_or_init(read)
    }

    /// Why the host needs one function, whatever its group.
    fn by_itself(
        &self,
        sysfs: &dyn Sysfs,
        address: PciAddress,
        taken: &[PciAddress],
        is_beside: bool,
    ) -> Vec<Need> {
        let function = match Function::read(sysfs, address) {
            Ok(function) => function,
            Err(error) => return vec![Need::unread(address, &error.to_string())],
        };
        if is_beside && function.is_bus_bridge() {
            return Vec::new();
        }
        let mut needs = Vec::new();
        self.judge(sysfs, &function, taken, &mut needs);
        if let Err(error) = self.judge_virtual_functions(sysfs, &function, taken, &mut needs) {
            needs.push(Need::unread(address, &error.to_string()));
        }
        // A use that is certain says more.
        needs.sort_by_key(|need| need.unread.is_some());
        needs
    }

    fn judge(
        &self,
        sysfs: &dyn Sysfs,
        function: &Function,
        taken: &[PciAddress],
        needs: &mut Vec<Need>,
    ) {
        if function.can_hold_devices() {
            self.storage(sysfs).0.needs(sysfs, function, needs);
            self.network(sysfs).needs(sysfs, function, needs);
        }
        self.made.needs(function, needs);
        self.display.needs(sysfs, function, needs);
        self.keyboards.needs(function, taken, needs);
        self.platform.needs(sysfs, function, needs);
    }

    /// The virtual functions disappear when the driver leaves the physical function.
    fn judge_virtual_functions(
        &self,
        sysfs: &dyn Sysfs,
        function: &Function,
        taken: &[PciAddress],
        needs: &mut Vec<Need>,
    ) -> io::Result<()> {
        for address in function.virtual_functions(sysfs)? {
            let virtual_function = Function::read(sysfs, address)?;
            let mut found = Vec::new();
            self.judge(sysfs, &virtual_function, taken, &mut found);
            let driver = virtual_function.driver(sysfs)?;
            // With an interface of the host it has been judged; without a driver nobody
            // uses it. A VM, or a driver that makes vGPUs, shows no more than the driver.
            let has_interface =
                virtual_function.can_hold_devices() && self.network(sysfs).has_interface(address);
            if let (Some(driver), false, true) = (driver, has_interface, found.is_empty()) {
                found.push(Need::used(address, vec![format!("driver {driver}")]));
            }
            for need in found {
                let mut rest = vec!["virtual function".to_owned()];
                rest.extend(need.chain);
                let unread = need.unread;
                let need = Need::used(function.address, rest);
                needs.push(Need { unread, ..need });
            }
        }
        Ok(())
    }
}

/// A function that was asked about, and those that share its IOMMU group.
#[derive(Debug)]
struct Group {
    asked: PciAddress,
    number: Option<String>,
    others: Vec<PciAddress>,
}

impl Group {
    fn of(sysfs: &dyn Sysfs, asked: PciAddress) -> io::Result<Self> {
        let (number, mut others) = match Function::group(sysfs, asked)? {
            Some((number, members)) => (Some(number), members),
            None => (None, Vec::new()),
        };
        others.retain(|member| *member != asked);
        Ok(Self {
            asked,
            number,
            others,
        })
    }
}
