//! The lab's simulated NVIDIA vGPU host, as far as it is Rust. `README.md` beside
//! this crate has the rules; `boards` reads the tables, `model` is the twin in
//! memory, `contract` is what twin and kernel module must agree on, `control`
//! speaks to the kernel module, `socket` to a test in its place. None of it is part of the product, and nothing
//! here may depend on the product.

pub mod boards;
pub mod contract;
pub mod control;
pub mod model;
pub mod socket;
