//! One reason why the host needs a PCI function, as data and in words.

use std::fmt;

use crate::model::{PciAddress, visible};

/// Why the host needs a PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The function that the host needs: the one asked about, or another one of its IOMMU
    /// group.
    pub function: PciAddress,
    /// From the function to its use: `0000:00:1f.2`, `ata1`, `sda`, `sda2`, `md0`, `/`.
    pub chain: Vec<String>,
    /// The IOMMU group, if `function` is another function of the same group.
    pub group: Option<String>,
    /// The path and the error, if it is not known whether the host needs the function.
    pub unread: Option<String>,
}

impl Need {
    /// A use that was found.
    pub(super) fn used(function: PciAddress, rest: Vec<String>) -> Self {
        let mut chain = vec![function.to_string()];
        chain.extend(rest.iter().map(|step| visible(step).into_owned()));
        Self {
            function,
            chain,
            group: None,
            unread: None,
        }
    }

    /// A use that cannot be ruled out.
    pub(super) fn unread(function: PciAddress, why: &str) -> Self {
        Self {
            function,
            chain: vec![function.to_string()],
            group: None,
            unread: Some(visible(why).into_owned()),
        }
    }

    /// The chain in one line: `0000:00:1f.2 → ata1 → sda → sda2 → md0 → /`.
    #[must_use]
    pub fn in_one_line(&self) -> String {
        self.chain.join(" → ")
    }
}

/// The reason in words, about the function that was asked about: `the host needs it: …`.
impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            function,
            group,
            unread,
            ..
        } = self;
        let it = match group {
            None => "it".to_owned(),
            Some(group) => format!("{function}, which is in the same IOMMU group ({group})"),
        };
        match unread {
            None => write!(f, "the host needs {it}: {}", self.in_one_line()),
            Some(why) => write!(f, "it is not known whether the host needs {it}: {why}"),
        }
    }
}
