//! Pools of host devices for libvirt VMs: the library behind the hook and the
//! command.
//!
//! # Where things are
//!
//! | module | owns |
//! |---|---|
//! | [`model`] | addresses, UUIDs, names: checked once, then trusted |
//! | [`domain`] | domain XML read into plain data, and edits back into it |
//! | [`rule`] | fields, operators, and the verdict on a device |
//! | [`document`] | a TOML text with the position of every key |
//! | [`kind`] | the kinds of device, one file or directory each, and the list of them |
//! | [`config`] | pool files: as written, then validated |
//! | [`device`] | the facts of sysfs, NVML and the kernel about devices |
//! | [`capacity`] | what still fits on a GPU, and at which place; no effects |
//! | [`plan`] | which device a domain gets, or why it gets none; no effects |
//! | [`apply`] | carries out a plan's steps, undoes them in reverse order |
//! | [`claims`] | which devices were made for which domain: the proof of ownership |
//! | [`allocate`] | gives a domain the devices for its requests |
//! | [`events`] | the events in the journal |
//! | [`gpu_setup`] | the settings of whole GPUs, needed before their vGPUs can be handed out, and GPU instances |
//! | `driver_set` | NVIDIA's driver bundles: taken apart, checked, stored |
//! | `report` | the state of pools, devices, profiles and forecasts, as data |
//! | [`hook`] | libvirt's hook protocol and the work at each operation |
//! | [`host`] | every effect on the system |
//! | [`udev`] | tells udev which pools a device belongs to |
//! | `nvml` | asks NVIDIA's library, in a separate program |
//! | `definition` | changes domains' definitions in libvirt to match their requests |
//! | `hotplug` | plugs devices into running domains, and unplugs them |
//! | `maintenance` | keeps GPUs from starts, gets VMs off them, changes the host's driver |
//! | `cli` | the administrator's command, one file for each verb |
//! | `daemon` | listens to libvirt; does automatically what `virt-vgpu sync` and `reconcile` do |
//!
//! # The dependency rule
//!
//! `model` ← `domain`, `rule` ← `document`, `device` ← `capacity` ← `kind` ← `config` ←
//! `plan` ← `apply`, `claims` ← `events` ← `gpu_setup` ← `allocate` ← `driver_set` ← `report` ←
//! `hook`, `udev`, `definition` ← `hotplug` ← `maintenance` ← `daemon`, `cli`, binaries. From `model` to
//! `plan` no module opens a file, starts a process or uses libvirt; `device` reads through
//! [`device::Sysfs`]. Only `host` touches the system. The hook cannot use
//! `host::libvirt`, nor libudev: both exist only with the feature `cli`. `nvml` uses `device` and
//! `model`, and only the program `virt-vgpu-nvml` uses `nvml`; no other code loads
//! NVIDIA's library. Unsafe code is in two separate crates: `nvml/raw`, and
//! `host/libvirt/raw` for libvirt's events. `tests/it/dependency_rule.rs` checks these
//! rules.

pub mod allocate;
pub mod apply;
pub mod capacity;
pub mod claims;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
#[cfg(feature = "cli")]
pub mod daemon;
#[cfg(feature = "cli")]
mod definition;
pub mod device;
pub mod document;
pub mod domain;
#[cfg(feature = "cli")]
pub mod driver_set;
pub mod events;
pub mod gpu_setup;
pub mod hook;
pub mod host;
#[cfg(feature = "cli")]
mod hotplug;
pub mod kind;
#[cfg(feature = "cli")]
mod maintenance;
pub mod model;
#[cfg(feature = "nvml")]
pub mod nvml;
pub mod plan;
#[cfg(feature = "cli")]
pub mod report;
pub mod rule;
pub mod udev;
