//! A domain's definition at libvirt, brought in line with what its metadata asks
//! for: placeholders, virtual functions, the CD-ROM with guest drivers. What must
//! change is worked out as plain data first, then carried out under the domain's
//! edit lock, all of it or nothing. What a start does with it is the hook's.

mod attachment;
mod change;
mod replan;
mod seat;
mod target;

pub use attachment::{
    Attachment, CdRomOutcome, HostdevChange, Outcome, RequestChange, Wish, existing,
    existing_cdrom, existing_function,
};
pub use change::{Change, carry_out, take_back};
pub use replan::{Move, replan};
pub use seat::{Reserved, Seat, check_libvirt, choose, choose_free};
pub use target::{Definition, Target, open_served};
