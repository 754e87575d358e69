//! Sequences of operations with expected answers, and how one runs. A step is a line:
//! an operation, and after `=>` the answer, or after `~` a part of it.

use std::fmt;

use nix::errno::Errno;

use super::{Answer, Op, Setup, Subject, empty, library};
use crate::model::{Dialect, Framework};

/// Operations that belong together, on an empty GPU.
#[derive(Debug, Clone, Copy)]
pub struct Sequence {
    /// A description of what it shows.
    pub name: &'static str,
    /// The hosts that it is for.
    pub needs: Needs,
    /// The steps. `{L40S-24Q}` is the type's id. After `=>` comes an errno, `refused`
    /// (by the resource manager) or the text with ` | ` between lines; after `~` and
    /// `!~` comes a part of the text. Without any of these, the step must succeed.
    pub steps: &'static [&'static str],
}

/// The hosts of a sequence; empty or none: all.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Models.
    pub boards: &'static [&'static str],
    /// Frameworks.
    pub frameworks: &'static [Framework],
    /// Dialect.
    pub dialect: Option<Dialect>,
    /// The switch `mixed_series`.
    pub mixed_series: bool,
    /// The switch `fine_placements`.
    pub fine_placements: Option<bool>,
    /// The switch `rebind_again`.
    pub rebind_again: bool,
}

impl Needs {
    /// One of these boards, without switches that change what fits.
    pub const fn board(boards: &'static [&'static str]) -> Self {
        Self {
            boards,
            frameworks: &[],
            dialect: None,
            mixed_series: true,
            fine_placements: None,
            rebind_again: true,
        }
    }

    /// With this framework.
    pub const fn framework(mut self, frameworks: &'static [Framework]) -> Self {
        self.frameworks = frameworks;
        self
    }

    /// With this dialect.
    pub const fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = Some(dialect);
        self
    }

    /// With `fine_placements` like this.
    pub const fn fine_placements(mut self, on: bool) -> Self {
        self.fine_placements = Some(on);
        self
    }

    /// With `mixed_series=N`.
    pub const fn one_series(mut self) -> Self {
        self.mixed_series = false;
        self
    }

    /// With `rebind_again=N`.
    pub const fn bound_once(mut self) -> Self {
        self.rebind_again = false;
        self
    }

    /// Whether the sequence is for the host.
    pub fn fit(&self, setup: &Setup) -> bool {
        let any = |empty: bool, found: bool| empty || found;
        let switches = &setup.switches;
        any(
            self.boards.is_empty(),
            self.boards.contains(&setup.board.model.as_str()),
        ) && any(
            self.frameworks.is_empty(),
            self.frameworks.contains(&setup.framework()),
        ) && self
            .dialect
            .is_none_or(|dialect| dialect == switches.dialect)
            && self.mixed_series == switches.mixed_series
            && self.rebind_again == switches.rebind_again
            && self
                .fine_placements
                .is_none_or(|on| on == switches.fine_placements)
    }
}

/// What the answer to a step must be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    Success,
    Refused,
    Errno(Errno),
    Text(String),
    Contains(String),
    Lacks(String),
}

/// Errnos that lists name.
const ERRNOS: [Errno; 15] = [
    Errno::EACCES,
    Errno::EBADF,
    Errno::EBUSY,
    Errno::EEXIST,
    Errno::EINVAL,
    Errno::EIO,
    Errno::ENODEV,
    Errno::ENOENT,
    Errno::ENOSPC,
    Errno::ENXIO,
    Errno::EOPNOTSUPP,
    Errno::EPERM,
    Errno::ERANGE,
    Errno::E2BIG,
    Errno::EAGAIN,
];

fn errno(word: &str) -> Option<Errno> {
    let mut all = ERRNOS.into_iter();
    all.find(|errno| format!("{errno:?}") == word)
}

/// The errno with this name: for programs that print it.
pub(super) fn errno_named(word: &str) -> Errno {
    errno(word).unwrap_or(Errno::UnknownErrno)
}

/// An answer in one line.
fn one_line(answer: &Answer) -> String {
    match answer {
        Ok(text) => text.trim_end().replace('\n', " | "),
        Err(errno) => format!("{errno:?}"),
    }
}

impl Expected {
    fn parse(step: &str) -> Result<(Op, Self), String> {
        let split = |mark: &str| {
            let (op, rest) = step.split_once(mark)?;
            Some((op.to_owned(), rest.trim().to_owned()))
        };
        let (op, expected) = if let Some((op, rest)) = split(" => ") {
            let expected = match errno(&rest) {
                Some(errno) => Self::Errno(errno),
                None if rest == "refused" => Self::Refused,
                None if rest == "\"\"" => Self::Text(String::new()),
                None => Self::Text(rest),
            };
            (op, expected)
        } else if let Some((op, rest)) = split(" !~ ") {
            (op, Self::Lacks(rest))
        } else if let Some((op, rest)) = split(" ~ ") {
            (op, Self::Contains(rest))
        } else {
            (step.to_owned(), Self::Success)
        };
        Ok((op.parse()?, expected))
    }

