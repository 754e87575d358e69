//! The kernel's events of devices, without libvirt and in the daemon.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use virt_vgpu::host::{Deadline, DeviceEvents, DeviceNews};

use crate::support::{libvirtd::Libvirtd, uevents::Uevents};

/// Far longer than any event takes.
const PATIENCE: Duration = Duration::from_secs(60);

const BOARD: &str = "/devices/pci0000:3a/0000:3b:00.0";

/// Runs the test in a thread whose network namespace is its own.
fn apart(test: impl FnOnce(&Uevents) + Send) {
    thread::scope(|scope| {
        let run = || test(&Uevents::of_their_own());
        scope.spawn(run).join().unwrap();
    });
}

fn listen() -> (DeviceEvents, Receiver<DeviceNews>) {
    let (sink, news) = channel();
    let events = DeviceEvents::listen(move |heard| sink.send(heard).is_ok());
    (events.unwrap(), news)
}

/// What was told of messages that were all sent before: the end of the thread ends the
/// channel.
fn told(events: DeviceEvents, news: &Receiver<DeviceNews>) -> Vec<DeviceNews> {
    drop(events);
    let mut told: Vec<DeviceNews> = news.iter().collect();
    // How many are told at once is the scheduler's choice.
    told.dedup();
    told
}

#[test]
fn devices_that_pools_can_have_are_told_of_and_others_are_not() {
    apart(|uevents| {
        let changed = vec![DeviceNews::Changed];
        for (action, subsystem, wanted) in [
            ("add", "pci", &changed),
            ("remove", "pci", &changed),
            ("bind", "pci", &changed),
            ("unbind", "pci", &changed),
            ("change", "pci", &changed),
            ("add", "mdev", &changed),
            ("remove", "mdev", &changed),
            ("add", "net", &vec![]),
            ("remove", "block", &vec![]),
            ("bind", "usb", &vec![]),
        ] {
            let (events, news) = listen();
            uevents.send(action, subsystem, BOARD);
            assert_eq!(&told(events, &news), wanted, "{action} {subsystem}");
        }
    });
}

#[test]
fn an_event_is_told_while_nobody_asks() {
    apart(|uevents| {
        let (_events, news) = listen();
        for _ in 0..3 {
            uevents.send("add", "pci", BOARD);
            assert_eq!(news.recv_timeout(PATIENCE), Ok(DeviceNews::Changed));
        }
    });
}

#[test]
fn events_that_were_lost_count_as_a_change() {
    apart(|uevents| {
        let (sink, news) = channel();
        let (go, wait) = channel();
        let events = DeviceEvents::listen(move |heard| {
            let told = sink.send(heard).is_ok();
            // Meanwhile messages pile up until the kernel drops some.
            told && wait.recv().is_ok()
        });
        let events = events.unwrap();
        uevents.send("add", "pci", BOARD);
        assert_eq!(news.recv_timeout(PATIENCE), Ok(DeviceNews::Changed));
        // None of these is told of, only that some are lost.
        uevents.overrun();
        go.send(()).unwrap();
        assert_eq!(news.recv_timeout(PATIENCE), Ok(DeviceNews::Changed));
        drop(go);
        drop(events);
    });
}

#[test]
fn a_damaged_message_is_no_end() {
    apart(|uevents| {
        let (_events, news) = listen();
        for _ in 0..2 {
            uevents.send_raw(b"libudev\0");
            uevents.send("", "pci", "");
            uevents.send("add", "pci", BOARD);
            assert_eq!(news.recv_timeout(PATIENCE), Ok(DeviceNews::Changed));
            while news.try_recv().is_ok() {}
        }
    });
}

#[test]
fn a_listener_that_has_gone_ends_the_thread() {
    apart(|uevents| {
        let (events, news) = listen();
        drop(news);
        uevents.send("add", "pci", BOARD);
        // It would wait forever for a thread that goes on.
        drop(events);
    });
}

