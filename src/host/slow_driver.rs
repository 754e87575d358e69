//! Attributes that a GPU's driver answers, and GPUs whose driver does not answer.
//!
//! A start that does not need a GPU must not wait for it. So one read is limited to two
//! seconds, and all reads from one GPU together to five. A GPU on which another process has
//! been working for two seconds is not asked at all. A GPU whose driver did not answer is
//! noted: for some seconds no process waits for it again, and other GPUs are asked as usual.
//! Setting up GPUs takes minutes; it waits longer, and also asks noted GPUs
//! ([`Host::wait_for_drivers`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{DeviceLock, Host, driver_child::DriverChild, since_boot};
use crate::{
    device::{
        Sysfs,
        driver::{PCI_DRIVERS, PROBE},
        link_name,
        step::Attribute,
    },
    model::PciAddress,
};

/// The directory of the notes: one file for each GPU, with the milliseconds since boot.
const NOTES: &str = "/run/virt-vgpu/slow-drivers";

/// What NVIDIA's driver says of each GPU.
const GPUS: &str = "/proc/driver/nvidia/gpus/";

/// The time limit for one read.
const PATIENCE: Duration = Duration::from_secs(2);
/// The time limit for all reads from one GPU together.
const ALL_PATIENCE: Duration = Duration::from_secs(5);
/// A healthy driver answers within this time; shorter reads are not counted.
const QUICK: Duration = Duration::from_millis(50);
/// A driver for which another process has waited that long counts as hanging.
const LONG: Duration = Duration::from_secs(2);
/// How long a noted GPU is not asked.
const PAUSE: Duration = Duration::from_secs(10);

/// The known facts about GPUs with slow drivers.
#[derive(Debug, Default)]
pub(super) struct SlowDrivers {
    looked: Option<Instant>,
    /// The noted GPUs, which are not asked, with the time of the note since boot.
    noted: BTreeMap<String, Duration>,
    /// The GPUs on which another process has been working for a long time.
    busy: BTreeSet<String>,
    /// The waiting time for each GPU.
    waited: BTreeMap<String, Duration>,
}

/// Whether a driver of a GPU answers for the attribute, and not the kernel itself:
/// `available_instances` and `description` of mediated devices (`mdev_sysfs.c` asks the
/// parent's driver), all that lies in `nvidia/`, what the driver says of a GPU in
/// `/proc`, and the driver that is reserved for a function.
pub(super) fn is_asked(path: &str) -> bool {
    let Some((directory, name)) = path.rsplit_once('/') else {
        return false;
    };
    match name {
        "available_instances" | "description" => directory.contains("/mdev_supported_types/"),
        "information" => directory.starts_with(GPUS),
        // The kernel takes the device's lock, which it holds while a driver is bound or
        // unbound (`driver_override_show`).
        "driver_override" => directory.starts_with("/sys/bus/pci/devices/"),
        _ => directory.ends_with("/nvidia") && directory.starts_with("/sys/"),
    }
}

impl Host {
    /// Reads an attribute through the child. After the program's deadline, a read has only a
    /// short time limit.
    pub(super) fn ask_driver(&self, path: &str) -> io::Result<String> {
        let place = self.path(path);
        self.ask(path, |child, patience| child.read(&place, patience))?
    }

    /// Reads attributes of one GPU's driver in the same way, all at once.
    pub(super) fn ask_driver_for_each(&self, paths: &[String]) -> Vec<io::Result<String>> {
        let Some(first) = paths.first() else {
            return Vec::new();
        };
        let places: Vec<PathBuf> = paths.iter().map(|path| self.path(path)).collect();
        let asked = self.ask(first, |child, patience| child.read_each(&places, patience));
        asked.unwrap_or_else(|error| {
            let again = |_| Err(io::Error::new(error.kind(), error.to_string()));
            paths.iter().map(again).collect()
        })
    }

    fn ask<T>(
        &self,
        path: &str,
        ask: impl FnOnce(&mut DriverChild, Duration) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.waits_for_drivers.load(Ordering::Relaxed) {
            let patience = self.patience_left();
            return self.with_child(|child| ask(child, patience));
        }
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        slow.look(self);
        let is_any_slow =
            !slow.noted.is_empty() || !slow.waited.is_empty() || !slow.busy.is_empty();
        let gpu = is_any_slow.then(|| self.gpu_of(path));
        let mut patience = self.patience_left().min(PATIENCE);
        if let Some(gpu) = &gpu {
            if let Some(noted) = slow.noted.get(gpu) {
                let left = PAUSE.saturating_sub(since_boot().saturating_sub(*noted));
                return Err(silent(
                    gpu,
                    &format!("it is asked again in {} s", left.as_secs() + 1),
                ));
            }
            if slow.busy.contains(gpu) {
                let seconds = LONG.as_secs();
                let what =
                    format!("it has been at work for somebody else for more than {seconds} s");
                return Err(silent(gpu, &what));
            }
            let waited = slow.waited.get(gpu).copied().unwrap_or_default();
            patience = patience.min(ALL_PATIENCE.saturating_sub(waited));
        }
        let began = Instant::now();
        let answer = self.with_child(|child| ask(child, patience));
        let took = began.elapsed();
        if took < QUICK {
            return answer;
        }
        let gpu = gpu.unwrap_or_else(|| self.gpu_of(path));
        let waited = slow.waited.entry(gpu.clone()).or_default();
        *waited += took;
        let is_silent = matches!(&answer, Err(error) if error.kind() == io::ErrorKind::TimedOut);
        if is_silent || *waited >= ALL_PATIENCE {
            slow.waited.remove(&gpu);
            slow.noted.insert(gpu.clone(), since_boot());
            self.note_slow(&gpu);
        }
        if is_silent {
            let what = format!("{path} could not be read within {} s", patience.as_secs());
            return Err(silent(&gpu, &what));
        }
        answer
    }

