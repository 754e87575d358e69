//! Events of libvirt's test driver, which runs in the process. What it does not have is
//! tested against a daemon (`tests/it/daemon/events.rs`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvError, Sender, channel},
    },
    time::Duration,
};

use virt::{connect::Connect, domain::Domain, sys};

use super::*;

const URI: &str = "test:///default";
/// Far longer than any event takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// A period that no test sees the end of.
const NEVER: Duration = Duration::from_secs(1_000_000);

/// A process has one event loop, and the driver's domains are those of the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn into(sender: Sender<Event>) -> impl Fn(Event) + Send + Sync + 'static {
    move |event| drop(sender.send(event))
}

/// A connection whose events come out of the channel.
fn subscribed() -> (EventLoop, Connect, Subscription, Receiver<Event>) {
    let events = EventLoop::start(NEVER, |_| ()).unwrap();
    let connection = Connect::open(Some(URI)).unwrap();
    let (sender, receiver) = channel();
    let subscription = Subscription::new(&connection, into(sender)).unwrap();
    (events, connection, subscription, receiver)
}

fn xml(name: &str, number: u8) -> String {
    format!(
        "<domain type='test'><name>{name}</name>\
         <uuid>aaaaaaaa-0000-4000-8000-0000000000{number:02x}</uuid>\
         <memory unit='MiB'>8</memory><os><type>hvm</type></os></domain>"
    )
}

fn uuid(number: u8) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid[..4].fill(0xaa);
    (uuid[6], uuid[8], uuid[15]) = (0x40, 0x80, number);
    uuid
}

fn lifecycle(number: u8, what: Lifecycle) -> Event {
    let uuid = uuid(number);
    Event::Domain { uuid, what }
}

fn set_metadata(domain: &Domain, kind: u32, text: &str, key: Option<&str>, uri: Option<&str>) {
    let flags = sys::VIR_DOMAIN_AFFECT_CONFIG;
    let kind = i32::try_from(kind).unwrap();
    domain
        .set_metadata(kind, Some(text), key, uri, flags)
        .unwrap();
}

#[test]
fn a_domains_life_comes_as_events() {
    let _alone = alone();
    let (_events, connection, subscription, receiver) = subscribed();
    assert_eq!(subscription.without_node_devices(), None);
    let domain = connection.define_domain_xml(&xml("life", 1)).unwrap();
    let element = sys::VIR_DOMAIN_METADATA_ELEMENT;
    set_metadata(&domain, element, "<a/>", Some("t"), Some("urn:test"));
    set_metadata(&domain, sys::VIR_DOMAIN_METADATA_TITLE, "A", None, None);
    domain.create().unwrap();
    domain.suspend().unwrap();
    domain.destroy().unwrap();
    domain.undefine().unwrap();
    let metadata = |namespace: Option<&str>| Event::MetadataChanged {
        uuid: uuid(1),
        namespace: namespace.map(ToOwned::to_owned),
    };
    for wanted in [
        lifecycle(1, Lifecycle::Defined),
        metadata(Some("urn:test")),
        metadata(None),
        lifecycle(1, Lifecycle::Started),
        lifecycle(1, Lifecycle::Other(3)),
        lifecycle(1, Lifecycle::Stopped),
        lifecycle(1, Lifecycle::Undefined),
    ] {
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok(wanted));
    }
}

/// The test driver has Fibre Channel adapters, and makes their virtual ports.
#[test]
fn node_devices_come_and_go() {
    let _alone = alone();
    let (_events, connection, _subscription, receiver) = subscribed();
    let port = "<device><parent wwnn='2000000012341234' wwpn='1000000012341234'/>\
                <capability type='scsi_host'><capability type='fc_host'>\
                <wwnn>1000000023452345</wwnn><wwpn>2000000034563456</wwpn>\
                </capability></capability></device>";
    let device = connection.create_node_device_xml(port, 0).unwrap();
    let name = device.name().unwrap();
    device.destroy().unwrap();
    for what in [NodeDeviceChange::Created, NodeDeviceChange::Deleted] {
        let name = name.clone();
        let wanted = Event::NodeDevice { name, what };
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok(wanted));
    }
}

