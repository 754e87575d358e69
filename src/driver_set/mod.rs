//! Driver sets: the drivers of one of NVIDIA's bundles, for the host and for its guests, below
//! `/var/lib/virt-vgpu/drivers/NAME`. A set appears as a whole, and is never changed afterwards.
//!
//! Licence tokens ([`token`]) are kept apart from the sets; discs with one are images beside a set's
//! own disc that only QEMU's user can read ([`disc`]).
//!
//! Which driver a file is, its name and its first bytes tell ([`Part`]); whether the drivers of a
//! set work together is data ([`pair`]). Archives are read with distrust ([`archive`]).

pub mod archive;
mod bundle;
pub mod disc;
mod pairs;
mod part;
mod set;
pub mod token;
mod version;

pub use bundle::{Bundle, Given};
pub use pairs::{Pair, RELEASES, Release, pair, release_of};
pub use part::{HEAD, Part, System};
pub use set::{DriverSet, StoredPart, all, find};
pub use token::{Expiry, StoredToken, Token};
pub use version::{DriverVersion, NoVersion};
