//! mdevctl's definitions of mediated devices, which it makes at boot, or when it is
//! asked: `/etc/mdevctl.d/PARENT/UUID`, as mdevctl(8) describes them. Only read.

use std::{fmt, io, path::Path};

use serde::Deserialize;

use super::ConfigFiles;
use crate::model::{MdevTypeId, MdevUuid, ParentName};

/// Where mdevctl keeps them, a directory for each parent.
const DIRECTORY: &str = "/etc/mdevctl.d";

/// A device that mdevctl knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its UUID.
    pub uuid: MdevUuid,
    /// Its type.
    pub type_id: MdevTypeId,
    /// When it is made.
    pub start: Start,
}

/// When mdevctl makes a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// As soon as its parent is there.
    Auto,
    /// When it is told to.
    Manual,
}

/// A definition that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadDefinition {
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for BadDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; correct or remove it ('mdevctl list --defined' shows the others)",
            self.path, self.reason
        )
    }
}

#[derive(Deserialize)]
struct Written {
    mdev_type: MdevTypeId,
    start: Start,
}

/// The definitions of a parent, in ascending order of UUID, and those that cannot
/// be used. What is not named by a UUID is none.
#[must_use]
pub fn definitions(
    files: &dyn ConfigFiles,
    parent: &ParentName,
) -> (Vec<Definition>, Vec<BadDefinition>) {
    let directory = format!("{DIRECTORY}/{parent}");
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let entries = match files.list(Path::new(&directory)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (good, bad),
        Err(error) => {
            bad.push(BadDefinition {
                path: directory,
                reason: format!("cannot be listed: {error}"),
            });
            return (good, bad);
        }
    };
    let names = entries.iter().filter_map(|entry| entry.name.to_str());
    let mut uuids: Vec<MdevUuid> = names.filter_map(|name| name.parse().ok()).collect();
    uuids.sort_unstable();
    for uuid in uuids {
        let path = format!("{directory}/{uuid}");
        match read(files, &path) {
            Ok(Written { mdev_type, start }) => good.push(Definition {
                uuid,
                type_id: mdev_type,
                start,
            }),
            Err(reason) => bad.push(BadDefinition { path, reason }),
        }
    }
    (good, bad)
}

fn read(files: &dyn ConfigFiles, path: &str) -> Result<Written, String> {
    let text = { files.read(Path::new(path)) }.map_err(|error| format!("cannot be read: {error}"));
    let parsed = serde_json::from_str(&text?);
    parsed.map_err(|error| format!("is no definition of mdevctl: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemoryFiles;

    const UUIDS: [&str; 3] = [
        "11111111-2222-4333-8444-000000000001",
        "11111111-2222-4333-8444-000000000002",
        "11111111-2222-4333-8444-000000000003",
    ];

    #[test]
    fn what_mdevctl_writes_is_read_and_the_rest_is_named() {
        let path = |name: &str| format!("{DIRECTORY}/0000:3b:00.0/{name}");
        let auto = r#"{"mdev_type": "nvidia-232", "start": "auto", "attrs": []}"#;
        let manual = r#"{"attrs":[{"nvidia/vgpu_params":"a=1"}],"start":"manual","mdev_type":"t"}"#;
        let files = MemoryFiles::default()
            .with(path(UUIDS[1]), auto)
            .with(path(UUIDS[0]), manual)
            .with(path(UUIDS[2]), "{\"start\":\"auto\"}")
            .with(path("README"), "-");
        let (good, bad) = definitions(&files, &"0000:3b:00.0".parse().unwrap());
        let definition = |uuid: &str, type_id: &str, start| Definition {
            uuid: uuid.parse().unwrap(),
            type_id: type_id.parse().unwrap(),
            start,
        };
        assert_eq!(
            good,
            [
                definition(UUIDS[0], "t", Start::Manual),
                definition(UUIDS[1], "nvidia-232", Start::Auto)
            ]
        );
        let wanted = format!(
            "/etc/mdevctl.d/0000:3b:00.0/{}: is no definition of mdevctl: missing field `mdev_type` \
             at line 1 column 16; correct or remove it ('mdevctl list --defined' shows the others)",
            UUIDS[2]
        );
        assert_eq!(bad.len(), 1);
        assert_eq!(bad[0].to_string(), wanted);
        let (good, bad) = definitions(&files, &"mtty".parse().unwrap());
        assert_eq!((good, bad), (vec![], vec![]));
    }
}
