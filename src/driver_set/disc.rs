//! A set's disc: an ISO image with the drivers for guests, and what installs them. The same set
//! gives the same bytes on any machine, so that a copy elsewhere can be compared.

use std::{io::Write, path::Path, time::Duration};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use super::{DriverSet, StoredPart, System, set::DIRECTORY};
use crate::{
    host::{Deadline, Host, NewDirectory},
    model::DriverSetName,
};

/// The image's name until it is complete.
const IMAGE: &str = "guest.iso";

/// The date of everything on a disc, in seconds since 1970: the first of January 2020.
const DATE: &str = "1577836800";

/// The program that makes images. It keeps names of 73 characters, as NVIDIA's for Windows
/// have, and the mode of files.
pub const XORRISO: &str = "/usr/bin/xorriso";

/// The longest that it may take: a slow disk, and some 3 GB.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Makes the disc of a set, in place of one that is there.
///
/// # Errors
/// Why there is none, with the next step; nothing is left then.
pub fn make(host: &Host, set: &DriverSet) -> anyhow::Result<()> {
    let guests: Vec<&StoredPart> = set
        .parts
        .iter()
        .filter(|one| !one.part.system.is_host())
        .collect();
    if guests.is_empty() {
        bail!("it has no drivers for guests");
    }
    if !host.path(XORRISO).exists() {
        bail!(
            "{XORRISO} is not installed, which makes discs; install xorriso ('apt-get install xorriso')"
        );
    }
    let cannot = || format!("cannot write to {DIRECTORY}");
    let staging = host.new_directory(DIRECTORY).with_context(cannot)?;
    staging.make_directory(CONTENT).with_context(cannot)?;
    fill(host, set, &guests, &staging).with_context(cannot)?;
    let content = staging.path().join(CONTENT);
    let made = staging.path().join(IMAGE);
    burn(host, &set.name, &content, &made)?;
    // QEMU is neither root nor in a group that is known here.
    const READABLE: u32 = 0o644;
    let target = set.name.disc();
    staging
        .move_out(IMAGE, READABLE, &host.path(&target))
        .with_context(|| format!("cannot write {target}"))
}

/// The directory with what goes on the disc.
const CONTENT: &str = "content";

fn fill(
    host: &Host,
    set: &DriverSet,
    guests: &[&StoredPart],
    staging: &NewDirectory,
) -> std::io::Result<()> {
    const PROGRAM: u32 = 0o755;
    const TEXT: u32 = 0o644;
    let mut sums = String::new();
    for guest in guests {
        let from = host.path(&format!("{}/{}", set.name.directory(), guest.place()));
        staging.link(&from, &format!("{CONTENT}/{}", guest.part.file))?;
        sums += &format!("{}  {}\n", guest.sha256, guest.part.file);
    }
    let texts = [
        ("install.sh", PROGRAM, installer(guests)),
        (
            "install.cmd",
            TEXT,
            include_str!("disc/install.cmd").replace('\n', "\r\n"),
        ),
        ("README.txt", TEXT, readme(set, guests)),
    ];
    let is_for_linux = guests.iter().any(|one| one.part.system != System::Windows);
    let is_for_windows = guests.iter().any(|one| one.part.system == System::Windows);
    for (name, mode, text) in texts {
        let is_left_out = match name {
            "install.sh" => !is_for_linux,
            "install.cmd" => !is_for_windows,
            _ => false,
        };
        if is_left_out {
            continue;
        }
        put(staging, name, mode, &text)?;
        sums += &format!("{:x}  {name}\n", Sha256::digest(text.as_bytes()));
    }
    put(staging, "SHA256SUMS", TEXT, &sums)
}

fn put(staging: &NewDirectory, name: &str, mode: u32, text: &str) -> std::io::Result<()> {
    let mut file = staging.create(&format!("{CONTENT}/{name}"), mode)?;
    file.write_all(text.as_bytes())?;
    file.finish()
}

fn installer(guests: &[&StoredPart]) -> String {
    let mut linux = guests
        .iter()
        .filter(|one| one.part.system != System::Windows);
    let version = linux.next().map_or("", |one| one.part.version.as_str());
    include_str!("disc/install.sh").replace("@VERSION@", version)
}

fn readme(set: &DriverSet, guests: &[&StoredPart]) -> String {
    let files = guests
        .iter()
        .map(|one| format!("{}\n  for {}", one.part.file, one.part.system));
    let files: Vec<String> = files.collect();
    // Windows' editor shows it, too.
    include_str!("disc/README.txt")
        .replace("@NAME@", set.name.as_str())
        .replace("@FILES@", &files.join("\n"))
        .replace('\n', "\r\n")
}

fn burn(host: &Host, name: &DriverSetName, content: &Path, image: &Path) -> anyhow::Result<()> {
    const ENV: &str = "/usr/bin/env";
    let date = format!("SOURCE_DATE_EPOCH={DATE}");
    let dates = format!("={DATE}");
    let volume = volume(name);
    let (content, image) = (content.to_string_lossy(), image.to_string_lossy());
    let arguments = [
        &date,
        XORRISO,
        "-as",
        "mkisofs",
        "-quiet",
        "-V",
        &volume,
        "-r",
        "-J",
        "-joliet-long",
        "-iso-level",
        "3",
        "--set_all_file_dates",
        &dates,
        "-o",
        &image,
        &content,
    ];
    let ended = host
        .run_program(ENV, &arguments, Deadline::after(PATIENCE))
        .with_context(|| format!("cannot run {XORRISO}"))?;
    if ended.status.success() {
        return Ok(());
    }
    // Its last complaint says why; a full disk is the usual one.
    let is_telling = |line: &&str| line.contains("FAILURE") || line.contains("FATAL");
    let said = ended.said.lines().rfind(is_telling);
    let said = said.unwrap_or("it does not say why").trim();
    bail!(
        "{XORRISO} failed ({}): {said}; see whether the disk is full, then try again",
        ended.status
    )
}

/// A volume's name: at most 32 of `A-Z`, `0-9` and `_`.
fn volume(name: &DriverSetName) -> String {
    const LONGEST: usize = 32;
    let plain = name.as_str().chars().map(|c| match c.to_ascii_uppercase() {
        c @ ('A'..='Z' | '0'..='9') => c,
        _ => '_',
    });
    plain.take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_volumes() {
        let volume = |name: &str| volume(&name.parse().unwrap());
        assert_eq!(volume("nvidia-580.65.05"), "NVIDIA_580_65_05");
        assert_eq!(volume(&"x".repeat(64)), "X".repeat(32));
    }
}
