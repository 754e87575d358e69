//! A plan's steps as plain data: the write, its undo, and the checks afterwards.
//! `apply` carries them out without knowing kinds.

use crate::model::{DriverName, PciAddress};

/// What a step, or its undo, does to the host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// One write to one attribute.
    Write(Attribute),
    /// A PCI function gets another driver.
    Bind(Binding),
}

/// One write to one attribute.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attribute {
    /// Absolute path on the host.
    pub path: String,
    /// The text, written in a single `write`.
    pub value: String,
}

/// A PCI function and the driver that it is to have. The driver is bound by
/// `driver_override`, which names one driver for one function (kernel
/// `Documentation/ABI/testing/sysfs-bus-pci`).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Binding {
    /// The function.
    pub function: PciAddress,
    /// The driver; None: no driver.
    pub driver: Option<DriverName>,
    /// The text of `driver_override` afterwards; None: empty, so that the kernel chooses.
    pub driver_override: Option<DriverName>,
}

/// A condition that shows that a step has worked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", tag = "check")]
pub enum Check {
    /// The link's target has this component among its last two.
    LinkPasses {
        /// The link.
        path: String,
        /// A directory name of the target.
        component: String,
    },
    /// The attribute has the value, apart from white space at its end.
    Reads {
        /// The attribute.
        path: String,
        /// The expected value.
        value: String,
    },
    /// The function has the driver.
    Bound {
        /// The function.
        function: PciAddress,
        /// The driver.
        driver: DriverName,
    },
    /// The function's configuration space can be read. A function that was pulled out, or
    /// that has not woken up, reads as all ones.
    Answers {
        /// The function.
        function: PciAddress,
    },
    /// QEMU can open the device: it has an IOMMU group, or the character device of
    /// newer kernels.
    Openable {
        /// The device's directory.
        device: String,
    },
}

/// How an effect is undone, and how the host shows whether the effect is there.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum Undo {
    /// A device was created.
    Device(Made),
    /// A setting of a permanent device was changed.
    Setting(Setting),
    /// A PCI function was bound to a driver.
    Bound(Bound),
}

impl Undo {
    /// The write that undoes the effect of a single write.
    #[must_use]
    pub fn write(&self) -> Option<&Attribute> {
        match self {
            Self::Device(Made { write, .. }) | Self::Setting(Setting { write, .. }) => Some(write),
            Self::Bound(_) => None,
        }
    }
}

/// A created device: the write that removes it, and the paths that show that it exists.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Made {
    /// The write that removes it.
    pub write: Attribute,
    /// The undo may be written only while this path exists. Before that, a driver is
    /// still busy with the device, and the kernel would answer `EAGAIN` and remove the
    /// attribute for good (`remove_store` in `drivers/vfio/mdev`).
    pub whole: String,
    /// All of these are gone afterwards. The kernel removes a device's links before its
    /// driver has released it, so the device's own directory is among them.
    pub gone: Vec<String>,
}

/// A setting of a permanent device: the write that resets it, and the attribute that shows
/// it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Setting {
    /// The write that resets it.
    pub write: Attribute,
    /// The attribute.
    pub setting: String,
    /// Its value when the device is free.
    pub free: String,
}

/// A function that has another driver than before.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bound {
    /// The driver that it was bound to.
    pub bound_to: DriverName,
    /// What it had before.
    pub before: Binding,
}

/// Why a setting of a created device needs no undo of its own.
pub const GOES_WITH_THE_DEVICE: &str = "it goes with the device, which a step before has made";

/// One effect on the host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// What it does, for people.
    pub what: String,
    /// The act that has the effect.
    #[serde(flatten)]
    pub act: Act,
    /// How it is undone; None if there is a reason for none.
    pub undo: Option<Undo>,
    /// Why it needs no undo of its own. With an undo: why it is undone only as long as not
    /// all steps are done, and stays when the device is given back.
    #[serde(skip)]
    pub needs_no_undo: Option<&'static str>,
    /// All of these hold once it is done.
    pub checks: Vec<Check>,
}
