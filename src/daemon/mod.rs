//! `virt-vgpud`: listens to libvirt and the kernel, and does automatically what
//! `virt-vgpu sync` and `virt-vgpu reconcile` do by hand. It keeps no important state: it
//! may be killed at any time, and checks everything after connecting to libvirt again. The
//! hook does not need it.
//!
//! libvirt's event loop has a thread of its own, which only passes events on, and so have
//! the claims and the kernel's events of devices. The main thread does all the work, in the
//! order of the events. Another thread connects, because libvirt does not answer while it
//! starts domains at boot.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use clap::Parser;

use crate::{
    claims, definition, events as journal,
    host::{
        Deadline, DeviceEvents, DeviceNews, Host, ProcessId, complain, directory_there,
        driver_child,
        libvirt::{Event, EventLoop, Libvirt, Subscription},
        since_boot, start_logging, tell_alive, tell_ready, tell_status, usage,
    },
};

mod agenda;
mod gpus;
mod guard;
mod keeper;
mod runs;

use agenda::Agenda;
use keeper::{Keeper, Lost};

/// Look after domains that ask for devices of pools.
///
/// Adds the placeholders that domains' metadata asks for as soon as the domains are
/// defined. Gives stopped domains another virtual function as soon as they could not
/// have theirs: it is taken, or its GPU is full. Frees what crashes leave behind. systemd runs it (virt-vgpud.service); 'virt-vgpu sync'
/// and 'virt-vgpu reconcile' do the same by hand.
#[derive(Debug, Parser)]
#[command(
    name = "virt-vgpud",
    version,
    max_term_width = 80,
    after_help = "Its log: journalctl -u virt-vgpud. Problems that it could not solve: virt-vgpu status."
)]
pub(crate) struct Arguments {
    /// Connect to this libvirt URI [default: qemu:///system].
    #[arg(short = 'c', long = "connect", value_name = "URI")]
    uri: Option<String>,

    /// Work on this directory as if it were the host's root.
    #[arg(long, env = Host::ROOT_VARIABLE, value_name = "DIR", default_value = "/", hide_env = true, hide_default_value = true, value_parser = directory_there())]
    root: PathBuf,
}

/// How often the event loop shows that it is alive, and how often failed work is tried
/// again. Less than half of `WatchdogSec=` of the unit.
const TICK: Duration = Duration::from_secs(60);

/// Events of the host come in bursts, one for each virtual function.
const SETTLE: Duration = Duration::from_millis(500);

/// A start writes its claim several times within moments; after the first time the daemon
/// waits this long before it looks.
const CLAIMS_SETTLE: Duration = Duration::from_millis(100);

/// The directories whose changes tell which functions are free.
const CLAIMS: &[&str] = &[claims::DIRECTORY, claims::QUARANTINE];

/// After this many unanswered questions, one per [`KEEP_ALIVE`], the connection counts
/// as lost. This takes less time than systemd's watchdog waits.
const KEEP_ALIVE_TIMES: u32 = 2;

/// The shortest time between two questions.
const KEEP_ALIVE: Duration = Duration::from_secs(40);

/// The first pause before looking for libvirt again; pauses grow up to [`TICK`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The pidfiles of libvirt's daemons (`virPidFileConstructPath`).
const PID_FILES: [&str; 2] = ["/run/libvirtd.pid", "/run/virtqemud.pid"];

/// Runs the daemon. It ends only with an error.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = driver_child::act_if_asked() {
        return code;
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(error),
    };
    let host = Host::new(arguments.root).that_outlives_drivers();
    start_logging(&host, "virt-vgpud");
    match run(&host, arguments.uri.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = journal::one_line(&error);
            tracing::error!("{line}");
            complain(&format!("virt-vgpud: {line}"));
            ExitCode::FAILURE
        }
    }
}

/// The messages to the main thread.
enum News {
    Event(Event),
    /// A claim or the quarantine has changed.
    Claims,
    /// Devices of the host have appeared, disappeared or changed, as the kernel says.
    Devices,
    /// A connection, or why there is none.
    Opened(Box<anyhow::Result<Connection>>),
}

type Connection = (Libvirt, Subscription);

