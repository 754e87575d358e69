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
//! | [`document`] | a TOML text with the place of every key |
//! | [`kind`] | what a kind of device is, one file or folder a kind, and the list of them |
//! | [`config`] | pool files: as written, then validated |
//! | [`device`] | what sysfs, NVML and the kernel tell of devices |
//! | [`capacity`] | what still fits on a GPU, and where it goes: pure |
//! | [`plan`] | which device a domain gets, or why none: pure |
//! | [`apply`] | carries out a plan's steps, undoes them in reverse |
//! | [`claims`] | what was made for which domain: the proof of ownership |
//! | [`allocate`] | from a domain's requests to its devices |
//! | [`events`] | what goes to the journal |
//! | `gpu_setup` | what whole GPUs need before anything of them can be handed out |
//! | `report` | what is where, as data: pools, devices, profiles, forecasts, status |
//! | [`hook`] | libvirt's hook protocol and what each operation does |
//! | [`host`] | every effect on the system |
//! | [`udev`] | which pools a device is told to be in when it appears |
//! | `nvml` | asks NVIDIA's library, in a program of its own |
//! | `definition` | domains' definitions at libvirt, brought in line with their requests |
//! | `hotplug` | devices plugged into domains that run, and out of them |
//! | `cli` | the administrator's command, a file a verb |
//! | `daemon` | listens to libvirt and does by itself what `virt-vgpu sync` and `reconcile` do |
//!
//! # The dependency rule
//!
//! `model` ← `domain`, `rule` ← `document`, `device` ← `capacity` ← `kind` ← `config` ←
//! `plan` ← `apply`, `claims` ← `events` ← `allocate` ← `gpu_setup` ← `report` ←
//! `hook`, `udev`, `definition` ← `hotplug` ← `daemon`, `cli`, binaries. From `model` to `plan` nothing
//! opens a file, starts a process or names libvirt; `device` reads through
//! [`device::Sysfs`]. Only `host` touches the system, and `host::libvirt`
//! cannot be reached from the hook: it exists only with the feature `cli`.
//! `nvml` names `device` and `model`, and only `virt-vgpu-nvml` names it; NVIDIA's
//! library is nowhere else. Unsafe code is in two crates of their own: `nvml/raw`, and
//! `host/libvirt/raw` for libvirt's events.
//! `tests/it/dependency_rule.rs` holds this.

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
pub mod events;
#[cfg(feature = "cli")]
mod gpu_setup;
pub mod hook;
pub mod host;
#[cfg(feature = "cli")]
mod hotplug;
pub mod kind;
pub mod model;
#[cfg(feature = "nvml")]
pub mod nvml;
pub mod plan;
#[cfg(feature = "cli")]
pub mod report;
pub mod rule;
pub mod udev;
