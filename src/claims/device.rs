//! A device in a claim: its identity, the checks that show that it is ours, and the
//! steps that give it back. All of this was recorded when the device was made, so this
//! module does not need to know its kind.

use std::io;

use serde::{Deserialize, Serialize};

use super::former;
use crate::{
    apply::{self, BindingState},
    capacity::Placement,
    device::{
        Sysfs, board_of, optional, read,
        step::{Check, Step, Undo},
        vfio_nodes,
    },
    host::Host,
    model::{DeviceName, Handle, MdevTypeId, MdevUuid, ParentName, PciAddress, PoolName},
};

/// A device that a claim owns.
///
/// Two devices are equal when they are the same thing on the same parent. Nodes and
/// placement do not count: they differ each time the device is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "former::Written")]
pub struct ClaimedDevice {
    /// The request's name in the domain.
    pub name: DeviceName,
    /// The pool it was counted against.
    pub pool: PoolName,
    /// The word for its framework, for people and for versions that read no handle.
    pub kind: String,
    /// The UUID of the request; for a mediated device, its own UUID.
    pub uuid: MdevUuid,
    /// How libvirt and the kernel identify it.
    pub handle: Handle,
    /// Its parent, or the function that it is.
    pub parent: ParentName,
    /// The device whose driver makes it and whose lock is held meanwhile: the GPU or
    /// other board of the parent.
    pub board: ParentName,
    /// Other PCI functions that the device takes along: nobody else gets them meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub along: Vec<PciAddress>,
    /// Its type's id: of a virtual function that is a vGPU, a number; of a whole function,
    /// its vendor and device.
    #[serde(rename = "type")]
    pub type_id: MdevTypeId,
    /// Its place in the memory of its board, if one was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// The device nodes through which a process can hold it, recorded after it was
    /// made; empty before that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Checks that hold as long as it is the device that was claimed.
    pub identity: Vec<Check>,
    /// The undos of its steps, in the order of the steps; carried out last first.
    pub undo: Vec<Undo>,
    /// As long as this path exists, the kernel is not about to remove the device.
    pub rests_on: String,
    /// Whether a QEMU that is killed early can leave the device unusable until it is
    /// recreated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub can_wedge: bool,
    /// Its parameters that make it impossible to save or migrate the VM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against_migration: Vec<String>,
}

impl PartialEq for ClaimedDevice {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.pool == other.pool
            && self.handle == other.handle
            && self.parent == other.parent
            && self.type_id == other.type_id
    }
}

impl Eq for ClaimedDevice {}

/// The state of a claimed device on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The device exists, as it was claimed.
    There,
    /// The device does not exist: it was never made, or is gone.
    Gone,
    /// The driver is working on the device: it exists only in part.
    Busy(String),
    /// Another device exists in its place.
    Foreign(String),
}

impl ClaimedDevice {
    /// Its address, if it is a PCI function.
    #[must_use]
    pub fn function(&self) -> Option<PciAddress> {
        self.handle.pci()
    }

    /// Every PCI function that nobody else may have as long as the claim lists the device.
    pub fn functions(&self) -> impl Iterator<Item = PciAddress> {
        self.function()
            .into_iter()
            .chain(self.along.iter().copied())
    }

    /// The device whose lock protects its driver from two operations at once.
    #[must_use]
    pub fn lock_name(&self, host: &Host) -> ParentName {
        // Claims of the last release do not name the board.
        board_of(host, &self.board)
    }

