//! NUMA nodes and the kernel's list format for sets of CPUs or nodes.

use std::{collections::BTreeSet, fmt, str::FromStr};

use super::InvalidName;

/// A NUMA node of the host. Sysfs writes `-1` for "none"; that is `None` here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct NumaNode(pub u32);

impl NumaNode {
    /// Reads a `numa_node` attribute: a decimal number, negative for none.
    ///
    /// # Errors
    /// When the text is not a number.
    pub fn from_sysfs(text: &str) -> Result<Option<Self>, InvalidName> {
        let number: i64 = text
            .trim()
            .parse()
            .map_err(|_| InvalidName::new("a NUMA node number", text))?;
        Ok(u32::try_from(number).ok().map(Self))
    }
}

impl fmt::Display for NumaNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of CPU or node numbers, as in `0-3,8,^2`: the kernel's list format
/// (`cpulist`) with libvirt's `^N` for "but not N".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    /// Numbers from here up are refused: libvirt's own limit is 16384 CPUs
    /// (`VIR_DOMAIN_CPUMASK_LEN`), and a large range must not use up the memory.
    const LIMIT: u32 = 16_384;

    /// Whether the set holds `number`.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.0.contains(&number)
    }

    /// Whether the two sets share a number.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        !self.0.is_disjoint(&other.0)
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        Self(numbers.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName::new("a list of CPU or node numbers (as in 0-3,8)", text);
        let number = |digits: &str| match digits.trim().parse::<u32>() {
            Ok(number) if number < Self::LIMIT => Ok(number),
            _ => Err(invalid()),
        };
        let (mut set, mut without) = (BTreeSet::new(), BTreeSet::new());
        for part in text
            .trim()
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            if let Some(excluded) = part.strip_prefix('^') {
                without.insert(number(excluded)?);
            } else if let Some((first, last)) = part.split_once('-') {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(invalid());
                }
                set.extend(first..=last);
            } else {
                set.insert(number(part)?);
            }
        }
        Ok(Self(&set - &without))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(text: &str) -> Vec<u32> {
        text.parse::<CpuSet>().unwrap().iter().collect()
    }

    #[test]
    fn lists_read_as_the_kernel_and_libvirt_write_them() {
        assert_eq!(numbers("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(numbers("0-3,^2"), [0, 1, 3]);
        assert_eq!(numbers("5"), [5]);
        assert!(numbers("\n").is_empty());
        for bad in ["3-1", "a", "0-", "-1", "0-99999999", "4294967296", "^"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn minus_one_is_no_node() {
        assert_eq!(NumaNode::from_sysfs("-1\n"), Ok(None));
        assert_eq!(NumaNode::from_sysfs("1\n"), Ok(Some(NumaNode(1))));
        assert!(NumaNode::from_sysfs("").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<CpuSet>();
            let _ = NumaNode::from_sysfs(&text);
        }
    }
}
