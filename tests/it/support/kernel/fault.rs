//! Faulty drivers: which writes go wrong, and how.

use std::time::Duration;

use nix::errno::Errno;

use super::{Kernel, OnWrite, State};
use lab_nvidia::model::Attribute;

/// The writes that go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A mediated device is made.
    Create,
    /// A mediated device is removed.
    Remove,
    /// `vgpu_params` of either kind of vGPU.
    Parameters,
    /// A virtual function is given a type.
    SetType,
    /// A virtual function is freed.
    ReleaseType,
    /// `placement_id` of either kind of vGPU.
    Placement,
    /// NVML is asked; no write.
    Nvml,
    /// An attribute that a GPU's driver answers is read; no write.
    Read,
    /// A driver gives up a PCI function (`remove` of its driver).
    Unbind,
    /// A driver takes a PCI function (`probe` of its driver), by `bind` or `drivers_probe`.
    Probe,
}

/// Something that others do to a PCI function just after a driver has given it up or taken
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// Somebody else makes the kernel look for a driver for it.
    IsProbed,
    /// It does not answer any more: it did not wake up, or its reset failed.
    Dies,
    /// It is pulled out.
    Vanishes,
}

/// A fault of a driver.
#[derive(Debug, Clone)]
pub struct Fault {
    pub target: Target,
    /// Only this parent, virtual function or GPU, if one is named.
    pub parent: Option<String>,
    /// Time that passes before the driver does anything.
    pub delay: Duration,
    /// Its answer instead of doing it.
    pub errno: Option<Errno>,
    /// It reports success, but has done nothing.
    pub pretends: bool,
    /// It does the work, but answers with the errno.
    pub does: bool,
    /// That many of these writes must be in progress at once before any is carried out.
    pub together: usize,
    /// The driver answers only when the drivers work again ([`Kernel::heal`]).
    pub hangs: bool,
    /// What happens to the function afterwards.
    pub meanwhile: Option<Meanwhile>,
    /// How many more writes are affected.
    pub times: usize,
}

impl Fault {
    /// Every such write fails.
    pub fn errno(target: Target, errno: Errno) -> Self {
        Self {
            target,
            parent: None,
            delay: Duration::ZERO,
            errno: Some(errno),
            pretends: false,
            does: false,
            together: 0,
            hangs: false,
            meanwhile: None,
            times: usize::MAX,
        }
    }

    /// Every such write works, but late.
    pub fn delay(target: Target, delay: Duration) -> Self {
        Self {
            delay,
            errno: None,
            ..Self::errno(target, Errno::UnknownErrno)
        }
    }

    /// Every such write succeeds and does nothing.
    pub fn pretended(target: Target) -> Self {
        Self {
            pretends: true,
            ..Self::delay(target, Duration::ZERO)
        }
    }

    /// Every such write works, and the answer is an errno.
    pub fn done_with(target: Target, errno: Errno) -> Self {
        Self {
            does: true,
            ..Self::errno(target, errno)
        }
    }

    /// Such a write works once the drivers work again.
    pub fn hanging(target: Target) -> Self {
        Self {
            hangs: true,
            ..Self::delay(target, Duration::ZERO)
        }
    }

    /// Whether others can see what such a write has half done.
    pub fn takes_time(&self) -> bool {
        self.hangs || !self.delay.is_zero()
    }

    /// After one such write, others do that to the function.
    pub fn then(target: Target, meanwhile: Meanwhile) -> Self {
        Self {
            meanwhile: Some(meanwhile),
            times: 1,
            ..Self::delay(target, Duration::ZERO)
        }
    }

    /// That many such writes wait for each other, and then work.
    pub fn together(target: Target, writes: usize) -> Self {
        Self {
            together: writes,
            times: writes,
            ..Self::delay(target, Duration::ZERO)
        }
    }

    pub fn on(self, parent: &str) -> Self {
        let parent = Some(parent.to_owned());
        Self { parent, ..self }
    }

    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    fn concerns(&self, target: Target, places: &[&str]) -> bool {
        let here = |parent: &String| places.contains(&parent.as_str());
        self.times > 0 && self.target == target && self.parent.as_ref().is_none_or(here)
    }
}

impl Kernel {
    /// How long the driver takes to answer for the attribute of sysfs.
    pub fn delay_of_read(&self, path: &str) -> Duration {
        let Some((directory, name)) = path.rsplit_once('/') else {
            return Duration::ZERO;
        };
        if name != "available_instances" && !directory.ends_with("/nvidia") {
            return Duration::ZERO;
        }
        let mut state = self.state();
        let is_address = |part: &&str| part.len() == 12 && part.as_bytes()[4] == b':';
        let function = directory.rsplit('/').find(is_address);
        let board = function.and_then(|function| state.board_of(function));
        let places: Vec<&str> = function.into_iter().chain(board.as_deref()).collect();
        let fault = state.strike(Target::Read, &places);
        fault.map_or(Duration::ZERO, |fault| fault.delay)
    }
}

impl State {
    /// The fault that applies; this uses up one of its times.
    pub(super) fn next_fault(&mut self, what: &OnWrite, value: &[u8]) -> Option<Fault> {
        let (target, parent) = self.target(what, value)?;
        let board = parent.as_ref().and_then(|parent| self.board_of(parent));
        let places: Vec<&str> = [&parent, &board]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        self.strike(target, &places)
    }

    /// The same for a target and places.
    pub(super) fn strike(&mut self, target: Target, places: &[&str]) -> Option<Fault> {
        let mut faults = self.faults.iter_mut();
        let fault = faults.find(|fault| fault.concerns(target, places))?;
        fault.times -= 1;
        Some(fault.clone())
    }

    /// The kind of a write, and its parent or function.
    fn target(&self, what: &OnWrite, value: &[u8]) -> Option<(Target, Option<String>)> {
        let parent_of = |uuid: &String| self.mdevs.get(uuid).map(|mdev| mdev.parent.clone());
        Some(match what {
            OnWrite::Create { parent, .. } => (Target::Create, Some(parent.clone())),
            OnWrite::Remove { uuid } => (Target::Remove, parent_of(uuid)),
            OnWrite::Parameters { uuid } => (Target::Parameters, parent_of(uuid)),
            OnWrite::Vgpu { at, attribute } => {
                let target = match attribute {
                    Attribute::CurrentVgpuType if value.trim_ascii() == b"0" => Target::ReleaseType,
                    Attribute::CurrentVgpuType => Target::SetType,
                    Attribute::VgpuParams => Target::Parameters,
                    Attribute::PlacementId => Target::Placement,
                    _ => return None,
                };
                (target, Some(parent_of(at).unwrap_or_else(|| at.clone())))
            }
            // The bus looks for these faults when a driver is asked.
            OnWrite::Unbind { .. }
            | OnWrite::Bind { .. }
            | OnWrite::Probe
            | OnWrite::Override { .. } => return None,
        })
    }
}
