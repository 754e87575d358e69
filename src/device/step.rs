//! A plan's steps as plain data: what is written, how it is undone, what must
//! be true afterwards. `apply` carries them out without knowing kinds.

/// One write to one attribute.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attribute {
    /// Absolute path on the host.
    pub path: String,
    /// The text that goes there in a single `write`.
    pub value: String,
}

/// A condition that shows a step has worked.
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
    /// The attribute has taken the value, white space at its end apart.
    Reads {
        /// The attribute.
        path: String,
        /// What it has to say.
        value: String,
    },
    /// There is something by which QEMU can open the device: an IOMMU group, or the
    /// character device of newer kernels.
    Openable {
        /// The device's directory.
        device: String,
    },
}

/// How an effect is taken back.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Undo {
    /// The write that does it.
    pub write: Attribute,
    /// What there is to take back, and how it shows that it is gone.
    #[serde(flatten)]
    pub effect: Effect,
}

/// How an effect shows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum Effect {
    /// A device came into being.
    Device(Made),
    /// A device that is always there was set to something.
    Setting(Setting),
}

/// The paths by which a device that was made shows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Made {
    /// Only while this is there may it be written. Before, a driver is still busy
    /// with the device, and the kernel would answer `EAGAIN` and take the
    /// attribute away for good (`remove_store` in `drivers/vfio/mdev`).
    pub whole: String,
    /// All of these are gone afterwards. The kernel takes a device's links away
    /// before its driver has let go of it, so the device's own directory is among
    /// them.
    pub gone: Vec<String>,
}

/// An attribute that tells whether its device is set to anything.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Setting {
    /// The attribute.
    pub setting: String,
    /// What it says when the device is free.
    pub free: String,
}

/// Why a setting of a device that is made needs no undo of its own.
pub const GOES_WITH_THE_DEVICE: &str = "it goes with the device, which a step before has made";

/// One effect on the host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// What it does, for people.
    pub what: String,
    /// The write that does it.
    pub write: Attribute,
    /// How it is taken back; None where there is a reason for none.
    pub undo: Option<Undo>,
    /// Why it needs no undo of its own.
    #[serde(skip)]
    pub needs_no_undo: Option<&'static str>,
    /// All of these hold once it is done.
    pub checks: Vec<Check>,
}
