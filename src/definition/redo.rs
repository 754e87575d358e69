//! Exchanges devices in a definition. libvirt has no single edit for that, so for a
//! moment one device is removed and the other is not added yet. If the program were
//! killed then, all settings of the device would be lost. So the new device is recorded
//! first, and the next process that edits the domain adds it.
//!
//! `/run/virt-vgpu/edits/UUID.json` is written before the first edit and removed after
//! the last one. A reboot removes it together with the domain's edit lock; the device
//! then gets an ordinary placeholder.

use std::{collections::BTreeSet, io::ErrorKind};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::{
    Change, Definition, Target,
    change::{self, ChangeError, Device},
};
use crate::{
    domain::{self, ALIAS_PREFIX},
    host::{EDITS, Host},
    model::{DeviceName, DomainUuid, MdevUuid},
};

/// The devices to add again.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    devices: Vec<Device>,
}

fn path(domain: DomainUuid) -> String {
    format!("{EDITS}/{domain}.json")
}

/// Carries out all the changes, or none. If the program is killed between two of them,
/// no exchanged device is lost.
///
/// # Errors
/// The reason; the definition is then unchanged, except for [`ChangeError::HalfDone`].
pub fn carry_out_noted(host: &Host, target: &Target, changes: &[Change]) -> anyhow::Result<()> {
    let uuid = target.definition.def.uuid;
    let devices = exchanged(changes);
    if devices.is_empty() {
        return Ok(change::carry_out(&target.domain, changes)?);
    }
    let text = serde_json::to_string_pretty(&Note { devices })? + "\n";
    let noted = host
        .make_directory(EDITS, 0o755)
        .and_then(|()| host.replace_file(&path(uuid), text.as_bytes(), 0o600));
    match noted {
        // A user who edits through libvirt without being root has no lock either.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
        noted => noted.with_context(|| {
            let path = path(uuid);
            format!("cannot record in {path} which devices are exchanged; nothing was changed")
        })?,
    }
    let done = change::carry_out(&target.domain, changes);
    if !matches!(done, Err(ChangeError::HalfDone { .. })) {
        // A leftover record names no missing device and does no harm.
        let _ = host.remove_file(&path(uuid));
    }
    Ok(done?)
}

/// The added devices for which a device of the same name is removed before.
fn exchanged(changes: &[Change]) -> Vec<Device> {
    let mut removed = BTreeSet::new();
    let mut exchanged = Vec::new();
    for change in changes {
        match change {
            Change::Detach(former) => {
                removed.insert(&former.what);
            }
            Change::Attach(next) if removed.contains(&next.what) => exchanged.push(next.clone()),
            Change::Attach(_) | Change::Metadata { .. } | Change::LiveMetadata { .. } => {}
        }
    }
    exchanged
}

/// Adds the devices that a killed program has left out, if the definition still asks
/// for them. Returns their names. Call this with the domain's edit lock.
///
/// # Errors
/// When libvirt does not answer. A device that libvirt refuses is left to the code that
/// adds missing devices.
pub fn redo(host: &Host, target: &mut Target) -> anyhow::Result<Vec<String>> {
    let path = path(target.definition.def.uuid);
    let Some(devices) = noted(host, &path)? else {
        return Ok(Vec::new());
    };
    let mut done = Vec::new();
    for device in devices {
        if is_missing(&target.definition, &device)
            && target.domain.attach(&device.whole, &device.what).is_ok()
        {
            done.push(device.what);
        }
    }
    if !done.is_empty() {
        target.read_again()?;
    }
    host.remove_file(&path)
        .with_context(|| format!("cannot remove {path}"))?;
    Ok(done)
}

/// The devices recorded in that file; None without a file.
fn noted(host: &Host, path: &str) -> anyhow::Result<Option<Vec<Device>>> {
    let text = match host.read_file(path) {
        Ok(text) => text,
        // Without being root, nothing was recorded and nothing can be read.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            let what = format!("cannot read {path}, which lists devices that were removed");
            return Err(error).context(what);
        }
    };
    // A text in another format is not ours.
    let note = serde_json::from_str::<Note>(&text);
    Ok(Some(note.map(|note| note.devices).unwrap_or_default()))
}

