//! NVIDIA's vGPU types: the driver's number of a type, and the name in a pool file.

use std::{fmt, num::NonZeroU32, str::FromStr};

use super::{InvalidName, ProfileParts, checked_text, serde_as_text, short_name};

/// A driver's number for a vGPU type, as in `current_vgpu_type` and in `nvidia-1155`.
/// The number differs between driver branches, so it is not stored for longer than a
/// device exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VgpuTypeId(NonZeroU32);

impl VgpuTypeId {
    /// None for 0: a function without a type has this number.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }
}

impl fmt::Display for VgpuTypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for VgpuTypeId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten();
        number
            .and_then(Self::new)
            .ok_or_else(|| InvalidName::new("a vGPU type's number", text))
    }
}

serde_as_text!(VgpuTypeId);

fn is_profile(text: &str) -> bool {
    const LONGEST: usize = 64;
    text.len() <= LONGEST
        && !text.is_empty()
        && text.trim() == text
        && text.contains('-')
        && !text.contains(char::is_control)
}

checked_text!(
    /// A vGPU profile by the name of its type, with or without the product in front:
    /// `NVIDIA L40S-12Q`, `L40S-12Q`.
    ProfileName,
    is_profile,
    "a vGPU profile (as in L40S-12Q or NVIDIA L40S-12Q)"
);

impl ProfileName {
    /// Whether the profile means the type with that full name.
    #[must_use]
    pub fn means(&self, type_name: &str) -> bool {
        type_name == self.as_str() || short_name(type_name) == self.as_str()
    }

    /// The name that was probably meant by a name that does not have NVIDIA's form:
    /// small letters after the size, or a superfluous space.
    #[must_use]
    pub fn meant(&self) -> Option<Self> {
        let text: String = self.as_str().chars().filter(|c| *c != ' ').collect();
        let (front, size) = text.rsplit_once('-')?;
        let meant = format!("{front}-{}", size.to_uppercase());
        let is_other = self.parts().is_none() && ProfileParts::of(&meant).is_some();
        is_other.then(|| meant.parse().ok()).flatten()
    }

    /// The parts of the name; None for a name that does not have NVIDIA's form.
    #[must_use]
    pub fn parts(&self) -> Option<ProfileParts<'_>> {
        ProfileParts::of(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, number) in [
            ("1155", Some(1155)),
            ("0", None),
            ("", None),
            ("+1", None),
            ("4294967296", None),
            ("12a", None),
        ] {
            assert_eq!(
                text.parse().ok(),
                number.and_then(VgpuTypeId::new),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_was_meant_by_a_slip_is_told() {
        let meant = |name: &str| {
            let profile = name.parse::<ProfileName>().unwrap();
            profile.meant().map(|meant| meant.to_string())
        };
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(meant("A16-4q"), some("A16-4Q"));
        assert_eq!(meant("A100 -5C"), some("A100-5C"));
        assert_eq!(meant("A100-1-5Cme"), some("A100-1-5CME"));
        for name in ["A16-8E", "A16-4Q", "NVIDIA L40S-12Q", "a-b", "- -"] {
            assert_eq!(meant(name), None, "{name}");
        }
    }

    #[test]
    fn profiles_by_short_and_by_full_name() {
        let means = |profile: &str, name: &str| profile.parse::<ProfileName>().unwrap().means(name);
        assert!(means("L40S-12Q", "NVIDIA L40S-12Q"));
        assert!(means("NVIDIA L40S-12Q", "NVIDIA L40S-12Q"));
        assert!(means("DC-1-24Q", "NVIDIA RTX Pro 6000 Blackwell DC-1-24Q"));
        assert!(!means("L40S-1Q", "NVIDIA L40S-12Q"));
        assert!(!means("40S-12Q", "NVIDIA L40S-12Q"));
        assert!(!means("GRID L40S-12Q", "NVIDIA L40S-12Q"));
        for bad in ["", "L40S", " L40S-12Q", "a-\n"] {
            assert!(bad.parse::<ProfileName>().is_err(), "{bad:?}");
        }
    }
}
