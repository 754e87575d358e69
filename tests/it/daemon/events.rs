//! libvirt's events, and the calls of a daemon that reacts to them, against a real
//! libvirt. `host::libvirt::raw` tests everything that needs no daemon.

use std::{
    fs,
    path::Path,
    sync::{
        LazyLock, OnceLock,
        mpsc::{Receiver, RecvError, channel},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use virt_vgpu::{
    domain::{NAMESPACE, SetMetadata},
    host::libvirt::{
        CloseReason, Domain, Event, EventLoop, Libvirt, LibvirtError, Lifecycle, Subscription,
    },
    model::DomainUuid,
};

use crate::support::libvirtd::Libvirtd;

static LIBVIRTD: LazyLock<Libvirtd> = LazyLock::new(Libvirtd::start);

/// Far longer than any event takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A daemon's other inputs, and how events are combined with them.
#[derive(Debug, PartialEq)]
struct Input(Event);

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Self(event)
    }
}

/// A connection, after the event loop of the process was started.
fn connect(daemon: &Libvirtd) -> Libvirt {
    static LOOP: OnceLock<EventLoop> = OnceLock::new();
    LOOP.get_or_init(|| {
        let (sink, _) = channel::<Event>();
        EventLoop::start(Duration::from_secs(1_000_000), sink).unwrap()
    });
    Libvirt::open(&daemon.uri).unwrap()
}

fn subscribe(libvirt: &Libvirt) -> (Subscription, Receiver<Input>) {
    let (sink, inputs) = channel();
    (libvirt.subscribe(sink).unwrap(), inputs)
}

fn uuid(number: u8) -> DomainUuid {
    format!("eeeeeeee-0000-4000-8000-0000000000{number:02}")
        .parse()
        .unwrap()
}

fn xml(number: u8) -> String {
    format!(
        "<domain type='qemu'><name>ev{number}</name><uuid>{}</uuid>\
         <memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os></domain>",
        uuid(number)
    )
}

fn find(libvirt: &Libvirt, number: u8) -> Domain {
    libvirt.domain_by_uuid(uuid(number)).unwrap().unwrap()
}

fn request() -> SetMetadata {
    SetMetadata {
        key: "vgpu".to_owned(),
        xml: "<devices><device name='gpu0' pool='cad'/></devices>".to_owned(),
    }
}

const REQUEST: &str = "<vgpu:device name=\"gpu0\" pool=\"cad\"/>";

/// A device that can be detached without help from the guest.
const TABLET: &str = "<input type='tablet' bus='usb'><alias name='ua-vgpu-gpu0'/></input>";

/// The next event of the domain. Events of other tests' domains, of pausing and of the
/// host's devices are skipped.
fn next(inputs: &Receiver<Input>, number: u8) -> Event {
    loop {
        let Input(event) = inputs.recv_timeout(PATIENCE).unwrap();
        let of = match &event {
            Event::Domain {
                what: Lifecycle::Other(_),
                ..
            } => continue,
            Event::Domain { uuid, .. }
            | Event::MetadataChanged { uuid, .. }
            | Event::DeviceRemoved { uuid, .. } => *uuid,
            Event::NodeDevice { .. } => continue,
            Event::Closed { .. } | Event::Tick => panic!("{event:?}"),
        };
        if of == uuid(number) {
            return event;
        }
    }
}

fn lifecycle(number: u8, what: Lifecycle) -> Event {
    let uuid = uuid(number);
    Event::Domain { uuid, what }
}

fn metadata(number: u8) -> Event {
    Event::MetadataChanged {
        uuid: uuid(number),
        namespace: Some(NAMESPACE.to_owned()),
    }
}

