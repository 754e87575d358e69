//! The type of device that a pool hands out, as its file names it.

use std::{fmt, str::FromStr};

use super::{InvalidName, MdevTypeId, ProfileName, serde_as_text};

/// The type of a pool's devices, in the words of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeSelector {
    /// A mediated-device type by id (`nvidia-558`) or by its `name` attribute (`NVIDIA
    /// L40S-12Q`). The parents' types show which of the two it is.
    IdOrName(String),
    /// A vGPU profile, for any interface of the driver.
    Profile(ProfileName),
}

impl TypeSelector {
    /// The text as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::IdOrName(text) => text,
            Self::Profile(profile) => profile.as_str(),
        }
    }

    /// Whether the selector means a type with that name of the driver's.
    #[must_use]
    pub fn means_name(&self, name: &str) -> bool {
        match self {
            Self::IdOrName(text) => text == name,
            Self::Profile(profile) => profile.means(name),
        }
    }

    /// Whether the text can be a type's id: a text with a slash cannot.
    #[must_use]
    pub fn could_be_id(&self) -> bool {
        self.as_id().is_some()
    }

    /// The text as an id, if it can be one.
    #[must_use]
    pub fn as_id(&self) -> Option<MdevTypeId> {
        match self {
            Self::IdOrName(text) => text.parse().ok(),
            Self::Profile(_) => None,
        }
    }
}

impl fmt::Display for TypeSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for TypeSelector {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        const LONGEST: usize = 255;
        let good = !text.is_empty()
            && text.len() <= LONGEST
            && text.trim() == text
            && !text.contains(char::is_control);
        good.then(|| Self::IdOrName(text.to_owned()))
            .ok_or_else(|| {
                InvalidName::new("an mdev type (id as in nvidia-558, or its name)", text)
            })
    }
}

serde_as_text!(TypeSelector);
