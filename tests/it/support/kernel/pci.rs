//! The kernel's driver core for plain PCI functions: which driver takes which function, what
//! it refuses, and VFIO's groups. Sources (6.12): `drivers/base/{bus,dd,driver}.c`,
//! `drivers/pci/{pci-driver,pci-sysfs}.c`, `drivers/iommu/iommu.c`,
//! `drivers/vfio/{group,vfio_main}.c`, `drivers/vfio/pci/{vfio_pci,vfio_pci_core}.c`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::MutexGuard,
};

use nix::errno::Errno;

use super::{
    Kernel, OnWrite, State, Tree,
    fault::{Fault, Meanwhile, Target},
    files::{Pci, add_pci, place},
};
use crate::support::machine::{Driver, Machine, Plain};

/// The kernel's driver for VMs.
const VFIO_PCI: &str = "vfio-pci";

/// A function's driver, and the driver that is reserved for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bound {
    pub driver: Option<String>,
    pub reserved: Option<String>,
}

/// All drivers and plain functions.
#[derive(Debug)]
pub(super) struct Bus {
    drivers: Vec<Driver>,
    functions: BTreeMap<String, Function>,
    /// The groups that a process has open.
    open: BTreeMap<u32, u32>,
}

#[derive(Debug)]
struct Function {
    plain: Plain,
    /// The number of its VFIO device.
    number: usize,
    driver: Option<String>,
    reserved: Option<String>,
    /// Its configuration space reads as ones.
    is_dead: bool,
    /// `device_lock`.
    is_locked: bool,
    /// Its driver is giving it up, and the link to the driver is gone (`driver_sysfs_remove`).
    is_leaving: bool,
}

/// Whether the bus carries out the write.
pub(super) fn is_of_bus(what: &OnWrite) -> bool {
    matches!(
        what,
        OnWrite::Unbind { .. } | OnWrite::Bind { .. } | OnWrite::Probe | OnWrite::Override { .. }
    )
}

/// `bus_find_device_by_name`, which accepts one newline behind the name (`sysfs_streq`).
fn name(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value).into_owned();
    text.strip_suffix('\n').unwrap_or(&text).to_owned()
}

impl Bus {
    /// # Panics
    /// When a function has a driver that is not there.
    pub(super) fn new(machine: &Machine) -> Self {
        let drivers = machine.drivers.clone();
        let functions = machine.plain.iter().enumerate();
        let functions = functions.map(|(number, plain)| {
            let is_there = |name: &String| drivers.iter().any(|one| one.name == *name);
            assert!(plain.driver.iter().all(is_there), "{plain:?}");
            let function = Function {
                number,
                driver: plain.driver.clone(),
                reserved: plain.driver_override.clone(),
                is_dead: false,
                is_locked: false,
                is_leaving: false,
                plain: plain.clone(),
            };
            (plain.address.clone(), function)
        });
        Self {
            functions: functions.collect(),
            drivers,
            open: BTreeMap::new(),
        }
    }

    pub(super) fn remove(&mut self, address: &str) {
        self.functions.remove(address);
    }

    fn get(&mut self, at: &str) -> Result<&mut Function, Errno> {
        self.functions.get_mut(at).ok_or(Errno::ENODEV)
    }

    /// `pci_match_device`: a reserved driver always matches, another never does. All ids of
    /// `vfio-pci` are `override_only`.
    fn matches(&self, driver: &str, at: &str) -> bool {
        let Some(function) = self.functions.get(at) else {
            return false;
        };
        match &function.reserved {
            Some(reserved) => reserved == driver,
            None => driver != VFIO_PCI && self.knows(driver, at),
        }
    }

    fn knows(&self, driver: &str, at: &str) -> bool {
        let id = self
            .functions
            .get(at)
            .map(|one| format!("{:04x}:{:04x}", one.plain.vendor, one.plain.device));
        let mut drivers = self.drivers.iter();
        drivers.any(|one| one.name == driver && id.iter().any(|id| one.ids.contains(id)))
    }

    fn in_group(&self, group: u32) -> impl Iterator<Item = &Function> {
        let functions = self.functions.values();
        functions.filter(move |one| one.plain.group == Some(group))
    }