#[test]
fn what_is_done_to_a_domain_comes_as_events() {
    let libvirt = connect(&LIBVIRTD);
    let (subscription, inputs) = subscribe(&libvirt);
    LIBVIRTD.make("define", &xml(1));
    assert_eq!(next(&inputs, 1), lifecycle(1, Lifecycle::Defined));
    let domain = find(&libvirt, 1);
    domain.set_metadata(Some(&request())).unwrap();
    assert_eq!(next(&inputs, 1), metadata(1));
    domain.start().unwrap();
    assert_eq!(next(&inputs, 1), lifecycle(1, Lifecycle::Started));
    domain.attach_live(TABLET, "gpu0").unwrap();
    assert!(domain.live_xml().unwrap().contains("ua-vgpu-gpu0"));
    assert!(!domain.inactive_xml().unwrap().contains("ua-vgpu-gpu0"));
    domain.detach_live(TABLET, "gpu0").unwrap();
    let removed = Event::DeviceRemoved {
        uuid: uuid(1),
        alias: "ua-vgpu-gpu0".to_owned(),
    };
    assert_eq!(next(&inputs, 1), removed);
    assert!(!domain.live_xml().unwrap().contains("ua-vgpu-gpu0"));
    LIBVIRTD.virsh(&["destroy", "ev1"]);
    assert_eq!(next(&inputs, 1), lifecycle(1, Lifecycle::Stopped));
    LIBVIRTD.virsh(&["undefine", "ev1"]);
    assert_eq!(next(&inputs, 1), lifecycle(1, Lifecycle::Undefined));
    // Nothing holds the other end of the channel.
    drop(subscription);
    let left = inputs.iter().count();
    assert_eq!(inputs.recv(), Err(RecvError), "after {left}");
    assert!(libvirt.is_alive());
}

#[test]
fn a_connection_can_be_subscribed_to_again() {
    let libvirt = connect(&LIBVIRTD);
    let (first, _) = subscribe(&libvirt);
    let (sink, refused) = channel::<Event>();
    let error = libvirt.subscribe(sink).unwrap_err().to_string();
    let wanted = "cannot subscribe to libvirt's events: ";
    assert!(error.starts_with(wanted), "{error}");
    assert_eq!(refused.recv(), Err(RecvError));
    drop(first);
    let (_second, inputs) = subscribe(&libvirt);
    libvirt.create_transient(&xml(2)).unwrap();
    assert_eq!(next(&inputs, 2), lifecycle(2, Lifecycle::Started));
    LIBVIRTD.virsh(&["destroy", "ev2"]);
    assert_eq!(next(&inputs, 2), lifecycle(2, Lifecycle::Stopped));
}

#[test]
fn a_daemon_that_is_killed_closes_the_connection() {
    let daemon = Libvirtd::start();
    let libvirt = connect(&daemon);
    let (subscription, inputs) = subscribe(&libvirt);
    assert!(libvirt.is_alive());
    drop(daemon);
    let closed = Input(Event::Closed {
        reason: CloseReason::EndOfFile,
    });
    let not_of_a_device = |input: &Input| !matches!(input, Input(Event::NodeDevice { .. }));
    assert_eq!(inputs.iter().find(not_of_a_device), Some(closed));
    assert!(!libvirt.is_alive());
    let error = libvirt.domain_by_uuid(uuid(3)).unwrap_err();
    assert!(!error.is_gone() && !error.is_busy(), "{error}");
    drop(subscription);
    assert_eq!(inputs.recv(), Err(RecvError));
}

#[test]
fn a_daemon_that_hangs_closes_the_connection_that_watches_over_it() {
    let daemon = Libvirtd::start();
    let libvirt = connect(&daemon);
    let (_subscription, inputs) = subscribe(&libvirt);
    libvirt.set_keep_alive(Duration::from_millis(1), 1).unwrap();
    assert!(libvirt.domains().unwrap().is_empty());
    kill(libvirtd_of(&daemon), Signal::SIGSTOP).unwrap();
    // Without the watch this would wait forever.
    let error = libvirt.domains().unwrap_err();
    assert!(!libvirt.is_alive(), "{error}");
    let closed = Input(Event::Closed {
        reason: CloseReason::KeepAlive,
    });
    let not_of_a_device = |input: &Input| !matches!(input, Input(Event::NodeDevice { .. }));
    assert_eq!(inputs.iter().find(not_of_a_device), Some(closed));
    let elsewhere = Libvirt::open("test:///default").unwrap();
    let error = elsewhere.set_keep_alive(Duration::ZERO, 0).unwrap_err();
    let wanted = "cannot watch over the connection: ";
    assert!(error.to_string().starts_with(wanted), "{error}");
}

