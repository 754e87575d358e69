//! Which guest drivers work with which host driver. NVIDIA says it in the release notes of each
//! vGPU release ("Supported guest VM drivers"), here as data.

use super::DriverVersion;

/// A release of vGPU software, and its branch of drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// `19`.
    pub number: u16,
    /// `580`.
    pub branch: u16,
    /// Whether NVIDIA supports it for longer than others.
    pub is_long_term: bool,
}

/// The releases in ascending order.
pub const RELEASES: &[Release] = &[
    release(13, 470, true),
    release(14, 510, false),
    release(15, 525, false),
    release(16, 535, true),
    release(17, 550, false),
    release(18, 570, false),
    release(19, 580, false),
    release(20, 595, false),
];

const fn release(number: u16, branch: u16, is_long_term: bool) -> Release {
    Release {
        number,
        branch,
        is_long_term,
    }
}

/// The release of a driver; None: it is newer than this program, or no driver of vGPU software.
#[must_use]
pub fn release_of(version: &DriverVersion) -> Option<Release> {
    let mut known = RELEASES.iter();
    known.find(|one| one.branch == version.branch()).copied()
}

/// How a guest's driver stands to the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pair {
    /// NVIDIA supports the two together.
    Supported,
    /// NVIDIA does not.
    Unsupported(&'static str),
    /// One of them is of a release that is not known here.
    Unknown,
}

/// Whether NVIDIA supports the two together: of one release; the guest one release older; or
/// both of long-term releases that follow each other.
#[must_use]
pub fn pair(host: &DriverVersion, guest: &DriverVersion) -> Pair {
    if host.branch() == guest.branch() {
        return Pair::Supported;
    }
    if guest.branch() > host.branch() {
        return Pair::Unsupported("the guest's driver is of a newer release than the host's");
    }
    let (Some(host), Some(guest)) = (release_of(host), release_of(guest)) else {
        return Pair::Unknown;
    };
    let mut older = RELEASES.iter().filter(|one| one.number < host.number);
    let before = older.clone().next_back();
    let long_term_before = older.rfind(|one| one.is_long_term);
    let is_before = before.is_some_and(|one| one.number == guest.number);
    let is_long_term_before =
        host.is_long_term && long_term_before.is_some_and(|one| one.number == guest.number);
    match is_before || is_long_term_before {
        true => Pair::Supported,
        false => Pair::Unsupported("the guest's driver is more than one release older"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_the_release_notes() {
        let pair = |host: &str, guest: &str| pair(&host.parse().unwrap(), &guest.parse().unwrap());
        for (host, guest) in [
            ("580.65.05", "580.65.06"),
            ("580.65.05", "580.88"),
            ("580.65.05", "570.172.08"),
            ("550.54.10", "535.161.05"),
            ("535.161.05", "525.85.05"),
            ("535.161.05", "470.223.02"),
            ("999.10.01", "999.10.02"),
        ] {
            assert_eq!(pair(host, guest), Pair::Supported, "{host} {guest}");
        }
        for (host, guest) in [
            ("580.65.05", "550.54.10"),
            ("570.172.07", "580.88"),
            ("550.54.10", "470.223.02"),
        ] {
            assert!(
                matches!(pair(host, guest), Pair::Unsupported(_)),
                "{host} {guest}"
            );
        }
        assert_eq!(pair("999.10.01", "580.88"), Pair::Unknown);
        assert_eq!(pair("580.65.05", "500.10.01"), Pair::Unknown);
    }

    #[test]
    fn releases_are_in_order() {
        for two in RELEASES.windows(2) {
            assert!(two[0].number < two[1].number && two[0].branch < two[1].branch);
        }
    }
}
