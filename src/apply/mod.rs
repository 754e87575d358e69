//! Carries out a plan's steps in order, checks each, and on the first failure undoes
//! the finished steps, last first. It knows steps, not devices, and reaches the host
//! only through [`Acts`].

use std::io;

use crate::device::{
    Sysfs, at, driver,
    nvml::{self, Question},
    optional, our_instances,
    step::{Act, Attribute, Check, Made, Setting, Step, Undo},
    vfio_nodes,
};

mod binding;

pub use binding::{NotTaken, State as BindingState, state as binding_state};

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
    /// Whether the function of a binding should not be tried again until it is repaired:
    /// its driver does not let it go, or it does not answer.
    pub is_unfit: bool,
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
                is_unfit: stop.is_unfit,
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
    match undo {
        Undo::Device(made) => take_away(made, host),
        Undo::Setting(setting) => set_free(setting, host),
        Undo::Bound(bound) => binding::bind_back(bound, host),
    }
}

/// The device's present setting; None when it is free, or when it has disappeared.
fn set_to(setting: &Setting, host: &dyn Acts) -> io::Result<Option<String>> {
    let text = optional(host.read(&setting.setting)).map_err(|e| at(&setting.setting, &e))?;
    Ok(text.filter(|text| *text != setting.free))
}