/// Whether the definition asks for the device but does not have it.
fn is_missing(definition: &Definition, device: &Device) -> bool {
    let def = &definition.def;
    let alone = format!(
        "<domain><name>alone</name><uuid>{}</uuid><devices>{}</devices></domain>",
        def.uuid, device.whole
    );
    let Ok(alone) = domain::parse(&alone) else {
        return false;
    };
    let Some(alias) = alone.aliases.first() else {
        return false;
    };
    if def.aliases.contains(alias) {
        return false;
    }
    let mut requests = def.requests.iter();
    if !alone.hostdevs.is_empty() {
        let name = alias.strip_prefix(ALIAS_PREFIX);
        // Other functions of a card are completed when its first one is there.
        let Some(name) = name.and_then(|name| name.parse::<DeviceName>().ok()) else {
            return false;
        };
        let uuid = MdevUuid::for_device(def.uuid, &name);
        let mut mdevs = alone.hostdevs.iter().filter_map(|one| one.handle.mdev());
        return mdevs.all(|its| its == uuid) && requests.any(|request| request.name == name);
    }
    domain::find_cdrom(&alone).is_some()
        && requests.any(|request| request.guest_drivers == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::Hostdev, model::PciAddress};

    const UUID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

    fn definition(devices: &str) -> Definition {
        let xml = format!(
            "<domain><name>a&amp;b</name><uuid>{UUID}</uuid><metadata>\
             <v:devices xmlns:v='urn:virt-vgpu:devices:1'><v:device name='gpu0' pool='p'/>\
             </v:devices></metadata><devices>{devices}</devices></domain>"
        );
        Definition::read(xml).unwrap()
    }

    fn device(name: &str, whole: String) -> Device {
        Device {
            what: format!("hostdev '{name}'"),
            key: whole.clone(),
            whole,
        }
    }

    fn mdev(domain: &str, name: &str) -> Device {
        let name: DeviceName = name.parse().unwrap();
        let uuid = MdevUuid::for_device(domain.parse().unwrap(), &name);
        device(name.as_str(), Hostdev::placeholder(uuid, &name).to_xml())
    }

    #[test]
    fn what_is_exchanged_is_noted_and_nothing_else() {
        let (a, b) = (mdev(UUID, "a"), mdev(UUID, "b"));
        let changes = [
            Change::Attach(mdev(UUID, "new")),
            Change::Detach(mdev(UUID, "former")),
            Change::Detach(b.clone()),
            Change::Detach(a.clone()),
            Change::Attach(a.clone()),
            Change::Attach(b.clone()),
        ];
        assert_eq!(exchanged(&changes), [a, b]);
    }

    #[test]
    fn only_what_is_asked_for_and_not_there_is_put_in() {
        let gpu0 = mdev(UUID, "gpu0");
        let function = |name: &str| {
            let address: PciAddress = "0000:3b:00.4".parse().unwrap();
            let hostdev = Hostdev::placeholder(address, &name.parse().unwrap());
            device(name, hostdev.to_xml())
        };
        let without = definition("");
        assert!(is_missing(&without, &gpu0));
        assert!(is_missing(&without, &function("gpu0")));
        assert!(!is_missing(&definition(&gpu0.whole), &gpu0));
        assert!(!is_missing(
            &definition(&function("gpu0").whole),
            &function("gpu0")
        ));
        // Not requested; another domain's; not ours.
        assert!(!is_missing(&without, &mdev(UUID, "gpu1")));
        let other = "aaaaaaaa-0000-4000-8000-000000000002";
        assert!(!is_missing(&without, &mdev(other, "gpu0")));
        assert!(!is_missing(&without, &device("x", "<input/>".to_owned())));
        assert!(!is_missing(&without, &device("x", "<".to_owned())));
    }

    #[test]
    fn a_note_that_cannot_be_read_is_not_as_if_nothing_had_been_taken_out() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let path = path(UUID.parse().unwrap());
        let found = || {
            let found = noted(&host, &path).map_err(|error| format!("{error:#}"));
            found.map(|devices| devices.map(|devices| devices.len()))
        };
        assert_eq!(found(), Ok(None));
        std::fs::create_dir_all(host.path(&path)).unwrap();
        let why = format!(
            "cannot read {path}, which lists devices that were removed: Is a directory (os error \
             21)"
        );
        assert_eq!(found(), Err(why));
        std::fs::remove_dir(host.path(&path)).unwrap();
        let one = device("gpu0", String::new());
        let text = serde_json::to_vec(&Note { devices: vec![one] }).unwrap();
        host.replace_file(&path, &text, 0o600).unwrap();
        assert_eq!(found(), Ok(Some(1)));
    }
}
