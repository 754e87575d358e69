//! NVIDIA's management library: the only place that loads it. The program answers one
//! question and unloads the library, because an open handle keeps `sriov-manage` from
//! its lock. It is a separate program, `virt-vgpu-nvml`, because a driver may hang or
//! crash. `host` runs it; other modules use the answers.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    process::ExitCode,
};

use nvml_wrapper::{Device, Nvml, error::NvmlError};

use crate::{
    device::nvml::{Answer, Failure, FailureKind, Question},
    model::{PciAddress, visible},
};

mod failure;
mod gpu;
mod guests;
mod heterogeneous;
mod mig;
mod scheduler;
mod vgpu_types;
mod vgpus;

use failure::Call;

/// The name for the dynamic linker.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// The longest question that is read, in bytes; real ones have some hundred.
const LONGEST: u64 = 64 << 10;

const HELP: &str = concat!(
    "virt-vgpu-nvml ",
    env!("CARGO_PKG_VERSION"),
    "\n
Asks NVIDIA's management library for virt-vgpu: reads one question (JSON) from
standard input, answers it on standard output, and ends. A second line takes a
change back whose answer nobody hears. People use virt-vgpu.

Usage: virt-vgpu-nvml < QUESTION

Exit code 0 when it has answered, even with a failure, 2 for an unknown
question or unknown arguments.
"
);

/// Runs the program: arguments without its name, the question from `input`, the answer
/// to `output`.
pub fn main(arguments: &[OsString], input: impl Read, mut output: impl Write) -> ExitCode {
    let written = match arguments {
        [] => match read(input) {
            Ok((question, undo)) => {
                let written = write_answer(output, &answer(&question));
                if let (Err(_), Some(undo)) = (&written, undo) {
                    // Who asked has given up, and has told that nothing was changed.
                    let _ = answer(&undo);
                }
                written
            }
            Err(why) => return usage(&why),
        },
        [one] if one == "--help" || one == "-h" => output.write_all(HELP.as_bytes()),
        [one] if one == "--version" || one == "-V" => {
            let name = concat!("virt-vgpu-nvml ", env!("CARGO_PKG_VERSION"), "\n");
            output.write_all(name.as_bytes())
        }
        _ => return usage("it takes no arguments"),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("cannot write the answer: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn usage(why: &str) -> ExitCode {
    complain(&format!(
        "{why}; programs ask this one, people use 'virt-vgpu'"
    ));
    ExitCode::from(2)
}

/// A closed stderr does not change the exit code.
fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "virt-vgpu-nvml: {}", visible(what));
}

/// The question, and the one that takes its change back.
fn read(input: impl Read) -> Result<(Question, Option<Question>), String> {
    let mut text = Vec::new();
    let read = input.take(LONGEST + 1).read_to_end(&mut text);
    read.map_err(|error| format!("cannot read the question: {error}"))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > LONGEST {
        return Err(format!("the question has more than {LONGEST} bytes"));
    }
    let mut lines = serde_json::Deserializer::from_slice(&text).into_iter();
    let mut next = || {
        let line: Option<Result<Question, _>> = lines.next();
        line.transpose()
            .map_err(|error| format!("not a question: {error}"))
    };
    let Some(question) = next()? else {
        return Err("there is no question".to_owned());
    };
    let undo = next()?;
    match next()? {
        None => Ok((question, undo)),
        Some(_) => Err("there are more than two questions".to_owned()),
    }
}

fn write_answer(mut output: impl Write, answer: &Answer) -> std::io::Result<()> {
    let line = serde_json::to_string(answer)? + "\n";
    output.write_all(line.as_bytes())?;
    output.flush()
}

/// Answers one question. The library is loaded for it and unloaded afterwards.
#[must_use]
pub fn answer(question: &Question) -> Answer {
    let answer = load().and_then(|nvml| {
        let answer = act(&nvml, question);
        close(nvml);
        answer
    });
    answer.unwrap_or_else(Answer::Failed)
}

fn load() -> Result<Nvml, Failure> {
    Nvml::init().map_err(|error| Failure {
        kind: match error {
            NvmlError::NoPermission => FailureKind::NoPermission,
            NvmlError::NotFound => FailureKind::NoGpu,
            _ => FailureKind::NoLibrary,
        },
        // Without a library, only the wrapper can describe the error.
        message: format!("cannot start {LIBRARY}: {error}"),
    })
}

/// `nvmlShutdown`. The wrapper panics if a library lacks it; then the end of the
/// process closes the library.
fn close(nvml: Nvml) {
    if nvml.lib().nvmlShutdown.is_ok() {
        drop(nvml);
    } else {
        std::mem::forget(nvml);
    }
}

