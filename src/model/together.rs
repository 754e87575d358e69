//! How near each other several devices of a VM should be.

use std::{fmt, str::FromStr};

use super::{InvalidName, serde_as_text};

/// What a device should share with the others of its domain that say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Together {
    /// A PCIe switch or root port, else a NUMA node.
    PcieRoot,
    /// A NUMA node.
    Numa,
}

impl Together {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::PcieRoot, Self::Numa];

    /// What it is, for help and for errors.
    pub const FORM: &'static str = "pcie-root or numa";

    /// The word in the XML.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PcieRoot => "pcie-root",
            Self::Numa => "numa",
        }
    }
}

impl fmt::Display for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Together {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let mut all = Self::ALL.into_iter();
        let found = all.find(|one| one.as_str() == text);
        found.ok_or_else(|| InvalidName::new(Self::FORM, text))
    }
}

serde_as_text!(Together);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_read_as_it_is_written_and_no_other_is() {
        for one in Together::ALL {
            assert_eq!(one.to_string().parse(), Ok(one));
        }
        for text in ["", "pcie", "pcie_root", "PCIE-ROOT", " numa", "yes", "1"] {
            let error = text.parse::<Together>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("'{text}' is not pcie-root or numa")
            );
        }
    }
}