    fn matches(&self, answer: &Answer, setup: &Setup) -> bool {
        let vendor_rfc =
            setup.framework() == Framework::VendorVfio && setup.switches.dialect == Dialect::Rfc;
        match (self, answer) {
            (Self::Success, answer) => answer.is_ok(),
            (Self::Refused, Err(errno)) if vendor_rfc => {
                matches!(errno, Errno::ENODEV | Errno::EINVAL | Errno::ENOSPC)
            }
            (Self::Refused, Err(errno)) => *errno == Errno::EIO,
            (Self::Errno(wanted), Err(errno)) => wanted == errno,
            (Self::Text(text), Ok(_)) => *text == one_line(answer),
            (Self::Contains(part), Ok(_)) => one_line(answer).contains(part.as_str()),
            (Self::Lacks(part), Ok(_)) => !one_line(answer).contains(part.as_str()),
            _ => false,
        }
    }
}

/// The step with type names replaced by ids.
fn with_ids(step: &str, setup: &Setup) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = step;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or_else(|| format!("'{step}'"))?;
        let mut types = setup.board.types.iter();
        let kind = types.find(|kind| kind.short_name() == name);
        let kind = kind.ok_or_else(|| format!("{} has no type {name}", setup.board.model))?;
        text.push_str(before);
        text.push_str(&kind.id.to_string());
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

/// A difference from the expected answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sequence}: {step}: {what}")]
pub struct Disagreement {
    /// The sequence or the seed.
    pub sequence: String,
    /// The step.
    pub step: String,
    /// The answer, and what was expected.
    pub what: String,
}

/// Performs an operation on both, and returns the other one's answer. A different
/// answer or state of the subject is a disagreement. A subject that uses NVML is
/// compared with what NVML can show.
///
/// # Errors
/// The difference.
pub fn agree(
    subject: &mut dyn Subject,
    other: &mut dyn Subject,
    op: &Op,
) -> Result<Answer, String> {
    let answer = subject.perform(op);
    let full = other.perform(op);
    let (state, others_state) = (subject.perform(&Op::State), other.perform(&Op::State));
    let setup = subject.setup();
    let known = others_state.clone().unwrap_or_default();
    let seen = subject.library_state();
    let others = match seen {
        Some(_) => library::told(&setup, op, full.clone(), &known),
        None => full.clone(),
    };
    if answer != others {
        return Err(format!(
            "{} but the twin: {}",
            one_line(&answer),
            one_line(&others)
        ));
    }
    same_state("then", &state, &others_state)?;
    if let Some(seen) = seen {
        same_state("and NVML shows", &seen, &Ok(library::shown(&setup, &known)))?;
    }
    Ok(full)
}

fn same_state(when: &str, state: &Answer, others: &Answer) -> Result<(), String> {
    if state == others {
        return Ok(());
    }
    let text = |state: &Answer| match state {
        Ok(text) => text.clone(),
        Err(errno) => format!("{errno:?}\n"),
    };
    Err(format!(
        "{when}\n{}but the twin\n{}",
        text(state),
        text(others)
    ))
}

impl Sequence {
    /// Runs on an empty subject, and leaves it empty. Another subject that runs next to
    /// it must give the same answers and states.
    ///
    /// # Errors
    /// The first unexpected answer.
    pub fn run(
        &self,
        subject: &mut dyn Subject,
        mut beside: Option<&mut dyn Subject>,
    ) -> Result<(), Disagreement> {
        let setup = subject.setup();
        let before = subject.perform(&Op::State);
        let mut result = Ok(());
        for step in self.steps {
            result = self.step(step, &setup, subject, &mut beside);
            if result.is_err() {
                break;
            }
        }
        empty(subject);
        if let Some(other) = beside {
            empty(other);
        }
        result?;
        let after = subject.perform(&Op::State);
        if after == before {
            Ok(())
        } else {
            Err(self.disagreement("afterwards", format!("{after:?} instead of {before:?}")))
        }
    }

    fn step(
        &self,
        step: &str,
        setup: &Setup,
        subject: &mut dyn Subject,
        beside: &mut Option<&mut dyn Subject>,
    ) -> Result<(), Disagreement> {
        let wrong = |what: String| self.disagreement(step, what);
        let (op, expected) = with_ids(step, setup)
            .and_then(|step| Expected::parse(&step))
            .map_err(wrong)?;
        let answer = match beside {
            Some(other) => agree(subject, *other, &op).map_err(wrong)?,
            None => subject.perform(&op),
        };
        if expected.matches(&answer, setup) {
            Ok(())
        } else {
            Err(wrong(format!("answers {}", one_line(&answer))))
        }
    }

    fn disagreement(&self, step: impl fmt::Display, what: String) -> Disagreement {
        Disagreement {
            sequence: self.name.to_owned(),
            step: step.to_string(),
            what,
        }
    }
}
