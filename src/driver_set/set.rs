//! Driver sets as they are stored.

use std::io;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{DriverVersion, Pair, Part, pair};
use crate::{
    device::Sysfs,
    host::Host,
    model::{DriverSetName, visible},
};

pub(super) const DIRECTORY: &str = DriverSetName::DIRECTORY;

/// The file in a set's directory that says what is in it.
pub(super) const MANIFEST: &str = "set.json";

/// A set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DriverSet {
    /// Its name.
    pub name: DriverSetName,
    /// Its files, those of the host first.
    pub parts: Vec<StoredPart>,
}

/// A file of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoredPart {
    /// What it is.
    #[serde(flatten)]
    pub part: Part,
    /// How many bytes it has.
    pub size: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}

impl StoredPart {
    /// Its path below the set's directory.
    #[must_use]
    pub fn place(&self) -> String {
        place(&self.part)
    }
}

impl DriverSet {
    /// Whether a file of the set is as it was stored.
    ///
    /// # Errors
    /// When it cannot be read, or has changed.
    pub fn check(&self, host: &Host, part: &StoredPart) -> io::Result<()> {
        let path = format!("{}/{}", self.name.directory(), part.place());
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
        let mut file = host.open_given(&host.path(&path)).map_err(named)?;
        let mut hash = Sha256::new();
        io::copy(&mut file, &mut hash).map_err(named)?;
        if format!("{:x}", hash.finalize()) == part.sha256 {
            return Ok(());
        }
        let name = &self.name;
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{path} is not as it was stored; remove the set ('virt-vgpu driver remove {name}') \
                 and add its bundle again"
            ),
        ))
    }
}

/// Where a file lies below its set's directory.
pub(super) fn place(part: &Part) -> String {
    let directory = if part.system.is_host() {
        "host"
    } else {
        "guest"
    };
    format!("{directory}/{}", part.file)
}

impl DriverSet {
    /// The version of the host's driver; None: there is none in it.
    #[must_use]
    pub fn host(&self) -> Option<&DriverVersion> {
        host_of(self.parts.iter().map(|one| &one.part))
    }

    /// The guests' drivers, each with how NVIDIA says it stands to the host's.
    pub fn guests(&self) -> impl Iterator<Item = (&Part, Option<Pair>)> {
        let host = self.host();
        let guests = self.parts.iter().map(|one| &one.part);
        let guests = guests.filter(|part| !part.system.is_host());
        guests.map(move |part| (part, host.map(|host| pair(host, &part.version))))
    }
}

pub(super) fn host_of<'p>(parts: impl Iterator<Item = &'p Part>) -> Option<&'p DriverVersion> {
    let mut hosts = parts.filter(|part| part.system.is_host());
    hosts.next().map(|part| &part.version)
}

/// The set of that name; None: there is none.
///
/// # Errors
/// What is wrong with it, with the next step.
pub fn find(host: &Host, name: &DriverSetName) -> io::Result<Option<DriverSet>> {
    let manifest = format!("{}/{MANIFEST}", name.directory());
    let text = match host.read_file(&manifest) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{manifest}: {error}"))),
    };
    let set: DriverSet = serde_json::from_str(&text).map_err(|error| {
        let what = format!(
            "{manifest}: {error}; remove the directory {} and add the set again",
            name.directory()
        );
        io::Error::new(io::ErrorKind::InvalidData, what)
    })?;
    match set.name == *name {
        true => Ok(Some(set)),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{manifest} is of the set '{}'; give the directory that name",
                set.name
            ),
        )),
    }
}

/// All sets in the order of their names, and what cannot be read.
///
/// # Errors
/// When the directory cannot be listed.
pub fn all(host: &Host) -> io::Result<(Vec<DriverSet>, Vec<String>)> {
    let (mut sets, mut problems) = (Vec::new(), Vec::new());
    let names = match host.list(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => {
            names.map_err(|error| io::Error::new(error.kind(), format!("{DIRECTORY}: {error}")))?
        }
    };
    // Those that are not complete have names with a dot before.
    for name in names.iter().filter(|name| !name.starts_with('.')) {
        let Ok(known) = name.parse::<DriverSetName>() else {
            let name = visible(name);
            problems.push(format!("{DIRECTORY}/{name} is no driver set"));
            continue;
        };
        match find(host, &known) {
            Ok(Some(set)) => sets.push(set),
            Ok(None) => problems.push(format!(
                "{} has no {MANIFEST}: it is no driver set",
                known.directory()
            )),
            Err(error) => problems.push(error.to_string()),
        }
    }
    Ok((sets, problems))
}
