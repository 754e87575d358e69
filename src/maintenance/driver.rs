//! The host's driver: its modules, loaded and unloaded.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Serialize;

use crate::{
    device::{Sysfs, optional},
    gpu_setup::who_has_it_open,
    host::{Deadline, Host, patience},
};

const MODPROBE: &str = "/usr/sbin/modprobe";

/// The modules of NVIDIA's driver, those that use others first (`nvidia_vgpu_vfio` is the one
/// for vGPUs).
const MODULES: [&str; 6] = [
    "nvidia_vgpu_vfio",
    "nvidia_peermem",
    "nvidia_drm",
    "nvidia_modeset",
    "nvidia_uvm",
    "nvidia",
];

/// The driver itself.
const MODULE: &str = "nvidia";

/// The module for vGPUs, where it is one of its own.
const VGPU_MODULE: &str = "nvidia_vgpu_vfio";

/// How long a module may take: every GPU is initialised.
const PATIENCE: Duration = Duration::from_secs(300);

/// NVIDIA's driver as it is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadedDriver {
    /// Its version; None: the module does not say.
    pub version: Option<String>,
}

/// The driver; None: it is not loaded.
///
/// # Errors
/// When sysfs cannot be read.
pub fn loaded_driver(host: &Host) -> anyhow::Result<Option<LoadedDriver>> {
    let module = format!("/sys/module/{MODULE}");
    if !host.exists(&module) {
        return Ok(None);
    }
    let version = optional(host.read(&format!("{module}/version")));
    let version = version.with_context(|| format!("cannot read {module}/version"))?;
    Ok(Some(LoadedDriver { version }))
}

/// The loaded modules, in the order in which they can be unloaded.
pub(super) fn loaded_modules(host: &Host) -> Vec<&'static str> {
    let is_loaded = |module: &&str| host.exists(&format!("/sys/module/{module}"));
    MODULES.into_iter().filter(is_loaded).collect()
}

/// Unloads the driver. Short visitors, such as a monitoring program, are worth another try.
///
/// # Errors
/// Why a module stays, with who has the driver open.
pub(super) fn unload(host: &Host) -> anyhow::Result<()> {
    const PAUSE: Duration = Duration::from_secs(1);
    const TRIES: u32 = 6;
    let mut said = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            patience(PAUSE).wait_until(|| false);
        }
        let modules = loaded_modules(host);
        if modules.is_empty() {
            return Ok(());
        }
        let arguments: Vec<&str> = ["-r"].into_iter().chain(modules).collect();
        match modprobe(host, &arguments) {
            Ok(()) if loaded_modules(host).is_empty() => return Ok(()),
            Ok(()) => said = "modprobe says nothing".to_owned(),
            Err(error) => said = format!("{error:#}"),
        }
    }
    bail!(
        "{} cannot be unloaded: {said}; {}",
        loaded_modules(host).join(", "),
        who_has_it_open(host)
    );
}

/// Loads the driver, and checks its version. Another version goes first: while a driver is
/// installed, `nvidia-smi` of a monitoring program loads the one that is still there
/// (`nvidia-modprobe`).
///
/// # Errors
/// Why it is not loaded, or which version is loaded instead.
pub(super) fn load(host: &Host, version: Option<&str>) -> anyhow::Result<()> {
    let present = loaded_driver(host)?.and_then(|driver| driver.version);
    if present.is_some() && present.as_deref() != version {
        unload(host)?;
    }
    modprobe(host, &[MODULE]).map_err(|error| {
        anyhow!("{error:#}; 'journalctl -k -g NVRM' shows the driver's messages")
    })?;
    // Newer drivers have it in the module above.
    let _ = modprobe(host, &[VGPU_MODULE]);
    let Some(loaded) = loaded_driver(host)? else {
        bail!(
            "modprobe says that it has loaded {MODULE}, and it is not there; 'journalctl -k -g \
             NVRM' shows its messages"
        );
    };
    match (version, &loaded.version) {
        (Some(wanted), Some(version)) if wanted != version => bail!(
            "the driver that was loaded has version {version}, not {wanted}: another one is \
             installed beside it; 'modinfo {MODULE}' shows which"
        ),
        _ => Ok(()),
    }
}

/// Whether modules can be loaded and unloaded.
pub(super) fn has_modprobe(host: &Host) -> bool {
    host.exists(MODPROBE)
}

fn modprobe(host: &Host, arguments: &[&str]) -> anyhow::Result<()> {
    let shown = arguments.join(" ");
    let ended = host
        .run_program(MODPROBE, arguments, Deadline::after(PATIENCE))
        .with_context(|| format!("cannot run 'modprobe {shown}'"))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = ended.in_one_line();
    bail!("'modprobe {shown}' failed ({}): {said}", ended.status);
}
