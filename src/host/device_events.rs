//! Events of devices that come, go, or change their driver, as udev passes them on from the
//! kernel once its rules have run. It says only that something has happened: whoever listens
//! looks at sysfs.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    thread::{self, JoinHandle},
};

use libudev::{MonitorBuilder, MonitorSocket};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::fault;

/// Devices of these subsystems can be in pools.
const SUBSYSTEMS: [&str; 2] = ["pci", "mdev"];

/// What the listener is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceNews {
    /// Devices have come, gone, or changed; or events were lost, so any may have.
    Changed,
    /// No event comes any more.
    Deaf {
        /// Why.
        why: String,
    },
}

/// A thread that waits for events, until this is dropped.
#[derive(Debug)]
pub struct DeviceEvents {
    thread: Option<JoinHandle<()>>,
    /// The thread ends when the other end is closed.
    stop: Option<UnixStream>,
}

impl DeviceEvents {
    /// Calls `tell` in a thread of its own after events, once for those that have come
    /// meanwhile. The thread ends when `tell` returns false, too. What has come before this
    /// is dropped is still told.
    ///
    /// # Errors
    /// When the kernel's events cannot be received, or there is no thread for it.
    pub fn listen(tell: impl Fn(DeviceNews) -> bool + Send + 'static) -> io::Result<Self> {
        fault::before("listen", "udev")?;
        let mut monitor = MonitorBuilder::new()?;
        for subsystem in SUBSYSTEMS {
            monitor = monitor.match_subsystem(subsystem)?;
        }
        let socket = monitor.listen()?;
        fault::after("listen", "udev");
        let (stop, stopped) = UnixStream::pair()?;
        let thread = thread::Builder::new()
            .name("devices".to_owned())
            .spawn(move || pass_on(&socket, &stopped, tell))?;
        Ok(Self {
            thread: Some(thread),
            stop: Some(stop),
        })
    }
}

impl Drop for DeviceEvents {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has panicked; nothing is left to be done for it.
            let _ = thread.join();
        }
    }
}

fn pass_on(socket: &MonitorSocket, stopped: &UnixStream, tell: impl Fn(DeviceNews) -> bool) {
    /// One damaged message is none of ours; so many in a row are a socket that is broken.
    const FAILURES: u32 = 16;
    let mut failures = 0;
    loop {
        let (is_stopped, taken) = match wait(socket, stopped) {
            Ok(is_stopped) => (is_stopped, take(socket)),
            Err(errno) => (false, Err(errno)),
        };
        failures = if taken.is_err() { failures + 1 } else { 0 };
        let news = match taken {
            Err(errno) if failures == FAILURES => {
                let why = errno.desc().to_owned();
                tell(DeviceNews::Deaf { why });
                return;
            }
            Ok(false) => None,
            Ok(true) | Err(_) => Some(DeviceNews::Changed),
        };
        if news.is_some_and(|news| !tell(news)) || is_stopped {
            return;
        }
    }
}

/// Waits for a message, or the end; whether it is the end.
fn wait(socket: &MonitorSocket, stopped: &UnixStream) -> Result<bool, Errno> {
    let mut ready = [
        PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut ready, PollTimeout::NONE) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    let [socket, stopped] = ready.map(|one| one.revents().unwrap_or(PollFlags::empty()));
    // The kernel tells of lost messages by POLLERR (`netlink_overrun`).
    if !socket.is_empty() && !socket.intersects(PollFlags::POLLIN | PollFlags::POLLERR) {
        return Err(Errno::EBADF);
    }
    Ok(!stopped.is_empty())
}

/// Takes the messages that are there; whether there was any, or some were lost.
fn take(socket: &MonitorSocket) -> Result<bool, Errno> {
    /// A flood of events is told of in between.
    const AT_ONCE: usize = 1000;
    let mut heard = false;
    for _ in 0..AT_ONCE {
        Errno::clear();
        if socket.iter().next().is_some() {
            heard = true;
            continue;
        }
        // `udev_monitor_receive_device` leaves the reason there, and the crate keeps it.
        match Errno::last() {
            Errno::EINTR => {}
            // Nothing is left; or a message that is not root's was left out.
            Errno::EAGAIN | Errno::UnknownErrno => break,
            Errno::ENOBUFS => heard = true,
            errno => return Err(errno),
        }
    }
    Ok(heard)
}
