//! From a domain's requests to its devices: what it demands, the plan for it, and
//! the making of what was planned. The hook, hot-plugging, definitions and the
//! commands share it; it knows nothing of libvirt.

use std::time::Duration;

mod demand;
mod error;
mod look;
mod making;
mod media;
mod nearness;
mod rules;

pub use demand::{Demand, PlacedRequest, devices_wanted};
pub use error::AllocateError;
pub(crate) use error::io_error;
pub use look::Look;
pub use making::{Base, Making};
pub use media::{MediaProblem, check_image};
pub(crate) use media::{choose, provide};
pub use nearness::nearness_of;
pub use rules::{profile, together};

/// The patience of a start with everything together: libvirt sets no limit, but
/// the domain stays locked for every client while the hook runs.
pub const PATIENCE: Duration = Duration::from_secs(20);