    /// What the driver's probe says, and what is checked before it.
    fn probe(&self, driver: &str, at: &str) -> Result<(), Errno> {
        let function = self.functions.get(at).ok_or(Errno::ENODEV)?;
        let group = function.plain.group;
        if driver != VFIO_PCI {
            // `iommu_device_use_default_domain`: the group is a VM's.
            let is_of_vm = group.is_some_and(|group| self.open.contains_key(&group));
            if is_of_vm && !manages_dma(driver) {
                return Err(Errno::EBUSY);
            }
            // By its override it was asked about something that it does not know.
            return if self.knows(driver, at) {
                Ok(())
            } else {
                Err(Errno::ENODEV)
            };
        }
        // `vfio_pci_core_register_device`: only endpoints, and no virtual functions.
        if function.plain.has_bridge_header() {
            return Err(Errno::EINVAL);
        }
        if function.plain.numvfs.is_some_and(|count| count > 0) {
            return Err(Errno::EBUSY);
        }
        // `vfio_group_find_or_alloc`
        group.map(|_| ()).ok_or(Errno::EINVAL)
    }

    /// `vfio_group_fops_open`.
    fn may_open(&self, group: u32) -> Result<(), Errno> {
        let is_vfios = |one: &Function| one.driver.as_deref() == Some(VFIO_PCI);
        if !self.in_group(group).any(is_vfios) {
            return Err(Errno::ENODEV);
        }
        match self.open.get(&group) {
            Some(_) => Err(Errno::EBUSY),
            None => Ok(()),
        }
    }

    /// `iommu_group_claim_dma_owner`: no function of the group may have a driver of the host,
    /// except drivers that do no DMA for it.
    fn is_viable(&self, group: u32) -> bool {
        let drivers = self.in_group(group).filter_map(|one| one.driver.as_deref());
        let mut drivers = drivers.filter(|driver| *driver != VFIO_PCI);
        drivers.all(manages_dma)
    }

    pub(super) fn add_to(&self, tree: &mut Tree) {
        if self.functions.is_empty() && self.drivers.is_empty() {
            return;
        }
        tree.order("/bus/pci/drivers_probe", OnWrite::Probe);
        for driver in &self.drivers {
            let path = format!("/bus/pci/drivers/{}", driver.name);
            let driver = driver.name.clone();
            let unbind = OnWrite::Unbind {
                driver: driver.clone(),
            };
            tree.order(&format!("{path}/unbind"), unbind);
            tree.order(&format!("{path}/bind"), OnWrite::Bind { driver });
        }
        for (address, function) in &self.functions {
            function.add_to(tree, address);
        }
        let has_groups = self.functions.values().any(|one| one.plain.group.is_some());
        if has_groups {
            tree.directory("/kernel/iommu_groups");
        }
    }
}

/// Drivers with `driver_managed_dma`.
fn manages_dma(driver: &str) -> bool {
    matches!(driver, "pcieport" | "pci-stub" | VFIO_PCI)
}

impl Plain {
    /// Bridges to other buses have another header than endpoints and host bridges.
    fn has_bridge_header(&self) -> bool {
        self.class >> 8 == 0x06_04
    }

    /// The configuration space.
    fn configuration(&self) -> Vec<u8> {
        const LENGTH: usize = 4096;
        let mut space = vec![0; LENGTH];
        // Both ids of a virtual function read as ones.
        let ids = match self.physfn {
            Some(_) => [u16::MAX; 2],
            None => [self.vendor, self.device],
        };
        space[0x00..0x02].copy_from_slice(&ids[0].to_le_bytes());
        space[0x02..0x04].copy_from_slice(&ids[1].to_le_bytes());
        space[0x09..0x0c].copy_from_slice(&self.class.to_le_bytes()[..3]);
        space[0x0e] = u8::from(self.has_bridge_header());
        if let Some(number) = self.card_number {
            // Extended capability 3 of version 1, the last one.
            space[0x100..0x104].copy_from_slice(&0x0001_0003_u32.to_le_bytes());
            space[0x104..0x10c].copy_from_slice(&number.to_le_bytes());
        }
        space
    }
}

