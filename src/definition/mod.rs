//! A domain's definition in libvirt, changed so that it matches its metadata:
//! placeholders, virtual functions, the CD-ROM with guest drivers. The changes are
//! first computed as plain data, then carried out under the domain's edit lock, all or
//! none. The hook handles starts.

mod at_rest;
mod attachment;
mod change;
mod companions;
mod fill;
mod placeholder;
mod redo;
mod replan;
mod sync;
mod target;

pub use at_rest::{AtRest, at_rest, carry_out_moves};
pub use attachment::{
    AttachRequest, Attachment, CdRomOutcome, FilledDevice, HostdevChange, RequestChange, existing,
    existing_cdrom,
};
pub use change::{Change, beyond, carry_out, take_back};
pub use fill::{Filled, fill, with_elsewhere};
pub use placeholder::{Named, check_libvirt, choose_free, mdev_placeholders, placeholders};
pub use redo::{carry_out_noted, redo};
pub use replan::{Elsewhere, Move, Shared, Stuck, changes_for, elsewhere};
pub use sync::{Done, Manner, Synced, asks_for_nothing, sync};
pub use target::{Definition, Target, edit_lock, edit_lock_within, open_served};
