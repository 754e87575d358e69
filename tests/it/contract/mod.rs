//! Contracts that the tests' model of a machine and a real machine both fulfil.

mod mdev;
mod nvidia;
mod nvml;
mod pci;
