//! `nvidia-smi`, as far as scripts use it, on top of NVML. It uses any
//! `libnvidia-ml.so.1` that the dynamic linker finds, so in the lab it also tests that
//! library. Output has nvidia-smi's fields in nvidia-smi's order; the exit status is
//! NVML's code.

mod args;
mod mig;
mod query;
mod reset;
mod vgpu;

use std::process::ExitCode;

use lab_nvidia_smi::{
    LIBRARY,
    raw::{Answer, Code, Raw},
};
use libloading::Library;
use nix::sys::signal::{SigHandler, Signal, signal};
use nvml_wrapper::{Device, Nvml};

use args::{Action, Line};

const DRIVER_NOT_LOADED: u32 = 9;
const LIBRARY_NOT_FOUND: u32 = 12;
const NOT_FOUND: u32 = 6;
const INVALID_ARGUMENT: u32 = 2;

/// The data that all actions use.
pub struct Smi<'a> {
    pub nvml: &'a Nvml,
    pub raw: Raw<'a>,
    pub line: &'a Line,
}

/// A GPU and its number.
pub struct Gpu<'a> {
    pub index: u32,
    pub bus: String,
    pub device: Device<'a>,
}

impl<'a> Smi<'a> {
    /// The GPUs of `-i`, or all. Errors are printed here.
    pub fn gpus(&self) -> Answer<Vec<Gpu<'a>>> {
        let mut gpus = Vec::new();
        for index in 0..self.nvml.device_count()? {
            let device = self.nvml.device_by_index(index);
            let found = device.and_then(|device| Ok((device.pci_info()?.bus_id, device)));
            let (bus, device) = match (found, self.line.gpu.as_deref()) {
                (Ok(found), _) => found,
                // A lost GPU does not matter if another one was requested.
                (Err(_), Some(id)) if id.parse() != Ok(index) => continue,
                (Err(error), _) => {
                    let what = format!("Unable to determine the device handle for GPU {index}");
                    return self.failed(&what, Err(error.into()));
                }
            };
            let wanted = match self.line.gpu.as_deref() {
                None => true,
                Some(id) => {
                    id.parse() == Ok(index)
                        || same_bus(id, &bus)
                        || device.uuid().is_ok_and(|uuid| uuid == id)
                }
            };
            if wanted {
                gpus.push(Gpu { index, bus, device });
            }
        }
        match self.line.gpu.as_deref() {
            Some(id) if gpus.is_empty() => {
                self.failed(&format!("Failed to find GPU {id}"), Err(Code(NOT_FOUND)))
            }
            _ => Ok(gpus),
        }
    }

    /// Prints the error and returns its code.
    pub fn failed<T>(&self, what: &str, answer: Answer<T>) -> Answer<T> {
        answer.inspect_err(|code| println!("{what}: {}", self.raw.describe(*code)))
    }
}

/// A bus id is also accepted in sysfs's form.
fn same_bus(given: &str, bus: &str) -> bool {
    let ends = bus.to_lowercase().ends_with(&given.to_lowercase());
    given.contains(':') && ends
}

fn main() -> ExitCode {
    // If a reader such as `head` closes the pipe, the program ends quietly. SAFETY: No
    // handler of this program is involved. If the call fails, nothing changes.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    let line = match args::parse(std::env::args().skip(1)) {
        Ok(Line {
            action: Action::Usage,
            ..
        }) => {
            println!("{}", args::USAGE);
            return ExitCode::SUCCESS;
        }
        Ok(line) => line,
        Err(what) => {
            println!("{what} Please run 'nvidia-smi -h' for help.");
            return exit(INVALID_ARGUMENT);
        }
    };
    let nvml = match Nvml::builder().lib_path(LIBRARY.as_ref()).init() {
        Ok(nvml) => nvml,
        Err(nvml_wrapper::error::NvmlError::LibloadingError(error)) => {
            println!("NVIDIA-SMI couldn't find {LIBRARY} library in your system: {error}");
            return exit(LIBRARY_NOT_FOUND);
        }
        Err(error) => {
            let Code(code) = Code::from(error);
            if code == DRIVER_NOT_LOADED {
                println!(
                    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA \
                     driver. Make sure that the latest NVIDIA driver is installed and running.\n"
                );
            } else {
                println!("Failed to initialize NVML: error {code}");
            }
            return exit(code);
        }
    };
    // SAFETY: The library is loaded already; this is one more reference to it.
    let Ok(by_name) = (unsafe { Library::new(LIBRARY) }) else {
        return exit(LIBRARY_NOT_FOUND);
    };
    if line.action == Action::Reset {
        return reset_gpus(nvml, by_name, &line);
    }
    let smi = Smi {
        nvml: &nvml,
        raw: Raw::new(&nvml, &by_name),
        line: &line,
    };
    let result = match &line.action {
        Action::Usage | Action::Reset => Ok(()),
        Action::Table => query::table(&smi),
        Action::List => query::list(&smi),
        Action::Query => query::all(&smi),
        Action::SetMig(on) => mig::set_mode(&smi, *on),
        Action::Vgpu(action) => vgpu::run(&smi, action),
        Action::Mig(action) => mig::run(&smi, action),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Code(code)) => exit(code),
    }
}

/// The driver resets no GPU that somebody has open, as NVML has.
fn reset_gpus(nvml: Nvml, by_name: Library, line: &Line) -> ExitCode {
    let smi = Smi {
        nvml: &nvml,
        raw: Raw::new(&nvml, &by_name),
        line,
    };
    let gpus = smi.gpus();
    let buses = gpus.map(|gpus| gpus.into_iter().map(|gpu| gpu.bus).collect());
    drop((by_name, nvml));
    match buses.and_then(reset::all) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Code(code)) => exit(code),
    }
}

/// NVML's unknown error is 999, of which an exit status has the lower bits.
fn exit(code: u32) -> ExitCode {
    let [status, ..] = code.to_le_bytes();
    ExitCode::from(status)
}

/// A line of the long forms: indented by four, with the colon always in the same
/// column.
pub fn field(depth: usize, name: &str, value: &str) {
    let indent = depth * 4;
    let width = 42_usize.saturating_sub(indent);
    println!("{:indent$}{name:<width$}: {value}", "");
}

/// A heading of the long forms.
pub fn heading(depth: usize, name: &str) {
    println!("{:indent$}{name}", "", indent = depth * 4);
}

/// `N/A` for what the GPU does not have.
pub fn or_na<T: ToString>(answer: Answer<T>) -> String {
    answer.map_or_else(|_| "N/A".to_owned(), |value| value.to_string())
}
