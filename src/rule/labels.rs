//! Sets of labels, each one a table of names, and the set that pools and devices share:
//! the class of a device.

use super::spelling::did_you_mean;
use crate::model::InvalidName;

/// An enum that is a table of names.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident, $wanted:literal; $($(#[$about:meta])* $variant:ident $label:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$about])* $variant),+ }

        impl $name {
            /// Every label, in the order in which messages list them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// Their names, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($label),+];

            /// The label as written in files.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::model::InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($label => Ok(Self::$variant),)+
                    _ => Err($crate::model::InvalidName::new($wanted, text)),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}
pub(crate) use labels;

labels!(
    /// What a device is for: a coarse label. In pools it helps people to sort; for
    /// devices it comes from the PCI class code.
    Class, "a device class";
    /// Graphics and other display controllers.
    Gpu "gpu",
    /// Shares of a GPU.
    Vgpu "vgpu",
    /// Disks and their controllers.
    Storage "storage",
    /// Keyboards, mice and the like.
    Hid "hid",
    /// USB devices and controllers.
    Usb "usb",
    /// Network cards.
    Network "network",
    /// Cameras and video capture.
    Media "media",
    /// Sound.
    Audio "audio",
    /// Programmable logic and processing accelerators.
    Fpga "fpga",
    /// Any other PCI function.
    Pci "pci",
    /// None of these.
    Unknown "unknown",
);

impl Class {
    /// Parses a label; the error proposes the nearest label, if there is one.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|invalid: InvalidName| {
            format!(
                "unknown class '{}'{}",
                invalid.found,
                did_you_mean(text, Self::NAMES)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_agree() {
        for (class, name) in Class::ALL.iter().zip(Class::NAMES) {
            assert_eq!(name.parse::<Class>().unwrap(), *class);
        }
        assert_eq!(
            Class::parse("gpus").unwrap_err(),
            "unknown class 'gpus' (did you mean 'gpu'?)"
        );
    }
}
