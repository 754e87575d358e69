//! Installs the host's driver of a set, with the program of the distribution or with NVIDIA's.

use std::{fmt, io, time::Duration};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::{
    device::Sysfs,
    driver_set::{DriverSet, StoredPart, System},
    host::{Deadline, Host},
};

/// How long it may take: DKMS compiles the driver.
const PATIENCE: Duration = Duration::from_secs(3600);

const DPKG: &str = "/usr/bin/dpkg";
const DPKG_QUERY: &str = "/usr/bin/dpkg-query";
const APT_GET: &str = "/usr/bin/apt-get";
const RPM: &str = "/usr/bin/rpm";
const DKMS: &str = "/usr/sbin/dkms";
const SHELL: &str = "/bin/sh";

/// The packages that NVIDIA's host driver has on Debian and Ubuntu, one for each branch.
const PACKAGES: &str = "nvidia-vgpu-ubuntu*";

/// How apt installs a file, whatever version is there. A package that is held is held against other
/// upgrades than this one; another program may be installing something, as `unattended-upgrades`
/// does (seconds); and nobody is there to answer what to do with a changed file of configuration.
const INSTALL: [&str; 11] = [
    "install",
    "--yes",
    "--allow-downgrades",
    "--allow-change-held-packages",
    "--reinstall",
    "-o",
    "DPkg::Lock::Timeout=300",
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
];

/// What dpkg has begun and not ended. It, and apt, then refuse all else (`debSystem::CheckUpdates`
/// of apt).
const UNFINISHED: &str = "/var/lib/dpkg/updates";

/// Which file of a set is installed on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Installer {
    /// What kind of file it is.
    pub system: System,
    /// Its path.
    pub path: String,
}

/// Why a set cannot be installed here; a clause with the next step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoInstaller(String);

impl Installer {
    /// The file for this host: a package of its distribution, else NVIDIA's installer.
    ///
    /// # Errors
    /// When the set has none, or what it is built with is missing.
    pub fn of(host: &Host, set: &DriverSet) -> Result<Self, NoInstaller> {
        let has_dpkg = host.exists(DPKG);
        let part = |system: System| set.parts.iter().find(|one| one.part.system == system);
        let package = match has_dpkg {
            true => part(System::HostDeb),
            false => part(System::HostRpm).filter(|_| host.exists(RPM)),
        };
        let Some(part) = package.or_else(|| part(System::HostRun)) else {
            let has: Vec<String> = set
                .parts
                .iter()
                .filter(|one| one.part.system.is_host())
                .map(|one| one.part.file.clone())
                .collect();
            return Err(NoInstaller(match has.is_empty() {
                true => format!(
                    "driver set '{}' has no driver for hosts; 'virt-vgpu driver list' shows those \
                     that have",
                    set.name
                ),
                false => format!(
                    "driver set '{}' has no driver for this distribution, only {}; add the bundle \
                     for it, or the one for Linux KVM",
                    set.name,
                    has.join(", ")
                ),
            }));
        };
        let found = Self::file(set, part);
        found.check_headers(host)?;
        found.check_dpkg(host)?;
        Ok(found)
    }

    fn file(set: &DriverSet, part: &StoredPart) -> Self {
        Self {
            system: part.part.system,
            path: format!("{}/{}", set.name.directory(), part.place()),
        }
    }

    /// Whether the file is as it was stored.
    ///
    /// # Errors
    /// When it is not, or cannot be read.
    pub(super) fn check(&self, host: &Host, set: &DriverSet) -> io::Result<()> {
        let mut parts = set.parts.iter();
        let part = parts.find(|part| Self::file(set, part) == *self);
        part.map_or(Ok(()), |part| set.check(host, part))
    }

    /// All but the rpm are built for the running kernel.
    fn check_headers(&self, host: &Host) -> Result<(), NoInstaller> {
        if self.system == System::HostRpm {
            return Ok(());
        }
        let kernel = host.read("/proc/sys/kernel/osrelease");
        let kernel = kernel.map_err(|error| NoInstaller(error.to_string()))?;
        if host.exists(&format!("/lib/modules/{kernel}/build")) {
            return Ok(());
        }
        Err(NoInstaller(format!(
            "the headers of this kernel are missing, which the driver is built with; install \
             linux-headers-{kernel} (Debian, Ubuntu) or kernel-devel-{kernel} (Red Hat)"
        )))
    }