fn act(nvml: &Nvml, question: &Question) -> Result<Answer, Failure> {
    let done = |()| Answer::Done;
    match question {
        Question::Gpus => gpus(nvml),
        Question::Guests => guests::read(nvml).map(Answer::Guests),
        Question::Gpu { gpu } => {
            let device = find(nvml, *gpu)?;
            Ok(Answer::Gpus(vec![gpu::facts(&device, *gpu)]))
        }
        Question::SetHeterogeneous { gpu, on } => {
            heterogeneous::set(&find(nvml, *gpu)?, *gpu, *on).map(done)
        }
        Question::SetScheduler { gpu, scheduler } => {
            scheduler::set(&find(nvml, *gpu)?, *gpu, *scheduler).map(done)
        }
        Question::SetInstanceHeterogeneous { gpu, place, on } => {
            heterogeneous::set_in_instance(&find(nvml, *gpu)?, *gpu, *place, *on).map(done)
        }
        Question::SetInstanceScheduler {
            gpu,
            place,
            scheduler,
        } => {
            let device = find(nvml, *gpu)?;
            scheduler::set_in_instance(&device, *gpu, *place, *scheduler).map(done)
        }
        Question::SetMig { gpu, on } => mig::set(nvml, *gpu, *on).map(done),
        Question::CreateInstance { gpu, place } => {
            mig::create(&find(nvml, *gpu)?, *gpu, *place).map(done)
        }
        Question::DestroyInstance { gpu, place } => {
            mig::destroy(&find(nvml, *gpu)?, *gpu, *place).map(done)
        }
    }
}

/// A lost GPU has no handle and so no address. It is left out, and sysfs shows that it
/// is missing. If no GPU has a handle, the first failure is the answer.
fn gpus(nvml: &Nvml) -> Result<Answer, Failure> {
    let count = nvml.device_count();
    let count = count.map_err(|error| Call::new(nvml, "count the GPUs").failed(error))?;
    let mut found = Vec::new();
    let mut lost = None;
    for index in 0..count {
        match by_index(nvml, index) {
            Ok((device, address)) => found.push(gpu::facts(&device, address)),
            Err(failure) => _ = lost.get_or_insert(failure),
        }
    }
    match lost {
        Some(failure) if found.is_empty() => Err(failure),
        _ => Ok(Answer::Gpus(found)),
    }
}

fn by_index(nvml: &Nvml, index: u32) -> Result<(Device<'_>, PciAddress), Failure> {
    let call = Call::new(nvml, format!("open GPU number {index}"));
    let device = nvml.device_by_index(index);
    let device = device.map_err(|error| call.failed(error))?;
    let info = device.pci_info().map_err(|error| call.failed(error))?;
    let address = info.bus_id.parse();
    Ok((device, address.map_err(|error| call.unreadable(&error))?))
}

fn find(nvml: &Nvml, gpu: PciAddress) -> Result<Device<'_>, Failure> {
    let (domain, bus, slot, function) = gpu.parts();
    // In NVML's own format, which every driver reads.
    let id = format!("{domain:08X}:{bus:02X}:{slot:02X}.{function:X}");
    nvml.device_by_pci_bus_id(id).map_err(|error| {
        let mut failure = Call::new(nvml, format!("open GPU {gpu}")).failed(error);
        // The only argument was the address.
        if failure.kind == FailureKind::Invalid {
            failure.kind = FailureKind::NoGpu;
        }
        failure
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(arguments: &[&str], input: &str) -> (bool, String) {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let mut output = Vec::new();
        let code = main(&arguments, input.as_bytes(), &mut output);
        let code = format!("{code:?}");
        (
            code == format!("{:?}", ExitCode::from(2)),
            String::from_utf8(output).unwrap(),
        )
    }

    #[test]
    fn a_question_has_an_end() {
        let longest = usize::try_from(LONGEST).unwrap();
        let spaces = " ".repeat(longest - 1);
        let refused = read((spaces.clone() + "{}").as_bytes());
        assert_eq!(
            refused,
            Err("the question has more than 65536 bytes".to_owned())
        );
        let question = spaces[15..].to_owned() + r#"{"do":"gpus"}"#;
        assert_eq!(read(question.as_bytes()), Ok((Question::Gpus, None)));
    }

    #[test]
    fn usage_is_told_from_help() {
        assert_eq!(code(&["--help"], ""), (false, HELP.to_owned()));
        assert_eq!(code(&["gpus"], ""), (true, String::new()));
        assert_eq!(code(&["--help", "gpus"], ""), (true, String::new()));
    }
}
