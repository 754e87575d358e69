//! The services that use NVIDIA's driver for as long as they run.

use std::{io, time::Duration};

use anyhow::{Context, bail};

use crate::{
    device::Sysfs,
    host::{Deadline, Ended, Host},
};

const SYSTEMCTL: &str = "/usr/bin/systemctl";

/// A service may wait for what it has begun (`TimeoutStopSec=` is 90 s where it is not set).
const PATIENCE: Duration = Duration::from_secs(120);

/// A service of systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: &'static str,
    /// Whether every host with vGPUs needs it, so that it is started with the driver even if it
    /// was not running.
    pub is_needed: bool,
    /// Whether VMs depend on it: a driver with which it does not start is of no use.
    pub is_vital: bool,
}

/// What came of starting services.
#[derive(Debug, Default)]
pub struct Restarted {
    /// Those that run.
    pub started: Vec<String>,
    /// Those that do not.
    pub failed: Vec<NotStarted>,
}

/// A service that could not be started.
#[derive(Debug)]
pub struct NotStarted {
    /// It.
    pub service: &'static Service,
    /// systemd's reason.
    pub why: anyhow::Error,
}

/// In the order in which they are started: `nvidia-vgpud` loads the types and ends, and
/// `nvidia-vgpu-mgr` serves the vGPUs (NVIDIA, Virtual GPU Software User Guide). The others
/// keep the driver open.
pub const SERVICES: [Service; 6] = [
    Service {
        name: "nvidia-vgpud.service",
        is_needed: true,
        is_vital: true,
    },
    Service {
        name: "nvidia-vgpu-mgr.service",
        is_needed: true,
        is_vital: true,
    },
    Service {
        name: "nvidia-fabricmanager.service",
        is_needed: false,
        is_vital: true,
    },
    Service {
        name: "nvidia-persistenced.service",
        is_needed: false,
        is_vital: false,
    },
    Service {
        name: "nvidia-dcgm.service",
        is_needed: false,
        is_vital: false,
    },
    Service {
        name: "dcgm-exporter.service",
        is_needed: false,
        is_vital: false,
    },
];

fn systemctl(host: &Host, arguments: &[&str]) -> io::Result<Ended> {
    host.run_program(SYSTEMCTL, arguments, Deadline::after(PATIENCE))
}

/// Those that run, in the order in which they are stopped.
///
/// # Errors
/// When systemd cannot be asked.
pub(super) fn running(host: &Host) -> anyhow::Result<Vec<String>> {
    let mut running = Vec::new();
    for service in SERVICES.iter().rev() {
        // 0: it is active; all else: it is not, or there is none.
        let ended = systemctl(host, &["is-active", "--quiet", service.name])
            .with_context(|| format!("cannot ask whether {} runs", service.name))?;
        if ended.status.success() {
            running.push(service.name.to_owned());
        }
    }
    Ok(running)
}

/// Stops a service.
///
/// # Errors
/// systemd's reason.
pub(super) fn stop(host: &Host, service: &str) -> anyhow::Result<()> {
    run(host, "stop", service)
}

/// Starts services that were stopped, and those that every host with vGPUs needs. One that is not
/// installed is left out.
#[must_use]
pub fn restart(host: &Host, stopped: &[String]) -> Restarted {
    let mut restarted = Restarted::default();
    let is_installed = |name: &str| {
        let ended = systemctl(host, &["cat", "--no-pager", name]);
        ended.is_ok_and(|ended| ended.status.success())
    };
    for service in &SERVICES {
        let was_running = stopped.iter().any(|one| one == service.name);
        if !(was_running || service.is_needed) || !is_installed(service.name) {
            continue;
        }
        match run(host, "start", service.name) {
            Ok(()) => restarted.started.push(service.name.to_owned()),
            Err(why) => restarted.failed.push(NotStarted { service, why }),
        }
    }
    restarted
}

fn run(host: &Host, verb: &str, service: &str) -> anyhow::Result<()> {
    let ended = systemctl(host, &[verb, service])
        .with_context(|| format!("cannot run 'systemctl {verb} {service}'"))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = ended.in_one_line();
    bail!(
        "'systemctl {verb} {service}' failed ({}): {said}; 'systemctl status {service}' shows why",
        ended.status
    );
}

/// Whether systemd manages this host.
pub(super) fn has_systemd(host: &Host) -> bool {
    host.exists(SYSTEMCTL)
}
