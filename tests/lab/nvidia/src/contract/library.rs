//! The parts of an answer and of a state that NVML can show, for subjects whose
//! commands go through NVML. Both are computed from the twin's, so that a host's can be
//! compared word for word; `nvml-command` lists what NVML cannot express.

use nix::errno::Errno;

use super::{Answer, Op, Setup};

/// Columns of a `vgpu` line.
const ID: usize = 1;
const PLACEMENT: usize = 3;
const GI: usize = 4;
const FUNCTION: usize = 5;
const OPENER: usize = 7;
const VM_NAME: usize = 9;

/// The column of a `gi` line that is its heterogeneous mode.
const GI_HETERO: usize = 5;

/// Columns of the `scheduler` line, and those of `gi-scheduler` are one further. A
/// frequency is so many slices a second.
const FREQUENCY: usize = 4;
const SLICE: usize = 5;
const NANOSECONDS: u32 = 1_000_000_000;

fn has(state: &str, start: &str) -> bool {
    state.lines().any(|line| line.starts_with(start))
}

/// The answer to an operation as NVML gives it, computed from the direct answer.
/// `state` is the state afterwards; for a refused operation or a question it is the
/// state before.
pub(super) fn told(setup: &Setup, op: &Op, answer: Answer, state: &str) -> Answer {
    let Op::Control(line) = op else {
        return answer;
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    match (words.as_slice(), &answer) {
        // Types without their numbers.
        (["creatable"], Ok(text)) => {
            let ids = text.lines().filter_map(|line| line.split(' ').next());
            Ok(ids.map(|id| format!("{id}\n")).collect())
        }
        // Free places that NVML does not show.
        (["placements", _], Ok(_))
            if !setup.board.features.homogeneous_placements && !has(state, "hetero 1") =>
        {
            Err(Errno::EOPNOTSUPP)
        }
        // NVML must find a GPU instance before it can be used.
        (
            [
                "gi-destroy" | "gi-placements" | "gi-hetero" | "gi-scheduler" | "ci-create"
                | "ci-destroy",
                gi,
                ..,
            ],
            Err(_),
        ) => {
            if !has(state, "mig 1 ") {
                Err(Errno::EOPNOTSUPP)
            } else if !has(state, &format!("gi {gi} ")) {
                Err(Errno::ENOENT)
            } else {
                answer
            }
        }
        _ => answer,
    }
}

/// A state in its comparable form as NVML shows it: only modes that the GPU has, and
/// only vGPUs with a VM.
pub(super) fn shown(setup: &Setup, state: &str) -> String {
    let features = &setup.board.features;
    let mig_is_on = has(state, "mig 1 ");
    let mut text = String::new();
    let mut age = 0;
    for line in state.lines() {
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        match line.split(' ').next().unwrap_or_default() {
            "mig" if features.mig => {}
            "hetero" if features.hetero && !mig_is_on => {}
            "scheduler" if !mig_is_on => slice_for_frequency(&mut words, 0),
            "gi-scheduler" => slice_for_frequency(&mut words, 1),
            "gi" if features.mig_timeslicing => {}
            "gi" => replace(&mut words, GI_HETERO, "-"),
            "ci" => {}
            "vgpu" if words.get(OPENER).is_some_and(|opener| opener != "-") => {
                // NVML tells a place only where sizes may differ.
                let mixed = match words.get(GI).map(String::as_str) {
                    None | Some("-") => has(state, "hetero 1"),
                    Some(gi) => are_sizes_mixed_in(state, gi),
                };
                if !mixed {
                    replace(&mut words, PLACEMENT, "-");
                }
                // The bus id that NVML has is the one in the guest.
                replace(&mut words, FUNCTION, "-");
                words.truncate(VM_NAME);
                words.push("-".to_owned());
                replace(&mut words, ID, &age.to_string());
                age += 1;
            }
            _ => continue,
        }
        text.push_str(&words.join(" "));
        text.push('\n');
    }
    text
}

fn slice_for_frequency(words: &mut [String], further: usize) {
    let (frequency, slice) = (FREQUENCY + further, SLICE + further);
    let hz = words.get(frequency).and_then(|word| word.parse().ok());
    if let Some(length) = hz.and_then(|hz: u32| NANOSECONDS.checked_div(hz)) {
        replace(words, slice, &length.to_string());
    }
    replace(words, frequency, "-");
}

fn are_sizes_mixed_in(state: &str, gi: &str) -> bool {
    let line = |line: &str| line.starts_with(&format!("gi {gi} ")) && line.ends_with(" 1");
    state.lines().any(line)
}

fn replace(words: &mut [String], column: usize, with: &str) {
    if let Some(word) = words.get_mut(column) {
        with.clone_into(word);
    }
}

#[cfg(test)]
mod tests;