impl Function {
    fn add_to(&self, tree: &mut Tree, address: &str) {
        let plain = &self.plain;
        let driver = self.driver.as_deref().filter(|_| !self.is_leaving);
        let pci = Pci {
            vendor: plain.vendor,
            device: plain.device,
            class: plain.class,
            subsystem_vendor: plain.subsystem_vendor,
            subsystem_device: plain.subsystem_device,
            numa_node: plain.numa_node,
            driver,
        };
        add_pci(tree, address, &pci);
        let path = place(address);
        let reserve = OnWrite::Override {
            at: address.to_owned(),
        };
        // `sysfs_emit` writes this for no text (`driver_override_show`).
        let reserved = self.reserved.as_deref().unwrap_or("(null)");
        tree.setting(&format!("{path}/driver_override"), reserved, reserve);
        let mut configuration = plain.configuration();
        if self.is_dead {
            configuration.fill(u8::MAX);
        }
        tree.binary(&format!("{path}/config"), configuration);
        if let Some(methods) = &plain.reset_method {
            tree.text(&format!("{path}/reset_method"), methods);
        }
        if let Some(is_boot) = plain.boot_vga {
            tree.text(&format!("{path}/boot_vga"), u8::from(is_boot));
        }
        if let Some(count) = plain.numvfs {
            tree.text(&format!("{path}/sriov_numvfs"), count);
        }
        if let Some(label) = &plain.label {
            tree.text(&format!("{path}/label"), label);
        }
        if let Some(serial) = &plain.product_serial {
            let mut data = vec![0x90];
            let length = u16::try_from(serial.len() + 3).unwrap();
            data.extend(length.to_le_bytes());
            data.extend(*b"SN");
            data.push(u8::try_from(serial.len()).unwrap());
            data.extend(serial.as_bytes());
            data.push(0x78);
            tree.binary(&format!("{path}/vpd"), data);
        }
        if let Some(physical) = &plain.physfn {
            tree.link(
                &format!("{path}/physfn"),
                &format!("../../..{}", place(physical)),
            );
        }
        if let Some(group) = plain.group {
            let group = format!("/kernel/iommu_groups/{group}");
            tree.link(&format!("{path}/iommu_group"), &format!("../../..{group}"));
            tree.link(
                &format!("{group}/devices/{address}"),
                &format!("../../../..{path}"),
            );
        }
        if driver == Some(VFIO_PCI) {
            tree.directory(&format!("{path}/vfio-dev/vfio{}", self.number));
        }
    }
}

impl Kernel {
    /// The driver of each plain function, and the driver that is reserved for it.
    pub fn bound(&self) -> BTreeMap<String, Bound> {
        let state = self.state();
        let functions = state.pci.functions.iter();
        let bound = functions.map(|(address, function)| {
            let bound = Bound {
                driver: function.driver.clone(),
                reserved: function.reserved.clone(),
            };
            (address.clone(), bound)
        });
        bound.collect()
    }

    /// Gives a function a driver for somebody else, and reserves it as `driverctl` does.
    pub fn rebind(&self, at: &str, driver: &str) {
        let mut state = self.state();
        let function = state.pci.get(at).unwrap();
        function.driver = Some(driver.to_owned());
        function.reserved = Some(driver.to_owned());
        state.tree = None;
    }

    /// Unloads a driver that has no function.
    pub fn unload(&self, driver: &str) {
        let mut state = self.state();
        state.pci.drivers.retain(|one| one.name != driver);
        let mut functions = state.pci.functions.values();
        assert!(functions.all(|one| one.driver.as_deref() != Some(driver)));
        state.tree = None;
    }

    /// The function does not answer any more.
    pub fn kill_function(&self, at: &str) {
        let mut state = self.state();
        state.pci.get(at).unwrap().is_dead = true;
        state.tree = None;
    }

    /// A process opens a function as QEMU does: the group's node, the group, its device.
    pub(super) fn open_function(&self, at: &str, pid: u32) -> Option<Result<(), Errno>> {
        let mut state = self.state();
        let function = state.pci.functions.get(at)?;
        let Some(group) = function.plain.group else {
            return Some(Err(Errno::ENOENT));
        };
        if function.driver.as_deref() != Some(VFIO_PCI) {
            return Some(Err(Errno::ENODEV));
        }
        if state.pci.open.get(&group) != Some(&pid) {
            if let Err(errno) = state.pci.may_open(group) {
                return Some(Err(errno));
            }
            if !state.pci.is_viable(group) {
                return Some(Err(Errno::EPERM));
            }
            state.pci.open.insert(group, pid);
        }
        Some(Ok(()))
    }

    /// The nodes of a plain function that VFIO has: its group's, and its own.
    pub(super) fn nodes_of_plain(&self, at: &str) -> Option<[String; 2]> {
        let state = self.state();
        let function = state.pci.functions.get(at)?;
        let group = function.plain.group?;
        Some([
            format!("/dev/vfio/{group}"),
            format!("/dev/vfio/devices/vfio{}", function.number),
        ])
    }

