//! Carries out a plan's steps in order, checks each, and on the first failure
//! undoes what was done, last first. It knows steps, not devices, and reaches
//! the host only through [`Attributes`].

use std::io;

use crate::device::{
    Sysfs,
    step::{Attribute, Check, Step, Undo},
};

/// Writing access to attributes.
pub trait Attributes: Sysfs {
    /// Writes an attribute in one `write`, without creating or truncating.
    /// `undo` is what takes the write back should the driver answer only after
    /// the caller has stopped waiting.
    ///
    /// # Errors
    /// The driver's errno, `TimedOut` when it does not answer.
    fn write(&self, attribute: &Attribute, undo: Option<&Attribute>) -> io::Result<()>;
}

/// A step that failed, and what its undoing came to.
#[derive(Debug)]
pub struct Failure {
    /// Index of the step that failed.
    pub step: usize,
    /// What failed, with its path.
    pub cause: String,
    /// The same without what differs from device to device.
    pub reason: String,
    /// Whether another device might still do: the driver refused this one.
    pub refused_by_driver: bool,
    /// Steps whose effect could not be taken back, with the reason.
    pub left_behind: Vec<(usize, String)>,
}

/// Does all the steps or none.
///
/// # Errors
/// The first step that failed; see [`Failure::left_behind`] for what remains.
pub fn apply(steps: &[Step], host: &dyn Attributes) -> Result<(), Failure> {
    for (index, step) in steps.iter().enumerate() {
        if let Err(stop) = carry_out(step, host) {
            let first = if stop.ours { index + 1 } else { index };
            let left_behind = undo(&steps[..first], host);
            return Err(Failure {
                step: index,
                cause: stop.cause,
                reason: stop.reason,
                refused_by_driver: stop.refused_by_driver,
                left_behind,
            });
        }
    }
    Ok(())
}

/// Undoes steps, last first, and returns those that could not be undone.
fn undo(steps: &[Step], host: &dyn Attributes) -> Vec<(usize, String)> {
    let mut left_behind = Vec::new();
    for (index, step) in steps.iter().enumerate().rev() {
        if let Err(error) = take_back(&step.undo, host) {
            left_behind.push((index, error.to_string()));
        }
    }
    left_behind
}

/// Takes an effect back unless it is gone already, and makes sure it is
/// afterwards.
///
/// # Errors
/// The driver's errno, or that something is still there.
pub fn take_back(undo: &Undo, host: &dyn Attributes) -> io::Result<()> {
    let first_there = || undo.gone.iter().find(|path| host.exists(path));
    let Some(there) = first_there() else {
        return Ok(());
    };
    if !host.exists(&undo.whole) {
        return Err(io::Error::other(format!(
            "its driver is still busy with {there}"
        )));
    }
    let written = host.write(&undo.write, None);
    // A driver may have removed its device by itself in between: what counts is
    // that it is gone, not what the write said.
    let Some(there) = first_there() else {
        return Ok(());
    };
    written.map_err(|error| named(&undo.write.path, &error))?;
    let text = format!(
        "{there} is still there after writing to {}",
        undo.write.path
    );
    Err(io::Error::other(text))
}

struct Stop {
    cause: String,
    reason: String,
    /// Whether what is there now, if anything, is of our making.
    ours: bool,
    refused_by_driver: bool,
}

fn carry_out(step: &Step, host: &dyn Attributes) -> Result<(), Stop> {
    if let Some(there) = step.undo.gone.iter().find(|path| host.exists(path)) {
        let cause = format!("{there} is there already and is not ours");
        return Err(Stop {
            reason: cause.clone(),
            cause,
            ours: false,
            refused_by_driver: false,
        });
    }
    if let Err(error) = host.write(&step.write, Some(&step.undo.write)) {
        let exists = error.kind() == io::ErrorKind::AlreadyExists;
        // Errors of the driver's: its errno, or silence.
        let hangs = error.kind() == io::ErrorKind::TimedOut;
        let refused_by_driver = !exists
            && (hangs || error.raw_os_error().is_some())
            && error.kind() != io::ErrorKind::PermissionDenied;
        return Err(Stop {
            cause: create_failed(step, &error),
            reason: format!("create failed: {error}"),
            ours: !exists,
            refused_by_driver,
        });
    }
    for check in &step.checks {
        if let Err(cause) = holds(check, host) {
            let cause = format!("{}: {cause}", step.what);
            return Err(Stop {
                cause,
                reason: "what was created is not what was asked for".to_owned(),
                ours: true,
                refused_by_driver: true,
            });
        }
    }
    Ok(())
}

fn holds(check: &Check, host: &dyn Attributes) -> Result<(), String> {
    let Check::LinkPasses { path, component } = check;
    let target = host
        .read_link(path)
        .map_err(|error| named(path, &error).to_string())?;
    if target.rsplit('/').take(2).any(|part| part == component) {
        Ok(())
    } else {
        Err(format!("{path} points to {target}, not to {component}"))
    }
}

fn create_failed(step: &Step, error: &io::Error) -> String {
    format!("{}: {error}", step.write.path)
}

fn named(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}
