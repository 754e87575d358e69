//! Versions of NVIDIA's driver.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A version of NVIDIA's driver: `580.65.06`, `580.88`. The first number is the branch, which
/// all drivers of one vGPU release have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DriverVersion {
    branch: u16,
    rest: Vec<u16>,
    /// As NVIDIA writes it: `580.65.06` and `580.65.6` are one version, and two names.
    text: String,
}

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no version of NVIDIA's driver, as in 580.65.06")]
pub struct NoVersion(String);

impl DriverVersion {
    /// The branch: `580`.
    #[must_use]
    pub fn branch(&self) -> u16 {
        self.branch
    }

    /// As NVIDIA writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl DriverVersion {
    /// The version in the form that Windows gives it: the last five digits of `32.0.15.8088` are
    /// those of 580.88. None: it is no version of NVIDIA's driver.
    #[must_use]
    pub fn of_windows(text: &str) -> Option<Self> {
        const LONGEST: usize = 4;
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [_, _, third, fourth] = parts.as_slice() else {
            return None;
        };
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(third) || !is_number(fourth) || fourth.len() > LONGEST {
            return None;
        }
        let digits = format!("{}{fourth:0>4}", third.chars().next_back()?);
        let (branch, rest) = digits.split_at_checked(3)?;
        format!("{branch}.{rest}").parse().ok()
    }
}

impl FromStr for DriverVersion {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        const BRANCH: usize = 3;
        const LONGEST: usize = 3;
        const MOST: usize = 3;
        let refused = || NoVersion(text.chars().take(40).collect());
        let number = |part: &str| {
            let is_number = part.len() <= LONGEST && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse().ok().filter(|_| is_number)
        };
        let parts: Option<Vec<u16>> = text.split('.').map(number).collect();
        let (branch, rest) = match parts.as_deref() {
            Some([branch, rest @ ..]) if !rest.is_empty() && rest.len() < MOST => {
                (*branch, rest.to_vec())
            }
            _ => return Err(refused()),
        };
        if text
            .split('.')
            .next()
            .is_none_or(|first| first.len() != BRANCH)
        {
            return Err(refused());
        }
        Ok(Self {
            branch,
            rest,
            text: text.to_owned(),
        })
    }
}

impl TryFrom<String> for DriverVersion {
    type Error = NoVersion;

    fn try_from(text: String) -> Result<Self, NoVersion> {
        text.parse()
    }
}

impl From<DriverVersion> for String {
    fn from(version: DriverVersion) -> Self {
        version.text
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_other_texts() {
        for good in ["580.65.06", "580.88", "535.161.05", "525.85.07"] {
            let version: DriverVersion = good.parse().unwrap();
            assert_eq!(version.to_string(), good);
            assert_eq!(version.branch().to_string(), good[..3]);
        }
        for bad in [
            "",
            "580",
            "580.",
            ".88",
            "58.88",
            "580.65.06.1",
            "580.6x",
            "5800.1",
            "580.-1",
            "580.+1",
            "580.1234",
            " 580.88",
        ] {
            assert_eq!(
                bad.parse::<DriverVersion>(),
                Err(NoVersion(bad.to_owned())),
                "{bad}"
            );
        }
        let parsed = |text: &str| text.parse::<DriverVersion>().unwrap();
        assert!(parsed("580.65.05") < parsed("580.65.06"));
        assert!(parsed("570.172.08") < parsed("580.65.05"));
        assert!(parsed("580.9") < parsed("580.88"));
    }

    /// The first is the driver of vGPU 15.1 for Windows.
    #[test]
    fn versions_as_windows_has_them() {
        let read = |text| DriverVersion::of_windows(text).map(|version| version.to_string());
        for (text, version) in [
            ("31.0.15.2824", Some("528.24")),
            ("32.0.15.8088", Some("580.88")),
            ("32.0.15.6", Some("500.06")),
            ("32.0.15", None),
            ("32.0.15.80881", None),
            ("32.0..8088", None),
            ("a.b.c.d", None),
            ("", None),
        ] {
            assert_eq!(read(text).as_deref(), version, "{text}");
        }
    }
}
