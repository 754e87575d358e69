//! What NVML makes of answers and states.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use super::*;
use crate::{boards, model::Switches};

fn setup(model: &str) -> Setup {
    Setup {
        board: boards::find(model).unwrap(),
        switches: Switches::default(),
    }
}

fn told_on(model: &str, line: &str, answer: Answer, state: &str) -> Answer {
    told(&setup(model), &Op::Control(line.to_owned()), answer, state)
}

#[test]
fn creatable_types_have_no_numbers() {
    let answer = Ok("1155 2\n1156 1\n".to_owned());
    assert_eq!(
        told_on("l40s", "creatable", answer, "mig 0 0\n"),
        Ok("1155\n1156\n".to_owned())
    );
}

#[test]
fn placements_are_told_where_they_show() {
    let places = || Ok("0\n".to_owned());
    assert_eq!(
        told_on("l40s", "placements 1", places(), "hetero 0\n"),
        places()
    );
    assert_eq!(
        told_on("a40", "placements 1", places(), "hetero 0\n"),
        Err(Errno::EOPNOTSUPP)
    );
    let unknown = Err(Errno::EINVAL);
    assert_eq!(
        told_on("a40", "placements 1", unknown.clone(), "hetero 0\n"),
        unknown
    );
}

#[test]
fn a_gpu_instance_is_found_first() {
    let state = "mig 1 1\ngi 11 9 0 4 0\n";
    let answer = |line, answer, state| told_on("a100-40", line, answer, state);
    assert_eq!(
        answer("gi-hetero 1 1", Err(Errno::EOPNOTSUPP), state),
        Err(Errno::ENOENT)
    );
    assert_eq!(
        answer("gi-hetero 11 1", Err(Errno::EOPNOTSUPP), state),
        Err(Errno::EOPNOTSUPP)
    );
    assert_eq!(
        answer("ci-create 11 1", Err(Errno::ENOENT), "mig 0 1\n"),
        Err(Errno::EOPNOTSUPP)
    );
    // It was there, and is not any more.
    assert_eq!(
        answer("gi-destroy 1", Ok(String::new()), state),
        Ok(String::new())
    );
}

#[test]
fn a_state_is_cut_down_to_what_nvml_shows() {
    let state = "model l40s\nvfs 32\nmig 0 0\nhetero 1\nscheduler 1 0 0 0 0\n\
        vgpu 0 1155 0 - vf0 - - - -\nvgpu 1 1155 24 - vf1 - open u my vm\n";
    assert_eq!(
        shown(&setup("l40s"), state),
        "hetero 1\nscheduler 1 0 0 - 0\nvgpu 0 1155 24 - - - open u -\n"
    );
    let state = "mig 0 0\nhetero 0\nvgpu 0 1155 24 - vf1 - open u my vm\n";
    assert_eq!(
        shown(&setup("l40s"), state),
        "hetero 0\nvgpu 0 1155 - - - - open u -\n"
    );
    let state = "mig 0 1\nhetero 0\nscheduler 2 2 33 480 0\n";
    assert_eq!(
        shown(&setup("h100"), state),
        "mig 0 1\nhetero 0\nscheduler 2 2 33 - 2083333\n"
    );
    let state = "mig 1 0\nhetero 0\nscheduler 1 0 0 0 0\ngi 1 9 0 4 0\nci 1 0 3\n";
    assert_eq!(
        shown(&setup("a100-40"), state),
        "mig 1 0\ngi 1 9 0 4 -\nci 1 0 3\n"
    );
    let state = "mig 1 0\nhetero 0\ngi 1 35 0 6 1\n";
    assert_eq!(
        shown(&setup("rtx-pro-6000"), state),
        "mig 1 0\ngi 1 35 0 6 1\n"
    );
    let state = "mig 1 1\nhetero 0\ngi 1 35 0 6 1\ngi 2 35 6 6 0\n\
        vgpu 0 1570 24 1 vf0 - open u a\nvgpu 1 1570 24 2 vf1 - open u b\n";
    assert_eq!(
        shown(&setup("rtx-pro-6000"), state),
        "mig 1 1\ngi 1 35 0 6 1\ngi 2 35 6 6 0\n\
         vgpu 0 1570 24 1 - - open u -\nvgpu 1 1570 - 2 - - open u -\n"
    );
}
