//! The qemu hook that libvirt runs; see [`virt_vgpu::hook`].

use std::{ffi::OsString, panic, process::ExitCode};

use virt_vgpu::{
    hook::{self, Invocation},
    host::{Host, complain, driver_child},
};

fn main() -> ExitCode {
    if let Some(code) = driver_child::act_if_asked() {
        return code;
    }
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // A bug must not do more harm than an error: it refuses a start, and nothing else.
    // The default panic report has several lines; ours has one.
    panic::set_hook(Box::new(|bug| {
        let place = bug.location().map(ToString::to_string).unwrap_or_default();
        complain(&format!(
            "virt-vgpu: internal error at {place}; please report it with the domain XML"
        ));
    }));
    let result = panic::catch_unwind(|| {
        hook::main(
            &Host::from_environment().that_outlives_drivers(),
            &arguments,
            std::io::stdin().lock(),
        )
    });
    result.unwrap_or_else(|_| match Invocation::parse(&arguments) {
        Invocation::Call(call) if call.operation.allocates() => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}
