//! The files of a driver bundle: which driver each is, by its name and by its first bytes.
//! Names are those of NVIDIA's bundles from vGPU 15 on (Virtual GPU Software User Guide, and
//! the bundles' own listings).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::DriverVersion;

/// A file of a driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name, without a directory: letters, digits and `._-`.
    pub file: String,
    /// What it is for.
    pub system: System,
    /// The version of the driver.
    pub version: DriverVersion,
}

/// The system that a driver is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// The host, as NVIDIA's own installer.
    HostRun,
    /// An Ubuntu or Debian host.
    HostDeb,
    /// A Red Hat host, for one release of its kernel.
    HostRpm,
    /// A Linux guest, as NVIDIA's own installer.
    LinuxRun,
    /// A Debian or Ubuntu guest.
    LinuxDeb,
    /// A Red Hat guest.
    LinuxRpm,
    /// A Windows guest.
    Windows,
}

impl System {
    /// Whether it is the host's driver.
    #[must_use]
    pub fn is_host(self) -> bool {
        matches!(self, Self::HostRun | Self::HostDeb | Self::HostRpm)
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostRun => "host (.run)",
            Self::HostDeb => "host (.deb)",
            Self::HostRpm => "host (.rpm)",
            Self::LinuxRun => "Linux guests (.run)",
            Self::LinuxDeb => "Linux guests (.deb)",
            Self::LinuxRpm => "Linux guests (.rpm)",
            Self::Windows => "Windows guests",
        })
    }
}

/// How many of a file's first bytes [`Part::check`] looks at.
pub const HEAD: usize = 64 << 10;

impl Part {
    /// The driver that a file of that name is; None: it is none, as a document is none.
    #[must_use]
    pub fn named(file: &str) -> Option<Self> {
        const LONGEST: usize = 120;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if file.len() > LONGEST || !file.bytes().all(is_plain) || file.starts_with('.') {
            return None;
        }
        let (system, version) = recognised(file)?;
        Some(Self {
            file: file.to_owned(),
            system,
            version: version.parse().ok()?,
        })
    }

    /// Checks that the first bytes are those of such a file and of that version, as far as such
    /// files tell.
    ///
    /// # Errors
    /// What is wrong: a clause about the file.
    pub fn check(&self, head: &[u8]) -> Result<(), String> {
        const DEB: &[u8] = b"!<arch>\ndebian-binary";
        const RPM: &[u8] = b"\xed\xab\xee\xdb";
        /// Name, version and release in the lead of an RPM package (`rpmlead.c`).
        const LEAD: std::ops::Range<usize> = 10..76;
        let names_version = |text: &[u8]| {
            let version = self.version.as_str().as_bytes();
            text.windows(version.len()).any(|part| part == version)
        };
        let is_of_its_kind = match self.system {
            System::HostRun | System::LinuxRun => head.starts_with(b"#!"),
            System::HostDeb | System::LinuxDeb => head.starts_with(DEB),
            System::HostRpm | System::LinuxRpm => head.starts_with(RPM),
            System::Windows => is_program_of_windows(head),
        };
        if !is_of_its_kind {
            return Err(match self.system {
                System::HostRun | System::LinuxRun => "is no installer: it is no script",
                System::HostDeb | System::LinuxDeb => "is no Debian package",
                System::HostRpm | System::LinuxRpm => "is no RPM package",
                System::Windows => "is no program of Windows",
            }
            .to_owned());
        }
        let tells = match self.system {
            System::HostRun | System::LinuxRun => Some(head),
            System::HostRpm | System::LinuxRpm => head.get(LEAD),
            // Their versions are in what is compressed.
            System::HostDeb | System::LinuxDeb | System::Windows => None,
        };
        match tells {
            Some(text) if !names_version(text) => Err(format!(
                "is not the driver {} that its name says: it has another version inside",
                self.version
            )),
            _ => Ok(()),
        }
    }
}

fn is_program_of_windows(head: &[u8]) -> bool {
    const OFFSET: std::ops::Range<usize> = 0x3c..0x40;
    let offset = || {
        let bytes: [u8; 4] = head.get(OFFSET)?.try_into().ok()?;
        let at = usize::try_from(u32::from_le_bytes(bytes)).ok()?;
        head.get(at..at.checked_add(4)?)
    };
    head.starts_with(b"MZ") && offset() == Some(b"PE\0\0")
}

/// The system and the version in a file's name.
fn recognised(file: &str) -> Option<(System, &str)> {
    if let Some(rest) = file.strip_prefix("NVIDIA-Linux-x86_64-") {
        let host = rest.strip_suffix("-vgpu-kvm.run");
        let guest = rest.strip_suffix("-grid.run");
        return host
            .map(|version| (System::HostRun, version))
            .or(guest.map(|version| (System::LinuxRun, version)));
    }
    // nvidia-vgpu-ubuntu-580_580.65.05_amd64.deb
    if let Some(rest) = file.strip_prefix("nvidia-vgpu-ubuntu-") {
        let (_, version) = rest.strip_suffix("_amd64.deb")?.split_once('_')?;
        return Some((System::HostDeb, version));
    }
    // NVIDIA-vGPU-rhel-9.4-580.65.05.x86_64.rpm
    if let Some(rest) = file.strip_prefix("NVIDIA-vGPU-rhel-") {
        let (_, version) = rest.strip_suffix(".x86_64.rpm")?.rsplit_once('-')?;
        return Some((System::HostRpm, version));
    }
    // nvidia-linux-grid-580_580.65.06_amd64.deb, nvidia-linux-grid-580-580.65.06-1.x86_64.rpm
    if let Some(rest) = file.strip_prefix("nvidia-linux-grid-") {
        if let Some(rest) = rest.strip_suffix("_amd64.deb") {
            return Some((System::LinuxDeb, rest.split_once('_')?.1));
        }
        let rest = rest.strip_suffix(".x86_64.rpm")?;
        let (rest, _release) = rest.rsplit_once('-')?;
        return Some((System::LinuxRpm, rest.split_once('-')?.1));
    }
    // 580.88_grid_win10_win11_server2022_dch_64bit_international.exe
    let (version, rest) = file.strip_suffix(".exe")?.split_once("_grid_")?;
    rest.contains("win").then_some((System::Windows, version))
}