    /// Notes the GPU, or the function, whose driver should answer for the attribute but does
    /// not, so that no process waits for it for a while.
    pub(super) fn leave_alone(&self, attribute: &Attribute) {
        let Attribute { path, value } = attribute;
        // What is written to a driver, or to the bus, is the name of a function.
        let is_of_bus = path == PROBE || path.starts_with(PCI_DRIVERS);
        match value.parse::<PciAddress>() {
            Ok(function) if is_of_bus => self.note_slow(&function.to_string()),
            _ => self.note_slow(&self.gpu_of(path)),
        }
    }

    /// The GPU whose driver answers for the path, or what is next to it. The kernel
    /// answers for links.
    fn gpu_of(&self, path: &str) -> String {
        let below = [
            "/sys/bus/pci/devices/",
            "/sys/bus/mdev/devices/",
            "/sys/class/mdev_bus/",
            GPUS,
        ];
        let rest = below
            .iter()
            .find_map(|directory| path.strip_prefix(directory));
        let name = rest.and_then(|rest| rest.split('/').next()).unwrap_or(path);
        let parent = match path.starts_with("/sys/bus/mdev/") {
            true => {
                let target = self.read_link(&format!("/sys/bus/mdev/devices/{name}"));
                let parent = target
                    .ok()
                    .and_then(|target| target.rsplit('/').nth(1).map(ToOwned::to_owned));
                parent.unwrap_or_else(|| name.to_owned())
            }
            false => name.to_owned(),
        };
        let physfn = format!("/sys/bus/pci/devices/{parent}/physfn");
        link_name(self, &physfn).unwrap_or(parent)
    }

    /// Writes the note, so that other processes do not wait too. A failure only costs them
    /// time.
    fn note_slow(&self, gpu: &str) {
        let text = format!("{}\n", since_boot().as_millis());
        let noted = self
            .make_directory(NOTES, 0o755)
            .and_then(|()| self.replace_file(&format!("{NOTES}/{gpu}"), text.as_bytes(), 0o644));
        if let Err(error) = noted {
            tracing::debug!("cannot note that the driver of {gpu} does not answer: {error}");
        }
    }
}

impl SlowDrivers {
    /// Forgets how long drivers took so far, for a new piece of work.
    pub(super) fn begin_again(&mut self) {
        self.waited.clear();
    }

    /// Reads the notes, at most once during a start.
    fn look(&mut self, host: &Host) {
        const OFTEN: Duration = Duration::from_millis(500);
        if self.looked.is_some_and(|looked| looked.elapsed() < OFTEN) {
            return;
        }
        self.looked = Some(Instant::now());
        let now = since_boot();
        self.noted.clear();
        for gpu in host.list(NOTES).unwrap_or_default() {
            let noted = host.read_file(&format!("{NOTES}/{gpu}")).ok();
            let noted = noted.and_then(|text| text.trim().parse().ok());
            let noted = noted.map(Duration::from_millis);
            if let Some(noted) = noted.filter(|noted| now.saturating_sub(*noted) < PAUSE) {
                self.noted.insert(gpu, noted);
            }
        }
        self.busy = DeviceLock::held_for(host, LONG);
    }
}

fn silent(gpu: &str, what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("the driver of {gpu} does not answer: {what}; see 'journalctl -k'"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_driver_answers_is_told_from_what_the_kernel_knows() {
        for path in [
            "/sys/class/mdev_bus/0000:3b:00.0/mdev_supported_types/nvidia-1/available_instances",
            "/sys/class/mdev_bus/0000:3b:00.0/mdev_supported_types/nvidia-1/description",
            "/sys/bus/pci/devices/0000:41:00.4/nvidia/current_vgpu_type",
            "/sys/bus/mdev/devices/9a644b72-229d-5e8f-b09a-25956123a508/nvidia/placement_id",
            "/proc/driver/nvidia/gpus/0000:41:00.0/information",
        ] {
            assert!(is_asked(path), "{path}");
        }
        for path in [
            "/sys/class/mdev_bus/0000:3b:00.0/mdev_supported_types/nvidia-1/name",
            "/sys/bus/pci/devices/0000:41:00.4/vendor",
            "/sys/bus/pci/drivers/nvidia",
            "/sys/bus/pci/devices/0000:41:00.4/numa_node",
            "/etc/nvidia/description",
            "description",
        ] {
            assert!(!is_asked(path), "{path}");
        }
    }
}