    /// The nodes through which a process can hold the device: those that the kernel
    /// shows now. If the kernel has already hidden the device, those recorded when it
    /// was made.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn nodes(&self, host: &Host) -> io::Result<Vec<String>> {
        let directory = self.handle.sysfs_path();
        let mut nodes = vfio_nodes(host, &directory)?;
        // With IOMMUFD each function of a group has a node of its own.
        for function in &self.along {
            let beside = vfio_nodes(host, &Handle::Pci(*function).sysfs_path())?;
            nodes.extend(
                beside
                    .into_iter()
                    .filter(|node| !nodes.contains(node))
                    .collect::<Vec<_>>(),
            );
        }
        if nodes.is_empty() && !host.exists(&directory) && self.shows(host) {
            return Ok(self.nodes.clone());
        }
        Ok(nodes)
    }

    /// Whether any part of the device is left.
    fn shows(&self, host: &Host) -> bool {
        let mut undos = self.undo.iter();
        undos.any(|undo| match undo {
            Undo::Device(made) => made.gone.iter().any(|path| host.exists(path)),
            Undo::Setting(_) => false,
            Undo::Bound(bound) => {
                // What cannot be read may be ours.
                !matches!(
                    apply::binding_state(bound, host),
                    Ok(BindingState::Free | BindingState::Foreign(_))
                )
            }
        })
    }

    /// Whether PCI functions that the device takes along are still bound for it, although
    /// the device itself is gone.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub(super) fn keeps_others(&self, host: &Host) -> io::Result<bool> {
        for undo in &self.undo {
            if let Undo::Bound(bound) = undo {
                if apply::binding_state(bound, host)? == BindingState::Ours {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The state of the device now.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn standing(&self, host: &Host) -> io::Result<Standing> {
        // A setting is gone when its device is gone.
        Ok(optional(self.look(host))?.unwrap_or(Standing::Gone))
    }

    /// Whether the device exists as it was claimed.
    ///
    /// # Errors
    /// When sysfs cannot be read; `NotFound` with the path if the attribute to check is
    /// missing.
    pub fn is_there(&self, host: &Host) -> io::Result<bool> {
        Ok(self.look(host)? == Standing::There)
    }

    fn look(&self, host: &Host) -> io::Result<Standing> {
        if self.function().is_some() && !host.exists(&self.handle.sysfs_path()) {
            return Ok(Standing::Gone);
        }
        // A device for which nothing had to be done is there as long as its function is.
        let mut is_left = self.undo.is_empty();
        let mut foreign = None;
        for undo in &self.undo {
            match undo {
                Undo::Device(made) => {
                    if !made.gone.iter().any(|path| host.exists(path)) {
                        continue;
                    }
                    if !host.exists(&made.whole) {
                        let what = format!("{} is still busy with it", self.parent);
                        return Ok(Standing::Busy(what));
                    }
                }
                Undo::Setting(setting) => {
                    if read(host, &setting.setting)? == setting.free {
                        continue;
                    }
                }
                Undo::Bound(bound) => match apply::binding_state(bound, host)? {
                    BindingState::Free => continue,
                    BindingState::Ours => {}
                    BindingState::Foreign(other) => {
                        let function = bound.before.function;
                        foreign = Some(format!("{function} is bound to {other}, and not by us"));
                        continue;
                    }
                },
            }
            is_left = true;
        }
        if !is_left {
            return Ok(foreign.map_or(Standing::Gone, Standing::Foreign));
        }
        for check in &self.identity {
            // A link may disappear between two checks.
            match optional(apply::otherwise(check, host))? {
                Some(None) => {}
                Some(Some(other)) => return Ok(Standing::Foreign(other)),
                None => return Ok(Standing::Gone),
            }
        }
        Ok(Standing::There)
    }

    /// Whether the kernel shows no sign of removing the device. Before the kernel waits
    /// for processes that hold the device, it removes a parent from its class
    /// (`mdev_unregister_parent`), and a function's link to its driver
    /// (`__device_release_driver`).
    #[must_use]
    pub fn is_to_stay(&self, host: &Host) -> bool {
        host.exists(&self.rests_on)
    }
}

/// The checks that identify the device that these steps make, and the undos that remove
/// it.
#[must_use]
pub fn undo_of(steps: &[Step]) -> (Vec<Check>, Vec<Undo>) {
    // Steps without an undo of their own do not identify the device. A binding shows by
    // itself whether it is ours, also if it is there in part.
    let making = steps.iter().filter(|step| step.undo.is_some());
    let is_lasting = |check: &&Check| match check {
        Check::LinkPasses { .. } | Check::Reads { .. } => true,
        Check::Openable { .. } | Check::Bound { .. } | Check::Answers { .. } => false,
    };
    let identity = making.flat_map(|step| step.checks.iter().filter(is_lasting));
    let undo = steps.iter().filter_map(|step| step.undo.clone());
    (identity.cloned().collect(), undo.collect())
}

/// The undos of these steps that are carried out when the device is given back.
pub(crate) fn undo_at_the_end<'a>(steps: impl Iterator<Item = &'a Step>) -> Vec<Undo> {
    let undone = steps.filter(|step| step.needs_no_undo.is_none());
    undone.filter_map(|step| step.undo.clone()).collect()
}