impl From<Event> for News {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

fn run(host: &Host, uri: Option<&str>) -> anyhow::Result<()> {
    let (sink, news) = mpsc::channel();
    let _loop = EventLoop::start(TICK, sink.clone()).context("cannot listen to libvirt")?;
    let to_us = sink.clone();
    if let Err(error) = host.watch(CLAIMS, move || to_us.send(News::Claims).is_ok()) {
        tracing::warn!(
            "cannot watch the claims: {error}; devices that are plugged in or given back without an \
             event of libvirt are noticed later"
        );
    }
    let _devices = listen_to_devices(sink.clone());
    // There is work without libvirt too, and libvirt may take longer to start than
    // systemd waits.
    tell_ready("looking for libvirt");
    let mut keeper = Keeper::new(host);
    let mut pause = FIRST_PAUSE;
    let mut had_daemon = false;
    let mut said = String::new();
    loop {
        match open(uri, &sink, &news, &mut keeper) {
            Ok((libvirt, subscription)) => {
                had_daemon = daemon_runs(host);
                said.clear();
                say_connected(&libvirt, &subscription);
                let since = since_boot();
                serve(&mut keeper, &libvirt, &news);
                journal::log_libvirt("the connection to libvirt is lost; looking for it again");
                // If the connection is lost again and again, the pauses stay long.
                if since_boot().saturating_sub(since) > TICK {
                    pause = FIRST_PAUSE;
                }
            }
            Err(error) => {
                let line = journal::one_line(&error);
                if line != said {
                    tracing::warn!("{line}; trying again, at first often, later once a minute");
                    said = line;
                }
            }
        }
        // Events of the old connection are covered by the next scan.
        while news.try_recv().is_ok() {}
        wait(host, &mut keeper, &news, had_daemon, pause);
        pause = (pause * 2).min(TICK);
    }
}

/// Passes the kernel's events of devices on. libvirt's events say the same, where libvirt
/// has a driver for that and it works; the agenda makes one piece of work of both.
fn listen_to_devices(sink: Sender<News>) -> Option<DeviceEvents> {
    const SO: &str =
        "virt-vgpud notices devices that appear or disappear by libvirt's events alone";
    let heard = move |heard| match heard {
        DeviceNews::Changed => sink.send(News::Devices).is_ok(),
        DeviceNews::Deaf { why } => {
            tracing::warn!("the kernel's events of devices can no longer be received: {why}; {SO}");
            false
        }
    };
    match DeviceEvents::listen(heard) {
        Ok(events) => Some(events),
        Err(error) => {
            tracing::warn!("cannot listen to the kernel's events of devices: {error}; {SO}");
            None
        }
    }
}

/// Connects, however long that takes, and meanwhile does the work that needs no
/// libvirt.
fn open(
    uri: Option<&str>,
    sink: &Sender<News>,
    news: &Receiver<News>,
    keeper: &mut Keeper<'_>,
) -> anyhow::Result<Connection> {
    let (uri, sink) = (uri.map(ToOwned::to_owned), sink.clone());
    thread::Builder::new()
        .name("connect".to_owned())
        .spawn(move || {
            let opened = definition::open_served(uri.as_deref()).and_then(|libvirt| {
                if let Err(error) = libvirt.set_keep_alive(KEEP_ALIVE, KEEP_ALIVE_TIMES) {
                    tracing::warn!("{error}; a libvirt that hangs will not be noticed");
                }
                let subscription = libvirt.subscribe(sink.clone())?;
                Ok((libvirt, subscription))
            });
            // An error means that the main thread has ended.
            let _ = sink.send(News::Opened(Box::new(opened)));
        })
        .context("cannot connect to libvirt")?;
    loop {
        match news.recv() {
            Ok(News::Opened(opened)) => return *opened,
            Ok(News::Event(Event::Tick)) => {
                tell_alive();
                let mut agenda = Agenda::default();
                agenda.note(&Event::Tick);
                keeper.work_alone(&agenda);
            }
            // Early events of a new connection are covered by the scan.
            Ok(News::Event(_) | News::Claims | News::Devices) => {}
            Err(_) => return Err(anyhow!("the thread that connects to libvirt has died")),
        }
    }
}

fn say_connected(libvirt: &Libvirt, subscription: &Subscription) {
    journal::log_libvirt(&format!("connected to {}", libvirt.uri()));
    if let Some(why) = subscription.without_node_devices() {
        tracing::warn!("libvirt reports no devices of the host: {why}");
    }
}

/// Works until the connection is lost.
fn serve(keeper: &mut Keeper<'_>, libvirt: &Libvirt, news: &Receiver<News>) {
    tell_status("looking after domains");
    if keeper.connected(libvirt) == Err(Lost) {
        return;
    }
    let mut agenda = Agenda::default();
    // The wait has a limit: on some hosts devices never stop changing.
    let mut rest_by = None;
    let mut claims_by: Option<Deadline> = None;
    loop {
        let claims = claims_by.map(|by| by.left());
        let host = agenda.host.then_some(SETTLE);
        let pauses = match host.or(claims) {
            Some(_) => [host, claims],
            None => [keeper.pause(), None],
        };
        let pause = pauses.into_iter().flatten().min();
        let next = match pause {
            Some(pause) => news.recv_timeout(pause),
            None => news.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let at_rest = match next {
            Ok(first) => {
                agenda.hear(&first);
                while let Ok(more) = news.try_recv() {
                    agenda.hear(&more);
                }
                false
            }
            Err(RecvTimeoutError::Timeout) => {
                agenda.plug |= !agenda.host && !agenda.claims;
                pause >= host
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if agenda.tick {
            tell_alive();
        }
        if agenda.closed {
            return;
        }
        let mut later = Agenda::default();
        if agenda.host {
            const REST: Duration = Duration::from_secs(5);
            let deadline = *rest_by.get_or_insert_with(|| Deadline::after(REST));
            if !at_rest && !deadline.has_passed() {
                later.host = std::mem::take(&mut agenda.host);
            } else {
                rest_by = None;
            }
        }
        if agenda.claims {
            let deadline = *claims_by.get_or_insert_with(|| Deadline::after(CLAIMS_SETTLE));
            if deadline.has_passed() {
                claims_by = None;
            } else {
                later.claims = std::mem::take(&mut agenda.claims);
            }
        }
        if !agenda.is_empty() && keeper.work(libvirt, &agenda) == Err(Lost) {
            return;
        }
        agenda = later;
    }
}

/// Waits until it is time to look for libvirt again. If a daemon of this host ran
/// before, waits until it runs again: a connection would start a daemon that the
/// administrator has stopped.
fn wait(
    host: &Host,
    keeper: &mut Keeper<'_>,
    news: &Receiver<News>,
    had_daemon: bool,
    mut pause: Duration,
) {
    tell_status("waiting for libvirt");
    keeper.work_alone(&Agenda::default());
    let mut deadline = Deadline::after(pause);
    loop {
        let mut agenda = Agenda::default();
        match news.recv_timeout(deadline.left()) {
            Ok(heard) => agenda.hear(&heard),
            Err(_) if !had_daemon || daemon_runs(host) => return,
            Err(_) => {
                // A domain that has just ended can be recognised only for a short time.
                keeper.reconcile();
                pause = (pause * 2).min(TICK);
                deadline = Deadline::after(pause);
            }
        }
        if agenda.tick {
            tell_alive();
        }
        keeper.work_alone(&agenda);
    }
}

impl Agenda {
    /// Records a message while the main thread waits for libvirt.
    fn hear(&mut self, news: &News) {
        match news {
            News::Event(event) => self.note(event),
            News::Claims => self.claims = true,
            News::Devices => self.note_devices(),
            News::Opened(_) => {}
        }
    }
}

/// Whether one of libvirt's daemons runs on this host. An empty pidfile is read again
/// after a pause.
fn daemon_runs(host: &Host) -> bool {
    let pid = |path: &&str| -> Option<u32> { host.read_file(path).ok()?.trim().parse().ok() };
    let lives = |pid| !matches!(ProcessId::of(host, pid), Ok(None));
    PID_FILES.iter().filter_map(pid).any(lives)
}
