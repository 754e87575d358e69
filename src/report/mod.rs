//! The state of the host as data: verbs print it and turn it into JSON. Each report is a struct
//! and the function that fills it from a host. Nothing here knows a terminal or the command
//! line, and nothing changes the host.

mod daemon_notes;
pub mod devices;
pub mod doctor;
pub mod forecast;
mod foreign;
mod guests;
mod in_json;
pub mod pool;
pub mod profiles;
mod status;
mod tokens;

pub use daemon_notes::DaemonNotes;
pub use foreign::{Foreign, ForeignDevice};
pub use guests::{Guest, LicenceKind, add_from_agent};
pub use status::{ClaimReport, ClaimState, StatusReport, status};
pub use tokens::{GuestDisc, TokenOwner};
