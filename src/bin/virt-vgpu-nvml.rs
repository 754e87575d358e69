//! The program that loads NVIDIA's library, which may crash it; see `virt_vgpu::nvml`.

use std::{ffi::OsString, io, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    virt_vgpu::nvml::main(&arguments, io::stdin().lock(), io::stdout().lock())
}
