//! Claims of the last release: they say which kind of device it is and not how it is
//! given back.

use serde::Deserialize;

use super::{ClaimedDevice, MovingDevice, device::way_back};
use crate::{
    capacity::Placement,
    device::step::{Check, Undo},
    kind::{self, FormerWay},
    model::{DeviceName, Handle, MdevTypeId, MdevUuid, ParentName, PoolName},
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

/// What a claim of this release says and one of the last does not.
struct Way {
    handle: Handle,
    rests_on: String,
    can_wedge: bool,
    identity: Vec<Check>,
    undo: Vec<Undo>,
}

impl From<FormerWay> for Way {
    fn from(former: FormerWay) -> Self {
        let (identity, undo) = way_back(&[former.step]);
        Self {
            handle: former.handle,
            rests_on: former.made_as.rests_on,
            can_wedge: former.made_as.can_wedge,
            identity,
            undo,
        }
    }
}
