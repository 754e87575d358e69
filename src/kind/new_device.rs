//! A device that a person names for a new pool.

/// The device that one rule of a new pool takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewDevice {
    /// The device of that kernel name; a PCI address in any notation.
    Itself(String),
    /// All virtual functions of a physical function, also those that are made
    /// later: their number and addresses change with the driver's settings.
    VirtualFunctionsOf(String),
}

/// A device that was named, as the new pool will take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The device that its rule takes.
    pub device: NewDevice,
    /// A note for the user, if the rule takes more than the named device.
    pub note: Option<String>,
}
