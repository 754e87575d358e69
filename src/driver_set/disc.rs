//! A set's disc: an ISO image with the drivers for guests, and what installs them. The same set
//! gives the same bytes on any machine, so that a copy elsewhere can be compared.
//!
//! A disc with a licence token is a secret as the token is: what it is made of lies in a directory
//! that only root can look into, and the image belongs to QEMU's user alone.

use std::{io::Write, path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use sha2::{Digest, Sha256};

use super::{DriverSet, StoredPart, StoredToken, System, Token, set::DIRECTORY};
use crate::{
    allocate::{self, QemuUser},
    device::Sysfs,
    host::{Deadline, DiscLock, Host, NewDirectory},
    model::{DriverSetName, PoolName, TokenScope, proposed},
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

/// The discs of a set that were made, and those that could not be.
#[derive(Debug, Default)]
pub struct Made {
    /// The images with licence tokens, in the order of their scopes.
    pub with_tokens: Vec<String>,
    /// What went wrong with others, with the next step.
    pub problems: Vec<String>,
}

/// Makes the disc of a set without a licence token, in place of one that is there.
///
/// # Errors
/// Why there is none, with the next step; nothing is left then.
pub fn make(host: &Host, set: &DriverSet) -> anyhow::Result<()> {
    make_one(host, set, None)
}

/// Makes the discs of a set with the licence tokens that its VMs may need, and removes those with
/// tokens that are no more. `lent_by` are the pools that lend the set.
pub fn make_with_tokens(
    host: &Host,
    set: &DriverSet,
    lent_by: &[PoolName],
    tokens: &[StoredToken],
    _alone: &DiscLock,
) -> Made {
    let mut made = Made::default();
    let needed = tokens.iter();
    for one in needed.filter(|one| is_needed(set, lent_by, &one.scope)) {
        match make_one(host, set, Some(one)) {
            Ok(()) => made.with_tokens.push(one.scope.disc(&set.name)),
            Err(error) => made.problems.push(format!(
                "there is no disc of driver set '{0}' with the licence token of {1}: {error:#}; {2} \
                 makes it",
                set.name,
                one.owner(),
                proposed("virt-vgpu driver iso", &set.name)
            )),
        }
    }
    for scope in scopes(host, &set.name) {
        if !is_outdated(host, &set.name, &scope) {
            continue;
        }
        let image = scope.disc(&set.name);
        if let Err(error) = host.remove_file(&image) {
            made.problems.push(format!(
                "{image}, whose licence token is no more, cannot be removed: {error}"
            ));
        }
    }
    made
}

/// Whether the token on a disc was removed or replaced. One that cannot be looked at is there.
fn is_outdated(host: &Host, set: &DriverSetName, scope: &TokenScope) -> bool {
    let disc = host.file_state(&scope.disc(set));
    match (disc, host.file_state(&scope.path())) {
        (Ok(disc), Ok(token)) => !allocate::is_of_token(&disc, &token),
        (_, Err(error)) => error.kind() == std::io::ErrorKind::NotFound,
        (Err(_), Ok(_)) => false,
    }
}

/// Removes the discs of all sets with a token of that scope. Returns their images.
///
/// # Errors
/// The kernel's errno, with the path.
pub fn remove_with_token(
    host: &Host,
    scope: &TokenScope,
    _alone: &DiscLock,
) -> anyhow::Result<Vec<String>> {
    let images = images_with_token(host, scope);
    for image in &images {
        let removed = host.remove_file(image);
        removed.with_context(|| format!("cannot remove {image}"))?;
    }
    Ok(images)
}

/// The images of all sets with a token of that scope.
#[must_use]
pub fn images_with_token(host: &Host, scope: &TokenScope) -> Vec<String> {
    let names = host.list(DIRECTORY).unwrap_or_default();
    let sets = names.iter().filter_map(|name| name.parse().ok());
    let images = sets.map(|set: DriverSetName| scope.disc(&set));
    images.filter(|image| host.exists(image)).collect()
}

/// Whether the discs that VMs may need are there, and as they should be.
#[must_use]
pub fn are_in_order(
    host: &Host,
    set: &DriverSet,
    lent_by: &[PoolName],
    tokens: &[StoredToken],
) -> bool {
    let mut scopes = tokens.iter().map(|one| &one.scope);
    allocate::check_image(host, Path::new(&set.name.disc())).is_ok()
        && scopes.all(|scope| {
            !is_needed(set, lent_by, scope)
                || allocate::check_token_disc(host, &set.name, scope).is_ok()
        })
}

/// Whether VMs may need a disc of the set with a token of that scope.
#[must_use]
pub fn is_needed(set: &DriverSet, lent_by: &[PoolName], scope: &TokenScope) -> bool {
    let is_lent = match scope {
        TokenScope::All => true,
        TokenScope::Pool(pool) => lent_by.contains(pool),
        TokenScope::Domain(_) => !lent_by.is_empty(),
    };
    is_lent && set.guests().next().is_some()
}

/// Whose tokens are on discs of the set.
#[must_use]
pub fn scopes(host: &Host, set: &DriverSetName) -> Vec<TokenScope> {
    let names = host.list(&set.directory()).unwrap_or_default();
    let scopes = names.iter().filter_map(|name| TokenScope::of_disc(name));
    let mut scopes: Vec<TokenScope> = scopes.collect();
    scopes.sort();
    scopes
}

fn make_one(host: &Host, set: &DriverSet, token: Option<&StoredToken>) -> anyhow::Result<()> {
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
    // QEMU is neither root nor in a group that is known here. A disc with a token is its user's;
    // the group may have other members.
    let (access, target) = match token {
        None => ((0o644, None), set.name.disc()),
        Some(one) => {
            let user = QemuUser::of(host).map_err(|problem| anyhow!(problem))?;
            ((0o400, Some(user.uid)), one.scope.disc(&set.name))
        }
    };
    let cannot = || format!("cannot write to {DIRECTORY}");
    let staging = match token {
        None => host.new_directory(DIRECTORY),
        Some(_) => host.new_private_directory(DIRECTORY),
    };
    let staging = staging.with_context(cannot)?;
    staging.make_directory(CONTENT).with_context(cannot)?;
    let text = token.map(|one| &one.token);
    fill(host, set, &guests, text, &staging).with_context(cannot)?;
    let content = staging.path().join(CONTENT);
    let made = staging.path().join(IMAGE);
    burn(host, &set.name, &content, &made)?;
    if let Some(one) = token {
        let stored = host.file_state(&one.scope.path()).with_context(cannot)?;
        staging.date(IMAGE, stored.modified).with_context(cannot)?;
    }
    staging
        .move_out(IMAGE, access, &host.path(&target))
        .with_context(|| format!("cannot write {target}"))
}

/// The directory with what goes on the disc.
const CONTENT: &str = "content";

fn fill(
    host: &Host,
    set: &DriverSet,
    guests: &[&StoredPart],
    token: Option<&Token>,
    staging: &NewDirectory,
) -> std::io::Result<()> {
    const PROGRAM: u32 = 0o755;
    const TEXT: u32 = 0o644;
    const SECRET: u32 = 0o600;
    let mut sums = String::new();
    for guest in guests {
        let from = host.path(&format!("{}/{}", set.name.directory(), guest.place()));
        staging.link(&from, &format!("{CONTENT}/{}", guest.part.file))?;
        sums += &format!("{}  {}\n", guest.sha256, guest.part.file);
    }
    let mut texts = Vec::new();
    if guests.iter().any(|one| one.part.system != System::Windows) {
        texts.push(("install.sh".to_owned(), PROGRAM, installer(guests)));
    }
    if guests.iter().any(|one| one.part.system == System::Windows) {
        let text = include_str!("disc/install.cmd").replace('\n', "\r\n");
        texts.push(("install.cmd".to_owned(), TEXT, text));
    }
    texts.push(("README.txt".to_owned(), TEXT, readme(set, guests)));
    if let Some(token) = token {
        staging.make_directory(&format!("{CONTENT}/{TOKEN}"))?;
        let name = format!("{TOKEN}/{}", token.file);
        texts.push((name, SECRET, token.contents().to_owned()));
    }
    for (name, mode, text) in texts {
        put(staging, &name, mode, &text)?;
        sums += &format!("{:x}  {name}\n", Sha256::digest(text.as_bytes()));
    }
    put(staging, "SHA256SUMS", TEXT, &sums)
}

/// The directory with the licence token; the installers look there.
const TOKEN: &str = "token";

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
