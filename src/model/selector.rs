//! What a pool hands out, as its file names it.

use std::{fmt, str::FromStr};

use super::{InvalidName, MdevTypeId, ProfileName, serde_as_text};

/// What a pool's devices are made as, in the words of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeSelector {
    /// A mediated-device type by id (`nvidia-558`) or by its `name` attribute
    /// (`NVIDIA L40S-12Q`). Which one it is shows when the parents are read.
    IdOrName(String),
    /// A vGPU profile, of whatever interface the driver has.
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

    /// Whether a type with that name of the driver's is meant.
    #[must_use]
    pub fn means_name(&self, name: &str) -> bool {
        match self {
            Self::IdOrName(text) => text == name,
            Self::Profile(profile) => profile.means(name),
        }
    }

    /// Whether a type may have this as its id: a name with a slash has not.
    #[must_use]
    pub fn could_be_id(&self) -> bool {
        self.as_id().is_some()
    }

    /// The text as an id, if a type may have it.
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