/// A host with a quarantined function, and a libvirt.
struct Fixture {
    root: TempDir,
    libvirt: Libvirtd,
}

impl Fixture {
    fn new() -> Self {
        let root = crate::support::root();
        let fixture = Self {
            root,
            libvirt: Libvirtd::start(),
        };
        fs::create_dir_all(fixture.path(FUNCTION)).unwrap();
        let note =
            r#"{"function": "0000:3b:00.4", "domain": null, "reason": "it hangs", "made": null}"#;
        fs::create_dir_all(fixture.path("run/virt-vgpu/quarantine")).unwrap();
        fs::write(fixture.path(QUARANTINED), note).unwrap();
        fixture
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// A daemon that is connected to libvirt, until `work` is done; with all that it says.
    fn with_daemon(&self, fault: Option<&str>, work: impl FnOnce()) -> String {
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_virt-vgpud"));
        daemon
            .args(["--connect", &self.libvirt.uri])
            .env("VIRT_VGPU_ROOT", self.root.path())
            .env("VIRT_VGPU_FAULT_TRACE", self.path("trace"))
            .env("RUST_LOG", "virt_vgpu=warn")
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(fault) = fault {
            daemon.env("VIRT_VGPU_FAULT", fault);
        }
        for file in [NOTES, "trace"] {
            let _ = fs::remove_file(self.path(file));
        }
        let mut daemon = daemon.spawn().unwrap();
        let is_connected = || {
            let notes = fs::read_to_string(self.path(NOTES)).unwrap_or_default();
            notes.contains("\"connected\": true")
        };
        let connected = Deadline::after(PATIENCE).wait_until(is_connected);
        if connected {
            work();
        }
        daemon.kill().unwrap();
        let said = daemon.wait_with_output().unwrap().stderr;
        let said = String::from_utf8(said).unwrap();
        assert!(connected, "{said}");
        said
    }
}

const FUNCTION: &str = "sys/bus/pci/devices/0000:3b:00.4";
const QUARANTINED: &str = "run/virt-vgpu/quarantine/0000:3b:00.4.json";
const NOTES: &str = "run/virt-vgpu/daemon.json";

/// libvirt is outside of the daemon's network namespace and hears nothing: what the daemon
/// learns of the host's devices is from the kernel.
#[test]
fn the_daemon_looks_at_the_quarantine_when_the_kernel_tells_of_a_device() {
    let fixture = Fixture::new();
    apart(|uevents| {
        let said = fixture.with_daemon(None, || {
            fs::remove_dir(fixture.path(FUNCTION)).unwrap();
            assert!(fixture.path(QUARANTINED).exists());
            uevents.send("remove", "pci", &format!("{BOARD}/0000:3b:00.4"));
            let is_over = || !fixture.path(QUARANTINED).exists();
            assert!(Deadline::after(PATIENCE).wait_until(is_over));
        });
        assert_eq!(said.matches("kernel's events").count(), 0, "{said}");
    });
}

#[cfg(feature = "faults")]
#[test]
fn a_daemon_that_does_not_hear_the_kernel_says_so_once_and_goes_on() {
    const EAFNOSUPPORT: i32 = 97;
    let fixture = Fixture::new();
    apart(|_| {
        // The first run makes directories.
        (0..2).for_each(|_| drop(fixture.with_daemon(None, || {})));
        let trace = fs::read_to_string(fixture.path("trace")).unwrap();
        let mut effects = trace.lines();
        let listens = effects.find_map(|line| line.strip_suffix(" listen udev"));
        let fault = format!("{EAFNOSUPPORT}:{}", listens.unwrap());
        let said = fixture.with_daemon(Some(&fault), || {});
        let wanted = "cannot listen to the kernel's events of devices: Address family not \
                      supported by protocol (os error 97); virt-vgpud notices devices that appear \
                      or disappear by libvirt's events alone";
        assert_eq!(said.matches(wanted).count(), 1, "{said}");
        assert_eq!(said.matches("events of devices").count(), 1, "{said}");
    });
}
