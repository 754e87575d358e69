//! Claims of the last release: they name the kind of device but not how it is given
//! back.

use serde::Deserialize;

use super::{ClaimedDevice, MovingDevice, device::undo_of};
use crate::{
    capacity::Placement,
    device::step::{Check, Undo},
    kind::{self, FormerWay},
    model::{DeviceName, Handle, MdevTypeId, MdevUuid, ParentName, PciAddress, PoolName},
};

/// A device as written in a claim's file, by this release or the last.
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
    along: Vec<PciAddress>,
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

/// The parts of a device that plans of other domains need.
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
    along: Vec<PciAddress>,
    #[serde(default)]
    placement: Option<Placement>,
}

impl TryFrom<Placed> for MovingDevice {
    type Error = String;

    fn try_from(placed: Placed) -> Result<Self, String> {
        let handle = match placed.handle {
            Some(handle) => handle,
            None => kind::former_handle(&placed.kind, &placed.parent, placed.uuid)?,
        };
        Ok(Self {
            name: placed.name,
            pool: placed.pool,
            handle,
            board: placed.board.unwrap_or_else(|| placed.parent.clone()),
            parent: placed.parent,
            along: placed.along,
            type_id: placed.type_id,
            placement: placed.placement,
        })
    }
}

impl TryFrom<Written> for ClaimedDevice {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written {
            name,
            pool,
            kind,
            uuid,
            parent,
            type_id,
            ..
        } = written;
        let way = match (written.handle, written.rests_on) {
            (Some(handle), Some(rests_on)) => Way {
                handle,
                rests_on,
                can_wedge: written.can_wedge,
                identity: written.identity,
                undo: written.undo,
            },
            _ => kind::former_way(&kind, &parent, &type_id, uuid)?.into(),
        };
        Ok(Self {
            name,
            pool,
            kind,
            uuid,
            handle: way.handle,
            board: written.board.unwrap_or_else(|| parent.clone()),
            parent,
            along: written.along,
            type_id,
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

/// Facts that claims of this release have and claims of the last one lack.
struct Way {
    handle: Handle,
    rests_on: String,
    can_wedge: bool,
    identity: Vec<Check>,
    undo: Vec<Undo>,
}

impl From<FormerWay> for Way {
    fn from(former: FormerWay) -> Self {
        let (identity, undo) = undo_of(&[former.step]);
        Self {
            handle: former.handle,
            rests_on: former.made_as.rests_on,
            can_wedge: former.made_as.can_wedge,
            identity,
            undo,
        }
    }
}
