//! Binds a PCI function to a driver, or gives it back to the driver that it had. Whatever
//! state an earlier try has left, it continues from there, so the same act completes a
//! binding that was interrupted.
//!
//! `driver_override` names one driver for one function. An id written to `new_id` would
//! take every function of that model, and stays.

use std::io;

use super::Acts;
use crate::{
    device::{
        PCI_DEVICES, Sysfs, at,
        driver::{self, PCI_DRIVERS, PROBE},
        step::{Attribute, Binding, Bound},
    },
    model::{DriverName, PciAddress},
};

/// What a function's driver is, compared with a binding of ours.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// As before the binding; or the function is gone.
    Free,
    /// Ours, in whole or in part.
    Ours,
    /// Another driver, which somebody else has bound.
    Foreign(DriverName),
}

/// All was done, and the driver has not taken the function.
#[derive(Debug, thiserror::Error)]
#[error("the driver {driver} does not take {function}; 'journalctl -k' shows its messages")]
pub struct NotTaken {
    driver: DriverName,
    function: PciAddress,
}

impl NotTaken {
    /// Whether the error is this one.
    #[must_use]
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// Compares the function's driver with a binding of ours.
///
/// # Errors
/// When sysfs cannot be read.
pub fn state(bound: &Bound, sysfs: &dyn Sysfs) -> io::Result<State> {
    let before = &bound.before;
    let Some(now) = driver::of(sysfs, before.function)? else {
        return Ok(State::Free);
    };
    Ok(match now.bound {
        driver if driver == before.driver && now.reserved == before.driver_override => State::Free,
        // As long as it is reserved for ours, nobody binds another driver: then the kernel did
        // before it was reserved.
        Some(other)
            if other != bound.bound_to
                && Some(&other) != before.driver.as_ref()
                && now.reserved.as_ref() != Some(&bound.bound_to) =>
        {
            State::Foreign(other)
        }
        _ => State::Ours,
    })
}

/// Gives the function back the driver that it had. If somebody else has bound it to another
/// one, there is nothing of ours to undo.
///
/// # Errors
/// As [`bind`].
pub(super) fn bind_back(bound: &Bound, host: &dyn Acts) -> io::Result<()> {
    match state(bound, host)? {
        State::Free | State::Foreign(_) => return Ok(()),
        State::Ours => {}
    }
    let mut before = bound.before.clone();
    // A driver that was removed meanwhile finds the function when it is loaded again.
    before.driver = before
        .driver
        .filter(|driver| driver::is_loaded(host, driver.as_str()));
    carry_out(&before, Late::Stays, host)
}

/// What becomes of an answer of a driver that comes too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    /// It is undone: nobody waits for the device any more.
    IsUndone,
    /// It stays: the function was to come back, and is back later.
    Stays,
}

/// A driver that was unbound may have the function again before the other one is reserved:
/// loading any module makes the kernel look for drivers. The second time it is reserved.
/// It is not reserved before the first time, because then a late unbind could not be taken
/// back by one write.
const TRIES: u32 = 2;

/// Gives the function the driver of the binding.
///
/// # Errors
/// The kernel's errno with the path; `NotFound` if the function, or the driver, is not
/// there; another error if the driver does not take the function.
pub(super) fn bind(binding: &Binding, host: &dyn Acts) -> io::Result<()> {
    carry_out(binding, Late::IsUndone, host)
}

fn carry_out(binding: &Binding, late: Late, host: &dyn Acts) -> io::Result<()> {
    let function = binding.function;
    let error = match bind_present(binding, late, host) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    if host.exists(&format!("{PCI_DEVICES}/{function}")) {
        return Err(error);
    }
    // The errors of its files say less.
    Err(not_found(&format!(
        "{function} is not there any more; 'journalctl -k' shows the kernel's messages"
    )))
}

fn bind_present(binding: &Binding, late: Late, host: &dyn Acts) -> io::Result<()> {
    let function = binding.function;
    let now = driver::of(host, function)?;
    let now = now.ok_or_else(|| not_found(&format!("there is no PCI function {function}")))?;
    if let Some(wanted) = &binding.driver {
        if !driver::is_loaded(host, wanted.as_str()) {
            return Err(not_found(&format!(
                "the driver {wanted} is not loaded; 'modprobe {wanted}' loads it"
            )));
        }
    }
    let (mut bound, mut reserved) = (now.bound, now.reserved);
    for _ in 0..TRIES {
        if bound == binding.driver {
            break;
        }
        if let Some(had) = &bound {
            let undo = (late == Late::IsUndone).then(|| rebinding(had, function));
            let let_go = write(host, unbinding(had, function), undo.as_ref());
            let_go.map_err(|error| not_let_go(had, function, error))?;
        }
        if let Some(wanted) = &binding.driver {
            reserve(host, function, &mut reserved, Some(wanted))?;
            let probe = Attribute {
                path: PROBE.to_owned(),
                value: function.to_string(),
            };
            let undo = (late == Late::IsUndone).then(|| unbinding(wanted, function));
            write(host, probe, undo.as_ref())?;
        }
        bound = driver::bound(host, function)?;
        if bound.is_none() {
            break;
        }
    }
    reserve(
        host,
        function,
        &mut reserved,
        binding.driver_override.as_ref(),
    )?;
    match (driver::bound(host, function)?, &binding.driver) {
        (now, wanted) if now == *wanted => Ok(()),
        (None, Some(wanted)) => Err(io::Error::other(NotTaken {
            driver: wanted.clone(),
            function,
        })),
        (Some(now), _) => Err(io::Error::other(format!(
            "{function} is bound to {now}, which was not asked for"
        ))),
        // An unwanted driver is the case above.
        (None, None) => Ok(()),
    }
}

fn reserve(
    host: &dyn Acts,
    function: PciAddress,
    now: &mut Option<DriverName>,
    wanted: Option<&DriverName>,
) -> io::Result<()> {
    if now.as_ref() == wanted {
        return Ok(());
    }
    let text = |name: Option<&DriverName>| Attribute {
        path: driver::override_attribute(function),
        // A line without a name reserves nothing (`driver_set_override`).
        value: name.map_or_else(|| "\n".to_owned(), ToString::to_string),
    };
    write(host, text(wanted), Some(&text(now.as_ref())))?;
    *now = wanted.cloned();
    Ok(())
}

fn write(host: &dyn Acts, attribute: Attribute, undo: Option<&Attribute>) -> io::Result<()> {
    // A timeout is recognised by its kind, which the path does not change.
    let written = host.write(&attribute, undo);
    written.map_err(|error| at(&attribute.path, &error))
}

fn unbinding(driver: &DriverName, function: PciAddress) -> Attribute {
    Attribute {
        path: format!("{PCI_DRIVERS}/{driver}/unbind"),
        value: function.to_string(),
    }
}

fn rebinding(driver: &DriverName, function: PciAddress) -> Attribute {
    Attribute {
        path: format!("{PCI_DRIVERS}/{driver}/bind"),
        value: function.to_string(),
    }
}

/// A driver waits, without an answer, until nobody uses its device any more.
fn not_let_go(driver: &DriverName, function: PciAddress, error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::TimedOut {
        return error;
    }
    let what =
        format!("{driver} does not let {function} go, so something on this host uses it: {error}");
    io::Error::new(io::ErrorKind::TimedOut, what)
}

fn not_found(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what)
}
