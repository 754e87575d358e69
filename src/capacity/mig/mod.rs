//! MIG: which GPU instances a GPU is to have, and where. All of it is computed from plain
//! data: what pools need, what NVML says of profiles and their placements, and the
//! instances that exist. Nothing is read or changed here, and there are no tables of
//! boards: a profile's number means another profile on another board.
//!
//! Words are NVML's: a *GPU instance* has a *profile* and covers *memory slots*; a profile
//! may start at some of them only. What is wanted by the pools is written in an
//! [`InstanceNeed`]; [`Layout::plan`] says what stays, what is created and what is
//! destroyed; [`choose`] picks one of several GPUs for one more instance.

mod board;
mod choice;
mod drawing;
mod layout;
mod need;
mod occupied;
mod refusal;
mod search;
mod steps;
mod usefulness;

pub use crate::device::nvml::Engines;
pub use board::{BadBoard, Board, InstanceId, InstanceProfile, ProfileId, Slots};
pub use choice::{Candidate, Choice, Cost, choose, cost};
pub use layout::{Destroyed, Instance, Layout, NewInstance, Why};
pub use need::{GpuNeed, InInstances, InstanceNeed, ModeConflict, OneSize, PoolNeed, gpu_need};
pub use occupied::Occupied;
pub use refusal::{DoesNotFit, Nearest, NotIncluded, Reason};
pub use steps::LayoutStep;
pub use usefulness::{Later, Usefulness};

#[cfg(test)]
mod tests;