#[test]
fn nothing_comes_after_the_drop() {
    let _alone = alone();
    let (_events, connection, subscription, receiver) = subscribed();
    drop(subscription);
    // The next subscription is possible only when the first one is completely gone.
    let (sender, next) = channel();
    let subscription = Subscription::new(&connection, into(sender)).unwrap();
    drop(connection);
    let connection = Connect::open(Some(URI)).unwrap();
    let domain = connection.create_domain_xml(&xml("next", 2), 0).unwrap();
    domain.destroy().unwrap();
    for what in [Lifecycle::Started, Lifecycle::Stopped] {
        assert_eq!(next.recv_timeout(PATIENCE), Ok(lifecycle(2, what)));
    }
    // The channel has ended, and without an event.
    assert_eq!(receiver.recv(), Err(RecvError));
    drop(subscription);
    assert_eq!(next.recv(), Err(RecvError));
}

#[test]
fn a_connection_has_one_subscription() {
    let _alone = alone();
    let (_events, connection, _subscription, receiver) = subscribed();
    let (sender, refused) = channel();
    let error = Subscription::new(&connection, into(sender)).unwrap_err();
    assert!(error.message().contains("already tracked"), "{error}");
    assert_eq!(refused.recv(), Err(RecvError));
    // And keeps it.
    let domain = connection.create_domain_xml(&xml("one", 3), 0).unwrap();
    let started = lifecycle(3, Lifecycle::Started);
    assert_eq!(receiver.recv_timeout(PATIENCE), Ok(started));
    domain.destroy().unwrap();
}

#[test]
fn a_sink_that_panics_gets_the_next_event() {
    let _alone = alone();
    let _events = EventLoop::start(NEVER, |_| ()).unwrap();
    let connection = Connect::open(Some(URI)).unwrap();
    let (sender, receiver) = channel();
    let panics = move |event| {
        sender.send(event).unwrap();
        panic!("on purpose");
    };
    let _subscription = Subscription::new(&connection, panics).unwrap();
    let domain = connection.create_domain_xml(&xml("panic", 4), 0).unwrap();
    domain.destroy().unwrap();
    for what in [Lifecycle::Started, Lifecycle::Stopped] {
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok(lifecycle(4, what)));
    }
}

#[test]
fn the_loop_ticks_until_its_end() {
    let _alone = alone();
    for _ in 0..2 {
        let (sender, ticks) = channel();
        let events = EventLoop::start(Duration::from_millis(1), into(sender)).unwrap();
        for _ in 0..3 {
            assert_eq!(ticks.recv_timeout(PATIENCE), Ok(Event::Tick));
        }
        let second = EventLoop::start(NEVER, |_| ());
        assert_eq!(second.unwrap_err().to_string(), "it runs already");
        drop(events);
        // Those that were on their way, and then the end.
        assert!(ticks.iter().all(|event| event == Event::Tick));
    }
}

#[test]
fn a_loop_with_nothing_to_do_ends_at_once_and_without_a_tick() {
    let _alone = alone();
    let (sender, ticks) = channel();
    drop(EventLoop::start(NEVER, into(sender)).unwrap());
    assert_eq!(ticks.recv(), Err(RecvError));
}

#[test]
fn numbers_are_those_of_libvirts_headers() {
    let reasons = (-1..5).map(CloseReason::from_number);
    assert!(reasons.eq([
        CloseReason::Other(-1),
        CloseReason::Error,
        CloseReason::EndOfFile,
        CloseReason::KeepAlive,
        CloseReason::Client,
        CloseReason::Other(4),
    ]));
    let lifecycle = (0..7).map(|number| Lifecycle::from_numbers(number, 0));
    assert!(lifecycle.eq([
        Lifecycle::Defined,
        Lifecycle::Undefined,
        Lifecycle::Started,
        Lifecycle::Other(3),
        Lifecycle::Other(4),
        Lifecycle::Stopped,
        Lifecycle::Other(6),
    ]));
    let started = (0..6).map(|detail| Lifecycle::from_numbers(2, detail));
    assert!(started.eq([
        Lifecycle::Started,
        Lifecycle::Continued,
        Lifecycle::Continued,
        Lifecycle::Continued,
        Lifecycle::Started,
        Lifecycle::Started,
    ]));
    let devices = (0..4).map(NodeDeviceChange::from_number);
    let (created, deleted) = (NodeDeviceChange::Created, NodeDeviceChange::Deleted);
    assert!(devices.eq([Some(created), Some(deleted), None, None]));
}

/// The driver does not know the request, as a libvirt before 12.7.
#[test]
fn an_agent_that_cannot_be_asked_is_an_error() {
    let _alone = alone();
    let connection = Connect::open(Some(URI)).unwrap();
    let domain = connection.lookup_domain_by_name("test").unwrap();
    let refused = guest_devices(&domain).unwrap_err();
    assert!(!refused.message().is_empty());
}
