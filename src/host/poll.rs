//! Waiting for another process to say something.

use std::{io, os::fd::AsFd, time::Duration};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::Deadline;

/// Waits until there is something to read, or the other end is closed; whether that
/// came before the deadline.
///
/// # Errors
/// What the kernel says of a file that cannot be waited for.
pub(super) fn wait_for_input(input: &impl AsFd, deadline: Deadline) -> io::Result<bool> {
    let mut ready = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    loop {
        // Rounded up: poll counts whole milliseconds.
        let span = deadline.left().saturating_add(Duration::from_millis(1));
        let timeout = PollTimeout::try_from(span).unwrap_or(PollTimeout::MAX);
        match poll(&mut ready, timeout) {
            Ok(0) if deadline.has_passed() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn what_is_said_and_the_end_are_seen_and_silence_ends_at_the_deadline() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let at_once = Deadline::after(Duration::ZERO);
        let later = Deadline::after(Duration::from_secs(60));
        assert!(!wait_for_input(&ours, at_once).unwrap());
        theirs.write_all(b"x").unwrap();
        assert!(wait_for_input(&ours, at_once).unwrap());
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(wait_for_input(&ours, later).unwrap());
    }
}
