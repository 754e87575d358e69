//! The nouns that all other modules share, as types whose constructors check them. They
//! know their textual form and nothing else: no files, no libvirt, no policy.

mod address;
mod handle;
mod mdev;
mod names;
mod numa;
mod parent_name;
mod profile;
mod proposal;
mod rom;
mod selector;
mod spelling;
mod together;
mod token_scope;
mod utc_time;
mod vgpu;
mod visible;

pub use address::PciAddress;
pub use handle::Handle;
pub use mdev::{MdevModel, MdevTypeId, MdevUuid};
pub use names::{
    DeviceName, DomainName, DomainUuid, DriverName, DriverSetName, PoolName, pools_in_words,
};
pub use numa::{CpuSet, NumaNode};
pub use parent_name::ParentName;
pub use profile::{ProfileParts, Series, short_name};
pub use proposal::{domain_word, proposed, proposed_with, quoted};
pub use rom::Rom;
pub use selector::TypeSelector;
pub(crate) use spelling::slips;
pub use together::Together;
pub use token_scope::{SetDisc, TokenScope};
pub use utc_time::UtcTime;
pub use vgpu::{ProfileName, VgpuTypeId};
pub use visible::{visible, visible_file, visible_lines};

/// A text of the wrong form: what was wanted and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{found}' is not {wanted}")]
pub struct InvalidName {
    /// The noun and its form, as in "a PCI address (dddd:bb:ss.f)".
    pub wanted: &'static str,
    /// The text as it was given, shortened for an error message.
    pub found: String,
}

impl InvalidName {
    /// How many characters of a bad input an error message repeats.
    const SHOWN: usize = 64;

    /// Records `found`, shortened and with hidden characters made visible, so that the
    /// message stays on one line.
    #[must_use]
    pub fn new(wanted: &'static str, found: &str) -> Self {
        let shown: String = found.chars().take(Self::SHOWN).collect();
        let mut text = visible(&shown).into_owned();
        if found.chars().nth(Self::SHOWN).is_some() {
            text.push('…');
        }
        Self {
            wanted,
            found: text,
        }
    }
}

/// Serde through `Display` and `FromStr`, so that a value from a file passes the same
/// check as any other.
macro_rules! serde_as_text {
    ($name:ty) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;

/// A text that one function checks, whatever way it is constructed.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $accepts:expr, $wanted:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text as it was written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::model::InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if $accepts(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Self::Err::new($wanted, text))
                }
            }
        }

        $crate::model::serde_as_text!($name);
    };
}
pub(crate) use checked_text;
