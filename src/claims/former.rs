//! Claims of the last release: they say which kind of device it is and not how it is
//! given back.

use serde::Deserialize;

use super::{ClaimedDevice, MovingDevice, device::way_back};
use crate::{
    capacity::Placement,
    device::{
        mdev,
        step::{Check, Effect, Undo},
        vendor_vfio,
    },
    model::{DeviceName, Handle, MdevTypeId, MdevUuid, ParentName, PciAddress, PoolName},
};

/// A device as a claim's file has it, of this release or the last.
#[derive(Deserialize)]
pub(super) struct Written {
    name: DeviceName,
    pool: PoolName,
    kind: String,
    uuid: MdevUuid,
    parent: ParentName,
    #[serde(rename = "type")]
    type_id: MdevTypeId,
    #[serde(default)]
    handle: Option<Handle>,
    #[serde(default)]
    board: Option<ParentName>,
    #[serde(default)]
    placement: Option<Placement>,
    #[serde(default)]
    nodes: Vec<String>,
    #[serde(default)]
    identity: Vec<Check>,
    #[serde(default)]
    undo: Vec<Undo>,
    #[serde(default)]
    rests_on: Option<String>,
    #[serde(default)]
    can_wedge: bool,
    #[serde(default)]
    against_migration: Vec<String>,
}

/// The same as far as others have to know it.
#[derive(Deserialize)]
pub(super) struct Placed {
    name: DeviceName,
    pool: PoolName,
    kind: String,
    uuid: MdevUuid,
    parent: ParentName,
    #[serde(rename = "type")]
    type_id: MdevTypeId,
    #[serde(default)]
    handle: Option<Handle>,
    #[serde(default)]
    board: Option<ParentName>,
    #[serde(default)]
    placement: Option<Placement>,
}

impl TryFrom<Placed> for MovingDevice {
    type Error = String;

    fn try_from(placed: Placed) -> Result<Self, String> {
        let handle = match (placed.handle, placed.kind.as_str()) {
            (Some(handle), _) => handle,
            (None, MDEV) => Handle::Mdev(placed.uuid),
            (None, VENDOR_VFIO) => Handle::Pci(function(&placed.parent)?),
            (None, other) => return Err(format!("a device of kind '{other}' without a handle")),
        };
        Ok(Self {
            name: placed.name,
            pool: placed.pool,
            handle,
            board: placed.board.unwrap_or_else(|| placed.parent.clone()),
            parent: placed.parent,
            type_id: placed.type_id,
            placement: placed.placement,
        })
    }
}

fn function(parent: &ParentName) -> Result<PciAddress, String> {
    let function = parent.pci();
    function.ok_or_else(|| format!("{parent} is no virtual function"))
}

/// The word of the last release for mediated devices.
const MDEV: &str = "mdev";
/// Its word for virtual functions that were set to a type.
const VENDOR_VFIO: &str = "vendor-vfio";

impl TryFrom<Written> for ClaimedDevice {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let way = match (written.handle, written.rests_on) {
            (Some(handle), Some(rests_on)) => Way {
                handle,
                rests_on,
                can_wedge: written.can_wedge,
                identity: written.identity,
                undo: written.undo,
            },
            _ => match written.kind.as_str() {
                MDEV => Way::of_mdev(&written.parent, &written.type_id, written.uuid),
                VENDOR_VFIO => Way::of_function(&written.parent, &written.type_id)?,
                other => return Err(format!("a device of kind '{other}' without a handle")),
            },
        };
        Ok(Self {
            name: written.name,
            pool: written.pool,
            kind: written.kind,
            uuid: written.uuid,
            handle: way.handle,
            board: written.board.unwrap_or_else(|| written.parent.clone()),
            parent: written.parent,
            type_id: written.type_id,
            placement: written.placement,
            nodes: written.nodes,
            identity: way.identity,
            undo: way.undo,
            rests_on: way.rests_on,
            can_wedge: way.can_wedge,
            against_migration: written.against_migration,
        })
    }
}

/// What a claim of this release says and one of the last does not.
struct Way {
    handle: Handle,
    rests_on: String,
    can_wedge: bool,
    identity: Vec<Check>,
    undo: Vec<Undo>,
}

impl Way {
    fn of_mdev(parent: &ParentName, type_id: &MdevTypeId, uuid: MdevUuid) -> Self {
        // Which of the two directories lists the parent was not written down.
        let listed = [
            mdev::class_parent(parent),
            mdev::pci_function(parent.clone()),
        ];
        let mut step = mdev::creation(&listed[0], type_id, uuid);
        if let Some(Undo {
            effect: Effect::Device(made),
            ..
        }) = &mut step.undo
        {
            made.gone = listed
                .iter()
                .flat_map(|parent| mdev::traces(parent, uuid))
                .collect();
            made.gone.sort();
            made.gone.dedup();
        }
        let (identity, undo) = way_back(&[step]);
        Self {
            handle: Handle::Mdev(uuid),
            rests_on: listed[0].path(),
            can_wedge: false,
            identity,
            undo,
        }
    }

    fn of_function(parent: &ParentName, type_id: &MdevTypeId) -> Result<Self, String> {
        let function = function(parent)?;
        let step = vendor_vfio::assignment(function, type_id, "");
        let (identity, undo) = way_back(&[step]);
        Ok(Self {
            handle: Handle::Pci(function),
            rests_on: vendor_vfio::driver_link(function),
            can_wedge: true,
            identity,
            undo,
        })
    }
}
