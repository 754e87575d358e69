//! Questions to other programs: the journal, modinfo, libvirt. A directory that stands in for a
//! host has none of them, and each question has a deadline.

use std::time::Duration;

use crate::{
    device::nvml::{GpuFacts, Nvml},
    host::{Deadline, Host, is_root},
};

/// The versions that libvirt tells, counted as in libvirt (9.7.0 is 9007000).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// libvirt's daemon.
    pub libvirt: u32,
    /// QEMU; None: libvirt does not know it yet.
    pub qemu: Option<u32>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// It was asked and does not answer; the text is its own or the system's.
    NoAnswer(String),
    /// It was not asked.
    NotAsked(String),
}

/// Those who can be asked.
pub trait Outside {
    /// What a program prints. No output and a failure mean that there is nothing to print.
    ///
    /// # Errors
    /// Why it was not asked, or has failed.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String>;

    /// The versions of libvirt and QEMU.
    ///
    /// # Errors
    /// Why they are not known.
    fn versions(&self) -> Result<Versions, Silence>;

    /// What NVML tells of the GPUs.
    ///
    /// # Errors
    /// Why it does not.
    fn facts(&self) -> Result<Vec<GpuFacts>, String>;
}

/// Asks on the running host.
pub struct RunningHost<'a> {
    /// The host.
    pub host: &'a Host,
    /// Asks libvirt, with a deadline.
    pub libvirt: &'a dyn Fn() -> Result<Versions, String>,
}

impl std::fmt::Debug for RunningHost<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningHost").finish_non_exhaustive()
    }
}

/// The reason where the host is a directory.
const DIRECTORY: &str = "this is a directory that stands in for a host";

impl Outside for RunningHost<'_> {
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        const PATIENCE: Duration = Duration::from_secs(10);
        if !self.host.is_real() {
            return Err(DIRECTORY.to_owned());
        }
        if !is_root() {
            return Err("only root sees the whole journal and all modules".to_owned());
        }
        let deadline = Deadline::after(PATIENCE);
        let ended = self.host.run_program(program, arguments, deadline);
        let ended = ended.map_err(|error| format!("cannot run {program}: {error}"))?;
        if ended.status.success() || ended.said.trim().is_empty() {
            return Ok(ended.said);
        }
        let line = ended.said.lines().next().unwrap_or_default();
        Err(format!("{program} has failed: {line}"))
    }

    fn versions(&self) -> Result<Versions, Silence> {
        if !self.host.is_real() {
            return Err(Silence::NotAsked(DIRECTORY.to_owned()));
        }
        (self.libvirt)().map_err(Silence::NoAnswer)
    }

    fn facts(&self) -> Result<Vec<GpuFacts>, String> {
        let facts = self.host.nvml().gpus();
        facts.map_err(|failure| format!("NVML: {}", failure.message))
    }
}
