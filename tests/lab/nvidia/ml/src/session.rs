//! Whether the library is initialised: the open device, and how often `nvmlInit` was called.

use std::{
    env,
    ffi::c_uint,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use lab_nvidia::{
    control::{self, Control, Device},
    socket::{self, Socket},
};
use nix::errno::Errno;

use crate::{
    code::{Answer, Code},
    gpu::Nvml,
};

/// From the first `nvmlInit` to the last `nvmlShutdown`.
pub struct Session {
    users: u32,
    control: Box<dyn Control + Send>,
}

#[cfg(not(test))]
fn with<R>(act: impl FnOnce(&mut Option<Session>) -> R) -> R {
    use std::sync::{Mutex, PoisonError};

    // The lock also keeps the commands and answers of two threads apart.
    static LIBRARY: Mutex<Option<Session>> = Mutex::new(None);
    act(&mut LIBRARY.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Tests share a process, and each needs its own library.
#[cfg(test)]
fn with<R>(act: impl FnOnce(&mut Option<Session>) -> R) -> R {
    use std::cell::RefCell;

    thread_local! {
        static LIBRARY: RefCell<Option<Session>> = const { RefCell::new(None) };
    }
    LIBRARY.with_borrow_mut(act)
}

/// Carries out a call that needs no initialised library. A panic must not reach C.
pub fn guarded(act: impl FnOnce() -> Answer) -> c_uint {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code.0,
        Err(_) => Code::UNKNOWN.0,
    }
}

/// Carries out a call.
pub fn answer(act: impl FnOnce(&mut Nvml<'_>) -> Answer) -> c_uint {
    guarded(|| {
        with(|session| match session {
            Some(session) => act(&mut Nvml::new(&mut *session.control)),
            None => Err(Code::UNINITIALIZED),
        })
    })
}

/// Opens the device, or counts one more user of it.
pub fn init() -> Answer {
    init_with(|| {
        open().map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENXIO | Errno::ENODEV => Code::DRIVER_NOT_LOADED,
            Errno::EPERM | Errno::EACCES => Code::NO_PERMISSION,
            _ => Code::UNKNOWN,
        })
    })
}

/// The device, or the socket that a test names instead.
fn open() -> Result<Box<dyn Control + Send>, Errno> {
    if let Some(path) = env::var_os(socket::VARIABLE) {
        return Ok(Box::new(Socket::connect(Path::new(&path))?));
    }
    Ok(Box::new(Device::open(Path::new(control::PATH))?))
}

/// Like [`init`], with another device.
pub fn init_with(open: impl FnOnce() -> Answer<Box<dyn Control + Send>>) -> Answer {
    with(|session| {
        match session {
            Some(session) => session.users += 1,
            None => {
                *session = Some(Session {
                    users: 1,
                    control: open()?,
                });
            }
        }
        Ok(())
    })
}

/// Removes one user; the last one closes the device.
pub fn shutdown() -> Answer {
    with(|session| {
        let open = session.as_mut().ok_or(Code::UNINITIALIZED)?;
        open.users -= 1;
        if open.users == 0 {
            *session = None;
        }
        Ok(())
    })
}
