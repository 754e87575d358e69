//! Tells when files of a directory are written or removed, by the kernel's inotify.

use std::{io, thread};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::Host;

/// What a file that is written under another name and renamed causes, and its removal.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_MOVED_TO.union(AddWatchFlags::IN_DELETE);

impl Host {
    /// Calls `tell` in a thread of its own after each change in one of the directories,
    /// which are created if they do not exist. A directory that was removed is created
    /// and watched again. The thread ends when `tell` returns false.
    ///
    /// # Errors
    /// When a directory cannot be created or watched.
    pub fn watch(
        &self,
        directories: &'static [&'static str],
        tell: impl Fn() -> bool + Send + 'static,
    ) -> io::Result<()> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let host = Self::new(self.path("/"));
        add(&host, &inotify, directories)?;
        let watch = move || {
            loop {
                let Ok(events) = inotify.read_events() else {
                    return;
                };
                let is_gone = |mask: AddWatchFlags| mask.contains(AddWatchFlags::IN_IGNORED);
                let is_lost = events.iter().any(|event| is_gone(event.mask));
                if is_lost && add(&host, &inotify, directories).is_err() {
                    return;
                }
                if !tell() {
                    return;
                }
            }
        };
        let started = thread::Builder::new().name("watch".to_owned()).spawn(watch);
        started.map(|_| ())
    }
}

/// Watches the directories; those that are watched already stay so.
fn add(host: &Host, inotify: &Inotify, directories: &[&str]) -> io::Result<()> {
    for directory in directories {
        host.make_directory(directory, 0o755)?;
        inotify.add_watch(&host.path(directory), CHANGES)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::mpsc::{RecvTimeoutError, channel},
        time::Duration,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_file_that_is_replaced_or_removed_is_told_and_so_is_a_new_directory() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let (sink, told) = channel();
        host.watch(&["/run/a", "/run/b"], move || sink.send(()).is_ok())
            .unwrap();
        let is_told = || {
            told.recv_timeout(PATIENCE).unwrap();
            // Both directories, and all events of one change.
            while told.try_recv().is_ok() {}
        };
        host.replace_file("/run/a/one", b"1", 0o644).unwrap();
        is_told();
        host.replace_file("/run/b/two", b"2", 0o644).unwrap();
        is_told();
        host.remove_file("/run/b/two").unwrap();
        is_told();
        fs::remove_dir_all(host.path("/run/a")).unwrap();
        is_told();
        let is_back = || host.path("/run/a").is_dir();
        assert!(super::super::Deadline::after(PATIENCE).wait_until(is_back));
        // The directory may be there a moment before it is watched.
        let again = || {
            host.replace_file("/run/a/one", b"1", 0o644).unwrap();
            told.try_recv().is_ok()
        };
        assert!(super::super::Deadline::after(PATIENCE).wait_until(again));
    }

    #[test]
    fn nobody_is_told_of_a_directory_that_cannot_be_watched() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("run"), "").unwrap();
        let host = Host::new(root.path());
        let (sink, told) = channel();
        let watched = host.watch(&["/run/a"], move || sink.send(()).is_ok());
        assert!(watched.is_err());
        let none = told.recv_timeout(PATIENCE);
        assert_eq!(none, Err(RecvTimeoutError::Disconnected));
    }
}