    /// `/dev/vfio`: a node for each group in which VFIO has a function.
    pub fn vfio_groups(&self) -> Tree {
        let state = self.state();
        let functions = state.pci.functions.values();
        let vfios = functions.filter(|one| one.driver.as_deref() == Some(VFIO_PCI));
        let groups: BTreeSet<u32> = vfios.filter_map(|one| one.plain.group).collect();
        let mut tree = Tree::default();
        tree.directory("");
        tree.text("/vfio", "");
        for group in groups {
            tree.text(&format!("/{group}"), "");
        }
        tree
    }

    /// Whether a process may open the node of a group now, by its path below `/dev/vfio`.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn may_open_group(&self, path: &str) -> Result<(), Errno> {
        if path == "/vfio" {
            return Ok(());
        }
        let group = path.trim_start_matches('/').parse();
        let group = group.map_err(|_| Errno::ENOENT)?;
        self.state().pci.may_open(group)
    }

    /// Whether a read of the attribute waits for a driver: `driver_override_show` takes the
    /// device's lock.
    pub fn is_locked_for(&self, path: &str) -> bool {
        let at = reads_under_lock(path);
        at.is_some_and(|at| is_locked(&self.state(), at))
    }

    /// Waits until the attribute can be read.
    pub(super) fn wait_for_lock_of(&self, path: &str) {
        if let Some(at) = reads_under_lock(path) {
            let is_locked = |state: &mut State| is_locked(state, at);
            let waited = self.closed.wait_while(self.state(), is_locked);
            drop(waited.unwrap_or_else(|poison| poison.into_inner()));
        }
    }

    /// A write to a file of the bus, of a driver, or of a function.
    pub(super) fn perform_on_bus(&self, what: &OnWrite, value: &[u8]) -> Result<usize, Errno> {
        match what {
            OnWrite::Unbind { driver } => self.unbind_store(driver, &name(value))?,
            OnWrite::Bind { driver } => self.bind_store(driver, &name(value))?,
            OnWrite::Probe => self.drivers_probe_store(&name(value))?,
            OnWrite::Override { at } => self.driver_override_store(at, value)?,
            _ => return Err(Errno::EINVAL),
        }
        Ok(value.len())
    }

    /// `unbind_store`: the function must have this driver. Nothing that a driver does can
    /// make it fail, but it can take for ever.
    fn unbind_store(&self, driver: &str, at: &str) -> Result<(), Errno> {
        let has_it = |state: &mut State| {
            let function = state.pci.get(at)?;
            Ok(function.driver.as_deref() == Some(driver))
        };
        if !has_it(&mut self.state())? {
            return Err(Errno::ENODEV);
        }
        let lock = self.lock(at)?;
        // `device_release_driver_internal`: somebody else may have been faster.
        if !has_it(&mut self.state())? {
            return Ok(());
        }
        let fault = self.strike(Target::Unbind, at, driver);
        self.change(at, |function| function.is_leaving = true);
        self.works(fault.as_ref());
        let errno = fault.as_ref().and_then(|fault| fault.errno);
        if errno.is_none() && driver == VFIO_PCI {
            self.wait_until_closed(at);
        }
        self.change(at, |function| {
            function.is_leaving = false;
            if errno.is_none() {
                function.driver = None;
            }
        });
        drop(lock);
        self.meanwhile(at, fault.as_ref());
        errno.map_or(Ok(()), Err)
    }

    /// `bind_store`: the driver must match the function, which must have none.
    fn bind_store(&self, driver: &str, at: &str) -> Result<(), Errno> {
        if !self.state().pci.matches(driver, at) {
            return Err(Errno::ENODEV);
        }
        let lock = self.lock(at)?;
        // `__driver_probe_device`
        if self.state().pci.get(at)?.driver.is_some() {
            return Err(Errno::EBUSY);
        }
        let (result, fault) = self.really_probe(driver, at);
        drop(lock);
        self.meanwhile(at, fault.as_ref());
        result
    }

    /// `drivers_probe_store`: the first driver that matches and takes the function has it.
    /// The write succeeds even if none does (`__device_attach_driver`).
    fn drivers_probe_store(&self, at: &str) -> Result<(), Errno> {
        if self.state().pci.get(at)?.driver.is_some() {
            return Ok(());
        }
        let lock = self.lock(at)?;
        if self.state().pci.get(at)?.driver.is_some() {
            return Ok(());
        }
        let names = self.state().pci.drivers.clone();
        let mut fault = None;
        for driver in names.iter().map(|driver| driver.name.as_str()) {
            if !self.state().pci.matches(driver, at) {
                continue;
            }
            let (result, its_fault) = self.really_probe(driver, at);
            fault = its_fault;
            if result.is_ok() {
                break;
            }
        }
        drop(lock);
        self.meanwhile(at, fault.as_ref());
        Ok(())
    }

    /// `really_probe`: the link to the driver is there before the driver says whether it
    /// takes the function.
    fn really_probe(&self, driver: &str, at: &str) -> (Result<(), Errno>, Option<Fault>) {
        let fault = self.strike(Target::Probe, at, driver);
        self.change(at, |function| function.driver = Some(driver.to_owned()));
        self.works(fault.as_ref());
        let errno = fault.as_ref().and_then(|fault| fault.errno);
        let probed = match errno {
            Some(errno) => Err(errno),
            None => self.state().pci.probe(driver, at),
        };
        if probed.is_err() {
            self.change(at, |function| function.driver = None);
        }
        (probed, fault)
    }

    /// `driver_set_override`: the text is shown with a newline, so it must be shorter than a
    /// page by more than one.
    fn driver_override_store(&self, at: &str, value: &[u8]) -> Result<(), Errno> {
        const PAGE: usize = 4096;
        if value.len() >= PAGE - 1 {
            return Err(Errno::EINVAL);
        }
        let is_end = |byte: &u8| matches!(byte, 0 | b'\n');
        let text = value.split(is_end).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text).into_owned();
        let _lock = self.lock(at)?;
        self.change(at, |function| {
            function.reserved = (!text.is_empty()).then_some(text);
        });
        Ok(())
    }

    /// `device_lock`.
    fn lock<'k>(&'k self, at: &'k str) -> Result<DeviceLock<'k>, Errno> {
        let is_locked = |state: &mut State| is_locked(state, at);
        let state = self.closed.wait_while(self.state(), is_locked);
        let mut state = state.unwrap_or_else(|poison| poison.into_inner());
        state.pci.get(at)?.is_locked = true;
        Ok(DeviceLock { kernel: self, at })
    }

    /// A function that has disappeared in between changes no more.
    fn change(&self, at: &str, change: impl FnOnce(&mut Function)) {
        let mut state = self.state();
        if let Ok(function) = state.pci.get(at) {
            change(function);
        }
        state.tree = None;
    }

    fn strike(&self, target: Target, at: &str, driver: &str) -> Option<Fault> {
        self.state().strike(target, &[at, driver])
    }

    /// `vfio_unregister_group_dev` waits until nobody has the device open.
    fn wait_until_closed(&self, at: &str) {
        let is_open = |state: &mut State| {
            let function = state.pci.functions.get(at);
            let group = function.and_then(|function| function.plain.group);
            group.is_some_and(|group| state.pci.open.contains_key(&group))
        };
        let waited = self.closed.wait_while(self.state(), is_open);
        drop(waited.unwrap_or_else(|poison| poison.into_inner()));
    }

    fn meanwhile(&self, at: &str, fault: Option<&Fault>) {
        match fault.and_then(|fault| fault.meanwhile) {
            None => {}
            Some(Meanwhile::IsProbed) => drop(self.drivers_probe_store(at)),
            Some(Meanwhile::Dies) => self.change(at, |function| function.is_dead = true),
            Some(Meanwhile::Vanishes) => self.remove_parent(at),
        }
    }
}

/// The function whose lock a read of the attribute takes.
fn reads_under_lock(path: &str) -> Option<&str> {
    path.strip_suffix("/driver_override")?.rsplit('/').next()
}

fn is_locked(state: &State, at: &str) -> bool {
    let function = state.pci.functions.get(at);
    function.is_some_and(|function| function.is_locked)
}

impl State {
    /// The process closes the groups that it has open.
    pub(super) fn close_groups(&mut self, pid: u32) {
        self.pci.open.retain(|_, owner| *owner != pid);
    }
}

struct DeviceLock<'k> {
    kernel: &'k Kernel,
    at: &'k str,
}

impl Drop for DeviceLock<'_> {
    fn drop(&mut self) {
        let mut state: MutexGuard<'_, State> = self.kernel.state();
        if let Ok(function) = state.pci.get(self.at) {
            function.is_locked = false;
        }
        self.kernel.closed.notify_all();
    }
}
