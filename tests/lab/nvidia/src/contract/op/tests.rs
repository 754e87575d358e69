//! Operations as text.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use super::*;

#[test]
fn an_operation_is_what_it_prints() {
    for line in [
        "vfs on",
        "client off",
        "manager on",
        "rebind 3",
        "reload",
        "create 0 1155",
        "release 0",
        "mdev-create pf 232 \"x y\\n\"",
        "mdev-create 4 232 \"\"",
        "mdev-remove c0417ac7-0000-4000-8000-000000000001 \"1\\n\"",
        "mdev-type 2 232 available_instances",
        "read 1 current_vgpu_type",
        "write 1 vgpu_params \"a=1, b=2\\n\"",
        "open 1",
        "open 1 web",
        "close 1",
        "kill 1",
        "close-all",
        "ctl gi-create 9 4",
        "state",
        "wedged",
        "plugin-exit 200",
        "init 0",
        "wait 10",
    ] {
        assert_eq!(line.parse::<Op>().unwrap().to_string(), line);
    }
}

#[test]
fn a_bare_word_gets_a_newline_and_a_count_is_filled() {
    let params = |text: &str| Op::Write(0, Attribute::VgpuParams, text.to_owned());
    assert_eq!("write 0 vgpu_params a=1".parse(), Ok(params("a=1\n")));
    assert_eq!("write 0 vgpu_params \"a=1\"".parse(), Ok(params("a=1")));
    assert_eq!("write 0 vgpu_params *3".parse(), Ok(params("xxx")));
}

#[test]
fn what_is_no_operation_is_told() {
    for line in [
        "",
        "vfs",
        "vfs maybe",
        "create 0",
        "read 0 nothing",
        "write 0 vgpu_params",
    ] {
        assert!(line.parse::<Op>().is_err(), "{line}");
    }
}
