//! `nvml-command`: the commands of `/dev/nvidiactl` through NVML, so that the contract
//! of the simulated host can be checked for the library as for the kernel module.
//!
//! A line of the input is a command, and a line of the output is its answer: `ok` with
//! the lines of the text, joined by `;`, or the name of the errno for NVML's code. NVML
//! is initialised for each command: between two commands the driver's device is closed,
//! because `sriov-manage` would refuse to work otherwise.
//!
//! NVML cannot express everything:
//!
//! - `creatable` has no numbers of vGPUs, only the ids of types.
//! - `placements` is not supported if the GPU lists no placements, whatever is free.
//! - A GPU instance is first looked up by its id. With MIG mode off that is not supported, and a
//!   missing instance is not found, before any other error.
//! - `ci-create` takes the profile with that many slices. If there is none (NVML never has one
//!   with 5 slices), the answer is `EINVAL` without a call.
//! - `scheduler` and `gi-scheduler` with adaptive round robin (ARR 2) have no time slice; without
//!   it there is no averaging factor and no frequency. Such a command is `ENOSYS`, without a call.
//! - `reset` has no call.
//! - `state` is NVML's view of `gpu`: no line for an unsupported mode, `-` for an unsupported
//!   heterogeneous mode of a GPU instance, the scheduler's frequency as a time slice, only vGPUs
//!   with a VM, and neither their function nor pid and name of the VM.

mod answer;
mod gpu;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use lab_nvidia_smi::{LIBRARY, raw::Raw};
use libloading::Library;
use nvml_wrapper::Nvml;

use answer::{Answer, Failure, one_line};
use gpu::Gpu;

fn main() -> ExitCode {
    // SAFETY: The library is NVML or replaces it; loading it has no other effect.
    let library = match unsafe { Library::new(LIBRARY) } {
        Ok(library) => library,
        Err(error) => {
            eprintln!("nvml-command: {LIBRARY}: {error}");
            return ExitCode::FAILURE;
        }
    };
    for line in io::stdin().lines() {
        let done = line.and_then(|line| {
            let answer = one_line(&perform(&library, &line));
            let mut output = io::stdout().lock();
            writeln!(output, "{answer}")?;
            output.flush()
        });
        if let Err(error) = done {
            eprintln!("nvml-command: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn perform(library: &Library, line: &str) -> Answer {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [command, address, words @ ..] = words.as_slice() else {
        return Err(Failure::Words);
    };
    let numbers: Result<Vec<u32>, _> = words.iter().map(|word| word.parse()).collect();
    let numbers = numbers.map_err(|_| Failure::Words)?;
    let nvml = Nvml::builder().lib_path(LIBRARY.as_ref()).init()?;
    let gpu = Gpu {
        raw: Raw::new(&nvml, library),
        device: nvml.device_by_pci_bus_id(*address)?,
    };
    gpu.perform(command, &numbers)
}
