//! Pool files: where they are, which of them count, and what they contain. A file is
//! first read as written (`fragment`), then checked into a [`Pool`]. Files are read
//! only through [`ConfigFiles`], so nothing here does I/O.

mod effects;
mod error;
mod files;
mod fragment;
mod keys;
mod load;
pub mod mdevctl;
mod pool;
mod precedence;
mod render;

pub use crate::rule::Class;
pub use effects::{Absent, EFFECTS, Effect, KeyEffect, effect_of};
pub use error::PoolError;
pub use files::{ConfigFiles, Distrust, Entry, MAX_FILE_BYTES, MemoryFiles, POOL_DIRS, Wrong};
pub use load::{LoadedPools, load_all, load_pool};
pub use pool::{Defaults, GuestDriver, Placement, Pool, parse};
pub use precedence::{Effective, IgnoredFile, Listing, effective};
pub use render::{NewInstances, NewPool, render};

#[cfg(test)]
mod tests;
