//! The commands of `/dev/nvidiactl` on the twin: words in, text out.

use std::fmt::Display;

use nix::errno::Errno;

use super::{Gpu, Result, Scheduler};

/// `nvmlReturn_t`'s number for "in use": the change is pending.
const PENDING: u32 = 19;

fn number(word: &str) -> Result<u32> {
    word.parse().map_err(|_| Errno::EINVAL)
}

fn switch(word: &str) -> Result<bool> {
    match word {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(Errno::EINVAL),
    }
}

fn scheduler(words: &[&str]) -> Result<Scheduler> {
    let [policy, arr, factor, frequency, slice] = words else {
        return Err(Errno::EINVAL);
    };
    Ok(Scheduler {
        policy: number(policy)?,
        arr: number(arr)?,
        factor: number(factor)?,
        frequency: number(frequency)?,
        slice_ns: number(slice)?,
    })
}

fn lines<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| format!("{item}\n")).collect()
}

impl Gpu {
    /// Runs one command as root; returns the text of the answer.
    ///
    /// # Errors
    /// The command's own errno; `ENOENT`: another GPU's address. `EINVAL`: no such
    /// command, or invalid arguments.
    pub fn command(&mut self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (command, words) = match words.as_slice() {
            ["gpus"] => return Ok(format!("{} {}\n", self.address, self.board.model)),
            [command, address, words @ ..] if *address == self.address => (*command, words),
            [_, _, ..] => return Err(Errno::ENOENT),
            _ => return Err(Errno::EINVAL),
        };
        let done = |()| String::new();
        match (command, words) {
            ("gpu", []) => Ok(self.describe()),
            ("creatable", []) => {
                let creatable = self.creatable();
                let line = |(kind, count): &(&crate::boards::VgpuType, usize)| {
                    format!("{} {count}", kind.id)
                };
                Ok(lines(creatable.iter().map(line)))
            }
            ("placements", [kind]) => Ok(lines(self.placements(number(kind)?)?)),
            ("gi-placements", [gi, kind]) => {
                Ok(lines(self.gi_placements(number(gi)?, number(kind)?)?))
            }
            ("hetero", [on]) => self.set_hetero(switch(on)?).map(done),
            ("gi-hetero", [gi, on]) => self.set_gi_hetero(number(gi)?, switch(on)?).map(done),
            ("mig", [on]) => {
                let in_effect = self.set_mig(switch(on)?)?;
                Ok(lines([if in_effect { 0 } else { PENDING }]))
            }
            ("gi-create", [profile]) => Ok(lines([self.gi_create(number(profile)?, None)?])),
            ("gi-create", [profile, start]) => {
                let start = Some(number(start)?);
                Ok(lines([self.gi_create(number(profile)?, start)?]))
            }
            ("gi-destroy", [gi]) => self.gi_destroy(number(gi)?).map(done),
            ("ci-create", [gi, slices]) => {
                Ok(lines([self.ci_create(number(gi)?, number(slices)?)?]))
            }
            ("ci-destroy", [gi, ci]) => self.ci_destroy(number(gi)?, number(ci)?).map(done),
            ("scheduler", words) => self.set_scheduler(scheduler(words)?).map(done),
            ("gi-scheduler", [gi, words @ ..]) => {
                let (gi, scheduler) = (number(gi)?, scheduler(words)?);
                self.set_gi_scheduler(gi, scheduler).map(done)
            }
            ("reset", []) => self.reset().map(done),
            _ => Err(Errno::EINVAL),
        }
    }
}
