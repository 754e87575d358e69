//! The kernel's events of devices, without libvirt and in the daemon.

use std::{
    fs,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

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

/// libvirt is outside of the daemon's network namespace and hears nothing: what the daemon
/// learns of the host's devices is from the kernel.
#[test]
fn the_daemon_looks_at_the_quarantine_when_the_kernel_tells_of_a_device() {
    let libvirt = Libvirtd::start();
    let root = crate::support::root();
    let function = root.path().join("sys/bus/pci/devices/0000:3b:00.4");
    let quarantine = root.path().join("run/virt-vgpu/quarantine");
    let quarantined = quarantine.join("0000:3b:00.4.json");
    for directory in [&function, &quarantine] {
        fs::create_dir_all(directory).unwrap();
    }
    let note =
        r#"{"function": "0000:3b:00.4", "domain": null, "reason": "it hangs", "made": null}"#;
    fs::write(&quarantined, note).unwrap();
    let notes = root.path().join("run/virt-vgpu/daemon.json");
    let is_connected = || {
        let notes = fs::read_to_string(&notes).unwrap_or_default();
        notes.contains("\"connected\": true")
    };
    apart(|uevents| {
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_virt-vgpud"))
            .args(["--connect", &libvirt.uri])
            .env("VIRT_VGPU_ROOT", root.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let connected = Deadline::after(PATIENCE).wait_until(is_connected);
        fs::remove_dir(&function).unwrap();
        let was_quarantined = quarantined.exists();
        uevents.send("remove", "pci", &format!("{BOARD}/0000:3b:00.4"));
        let seen = Deadline::after(PATIENCE).wait_until(|| !quarantined.exists());
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        assert_eq!((connected, was_quarantined, seen), (true, true, true));
    });
}
