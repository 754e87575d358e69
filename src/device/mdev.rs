//! Mediated devices of any driver: parents, types and existing devices. Layout and
//! errno: kernel `drivers/vfio/mdev/`,
//! `Documentation/driver-api/vfio-mediated-device.rst`.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::{PCI_DEVICES, Sysfs, at, link_name, list, optional, read};
use crate::model::{MdevModel, MdevTypeId, MdevUuid, ParentName, TypeSelector};

/// The class of all parents; it exists once there is a parent.
pub const PARENTS: &str = "/sys/class/mdev_bus";
/// All mediated devices, links named by UUID.
const DEVICES: &str = "/sys/bus/mdev/devices";

/// The host's mediated devices, read on demand: a VM start reads only the attributes
/// that its plan needs. Everything that was read is remembered, so a new value is made
/// for each plan.
pub struct MdevHost<'a> {
    sysfs: &'a dyn Sysfs,
    parents: Vec<Parent>,
    /// Ids that were found for a type's name, most recently used first: parents of one
    /// driver share their ids, so the next parent is asked for the same id first.
    resolved: RefCell<BTreeMap<String, MdevTypeId>>,
    /// The boards on which the ids were checked to have those names: functions of one
    /// board have the same types.
    checked: RefCell<BTreeMap<(ParentName, String), MdevTypeId>>,
}

impl std::fmt::Debug for MdevHost<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MdevHost")
            .field("parents", &self.parents)
            .finish_non_exhaustive()
    }
}

/// A device that can make mediated devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Its kernel name.
    pub name: ParentName,
    /// The directory in sysfs that lists it.
    listed_in: &'static str,
}

impl Parent {
    /// Its directory in sysfs, or a link to it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.listed_in, self.name)
    }
}

/// A mediated device that exists.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Mdev {
    /// Its UUID.
    pub uuid: MdevUuid,
    /// Its parent.
    pub parent: ParentName,
    /// Its type's id.
    #[serde(rename = "type")]
    pub type_id: MdevTypeId,
}

/// One of a parent's types, with everything that sysfs says about it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MdevType {
    /// Directory name, as in `nvidia-558`.
    pub id: MdevTypeId,
    /// The driver's name for it, if there is one.
    pub name: Option<String>,
    /// Free text of the driver, if there is one.
    pub description: Option<String>,
    /// How many more can be created now.
    pub available: u32,
    /// The kernel API of the device, `vfio-pci` for GPUs.
    pub device_api: String,
}

/// What a parent offers of a wanted type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// It has the type with this id, and this many more can be created.
    Type {
        /// The type's id on this parent.
        id: MdevTypeId,
        /// `available_instances` as just read.
        available: u32,
    },
    /// It has no such type.
    NoSuchType,
    /// It has the type, but the device is taken; by whom or by what.
    Taken(String),
    /// The function is free, but the type does not fit on its GPU now; the reason.
    NoRoom(String),
    /// It could not be read; the reason as a text.
    Unreadable(String),
}

impl<'a> MdevHost<'a> {
    /// Finds the parents: in the class directory if the kernel has it, otherwise all
    /// PCI functions that have types.
    ///
    /// # Errors
    /// When `/sys` cannot be read.
    pub fn discover(sysfs: &'a dyn Sysfs) -> io::Result<Self> {
        let mut parents = listed(sysfs, PARENTS, |_| true)?;
        if parents.is_empty() {
            parents = listed(sysfs, PCI_DEVICES, |parent| {
                sysfs.exists(&format!("{}/mdev_supported_types", parent.path()))
            })?;
        }
        Ok(Self {
            sysfs,
            parents,
            resolved: RefCell::default(),
            checked: RefCell::default(),
        })
    }

    /// The same host without looking for parents.
    #[must_use]
    pub fn without_parents(sysfs: &'a dyn Sysfs) -> Self {
        Self {
            sysfs,
            parents: Vec::new(),
            resolved: RefCell::default(),
            checked: RefCell::default(),
        }
    }

