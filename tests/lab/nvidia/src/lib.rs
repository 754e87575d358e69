//! The Rust part of the lab's simulated NVIDIA vGPU host. `README.md` next to this
//! crate has the rules; `boards` reads the tables, `model` is the twin in memory,
//! `contract` is the common contract of twin and kernel module, `control` talks to the
//! kernel module, `socket` to a test instead of it. None of it is part of the product,
//! and nothing here may depend on the product.

pub mod boards;
pub mod contract;
pub mod control;
pub mod model;
pub mod socket;
