//! Carries out a plan's steps in order, checks each, and on the first failure undoes
//! the finished steps, last first. It knows steps, not devices, and reaches the host
//! only through [`Acts`].

use std::io;

use crate::device::{
    Sysfs, at,
    nvml::{self, Question},
    optional,
    step::{Attribute, Check, Effect, Made, Setting, Step, Undo},
    vfio_nodes,
};

/// The acts of steps on a host, each with the act that undoes it.
pub trait Acts: Sysfs {
    /// Writes an attribute in one `write`, without creating or truncating. If the
    /// driver answers only after the caller has stopped waiting, the write of `undo`
    /// reverses it.
    ///
    /// # Errors
    /// The driver's errno; `TimedOut` when it does not answer.
    fn write(&self, attribute: &Attribute, undo: Option<&Attribute>) -> io::Result<()>;

    /// Changes a GPU through NVML. If the driver answers only after the caller has stopped
    /// waiting, `undo` reverses the change.
    ///
    /// # Errors
    /// What NVML says, or that it says nothing.
    fn change_gpu(&self, change: &Question, undo: Option<&Question>) -> Result<(), nvml::Failure>;
}

/// A failed step, and the result of undoing.
#[derive(Debug)]
pub struct Failure {
    /// Index of the step that failed.
    pub step: usize,
    /// What failed, with its path.
    pub cause: String,
    /// The reason without the parts that differ between devices.
    pub reason: String,
    /// Whether another device may work: the driver refused this one.
    pub refused_by_driver: bool,
    /// Whether the driver did not answer.
    pub timed_out: bool,
    /// Steps that could not be undone, with the reason.
    pub left_behind: Vec<(usize, String)>,
}

/// Carries out all the steps or none.
///
/// # Errors
/// The first step that failed; [`Failure::left_behind`] lists what remains.
pub fn apply(steps: &[Step], host: &dyn Acts) -> Result<(), Failure> {
    for (index, step) in steps.iter().enumerate() {
        if let Err(stop) = carry_out(step, host) {
            let first = if stop.ours { index + 1 } else { index };
            let left_behind = undo(&steps[..first], host);
            return Err(Failure {
                step: index,
                cause: stop.cause,
                reason: stop.reason,
                refused_by_driver: stop.refused_by_driver,
                timed_out: stop.timed_out,
                left_behind,
            });
        }
    }
    Ok(())
}

/// Undoes steps, last first, and returns those that could not be undone.
fn undo(steps: &[Step], host: &dyn Acts) -> Vec<(usize, String)> {
    let mut left_behind = Vec::new();
    for (index, step) in steps.iter().enumerate().rev() {
        let Some(undo) = &step.undo else { continue };
        if let Err(error) = take_back(undo, host) {
            left_behind.push((index, error.to_string()));
        }
    }
    left_behind
}

/// Undoes an effect unless it is gone already, and checks that it is gone afterwards.
///
/// # Errors
/// The driver's errno, or a text that something is still there.
pub fn take_back(undo: &Undo, host: &dyn Acts) -> io::Result<()> {
    match &undo.effect {
        Effect::Device(made) => take_away(&undo.write, made, host),
        Effect::Setting(setting) => set_free(&undo.write, setting, host),
    }
}

/// The device's present setting; None when it is free, or when it has disappeared.
fn set_to(setting: &Setting, host: &dyn Acts) -> io::Result<Option<String>> {
    let text = optional(host.read(&setting.setting)).map_err(|e| at(&setting.setting, &e))?;
    Ok(text.filter(|text| *text != setting.free))
}

fn set_free(write: &Attribute, setting: &Setting, host: &dyn Acts) -> io::Result<()> {
    if set_to(setting, host)?.is_none() {
        return Ok(());
    }
    let written = host.write(write, None);
    // The present setting decides, not the result of the write.
    let Some(still) = set_to(setting, host)? else {
        return Ok(());
    };
    written.map_err(|error| at(&write.path, &error))?;
    let text = format!(
        "{} still reads {still} after writing to it",
        setting.setting
    );
    Err(io::Error::other(text))
}

fn take_away(write: &Attribute, made: &Made, host: &dyn Acts) -> io::Result<()> {
    let first_there = || made.gone.iter().find(|path| host.exists(path));
    let Some(there) = first_there() else {
        return Ok(());
    };
    if !host.exists(&made.whole) {
        return Err(io::Error::other(format!(
            "its driver is still busy with {there}"
        )));
    }
    let written = host.write(write, None);
    // A driver may have removed its device by itself in between. Whether it is gone
    // decides, not the result of the write.
    let Some(there) = first_there() else {
        return Ok(());
    };
    written.map_err(|error| at(&write.path, &error))?;
    let text = format!("{there} still exists after writing to {}", write.path);
    Err(io::Error::other(text))
}

struct Stop {
    cause: String,
    reason: String,
    /// Whether the step itself made what is there now.
    ours: bool,
    refused_by_driver: bool,
    timed_out: bool,
}

