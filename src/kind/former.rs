//! How the last release made devices. Its claims have a word for the way and not the way
//! back, so that is found out by the word; the claims of this release say all by themselves,
//! and no kind that is still to come has a word here.

use super::{MadeAs, mdev, nvidia_vgpu};
use crate::{
    device::{
        mdev as mdevs,
        step::{Step, Undo},
    },
    model::{Handle, MdevTypeId, MdevUuid, ParentName},
};

/// The facts that are missing in claims of the last release.
#[derive(Debug)]
pub struct FormerWay {
    /// The device's handle.
    pub handle: Handle,
    /// The step that made the device.
    pub step: Step,
    /// Further facts for the claim.
    pub made_as: MadeAs,
}

/// The handle of a device that was made in the way of that word.
///
/// # Errors
/// A text, for another word or for what cannot have been made that way.
pub fn former_handle(word: &str, parent: &ParentName, uuid: MdevUuid) -> Result<Handle, String> {
    if word == mdev::WORD {
        return Ok(Handle::Mdev(uuid));
    }
    if word != nvidia_vgpu::FUNCTIONS_WORD {
        return Err(format!("a device of kind '{word}' without a handle"));
    }
    let function = parent.pci();
    let function = function.ok_or_else(|| format!("{parent} is no virtual function"))?;
    Ok(Handle::Pci(function))
}

/// The way of that word, for a device that a claim tells so much of.
///
/// # Errors
/// As [`former_handle`].
pub fn former_way(
    word: &str,
    parent: &ParentName,
    type_id: &MdevTypeId,
    uuid: MdevUuid,
) -> Result<FormerWay, String> {
    Ok(match former_handle(word, parent, uuid)? {
        Handle::Mdev(uuid) => mediated(parent, type_id, uuid),
        handle @ Handle::Pci(function) => FormerWay {
            handle,
            step: nvidia_vgpu::assignment(function, type_id, ""),
            made_as: nvidia_vgpu::function_made_as(function),
        },
    })
}

fn mediated(parent: &ParentName, type_id: &MdevTypeId, uuid: MdevUuid) -> FormerWay {
    // Which of the two directories lists the parent was not written down.
    let listed = [
        mdevs::class_parent(parent),
        mdevs::pci_function(parent.clone()),
    ];
    let mut step = mdev::creation(&listed[0], type_id, uuid);
    if let Some(Undo::Device(made)) = &mut step.undo {
        made.gone = listed
            .iter()
            .flat_map(|parent| mdev::traces(parent, uuid))
            .collect();
        made.gone.sort();
        made.gone.dedup();
    }
    FormerWay {
        handle: Handle::Mdev(uuid),
        step,
        made_as: mdev::rests_on_parent(parent),
    }
}
