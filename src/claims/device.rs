//! A device in a claim: what it is, how it is known to be ours, and how it is given
//! back. All of that was written down when it was made, so nothing here asks what kind of
//! device it is.

use std::io;

use serde::{Deserialize, Serialize};

use super::former;
use crate::{
    apply,
    capacity::Placement,
    device::{
        Sysfs, board_of, optional, read,
        step::{Check, Effect, Step, Undo},
        vfio_nodes,
    },
    host::Host,
    model::{DeviceName, Handle, MdevTypeId, MdevUuid, ParentName, PciAddress, PoolName},
};

/// A device that a claim owns.
///
/// Two are equal when they are the same thing at the same place: its nodes and its place
/// in a board's memory are others each time it is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "former::Written")]
pub struct ClaimedDevice {
    /// The request's name in the domain.
    pub name: DeviceName,
    /// The pool it was counted against.
    pub pool: PoolName,
    /// The word for how it is made, for people and for versions that read no handle.
    pub kind: String,
    /// The UUID of the request; a mediated device's own.
    pub uuid: MdevUuid,
    /// What it is to libvirt and the kernel.
    pub handle: Handle,
    /// The parent it was made on, or the function that it is.
    pub parent: ParentName,
    /// The device whose driver makes it and whose lock is held meanwhile: the GPU or other
    /// board of the parent.
    pub board: ParentName,
    /// Its type's id; a virtual function's is a number.
    #[serde(rename = "type")]
    pub type_id: MdevTypeId,
    /// Where in the memory of its board it was put, if somebody has chosen that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// The device nodes by which a holder shows, as they were when it was made. Before
    /// that there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// What holds as long as the device is the one that was claimed.
    pub identity: Vec<Check>,
    /// What takes it back, in the order of its making; taken back last first.
    pub undo: Vec<Undo>,
    /// While this path is there the kernel is not about to take the device away.
    pub rests_on: String,
    /// Whether a QEMU that is killed early may leave it unusable until it is renewed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub can_wedge: bool,
    /// The parameters it was given that keep the VM from being saved and migrated.
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

/// How a claimed device stands on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is there, as it was claimed.
    There,
    /// Nothing of it is there: never made, or gone.
    Gone,
    /// Its driver is at work on it: something of it is there, and it is not whole.
    Busy(String),
    /// Something else is there in its place.
    Foreign(String),
}

impl ClaimedDevice {
    /// The address of the PCI function that it is.
    #[must_use]
    pub fn function(&self) -> Option<PciAddress> {
        self.handle.pci()
    }

    /// The device by whose lock its driver is kept from doing two things at once.
    #[must_use]
    pub fn lock_name(&self, host: &Host) -> ParentName {
        // Claims of the last release name no board.
        board_of(host, &self.board)
    }

    /// The nodes through which a process can have it open: those that the kernel shows
    /// now; of a device that the kernel has hidden already, those of its making.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn nodes(&self, host: &Host) -> io::Result<Vec<String>> {
        let directory = self.handle.sysfs_path();
        let nodes = vfio_nodes(host, &directory)?;
        if nodes.is_empty() && !host.exists(&directory) && self.shows(host) {
            return Ok(self.nodes.clone());
        }
        Ok(nodes)
    }

    /// Whether anything of it is left.
    fn shows(&self, host: &Host) -> bool {
        let mut made = self.undo.iter().filter_map(|undo| match &undo.effect {
            Effect::Device(made) => Some(made),
            Effect::Setting(_) => None,
        });
        made.any(|made| made.gone.iter().any(|path| host.exists(path)))
    }

    /// How it stands now.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn standing(&self, host: &Host) -> io::Result<Standing> {
        // A setting goes with its device.
        Ok(optional(self.look(host))?.unwrap_or(Standing::Gone))
    }

    /// Whether it is there, as what was claimed.
    ///
    /// # Errors
    /// When sysfs cannot be read; `NotFound` with the path where the attribute that would
    /// tell is not there.
    pub fn is_there(&self, host: &Host) -> io::Result<bool> {
        Ok(self.look(host)? == Standing::There)
    }

    fn look(&self, host: &Host) -> io::Result<Standing> {
        for undo in &self.undo {
            match &undo.effect {
                Effect::Device(made) => {
                    if !made.gone.iter().any(|path| host.exists(path)) {
                        return Ok(Standing::Gone);
                    }
                    if !host.exists(&made.whole) {
                        let what = format!("{} is still busy with it", self.parent);
                        return Ok(Standing::Busy(what));
                    }
                }
                Effect::Setting(setting) => {
                    if read(host, &setting.setting)? == setting.free {
                        return Ok(Standing::Gone);
                    }
                }
            }
        }
        for check in &self.identity {
            // A link may go between two looks.
            match optional(apply::otherwise(check, host))? {
                Some(None) => {}
                Some(Some(other)) => return Ok(Standing::Foreign(other)),
                None => return Ok(Standing::Gone),
            }
        }
        Ok(Standing::There)
    }

    /// Whether the kernel shows no sign of taking it away. Before it waits for whoever has
    /// the device open it takes a parent out of its class (`mdev_unregister_parent`), and a
    /// function's link to its driver away (`__device_release_driver`).
    #[must_use]
    pub fn is_to_stay(&self, host: &Host) -> bool {
        host.exists(&self.rests_on)
    }
}

/// What shows that a device is the one that these steps have made, and what takes it back.
#[must_use]
pub fn way_back(steps: &[Step]) -> (Vec<Check>, Vec<Undo>) {
    // What goes with the effect of a step before it is no sign of its own.
    let making = steps.iter().filter(|step| step.undo.is_some());
    let is_lasting = |check: &&Check| !matches!(check, Check::Openable { .. });
    let identity = making.flat_map(|step| step.checks.iter().filter(is_lasting));
    let undo = steps.iter().filter_map(|step| step.undo.clone());
    (identity.cloned().collect(), undo.collect())
}
