//! The hook as a process: which domains it serves and refuses, and what it leaves
//! behind.

mod at_once;
mod bad_host;
mod bad_input;
mod card;
mod driver_errors;
mod elsewhere;
mod former_claims;
mod from_host;
mod functions;
mod golden;
mod gpu_fields;
mod holders;
mod models;
mod openable;
mod parameters;
mod race;
mod several;
mod slow_driver;
mod together;
mod whole;
mod whole_machines;
