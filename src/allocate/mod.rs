//! Gives a domain its devices: reads its requests, plans, and makes the planned
//! devices. The hook, hot-plugging, definitions and the commands use it; it knows
//! nothing about libvirt.

use std::time::Duration;

mod demand;
mod error;
mod look;
mod making;
mod media;
mod nearness;
mod qemu_user;
mod rules;
mod unbinding;

pub use demand::{Demand, PlacedRequest, devices_wanted};
pub use error::AllocateError;
pub(crate) use error::io_error;
pub use look::Look;
pub use making::{Base, Making};
#[cfg(feature = "cli")]
pub(crate) use media::medium;
pub use media::{
    MediaProblem, check_guest_driver, check_image, check_token_disc, is_of_token, token_for,
};
pub(crate) use media::{choose, provide};
pub use nearness::{nearness_of, places_beside};
pub use qemu_user::QemuUser;
pub use rules::{number_allowed, profile, together};

/// The time limit for a whole start: libvirt sets none, but the domain stays locked for
/// every client while the hook runs.
pub const PATIENCE: Duration = Duration::from_secs(20);
