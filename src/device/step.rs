//! A plan's steps as plain data: the write, its undo, and the checks afterwards.
//! `apply` carries them out without knowing kinds.

/// One write to one attribute.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attribute {
    /// Absolute path on the host.
    pub path: String,
    /// The text, written in a single `write`.
    pub value: String,
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
    /// QEMU can open the device: it has an IOMMU group, or the character device of
    /// newer kernels.
    Openable {
        /// The device's directory.
        device: String,
    },
}

/// How an effect is undone.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Undo {
    /// The write that undoes it.
    pub write: Attribute,
    /// What there is to take back, and how it shows that it is gone.
    #[serde(flatten)]
    pub effect: Effect,
}

/// The kind of an effect.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum Effect {
    /// A device was created.
    Device(Made),
    /// A setting of a permanent device was changed.
    Setting(Setting),
}

/// The paths that show that a created device exists.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Made {
    /// The undo may be written only while this path exists. Before that, a driver is
    /// still busy with the device, and the kernel would answer `EAGAIN` and remove the
    /// attribute for good (`remove_store` in `drivers/vfio/mdev`).
    pub whole: String,
    /// All of these are gone afterwards. The kernel removes a device's links before its
    /// driver has released it, so the device's own directory is among them.
    pub gone: Vec<String>,
}

/// An attribute that shows the setting of its device.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Setting {
    /// The attribute.
    pub setting: String,
    /// Its value when the device is free.
    pub free: String,
}

/// Why a setting of a created device needs no undo of its own.
pub const GOES_WITH_THE_DEVICE: &str = "it goes with the device, which a step before has made";

/// One effect on the host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// What it does, for people.
    pub what: String,
    /// How it is undone; None if it needs no undo.
    pub write: Attribute,
    /// How it is taken back; None where there is a reason for none.
    pub undo: Option<Undo>,
    /// Why it needs no undo of its own.
    #[serde(skip)]
    pub needs_no_undo: Option<&'static str>,
    /// All of these hold once it is done.
    pub checks: Vec<Check>,
}