    /// After a power cut dpkg has to be told to complete its work.
    fn check_dpkg(&self, host: &Host) -> Result<(), NoInstaller> {
        let is_update = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
        let names = host.list(UNFINISHED).unwrap_or_default();
        match self.system == System::HostDeb && names.iter().any(is_update) {
            false => Ok(()),
            true => Err(NoInstaller(
                "dpkg was interrupted at its work and refuses other work; complete it with 'dpkg \
                 --configure -a', then try again"
                    .to_owned(),
            )),
        }
    }

    /// Installs it, also over a newer one. Packages of other branches go first.
    ///
    /// # Errors
    /// The last lines that the program says.
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<()> {
        let path = host.path(&self.path);
        let path = path.to_string_lossy();
        match self.system {
            System::HostDeb => {
                remove_other_packages(host, &self.package(host)?)?;
                if host.exists(APT_GET) {
                    let arguments: Vec<&str> = INSTALL.into_iter().chain([&*path]).collect();
                    return program(host, APT_GET, &arguments);
                }
                program(host, DPKG, &["--install", &path])
            }
            System::HostRpm => {
                let options = ["-U", "--oldpackage", "--replacepkgs"];
                let arguments: Vec<&str> = options.into_iter().chain([&*path]).collect();
                program(host, RPM, &arguments)
            }
            _ => {
                let mut arguments = vec![&*path, "--silent"];
                if host.exists(DKMS) {
                    arguments.push("--dkms");
                }
                program(host, SHELL, &arguments)
            }
        }
    }

    /// The name of the package in the file.
    fn package(&self, host: &Host) -> anyhow::Result<String> {
        let path = host.path(&self.path);
        let arguments = [
            "--showformat",
            "${Package}",
            "--show",
            &path.to_string_lossy(),
        ];
        let deadline = Deadline::after(PATIENCE);
        let ended = host
            .run_program("/usr/bin/dpkg-deb", &arguments, deadline)
            .context("cannot run dpkg-deb")?;
        let name = ended.said.trim();
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        match ended.status.success() && is_name {
            true => Ok(name.to_owned()),
            false => bail!("{} is no package: {}", self.path, last_lines(&ended.said)),
        }
    }
}

impl fmt::Display for Installer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

fn remove_other_packages(host: &Host, package: &str) -> anyhow::Result<()> {
    /// Letters that say how far a package is installed: not, or only its configuration.
    const GONE: [char; 2] = ['n', 'c'];
    let arguments = [
        "--showformat",
        "${db:Status-Abbrev}${Package}\\n",
        "--show",
        PACKAGES,
    ];
    let deadline = Deadline::after(PATIENCE);
    let ended = host
        .run_program(DPKG_QUERY, &arguments, deadline)
        .context("cannot run dpkg-query")?;
    // It fails where no package has such a name.
    if !ended.status.success() {
        return Ok(());
    }
    // The first three characters are its state. One that could not be configured is in the way of
    // every other package.
    let others = ended.said.lines().filter_map(|line| {
        let (state, name) = line.split_at_checked(3)?;
        let is_there = state.chars().nth(1).is_some_and(|how| !GONE.contains(&how));
        is_there.then_some(name)
    });
    for other in others.filter(|&other| other != package) {
        let options = ["--remove", "--force-remove-reinstreq", "--force-hold"];
        let arguments: Vec<&str> = options.into_iter().chain([other]).collect();
        program(host, DPKG, &arguments)?;
    }
    Ok(())
}

fn program(host: &Host, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let name = program.rsplit('/').next().unwrap_or(program);
    // The options say nothing of why it fails.
    let shown = match arguments {
        [verb, _, .., what] => format!("{name} {verb} ... {what}"),
        _ => format!("{name} {}", arguments.join(" ")),
    };
    let ended = host
        .run_program(program, arguments, Deadline::after(PATIENCE))
        .with_context(|| format!("'{shown}' did not end"))?;
    match ended.status.success() {
        true => Ok(()),
        false => bail!(
            "'{shown}' failed ({}): {}",
            ended.status,
            last_lines(&ended.said)
        ),
    }
}

/// The end of what a program says, in one line.
fn last_lines(said: &str) -> String {
    const MOST: usize = 5;
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(MOST)..];
    match last.is_empty() {
        true => "it says nothing".to_owned(),
        false => last.join("; "),
    }
}
