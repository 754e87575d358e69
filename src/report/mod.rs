//! What is where, as data: verbs print it and turn it into JSON. Nothing here knows a
//! terminal or the command line.

mod daemon_notes;
mod foreign;
mod status;

pub use daemon_notes::DaemonNotes;
pub use foreign::{Foreign, ForeignDevice};
pub use status::{ClaimState, StatusReport, status};