fn carry_out(step: &Step, host: &dyn Acts) -> Result<(), Stop> {
    const EPERM: i32 = 1;
    if let Some(cause) = in_the_way(step, host) {
        return Err(Stop {
            reason: cause.clone(),
            cause,
            ours: false,
            refused_by_driver: false,
            timed_out: false,
        });
    }
    let undo = step.undo.as_ref().map(|undo| &undo.write);
    if let Err(error) = host.write(&step.write, undo) {
        let exists = error.kind() == io::ErrorKind::AlreadyExists;
        // Errors of the driver: its errno, or a timeout. NVIDIA's driver answers EPERM
        // for a function that has a type or is open.
        let hangs = error.kind() == io::ErrorKind::TimedOut;
        let effect = step.undo.as_ref().map(|undo| &undo.effect);
        let is_busy =
            matches!(effect, Some(Effect::Setting(_))) && error.raw_os_error() == Some(EPERM);
        let refused_by_driver = !exists
            && (hangs || error.raw_os_error().is_some())
            && (is_busy || error.kind() != io::ErrorKind::PermissionDenied);
        // A device whose creation failed may exist in part. If the function was free
        // and now has the value that we wrote, we set it, whatever the driver answered.
        // Another value was set by somebody else.
        let ours = match effect {
            Some(Effect::Device(_)) => !exists,
            Some(Effect::Setting(setting)) => hangs || may_be_set(setting, &step.write, host),
            None => false,
        };
        return Err(Stop {
            cause: create_failed(step, &error),
            reason: format!("{} failed: {error}", verb(step)),
            ours,
            refused_by_driver,
            timed_out: hangs,
        });
    }
    for check in &step.checks {
        let found = otherwise(check, host).unwrap_or_else(|error| Some(error.to_string()));
        if let Some(cause) = found {
            let reason = match check {
                Check::LinkPasses { .. } | Check::Reads { .. } => {
                    "the created device is not the requested one"
                }
                Check::Openable { .. } => "QEMU cannot open the created device",
            };
            let cause = format!("{}: {cause}", step.what);
            return Err(Stop {
                cause,
                reason: reason.to_owned(),
                ours: true,
                refused_by_driver: true,
                timed_out: false,
            });
        }
    }
    Ok(())
}

/// Whether the value is the one that was written, or cannot be read.
fn may_be_set(setting: &Setting, written: &Attribute, host: &dyn Acts) -> bool {
    match set_to(setting, host) {
        Ok(Some(text)) => text == written.value.trim_end(),
        Ok(None) => false,
        Err(_) => true,
    }
}

/// What already exists where the step would make something.
fn in_the_way(step: &Step, host: &dyn Acts) -> Option<String> {
    match &step.undo.as_ref()?.effect {
        Effect::Device(made) => {
            let there = made.gone.iter().find(|path| host.exists(path))?;
            Some(format!("{there} already exists and is not ours"))
        }
        Effect::Setting(setting) => match set_to(setting, host) {
            Ok(None) => None,
            Ok(Some(other)) => Some(format!(
                "{} already reads {other} and is not ours",
                setting.setting
            )),
            Err(error) => Some(error.to_string()),
        },
    }
}

/// The verb for the step's write.
fn verb(step: &Step) -> &str {
    step.write.path.rsplit('/').next().unwrap_or_default()
}

/// What was found instead of what the check wants; None when the check holds.
///
/// # Errors
/// The kernel's errno with the path.
pub fn otherwise(check: &Check, sysfs: &dyn Sysfs) -> io::Result<Option<String>> {
    match check {
        Check::Reads { path, value } => {
            let text = sysfs.read(path).map_err(|error| at(path, &error))?;
            Ok((text != *value).then(|| format!("{path} reads '{text}', not '{value}'")))
        }
        Check::LinkPasses { path, component } => {
            let target = sysfs.read_link(path).map_err(|error| at(path, &error))?;
            let passes = target.rsplit('/').take(2).any(|part| part == component);
            Ok((!passes).then(|| format!("{path} points to {target}, not to {component}")))
        }
        Check::Openable { device } => why_not_openable(device, sysfs),
    }
}

/// Why QEMU could not open the device, if it could not. libvirt would say only that a
/// file is missing.
fn why_not_openable(device: &str, sysfs: &dyn Sysfs) -> io::Result<Option<String>> {
    if sysfs.exists(&format!("{device}/iommu_group")) {
        return Ok(None);
    }
    let nodes = vfio_nodes(sysfs, device)?;
    Ok(nodes.is_empty().then(|| {
        format!(
            "{device} has neither an iommu_group nor a vfio-dev, and QEMU must open one of them; \
             'journalctl -k' shows the messages of VFIO and the IOMMU"
        )
    }))
}

fn create_failed(step: &Step, error: &io::Error) -> String {
    format!("{}: {error}", step.write.path)
}
