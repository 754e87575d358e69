//! Why a call failed, in NVML's words.

use std::fmt::Display;

use nvml_wrapper::{Device, Nvml};
use virt_vgpu_nvml_raw as raw;

use super::LIBRARY;
use crate::{
    device::nvml::{Failure, FailureKind, Told},
    model::PciAddress,
};

/// A call to NVML, with the text for its error message.
pub(super) struct Call<'a> {
    nvml: &'a Nvml,
    /// The text after "cannot".
    what: String,
}

impl<'a> Call<'a> {
    pub(super) fn new(nvml: &'a Nvml, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { nvml, what }
    }

    pub(super) fn failed(&self, error: impl Into<raw::Error>) -> Failure {
        let (kind, why) = match error.into() {
            raw::Error::NoSymbol(symbol) => (
                FailureKind::NoSymbol,
                format!("{LIBRARY} lacks it: {symbol}"),
            ),
            raw::Error::Code(code) => {
                let words = raw::describe(self.nvml, code);
                let words = words.unwrap_or_else(|| format!("NVML's error {code}"));
                (kind(code), words)
            }
            raw::Error::Unreadable(why) => (FailureKind::Other, why),
        };
        self.failure(kind, why)
    }

    pub(super) fn unreadable(&self, why: &dyn Display) -> Failure {
        self.failure(FailureKind::Other, why)
    }

    pub(super) fn failure(&self, kind: FailureKind, why: impl Display) -> Failure {
        let message = format!("cannot {}: {why}", self.what);
        Failure { kind, message }
    }
}

/// The call that reads a value of a GPU.
pub(super) fn reading<'a>(device: &Device<'a>, gpu: PciAddress, what: &str) -> Call<'a> {
    Call::new(device.nvml(), format!("read the {what} of {gpu}"))
}

/// One fact about a GPU; the other facts do not depend on it.
pub(super) fn told<T>(found: Result<T, Failure>) -> Told<T> {
    match found {
        Ok(value) => Told::Value(value),
        Err(failure) => Told::Unavailable(failure),
    }
}

/// The kind of failure for an `NVML_ERROR_*` code.
fn kind(code: u32) -> FailureKind {
    match code {
        raw::INVALID_ARGUMENT => FailureKind::Invalid,
        raw::NOT_SUPPORTED => FailureKind::NotSupported,
        // NO_PERMISSION
        4 => FailureKind::NoPermission,
        // NOT_FOUND, GPU_IS_LOST, GPU_NOT_FOUND
        6 | 15 | 28 => FailureKind::NoGpu,
        // DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, LIB_RM_VERSION_MISMATCH
        9 | 12 | 18 => FailureKind::NoLibrary,
        // The driver is too old for the function or for its version.
        raw::FUNCTION_NOT_FOUND | raw::VERSION_MISMATCH => FailureKind::NoSymbol,
        // IN_USE
        19 => FailureKind::InUse,
        _ => FailureKind::Other,
    }
}
