//! NVIDIA's `sriov-manage`, which makes virtual functions and takes them away: the
//! driver refuses `sriov_numvfs`. It binds the GPU anew, and wants it for itself.

use std::{io, time::Duration};

use super::work::{OTHERS, PURPOSE};
use crate::{
    device::readiness,
    host::{Deadline, DriverLock, Host, LockError, gpu_openers},
    model::PciAddress,
    plan::host_settings::SRIOV_MANAGE,
};

/// Why a step was not done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It must not be done now.
    Refused(String),
    /// It was tried.
    Failed(String),
}

pub(super) fn held(error: LockError) -> Trouble {
    Trouble::Failed(error.to_string())
}

/// Runs NVIDIA's program. It wants the GPU's `unbindLock`, which it gets while
/// nobody has the GPU open; short visitors, such as a monitoring program, are
/// worth another try, and nothing else is.
pub(super) fn sriov_manage(
    host: &Host,
    flag: &str,
    gpu: PciAddress,
    meanwhile: &mut dyn FnMut(),
) -> Result<(), Trouble> {
    const LOCKED: &str = "Cannot obtain unbindLock";
    const PATIENCE: Duration = Duration::from_secs(120);
    const PAUSE: Duration = Duration::from_secs(1);
    const TRIES: u32 = 6;
    let _driver = DriverLock::acquire(host, PURPOSE, Deadline::after(OTHERS)).map_err(held)?;
    let arguments = [flag, &gpu.to_string()];
    let mut said = String::new();
    for _ in 0..TRIES {
        let deadline = Deadline::after(PATIENCE);
        let ended = host
            .run_program(SRIOV_MANAGE, &arguments, deadline, meanwhile)
            .map_err(|error| Trouble::Failed(no_sriov_manage(&error)))?;
        let functions =
            readiness::functions(host, gpu).map_err(|error| Trouble::Failed(error.to_string()))?;
        said = ended.said.split_whitespace().collect::<Vec<_>>().join(" ");
        match (ended.status.success(), flag) {
            (true, "-e") if functions.are_missing() => {
                return Err(Trouble::Failed(format!(
                    "sriov-manage -e made no virtual functions: {said}; SR-IOV, ARI and above-4G \
                     decoding must be on in the firmware, and the IOMMU in the kernel"
                )));
            }
            (true, _) => return Ok(()),
            (false, _) if ended.said.contains(LOCKED) => {
                Deadline::after(PAUSE).wait_until(|| {
                    meanwhile();
                    false
                });
            }
            (false, _) => {
                return Err(Trouble::Failed(format!(
                    "sriov-manage {flag} failed ({}): {said}; 'journalctl -k -g NVRM' tells what \
                     the driver says",
                    ended.status
                )));
            }
        }
    }
    Err(Trouble::Failed(format!(
        "sriov-manage {flag} failed {TRIES} times: {said}; {}",
        who_has_it_open(host)
    )))
}

fn no_sriov_manage(error: &io::Error) -> String {
    let next = match error.kind() {
        io::ErrorKind::TimedOut => "it goes on; 'journalctl -k -g NVRM' tells what it waits for",
        io::ErrorKind::NotFound => "it comes with NVIDIA's vGPU driver for KVM: install that one",
        _ => "check that it can be run",
    };
    format!("{SRIOV_MANAGE}: {error}; {next}")
}

fn who_has_it_open(host: &Host) -> String {
    let openers = gpu_openers(host);
    let named: Vec<String> = { openers.iter() }
        .map(|(pid, name)| format!("{name} (process {pid})"))
        .collect();
    if named.is_empty() {
        "stop what uses the driver (nvidia-smi, DCGM, exporters), then try again".to_owned()
    } else {
        format!(
            "stop what has the driver open, then try again: {}",
            named.join(", ")
        )
    }
}