#[test]
fn a_domain_without_a_definition_goes_when_it_stops() {
    let libvirt = connect(&LIBVIRTD);
    assert!(libvirt.domain_by_uuid(uuid(4)).unwrap().is_none());
    let domain = libvirt.create_transient(&xml(4)).unwrap();
    assert_eq!(domain.uuid().unwrap(), uuid(4));
    assert!(!domain.is_persistent().unwrap());
    let names = || -> Vec<String> {
        let domains = libvirt.domains().unwrap();
        domains.iter().map(|one| one.name().unwrap()).collect()
    };
    assert!(names().contains(&"ev4".to_owned()), "{:?}", names());
    assert_eq!(find(&libvirt, 4).name().unwrap(), "ev4");
    domain.set_metadata_live(Some(&request())).unwrap();
    assert!(domain.live_xml().unwrap().contains(REQUEST));
    domain.set_metadata_live(None).unwrap();
    assert!(!domain.live_xml().unwrap().contains(REQUEST));
    LIBVIRTD.virsh(&["destroy", "ev4"]);
    assert!(libvirt.domain_by_uuid(uuid(4)).unwrap().is_none());
    for error in [
        domain.live_xml().unwrap_err(),
        domain.attach_live(TABLET, "gpu0").unwrap_err(),
        libvirt.domain("ev4").unwrap_err(),
    ] {
        assert!(error.is_gone() && !error.is_busy(), "{error}");
    }
    assert!(libvirt.is_alive());
}

#[test]
fn live_edits_of_a_stopped_domain_are_refused() {
    let libvirt = connect(&LIBVIRTD);
    LIBVIRTD.make("define", &xml(5));
    let domain = find(&libvirt, 5);
    let before = LIBVIRTD.definition("ev5");
    assert_eq!(domain.live_xml().unwrap(), domain.inactive_xml().unwrap());
    let metadata = domain.set_metadata_live(Some(&request()));
    for (result, what) in [
        (metadata, "write the domain's metadata"),
        (domain.attach_live(TABLET, "gpu0"), "plug in gpu0"),
        (domain.detach_live(TABLET, "gpu0"), "unplug gpu0"),
    ] {
        let error = result.unwrap_err();
        assert!(!error.is_gone() && !error.is_busy(), "{error}");
        let why = "Requested operation is not valid: domain is not running";
        assert_eq!(error.to_string(), format!("cannot {what}: {why}"));
    }
    assert_eq!(LIBVIRTD.definition("ev5"), before);
}

/// The QEMU of a domain, by the UUID in its command line.
fn qemu(number: u8) -> Pid {
    process_with(&uuid(number).to_string())
}

/// The daemon's process, from the pidfile next to its socket.
fn libvirtd_of(daemon: &Libvirtd) -> Pid {
    let (_, socket) = daemon.uri.split_once("socket=").unwrap();
    let file = Path::new(socket).with_file_name("libvirtd.pid");
    process_with(file.to_str().unwrap())
}

/// The process that has the argument.
fn process_with(wanted: &str) -> Pid {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.unwrap().file_name().to_str()?.parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut arguments = command.split(|byte| *byte == 0);
        arguments
            .any(|argument| argument == wanted.as_bytes())
            .then_some(Pid::from_raw(pid))
    });
    let pids: Vec<_> = pids.collect();
    assert_eq!(pids.len(), 1, "{pids:?}");
    pids[0]
}

/// Takes half a minute, as long as libvirt waits.
#[test]
fn a_domain_that_is_busy_is_told_from_one_that_refuses() {
    let libvirt = connect(&LIBVIRTD);
    let domain = libvirt.create_transient(&xml(6)).unwrap();
    let qemu = qemu(6);
    kill(qemu, Signal::SIGSTOP).unwrap();
    let error = thread::scope(|scope| {
        // Waits for QEMU, and keeps the domain locked meanwhile.
        let attached = scope.spawn(|| domain.attach_live(TABLET, "gpu0"));
        let other = connect(&LIBVIRTD);
        let other = find(&other, 6);
        let refused = || -> LibvirtError {
            loop {
                if let Err(error) = other.set_metadata_live(Some(&request())) {
                    return error;
                }
            }
        };
        let error = refused();
        kill(qemu, Signal::SIGCONT).unwrap();
        attached.join().unwrap().unwrap();
        error
    });
    assert!(error.is_busy() && !error.is_gone(), "{error}");
    LIBVIRTD.virsh(&["destroy", "ev6"]);
}

#[test]
fn a_process_has_one_event_loop() {
    let _libvirt = connect(&LIBVIRTD);
    let (sink, refused) = channel::<Event>();
    let error = EventLoop::start(PATIENCE, sink).unwrap_err();
    let wanted = "cannot start libvirt's event loop: it runs already";
    assert_eq!(error.to_string(), wanted);
    assert_eq!(refused.recv(), Err(RecvError));
}