    /// The access to sysfs that this snapshot reads through.
    #[must_use]
    pub fn sysfs(&self) -> &'a dyn Sysfs {
        self.sysfs
    }

    /// All parents in ascending order of name.
    #[must_use]
    pub fn parents(&self) -> &[Parent] {
        &self.parents
    }

    /// The physical function of an SR-IOV virtual function, otherwise the parent
    /// itself: the board that placement packs or spreads over. A parent whose link
    /// cannot be read is its own board.
    #[must_use]
    pub fn board(&self, parent: &Parent) -> ParentName {
        let physical = link_name(self.sysfs, &format!("{}/physfn", parent.path())).ok();
        physical
            .and_then(|name| name.parse().ok())
            .unwrap_or_else(|| parent.name.clone())
    }

    /// All virtual functions of the board to which the virtual function `parent`
    /// belongs, including itself (`physfn/virtfnN`); empty when it is not a virtual
    /// function.
    #[must_use]
    pub fn virtual_functions(&self, parent: &Parent) -> Vec<ParentName> {
        let board = format!("{}/physfn", parent.path());
        let names = self.sysfs.list(&board).unwrap_or_default();
        let links = names.iter().filter(|name| name.starts_with("virtfn"));
        links
            .filter_map(|name| {
                link_name(self.sysfs, &format!("{board}/{name}"))
                    .ok()?
                    .parse()
                    .ok()
            })
            .collect()
    }

    /// What the parent offers of the type that `selector` names, by id or by name.
    /// Reads `available_instances` again at each call.
    #[must_use]
    pub fn offer(&self, parent: &Parent, selector: &TypeSelector) -> Offer {
        match self.type_id(parent, selector) {
            Ok(Some((id, Some(available)))) => Offer::Type { id, available },
            Ok(Some((id, None))) => match self.available(parent, &id) {
                Ok(available) => Offer::Type { id, available },
                Err(error) => Offer::Unreadable(error.to_string()),
            },
            Ok(None) => Offer::NoSuchType,
            Err(error) => Offer::Unreadable(error.to_string()),
        }
    }

    /// The id, with the number available if it was read while finding the id.
    fn type_id(
        &self,
        parent: &Parent,
        selector: &TypeSelector,
    ) -> io::Result<Option<(MdevTypeId, Option<u32>)>> {
        if let Some(id) = selector.as_id() {
            match self.available(parent, &id) {
                Ok(available) => return Ok(Some((id, Some(available)))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let is_meant = |id: &MdevTypeId| -> io::Result<bool> {
            let name = optional(self.type_name(parent, id))?;
            Ok(name.is_some_and(|name| selector.means_name(&name)))
        };
        let board = (self.board(parent), selector.as_str().to_owned());
        if let Some(id) = self.checked.borrow().get(&board) {
            return Ok(Some((id.clone(), None)));
        }
        let known = self.resolved.borrow().get(selector.as_str()).cloned();
        if let Some(id) = known {
            if is_meant(&id)? {
                self.checked.borrow_mut().insert(board, id.clone());
                return Ok(Some((id, None)));
            }
        }
        for id in self.type_ids(parent)? {
            if is_meant(&id)? {
                self.resolved
                    .borrow_mut()
                    .insert(selector.as_str().to_owned(), id.clone());
                self.checked.borrow_mut().insert(board, id.clone());
                return Ok(Some((id, None)));
            }
        }
        Ok(None)
    }

    fn type_ids(&self, parent: &Parent) -> io::Result<Vec<MdevTypeId>> {
        let names = list(
            self.sysfs,
            &format!("{}/mdev_supported_types", parent.path()),
        )?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn type_name(&self, parent: &Parent, id: &MdevTypeId) -> io::Result<String> {
        read(
            self.sysfs,
            &format!("{}/mdev_supported_types/{id}/name", parent.path()),
        )
    }

    fn available(&self, parent: &Parent, id: &MdevTypeId) -> io::Result<u32> {
        let path = format!(
            "{}/mdev_supported_types/{id}/available_instances",
            parent.path()
        );
        let text = read(self.sysfs, &path)?;
        // Some drivers count down below zero.
        let number: i64 = text.parse().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{path}: '{text}' is not a number"),
            )
        })?;
        Ok(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
    }

    /// Everything about a parent's types, for people and JSON.
    ///
    /// # Errors
    /// When the list of types cannot be read.
    pub fn types(&self, parent: &Parent) -> io::Result<Vec<MdevType>> {
        let mut types = Vec::new();
        for id in self.type_ids(parent)? {
            let attribute = |name: &str| {
                let path = format!("{}/mdev_supported_types/{id}/{name}", parent.path());
                optional(read(self.sysfs, &path))
            };
            types.push(MdevType {
                name: attribute("name")?,
                description: attribute("description")?,
                available: self.available(parent, &id)?,
                device_api: attribute("device_api")?.unwrap_or_default(),
                id,
            });
        }
        Ok(types)
    }

    /// The parents of all mediated devices on the host, ours or not.
    ///
    /// # Errors
    /// When the bus cannot be read.
    pub fn parents_in_use(&self) -> io::Result<Vec<(MdevUuid, ParentName)>> {
        let mut found = Vec::new();
        for name in optional(list(self.sysfs, DEVICES))?.unwrap_or_default() {
            let Ok(uuid) = name.parse::<MdevUuid>() else {
                continue;
            };
            // A device that disappeared between listing and reading is not in use.
            if let Some(parent) = parent_of(self.sysfs, uuid)? {
                found.push((uuid, parent));
            }
        }
        Ok(found)
    }
}

fn listed(
    sysfs: &dyn Sysfs,
    listed_in: &'static str,
    keep: impl Fn(&Parent) -> bool,
) -> io::Result<Vec<Parent>> {
    let names = optional(list(sysfs, listed_in))?.unwrap_or_default();
    let parent = |name: String| {
        let name = name.parse().ok()?;
        Some(Parent { name, listed_in })
    };
    let mut found: Vec<Parent> = names.into_iter().filter_map(parent).filter(keep).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

fn parent_of(sysfs: &dyn Sysfs, uuid: MdevUuid) -> io::Result<Option<ParentName>> {
    let link = path(uuid);
    let target = sysfs.read_link(&link).map_err(|error| at(&link, &error));
    let Some(target) = optional(target)? else {
        return Ok(None);
    };
    Ok(target.rsplit('/').nth(1).and_then(|name| name.parse().ok()))
}

/// The path of a mediated device in sysfs.
#[must_use]
pub fn path(uuid: MdevUuid) -> String {
    format!("{DEVICES}/{uuid}")
}

/// The mediated device of that UUID, if there is one.
///
/// # Errors
/// When it exists but cannot be read.
pub fn find(sysfs: &dyn Sysfs, uuid: MdevUuid) -> io::Result<Option<Mdev>> {
    let Some(parent) = parent_of(sysfs, uuid)? else {
        return Ok(None);
    };
    let Some(type_id) = optional(link_name(sysfs, &format!("{DEVICES}/{uuid}/mdev_type")))? else {
        return Ok(None);
    };
    let type_id = type_id
        .parse()
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(Some(Mdev {
        uuid,
        parent,
        type_id,
    }))
}

/// The UUIDs of all mediated devices.
///
/// # Errors
/// When the bus cannot be listed.
pub fn uuids(sysfs: &dyn Sysfs) -> io::Result<BTreeSet<MdevUuid>> {
    let names = optional(list(sysfs, DEVICES))?.unwrap_or_default();
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The device nodes through which a process can open it.
///
/// # Errors
/// When sysfs cannot be read.
pub fn nodes(sysfs: &dyn Sysfs, uuid: MdevUuid) -> io::Result<Vec<String>> {
    super::vfio_nodes(sysfs, &path(uuid))
}

/// How QEMU presents devices of the type; None if the type does not exist or does not
/// say.
///
/// # Errors
/// The kernel's errno with the path; `InvalidData` for an interface that libvirt does
/// not know.
pub fn model(
    sysfs: &dyn Sysfs,
    parent: &Parent,
    type_id: &MdevTypeId,
) -> io::Result<Option<MdevModel>> {
    if type_id.is_nvidias() {
        return Ok(Some(MdevModel::VfioPci));
    }
    let path = format!(
        "{}/mdev_supported_types/{type_id}/device_api",
        parent.path()
    );
    let text = optional(read(sysfs, &path))?;
    let parsed = text.map(|text| text.parse()).transpose();
    parsed.map_err(|wrong| io::Error::new(io::ErrorKind::InvalidData, format!("{path}: {wrong}")))
}

/// The PCI function of that address as the parent of its own only device.
#[must_use]
pub fn pci_function(name: impl Into<ParentName>) -> Parent {
    Parent {
        name: name.into(),
        listed_in: PCI_DEVICES,
    }
}

/// A parent of mediated devices, by its name.
#[must_use]
pub fn class_parent(name: &ParentName) -> Parent {
    Parent {
        name: name.clone(),
        listed_in: PARENTS,
    }
}

/// Whether the device is a parent of mediated devices and is not being unregistered.
#[must_use]
pub fn is_parent(sysfs: &dyn Sysfs, name: &ParentName) -> bool {
    sysfs.exists(&class_parent(name).path())
}

/// The parent of that name, in the directory where this host lists it.
#[must_use]
pub fn parent_named(sysfs: &dyn Sysfs, name: &ParentName) -> Parent {
    let listed_in = if is_parent(sysfs, name) {
        PARENTS
    } else {
        PCI_DEVICES
    };
    Parent {
        name: name.clone(),
        listed_in,
    }
}
