//! A plan's steps as plain data: what is written, how it is undone, what must
//! be true afterwards. `apply` carries them out without knowing kinds.

/// One write to one attribute.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Attribute {
    /// Absolute path on the host.
    pub path: String,
    /// The text that goes there in a single `write`.
    pub value: String,
}

/// A condition that shows a step has worked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "check")]
pub enum Check {
    /// The link's target has this component among its last two.
    LinkPasses {
        /// The link.
        path: String,
        /// A directory name of the target.
        component: String,
    },
}

/// How an effect is taken back.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Undo {
    /// The write that does it.
    pub write: Attribute,
    /// Only while this is there may it be written. Before, a driver is still busy
    /// with the device, and the kernel would answer `EAGAIN` and take the
    /// attribute away for good (`remove_store` in `drivers/vfio/mdev`).
    pub whole: String,
    /// All of these are gone afterwards. The kernel takes a device's links away
    /// before its driver has let go of it, so the device's own directory is among
    /// them.
    pub gone: Vec<String>,
}

/// One effect on the host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Step {
    /// What it does, for people.
    pub what: String,
    /// The write that does it.
    pub write: Attribute,
    /// How it is taken back.
    pub undo: Undo,
    /// All of these hold once it is done.
    pub checks: Vec<Check>,
}
