//! What systemd is told by a service of type `notify` (`sd_notify(3)`). Without
//! systemd nobody is told.

use sd_notify::NotifyState;

/// Everything is up.
pub fn tell_ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub fn tell_status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// All threads are alive (`WatchdogSec=`).
pub fn tell_alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(states: &[NotifyState<'_>]) {
    // Nobody who could be told is no reason to stop.
    let _ = sd_notify::notify(false, states);
}
