//! Whole PCI functions: GPUs, NVMe drives, NICs, FPGAs, anything that is not a bridge. A
//! start binds the function to `vfio-pci`, with all other functions of its IOMMU group; a
//! stop gives each its driver back.

use std::{io, sync::Arc};

use super::{Devices, HostView, Keys, Kind, PCI_FIELDS, Part, Subject, Words};
use crate::{
    device::{
        Sysfs, iommu,
        mdev::{Offer, Parent},
    },
    document::ConfigError,
    model::{ParentName, PciAddress},
    rule::Field,
};

mod binding;
mod critical;
mod function;
mod named;
mod pool;
mod settings;

/// The word in claims for a whole function.
const WORD: &str = "pci";

/// The row in the registry.
#[derive(Debug)]
pub(super) struct Pci;

impl Kind for Pci {
    fn name(&self) -> &'static str {
        "pci"
    }

    fn about(&self) -> &'static str {
        "whole PCI devices"
    }

    fn subject(&self) -> Subject {
        Subject::Function
    }

    fn words(&self) -> Words {
        Words {
            subjects: "PCI devices",
            subject: "PCI device",
            none: "no PCI devices",
            host_has_none: "this host has no PCI devices",
            absent: "this host has no such PCI device",
            lists: "virt-vgpu devices",
            not_taken: "the pool's rules do not take it",
            unbound: None,
        }
    }

    fn keys(&self) -> Keys {
        Keys {
            type_key: None,
            settings: &["guest-driver", settings::TABLE],
            tables: &[(settings::TABLE, settings::KEYS)],
            defaults: &[],
        }
    }

    fn fields(&self) -> Vec<Field> {
        [PCI_FIELDS, &[Field::Serial]].concat()
    }

    fn parse(&self, part: &Part<'_>) -> Result<Arc<dyn Devices>, ConfigError> {
        let settings = settings::Settings::read(part.top)?;
        Ok(Arc::new(pool::PciPool { settings }))
    }

    fn subjects(&self, view: &HostView<'_>) -> io::Result<Vec<Parent>> {
        function::all(view.sysfs())
    }

    fn subject_named(&self, sysfs: &dyn Sysfs, name: &ParentName) -> Option<Parent> {
        function::subject(sysfs, name.pci()?)
    }

    fn name_of_devices(&self) -> &'static str {
        "pci"
    }

    fn is_of_whole_functions(&self) -> bool {
        true
    }

    /// libvirt would forget the driver that the function had
    /// (`virPCIDeviceUnbindFromStub`).
    fn keeps_its_driver(&self) -> bool {
        true
    }

    fn withheld(&self, view: &HostView<'_>, function: PciAddress) -> Option<String> {
        match function::offer(view, function) {
            Offer::Taken(why) | Offer::NoRoom(why) | Offer::Unreadable(why) => Some(why),
            Offer::Type { .. } | Offer::NoSuchType => None,
        }
    }

    fn lacking(&self, sysfs: &dyn Sysfs) -> io::Result<Option<String>> {
        Ok((!iommu::is_on(sysfs)?).then(|| function::NO_IOMMU.to_owned()))
    }
}
