//! What the tests' model of a machine must have in common with a real one.

mod mdev;
mod nvidia;
mod nvml;
