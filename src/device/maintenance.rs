//! Maintenance mode: the GPUs that are kept from starts of VMs, so that their driver can be
//! changed. A note says which they are, and how far a change has come; it outlives a reboot.
//! `virt-vgpu maintenance` writes it, and starts of VMs read it.

use std::{collections::BTreeSet, fmt, io};

use serde::{Deserialize, Serialize};

use super::{Sysfs, mdev, optional, vendor_vfio};
use crate::model::{DomainName, DomainUuid, DriverSetName, Handle, PciAddress};

/// The file with the note. Without it there is no maintenance.
pub const NOTE: &str = "/var/lib/virt-vgpu/maintenance.json";

/// What is noted while there is maintenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// When it began, in seconds since 1970.
    pub since: u64,
    /// The GPUs that no VM gets.
    pub gpus: BTreeSet<PciAddress>,
    /// Domains that were shut down for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shut_down: Vec<ShutDown>,
    /// Services that were stopped for it and are started at its end, in the order in which they
    /// were stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// The change of the driver that was begun last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
}

/// A domain that was shut down for the maintenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutDown {
    /// Its UUID.
    pub uuid: DomainUuid,
    /// Its name then.
    pub name: DomainName,
}

/// A change of the host's driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// The driver set that is to be loaded.
    pub set: DriverSetName,
    /// The version of the driver that was there before; None: there was none.
    pub from: Option<String>,
    /// The driver set that has that version, if one has.
    pub from_set: Option<DriverSetName>,
    /// How far it has come: written before each step.
    pub step: LoadStep,
    /// Why it did not succeed; None while it is under way, and when all was well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Load {
    /// Whether it is not complete, and that set is needed to complete it or to go back.
    #[must_use]
    pub fn needs(&self, set: &DriverSetName) -> bool {
        self.step != LoadStep::Done && (self.set == *set || self.from_set.as_ref() == Some(set))
    }
}

/// The steps of a change of the driver, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadStep {
    /// Services that use the driver are stopped.
    StopServices,
    /// Virtual functions are removed.
    RemoveFunctions,
    /// The driver's modules are unloaded.
    Unload,
    /// The new driver is installed.
    Install,
    /// Its modules are loaded.
    Load,
    /// Services are started.
    StartServices,
    /// GPUs are set up for their pools.
    SetUp,
    /// The former driver is installed and loaded again, because a step has failed.
    GoBack,
    /// All is done.
    Done,
}

impl LoadStep {
    /// How many steps there are if none fails.
    pub const FORWARD: usize = 7;
}

impl fmt::Display for LoadStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StopServices => "stop services",
            Self::RemoveFunctions => "remove virtual functions",
            Self::Unload => "unload the driver",
            Self::Install => "install the driver",
            Self::Load => "load the driver",
            Self::StartServices => "start services",
            Self::SetUp => "set up GPUs",
            Self::GoBack => "go back to the former driver",
            Self::Done => "done",
        })
    }
}

impl Maintenance {
    /// One that begins at that moment, of no GPU yet.
    #[must_use]
    pub fn begun(since: u64) -> Self {
        Self {
            since,
            gpus: BTreeSet::new(),
            shut_down: Vec::new(),
            services: Vec::new(),
            load: None,
        }
    }

    /// The GPU under maintenance that a PCI function is, is a virtual function of, or shares a
    /// card with.
    #[must_use]
    pub fn gpu_of(&self, sysfs: &dyn Sysfs, function: PciAddress) -> Option<PciAddress> {
        // What cannot be read is no virtual function.
        let physical = vendor_vfio::gpu(sysfs, function).ok().flatten();
        let physical = physical.unwrap_or(function);
        let mut gpus = self.gpus.iter().copied();
        gpus.find(|gpu| gpu.slot() == physical.slot())
    }

    /// The GPU under maintenance that a device of the host is on. A mediated device that does
    /// not exist is on none.
    #[must_use]
    pub fn gpu_with(&self, sysfs: &dyn Sysfs, device: Handle) -> Option<PciAddress> {
        match device {
            Handle::Pci(function) => self.gpu_of(sysfs, function),
            Handle::Mdev(uuid) => {
                let found = mdev::find(sysfs, uuid).ok().flatten()?;
                self.gpu_of(sysfs, found.parent.pci()?)
            }
        }
    }

    /// Why a device on such a GPU cannot be had now: a clause about the device.
    #[must_use]
    pub fn refusal(gpu: PciAddress, device: Handle) -> String {
        let what = match device == Handle::Pci(gpu) {
            true => "it".to_owned(),
            false => format!("its GPU {gpu}"),
        };
        format!("{what} is in maintenance until 'virt-vgpu maintenance leave'")
    }
}

/// The note; None: there is no maintenance.
///
/// # Errors
/// The kernel's errno with the path; `InvalidData` for a text that is no note.
pub fn read(sysfs: &dyn Sysfs) -> io::Result<Option<Maintenance>> {
    let Some(text) = optional(super::read(sysfs, NOTE))? else {
        return Ok(None);
    };
    let noted = serde_json::from_str(&text).map_err(|error| {
        let what = format!(
            "{NOTE}: {error}; remove the file if no GPU is in maintenance, else run 'virt-vgpu \
             maintenance enter' again after that"
        );
        io::Error::new(io::ErrorKind::InvalidData, what)
    })?;
    Ok(Some(noted))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of the last release are read by the next.
    #[test]
    fn a_note_is_written_as_documented() {
        let noted = Maintenance {
            since: 1_790_000_000,
            gpus: ["0000:3b:00.0".parse().unwrap()].into(),
            shut_down: Vec::new(),
            services: vec!["nvidia-vgpu-mgr.service".to_owned()],
            load: Some(Load {
                set: "nvidia-580.65.05".parse().unwrap(),
                from: Some("570.172.07".to_owned()),
                from_set: None,
                step: LoadStep::Install,
                failed: None,
            }),
        };
        let text = r#"{"since":1790000000,"gpus":["0000:3b:00.0"],"services":["nvidia-vgpu-mgr.service"],"load":{"set":"nvidia-580.65.05","from":"570.172.07","from_set":null,"step":"install"}}"#;
        assert_eq!(serde_json::to_string(&noted).unwrap(), text);
        assert_eq!(serde_json::from_str::<Maintenance>(text).unwrap(), noted);
    }
}
