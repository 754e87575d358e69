//! The contract that both the twin and the kernel module fulfil. A subject is a host
//! with one GPU; lists of operations with expected answers, and random operations, run
//! on any subject. Nothing here implements a rule of the resource manager: the rules
//! are in the lists, as answers.

use nix::errno::Errno;

use crate::{
    boards::Board,
    model::{Framework, Switches, framework_of},
};

pub mod host;
mod library;
pub mod list;
pub mod op;
pub mod random;
pub mod sequence;
mod state;
mod twin;

pub use op::Op;
pub use state::comparable;
pub use twin::Twin;

/// Text of the answer, as read, or the errno.
pub type Answer = Result<String, Errno>;

/// Describes a subject, and so which operations make sense on it and what they answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// The GPU's table.
    pub board: &'static Board,
    /// The module's parameters.
    pub switches: Switches,
}

impl Setup {
    /// How vGPUs appear.
    pub fn framework(&self) -> Framework {
        framework_of(self.board, &self.switches)
    }

    /// vGPUs are made on virtual functions.
    pub fn is_sriov(&self) -> bool {
        self.board.vfs > 0
    }
}

/// A host with one GPU.
pub trait Subject {
    /// Its description.
    fn setup(&self) -> Setup;

    /// Does one operation.
    fn perform(&mut self, op: &Op) -> Answer;

    /// The state as NVML shows it, if the subject's commands go through NVML.
    fn library_state(&mut self) -> Option<Answer> {
        None
    }
}

/// Brings a subject into the state in which all sequences start: virtual functions
/// enabled, manager running, otherwise empty. Answers are ignored: leftovers show in
/// the state.
pub fn empty(subject: &mut dyn Subject) {
    let setup = subject.setup();
    for op in [
        Op::Client(false),
        Op::CloseAll,
        Op::PluginExit(0),
        Op::Init(3000),
        Op::Manager(true),
    ] {
        _ = subject.perform(&op);
    }
    let state = subject.perform(&Op::State).unwrap_or_default();
    for op in state::removal(&state) {
        _ = subject.perform(&op);
    }
    let control = |line: &str| Op::Control(line.to_owned());
    for line in ["hetero 0", "scheduler 1 0 0 0 0", "mig 0"] {
        _ = subject.perform(&control(line));
    }
    // Binding again removes the rest. It takes seconds on a host, so it is only done if
    // needed.
    if setup.is_sriov() && !is_empty(subject) {
        _ = subject.perform(&Op::Vfs(false));
        _ = subject.perform(&Op::Vfs(true));
    }
}

fn is_empty(subject: &mut dyn Subject) -> bool {
    let vfs = format!("vfs {}", subject.setup().board.vfs);
    let wanted = ["mig 0 0", "hetero 0", "scheduler 1 0 0 0 0", vfs.as_str()];
    let state = subject.perform(&Op::State).unwrap_or_default();
    let wedged = subject.perform(&Op::Wedged);
    wedged.is_ok_and(|wedged| wedged.is_empty())
        && wanted
            .iter()
            .all(|line| state.lines().any(|found| found == *line))
        && state::removal(&state).is_empty()
}
