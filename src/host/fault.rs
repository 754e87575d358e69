//! Faults for tests, compiled in only with the feature `faults`: every effect
//! passes here before and after it is done, and the N-th can be made to fail
//! with an errno or to be the last thing the process ever does.
//!
//! `VIRT_VGPU_FAULT=kill:N` kills the process after effect N (from 1),
//! `VIRT_VGPU_FAULT=ERRNO:N` (a number) makes effect N fail instead, and
//! `VIRT_VGPU_FAULT_TRACE=FILE` lists the effects. `VIRT_VGPU_FAULT=child:N` kills the
//! child that writes attributes after its N-th write, before it can say so; with
//! `VIRT_VGPU_FAULT_ONCE=FILE`, which must not exist yet, that happens to one child only.
//! `VIRT_VGPU_FAULT_PAUSES=none` leaves pauses out.

#[cfg(not(feature = "faults"))]
use std::io;

/// To be called before an effect is carried out.
#[cfg(not(feature = "faults"))]
#[allow(
    clippy::unnecessary_wraps,
    reason = "same signature as with the feature"
)]
pub(super) fn before(_effect: &str, _path: impl AsRef<std::path::Path>) -> io::Result<()> {
    Ok(())
}

/// To be called after an effect was carried out.
#[cfg(not(feature = "faults"))]
pub(super) fn after(_effect: &str, _path: impl AsRef<std::path::Path>) {}

/// To be called by the child after each of its writes.
#[cfg(not(feature = "faults"))]
pub(super) fn after_write_of_child() {}

/// Whether pauses take their time.
#[cfg(not(feature = "faults"))]
pub(super) fn has_pauses() -> bool {
    true
}

#[cfg(feature = "faults")]
pub(super) use enabled::{after, after_write_of_child, before, has_pauses};

#[cfg(feature = "faults")]
mod enabled {
    use std::{
        io::{self, Write},
        path::Path,
        sync::atomic::{AtomicU32, Ordering},
    };

    use nix::sys::signal::{Signal, kill};

    static DONE: AtomicU32 = AtomicU32::new(0);

    fn order() -> Option<(String, u32)> {
        let order = std::env::var("VIRT_VGPU_FAULT").ok()?;
        let (what, number) = order.split_once(':')?;
        Some((what.to_owned(), number.parse().ok()?))
    }

    pub(in super::super) fn after_write_of_child() {
        let number = DONE.fetch_add(1, Ordering::SeqCst) + 1;
        if order() != Some(("child".to_owned(), number)) {
            return;
        }
        let once = std::env::var_os("VIRT_VGPU_FAULT_ONCE");
        if once.is_none_or(|file| std::fs::File::create_new(file).is_ok()) {
            let _ = kill(nix::unistd::getpid(), Signal::SIGKILL);
        }
    }

    pub(in super::super) fn before(_effect: &str, _path: impl AsRef<Path>) -> io::Result<()> {
        let number = DONE.load(Ordering::SeqCst) + 1;
        let ordered = order().filter(|(_, wanted)| *wanted == number);
        if let Some(errno) = ordered.and_then(|(what, _)| what.parse().ok()) {
            DONE.store(number, Ordering::SeqCst);
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok(())
    }

    pub(in super::super) fn has_pauses() -> bool {
        std::env::var_os("VIRT_VGPU_FAULT_PAUSES").is_none_or(|how| how != "none")
    }

    pub(in super::super) fn after(effect: &str, path: impl AsRef<Path>) {
        let number = DONE.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(trace) = std::env::var_os("VIRT_VGPU_FAULT_TRACE") {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(trace);
            if let Ok(mut file) = file {
                let _ = writeln!(file, "{number} {effect} {}", path.as_ref().display());
            }
        }
        if order() == Some(("kill".to_owned(), number)) {
            let _ = kill(nix::unistd::getpid(), Signal::SIGKILL);
        }
    }
}