fn set_free(setting: &Setting, host: &dyn Acts) -> io::Result<()> {
    if set_to(setting, host)?.is_none() {
        return Ok(());
    }
    let write = &setting.write;
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

fn take_away(made: &Made, host: &dyn Acts) -> io::Result<()> {
    let first_there = || made.gone.iter().find(|path| host.exists(path));
    let Some(there) = first_there() else {
        return Ok(());
    };
    if !host.exists(&made.whole) {
        return Err(io::Error::other(format!(
            "its driver is still busy with {there}"
        )));
    }
    let write = &made.write;
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
    is_unfit: bool,
}

fn carry_out(step: &Step, host: &dyn Acts) -> Result<(), Stop> {
    if let Some(cause) = in_the_way(step, host) {
        return Err(Stop {
            reason: cause.clone(),
            cause,
            ours: false,
            refused_by_driver: false,
            timed_out: false,
            is_unfit: false,
        });
    }
    carry_out_act(step, host)?;
    for check in &step.checks {
        let found = otherwise(check, host).unwrap_or_else(|error| Some(error.to_string()));
        if let Some(cause) = found {
            let reason = match check {
                Check::LinkPasses { .. } | Check::Reads { .. } => {
                    "the created device is not the requested one".to_owned()
                }
                Check::Openable { .. } => "QEMU cannot open the created device".to_owned(),
                // It names the function, which may be another one of the group.
                Check::Bound { .. } | Check::Answers { .. } => cause.clone(),
            };
            let cause = format!("{}: {cause}", step.what);
            return Err(Stop {
                cause,
                reason,
                ours: true,
                refused_by_driver: true,
                timed_out: false,
                is_unfit: matches!(check, Check::Answers { .. }),
            });
        }
    }
    Ok(())
}

fn carry_out_act(step: &Step, host: &dyn Acts) -> Result<(), Stop> {
    match &step.act {
        Act::Write(attribute) => {
            let undo = step.undo.as_ref().and_then(Undo::write);
            let written = host.write(attribute, undo);
            written.map_err(|error| refused_write(step, attribute, &error, host))
        }
        Act::Bind(binding) => {
            let bound = binding::bind(binding, host);
            bound.map_err(|error| Stop {
                cause: format!("{}: {error}", step.what),
                reason: format!("it cannot be bound to the driver for VMs: {error}"),
                // Whatever was done of it is found and undone.
                ours: true,
                refused_by_driver: error.kind() != io::ErrorKind::NotFound,
                timed_out: error.kind() == io::ErrorKind::TimedOut,
                is_unfit: error.kind() == io::ErrorKind::TimedOut,
            })
        }
    }
}

fn refused_write(step: &Step, written: &Attribute, error: &io::Error, host: &dyn Acts) -> Stop {
    const EPERM: i32 = 1;
    let exists = error.kind() == io::ErrorKind::AlreadyExists;
    // Errors of the driver: its errno, or a timeout. NVIDIA's driver answers EPERM
    // for a function that has a type or is open.
    let hangs = error.kind() == io::ErrorKind::TimedOut;
    let is_busy =
        matches!(step.undo, Some(Undo::Setting(_))) && error.raw_os_error() == Some(EPERM);
    let refused_by_driver = !exists
        && (hangs || error.raw_os_error().is_some())
        && (is_busy || error.kind() != io::ErrorKind::PermissionDenied);
    // A device whose creation failed may exist in part. If the function was free
    // and now has the value that we wrote, we set it, whatever the driver answered.
    // Another value was set by somebody else.
    let ours = match &step.undo {
        Some(Undo::Device(_)) => !exists,
        Some(Undo::Setting(setting)) => hangs || may_be_set(setting, written, host),
        Some(Undo::Bound(_)) | None => false,
    };
    let verb = written.path.rsplit('/').next().unwrap_or_default();
    // A GPU instance that somebody has destroyed meanwhile; others of its profile may be there.
    let next = match verb == our_instances::ATTRIBUTE {
        true => {
            "; the GPU instance may have been destroyed: 'virt-vgpu host apply --all' makes those \
             that are missing"
        }
        false => "",
    };
    Stop {
        cause: format!("{}: {error}{next}", written.path),
        reason: format!("{verb} failed: {error}{next}"),
        ours,
        refused_by_driver,
        timed_out: hangs,
        is_unfit: false,
    }
}

/// Whether the value is the one that was written, or cannot be read.
fn may_be_set(setting: &Setting, written: &Attribute, host: &dyn Acts) -> bool {
    match set_to(setting, host) {
        Ok(Some(text)) => text == written.value.trim_end(),
        Ok(None) => false,
        Err(_) => true,
    }
}

/// A binding without an undo only keeps what was there when it was planned.
fn not_kept(act: &Act, host: &dyn Acts) -> Option<String> {
    let Act::Bind(binding) = act else { return None };
    let function = binding.function;
    match driver::of(host, function) {
        Ok(Some(now)) => {
            let is_same = now.bound == binding.driver && now.reserved == binding.driver_override;
            (!is_same).then(|| format!("{function} has another driver than a moment ago"))
        }
        // The binding itself says so.
        Ok(None) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// What already exists where the step would make something.
fn in_the_way(step: &Step, host: &dyn Acts) -> Option<String> {
    let Some(undo) = &step.undo else {
        return not_kept(&step.act, host);
    };
    match undo {
        Undo::Device(made) => {
            let there = made.gone.iter().find(|path| host.exists(path))?;
            Some(format!("{there} already exists and is not ours"))
        }
        Undo::Setting(setting) => match set_to(setting, host) {
            Ok(None) => None,
            Ok(Some(other)) => Some(format!(
                "{} already reads {other} and is not ours",
                setting.setting
            )),
            Err(error) => Some(error.to_string()),
        },
        Undo::Bound(bound) => match binding_state(bound, host) {
            Ok(BindingState::Free) => None,
            Ok(BindingState::Ours | BindingState::Foreign(_)) => Some(format!(
                "{} has another driver than a moment ago",
                bound.before.function
            )),
            Err(error) => Some(error.to_string()),
        },
    }
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
        Check::Bound { function, driver } => {
            let now = driver::bound(sysfs, *function)?;
            Ok((now.as_ref() != Some(driver)).then(|| match now {
                Some(now) => format!("{function} is bound to {now}, not to {driver}"),
                None => format!("{function} has no driver, not {driver}"),
            }))
        }
        Check::Answers { function } => {
            let answers = driver::answers(sysfs, *function)?;
            Ok((!answers).then(|| {
                format!(
                    "{function} does not answer: its configuration space reads as all ones; \
                     'journalctl -k' shows the kernel's messages"
                )
            }))
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
