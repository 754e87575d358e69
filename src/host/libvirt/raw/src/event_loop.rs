//! libvirt's event loop: it reads what daemons send unasked, and has timers.

use std::{
    ffi::c_int,
    fmt, io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use virt::{error::Error, event, sys};

use crate::{
    callback::{self, Sink},
    event::Event,
};

/// Why there is no loop.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// libvirt has refused it.
    #[error("{}", .0.message())]
    Libvirt(#[source] Error),
    /// There is no thread for it.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// A process has one, and it runs.
    #[error("it runs already")]
    Running,
}

/// Whether the process has a loop that runs.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// The event loop in a thread of its own, until this is dropped. Between two events it
/// sleeps in the kernel.
pub struct EventLoop {
    end: Arc<AtomicBool>,
    /// What the timer's callback has a weak reference to.
    sink: Option<Arc<Sink>>,
    timer: Timer,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EventLoop").finish_non_exhaustive()
    }
}

impl EventLoop {
    /// Starts it. This must come before the first connection is opened: only those opened
    /// later have events. The sink gets a [`Event::Tick`] whenever the period, of whole
    /// milliseconds and at least one, is over.
    ///
    /// The sink is called by the loop's thread, as that of a
    /// [`Subscription`](crate::Subscription).
    ///
    /// # Errors
    /// When there is one, or it cannot be started.
    pub fn start(
        period: Duration,
        sink: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Self, LoopError> {
        register()?;
        let turn = Turn::take().ok_or(LoopError::Running)?;
        let sink: Arc<Sink> = Arc::new(sink);
        let timer = Timer::new(period, &sink).map_err(LoopError::Libvirt)?;
        let end = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&end);
        let thread = thread::Builder::new().name("libvirt-events".to_owned());
        let thread = thread.spawn(move || {
            let _turn = turn;
            // libvirt's own loop, of GLib, always succeeds; any other that does not would
            // spin here.
            while !seen.load(Ordering::Acquire) && event::event_run_default_impl().is_ok() {}
        });
        Ok(Self {
            end,
            sink: Some(sink),
            timer,
            thread: Some(thread.map_err(LoopError::Thread)?),
        })
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        // The timer that wakes it up is no tick.
        self.sink = None;
        self.end.store(true, Ordering::Release);
        self.timer.fire();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// libvirt wants that once a process.
fn register() -> Result<(), LoopError> {
    static REGISTERED: OnceLock<Result<(), Error>> = OnceLock::new();
    let registered = REGISTERED.get_or_init(event::event_register_default_impl);
    registered.clone().map_err(LoopError::Libvirt)
}

/// The right to be the process's loop. Two would take events from each other, and one that
/// waits for its turn could not be ended.
struct Turn;

impl Turn {
    fn take() -> Option<Self> {
        let running = RUNNING.swap(true, Ordering::AcqRel);
        (!running).then_some(Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        RUNNING.store(false, Ordering::Release);
    }
}

/// A timer of the loop.
struct Timer(c_int);

impl Timer {
    fn new(period: Duration, sink: &Arc<Sink>) -> Result<Self, Error> {
        let period = c_int::try_from(period.as_millis()).unwrap_or(c_int::MAX);
        let opaque = callback::opaque(sink);
        // SAFETY: The callback and free take what opaque() makes.
        let id = unsafe {
            sys::virEventAddTimeout(
                // 0 would be a timer that is always due.
                period.max(1),
                Some(callback::tick),
                opaque,
                Some(callback::free),
            )
        };
        callback::registered(id, opaque).map(Self)
    }

    /// Wakes the loop up.
    fn fire(&self) {
        // SAFETY: Of plain numbers; the timer is there until the drop.
        unsafe { sys::virEventUpdateTimeout(self.0, 0) };
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: Of plain numbers.
        unsafe { sys::virEventRemoveTimeout(self.0) };
    }
}
