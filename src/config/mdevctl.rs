//! Reads mdevctl's definitions of mediated devices, which mdevctl makes at boot or on
//! request: `/etc/mdevctl.d/PARENT/UUID`, as described in mdevctl(8).

use std::{collections::BTreeMap, fmt, io, path::Path};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::ConfigFiles;
use crate::model::{MdevTypeId, MdevUuid, ParentName};

/// The directory of the definitions, with one directory for each parent.
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
    /// As soon as its parent exists.
    Auto,
    /// When mdevctl is told to.
    Manual,
}

/// A definition that cannot be used.
struct BadDefinition {
    path: String,
    reason: String,
}

impl fmt::Display for BadDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; correct or remove it: until then mdevctl lists no definitions at all",
            self.path, self.reason
        )
    }
}

/// As mdevctl reads it (`MDev::load_from_json`).
#[derive(Deserialize)]
struct Written {
    mdev_type: MdevTypeId,
    #[serde(deserialize_with = "start")]
    start: Start,
    /// The values that are written to the device's attributes, in this order.
    #[serde(default, rename = "attrs")]
    _attributes: Option<Vec<Attribute>>,
}

/// An object with one field, whose value is a text.
struct Attribute;

impl<'de> Deserialize<'de> for Attribute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = BTreeMap::<String, String>::deserialize(deserializer)?;
        match fields.len() {
            1 => Ok(Self),
            count => Err(D::Error::custom(format!(
                "an attribute with {count} fields, not one"
            ))),
        }
    }
}

/// mdevctl treats every other value than `auto` as manual.
fn start<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Start, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    match value.as_str() {
        Some("auto") => Ok(Start::Auto),
        _ if value.is_null() => Err(D::Error::custom("start is null")),
        _ => Ok(Start::Manual),
    }
}

/// The definitions of a parent, in ascending order of UUID, and one line for each
/// definition that is wrong. Files whose names are not UUIDs are ignored.
#[must_use]
pub fn definitions(files: &dyn ConfigFiles, parent: &ParentName) -> (Vec<Definition>, Vec<String>) {
    let directory = format!("{DIRECTORY}/{parent}");
    let (mut good, mut wrong) = (Vec::new(), Vec::new());
    let entries = match files.list(Path::new(&directory)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (good, wrong),
        Err(error) => {
            wrong.push(format!("{directory}: cannot be listed: {error}"));
            return (good, wrong);
        }
    };
    let names = entries.iter().filter_map(|entry| entry.name.to_str());
    let mut uuids: Vec<(MdevUuid, &str)> = names
        .filter_map(|name| Some((name.parse().ok()?, name)))
        .collect();
    uuids.sort_unstable();
    for (uuid, name) in uuids {
        let path = format!("{directory}/{name}");
        if name != uuid.to_string() {
            wrong.push(format!(
                "{path}: mdevctl ignores it, for its name is not in small letters; rename it to \
                 {uuid}, or remove it"
            ));
            continue;
        }
        match read(files, &path) {
            Ok(Written {
                mdev_type, start, ..
            }) => good.push(Definition {
                uuid,
                type_id: mdev_type,
                start,
            }),
            Err(reason) => wrong.push(BadDefinition { path, reason }.to_string()),
        }
    }
    (good, wrong)
}

fn read(files: &dyn ConfigFiles, path: &str) -> Result<Written, String> {
    let text = files
        .read(Path::new(path))
        .map_err(|error| format!("cannot be read: {error}"));
    let parsed = serde_json::from_str(&text?);
    parsed.map_err(|error| format!("is not a definition of mdevctl: {error}"))
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
            "/etc/mdevctl.d/0000:3b:00.0/{}: is not a definition of mdevctl: missing field \
             `mdev_type` \
             at line 1 column 16; correct or remove it: until then mdevctl lists no definitions at \
             all",
            UUIDS[2]
        );
        assert_eq!(bad, [wanted]);
        let (good, bad) = definitions(&files, &"mtty".parse().unwrap());
        assert_eq!((good, bad), (vec![], vec![]));
    }

    /// When the device of the definition is made, or what is wrong.
    fn read_one(name: &str, text: &str) -> Result<Start, String> {
        let path = format!("{DIRECTORY}/mtty/{name}");
        let files = MemoryFiles::default().with(path, text);
        match definitions(&files, &"mtty".parse().unwrap()) {
            (good, wrong) if wrong.is_empty() => Ok(good[0].start),
            (good, wrong) => {
                assert_eq!((good.len(), wrong.len()), (0, 1));
                Err(wrong.into_iter().next().unwrap_or_default())
            }
        }
    }

    #[test]
    fn attributes_are_what_mdevctl_takes_for_some() {
        let with = |attrs: &str| format!(r#"{{"mdev_type":"t","start":"auto","attrs":{attrs}}}"#);
        for good in ["[]", "null", r#"[{"a":"1"},{"b":"2"}]"#] {
            assert_eq!(read_one(UUIDS[0], &with(good)), Ok(Start::Auto), "{good}");
        }
        for bad in [
            r#"{"a":"1"}"#,
            r#"["a"]"#,
            r#"[{"a":1}]"#,
            r#"[{"a":"1","b":"2"}]"#,
            "[{}]",
            "7",
        ] {
            let wrong = read_one(UUIDS[0], &with(bad)).unwrap_err();
            assert!(
                wrong.contains(": is not a definition of mdevctl: "),
                "{bad}: {wrong}"
            );
        }
        for (start, wanted) in [
            ("\"manual\"", Start::Manual),
            ("\"later\"", Start::Manual),
            ("1", Start::Manual),
        ] {
            let text = format!(r#"{{"mdev_type":"t","start":{start}}}"#);
            assert_eq!(read_one(UUIDS[0], &text), Ok(wanted), "{start}");
        }
        assert!(read_one(UUIDS[0], r#"{"mdev_type":"t","start":null}"#).is_err());
    }

    #[test]
    fn a_name_in_capitals_is_none_of_its_definitions() {
        let capitals = "AAAAAAAA-2222-4333-8444-000000000001";
        let text = r#"{"mdev_type":"t","start":"auto"}"#;
        assert_eq!(
            read_one(capitals, text).unwrap_err(),
            format!(
                "/etc/mdevctl.d/mtty/{capitals}: mdevctl ignores it, for its name is not in small \
                 letters; rename it to {}, or remove it",
                capitals.to_lowercase()
            )
        );
    }
}
