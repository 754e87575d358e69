//! `virt-vgpud`: listens to libvirt and does by itself what `virt-vgpu sync` and
//! `virt-vgpu reconcile` do by hand. It remembers nothing that matters: it may be
//! killed at any time, and looks at everything when it has found libvirt again.
//! The hook does without it.
//!
//! libvirt's event loop has a thread of its own, which does nothing but pass events
//! on; all work is done by the main thread, in their order.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::Duration,
};

use anyhow::Context;
use clap::Parser;

use crate::{
    definition, hook,
    host::{
        Deadline, Host, ProcessId, attribute_writer,
        libvirt::{Event, EventLoop, Libvirt, Subscription},
        start_logging, tell_alive, tell_ready, tell_status,
    },
};

mod agenda;
mod guard;
mod keeper;
mod notes;

use agenda::Agenda;
use keeper::{Keeper, Lost};
pub(crate) use notes::Notes;

/// Look after domains that ask for devices of pools.
///
/// Writes the placeholders that domains' metadata asks for as soon as they are
/// defined, gives stopped domains another virtual function when theirs is taken,
/// and frees what crashes leave behind. systemd runs it (virt-vgpud.service);
/// 'virt-vgpu sync' and 'virt-vgpu reconcile' do the same by hand.
#[derive(Debug, Parser)]
#[command(
    name = "virt-vgpud",
    version,
    max_term_width = 80,
    after_help = "Its log: journalctl -u virt-vgpud. What it could not put right: virt-vgpu status."
)]
pub(crate) struct Arguments {
    /// Connect to this libvirt URI [default: qemu:///system].
    #[arg(short = 'c', long = "connect", value_name = "URI")]
    uri: Option<String>,

    /// Work on this directory as if it were the host's root.
    #[arg(long, env = Host::ROOT_VARIABLE, value_name = "DIR", default_value = "/", hide_env = true, hide_default_value = true)]
    root: PathBuf,
}

/// How often the event loop shows that it lives, and what could not be done at once
/// is tried again. Below half of `WatchdogSec=` of the unit.
const TICK: Duration = Duration::from_secs(60);

/// Events of the host come in swarms, one a virtual function.
const SETTLE: Duration = Duration::from_millis(500);

/// libvirt is looked for again after this long at first, and after [`TICK`] at last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Where libvirt's daemons note that they run (`virPidFileConstructPath`).
const PID_FILES: [&str; 2] = ["/run/libvirtd.pid", "/run/virtqemud.pid"];

/// Runs the daemon. It ends only with an error.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = attribute_writer::act_if_asked() {
        return code;
    }
    let arguments = Arguments::parse();
    let host = Host::new(arguments.root);
    start_logging(&host, "virt-vgpud");
    match run(&host, arguments.uri.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = hook::one_line(&error);
            tracing::error!("{line}");
            eprintln!("virt-vgpud: {line}");
            ExitCode::FAILURE
        }
    }
}

fn run(host: &Host, uri: Option<&str>) -> anyhow::Result<()> {
    let (sink, events) = mpsc::channel();
    let _loop = EventLoop::start(TICK, sink.clone()).context("cannot listen to libvirt")?;
    let mut keeper = Keeper::new(host);
    let mut pause = FIRST_PAUSE;
    let mut had_daemon = false;
    loop {
        let opened = definition::open_served(uri);
        let opened = opened.and_then(|libvirt| {
            let subscription = libvirt.subscribe(sink.clone())?;
            Ok((libvirt, subscription))
        });
        match opened {
            Ok((libvirt, subscription)) => {
                pause = FIRST_PAUSE;
                had_daemon = daemon_runs(host);
                say_connected(&libvirt, &subscription);
                serve(&mut keeper, &libvirt, &events);
                hook::log_libvirt("the connection to libvirt is lost; looking for it again");
            }
            Err(error) => {
                tracing::warn!("{}; trying again", hook::one_line(&error));
            }
        }
        tell_ready("waiting for libvirt");
        // What was told by the connection that is gone is found by the next scan.
        while events.try_recv().is_ok() {}
        wait(host, &mut keeper, &events, had_daemon, pause);
        pause = (pause * 2).min(TICK);
    }
}

fn say_connected(libvirt: &Libvirt, subscription: &Subscription) {
    hook::log_libvirt(&format!("connected to {}", libvirt.uri()));
    if let Some(why) = subscription.without_node_devices() {
        tracing::warn!("libvirt tells nothing of the host's devices: {why}");
    }
}

/// Works until the connection is lost.
fn serve(keeper: &mut Keeper<'_>, libvirt: &Libvirt, events: &Receiver<Event>) {
    // To look at all of many domains may take longer than systemd waits for a start.
    tell_ready("looking after domains");
    if keeper.scan(libvirt) == Err(Lost) {
        return;
    }
    let mut agenda = Agenda::default();
    // A host whose devices never come to rest must not be waited for for ever.
    let mut rest_by = None;
    loop {
        let next = if agenda.host {
            events.recv_timeout(SETTLE)
        } else {
            events.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        let at_rest = match next {
            Ok(event) => {
                agenda.note(&event);
                while let Ok(event) = events.try_recv() {
                    agenda.note(&event);
                }
                false
            }
            Err(RecvTimeoutError::Timeout) => true,
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
        if !agenda.is_empty() && keeper.work(libvirt, &agenda) == Err(Lost) {
            return;
        }
        agenda = later;
    }
}

/// Waits until it is time to look for libvirt again. Where a daemon of this host was
/// there before, not before one is again: a connection would start it, which is for
/// the administrator to do who has stopped it.
fn wait(
    host: &Host,
    keeper: &mut Keeper<'_>,
    events: &Receiver<Event>,
    had_daemon: bool,
    mut pause: Duration,
) {
    tell_status("waiting for libvirt");
    keeper.work_alone(&Agenda::default());
    let mut deadline = Deadline::after(pause);
    loop {
        let mut agenda = Agenda::default();
        match events.recv_timeout(deadline.left()) {
            Ok(event) => agenda.note(&event),
            Err(_) if !had_daemon || daemon_runs(host) => return,
            Err(_) => {
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

/// Whether one of libvirt's daemons runs on this host.
fn daemon_runs(host: &Host) -> bool {
    let lives = |path: &str| {
        let pid = host.read_file(path).ok()?.trim().parse().ok()?;
        ProcessId::of(host, pid)
    };
    PID_FILES.iter().any(|path| lives(path).is_some())
}
