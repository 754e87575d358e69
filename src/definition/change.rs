//! Edits to a domain's persistent definition, and to the metadata of its run, one
//! libvirt call each. They are carried out in order, and undone in reverse order when
//! one fails. The callers decide which edits are needed.

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::{
    domain::{SetMetadata, for_set_metadata},
    host::libvirt::{Domain, LibvirtError},
};

/// One edit, with all that its undo needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Replaces, adds or removes our metadata element.
    Metadata {
        before: Option<SetMetadata>,
        after: Option<SetMetadata>,
    },
    /// Does the same in the running domain.
    LiveMetadata {
        before: Option<SetMetadata>,
        after: Option<SetMetadata>,
    },
    Attach(Device),
    Detach(Device),
}

/// A device in the definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name in an error, as in `hostdev 'gpu0'`.
    pub what: String,
    /// The XML that attaches it.
    pub whole: String,
    /// The XML that detaches it.
    pub key: String,
}

impl Change {
    /// The change from one metadata element to another; none if they are equal. Checks
    /// before any edit whether libvirt can store both.
    pub fn metadata(before: Option<&str>, after: Option<&str>) -> anyhow::Result<Option<Self>> {
        if before == after {
            return Ok(None);
        }
        let prepare = |element: Option<&str>| {
            let prepared = element.map(for_set_metadata).transpose();
            prepared.context("the domain's metadata cannot be edited through libvirt")
        };
        let (before, after) = (prepare(before)?, prepare(after)?);
        Ok(Some(Self::Metadata { before, after }))
    }

    /// As [`Self::metadata`], for the running domain.
    pub fn live_metadata(
        before: Option<&str>,
        after: Option<&str>,
    ) -> anyhow::Result<Option<Self>> {
        Ok(match Self::metadata(before, after)? {
            Some(Self::Metadata { before, after }) => Some(Self::LiveMetadata { before, after }),
            other => other,
        })
    }

    fn carry_out(&self, domain: &Domain) -> Result<(), LibvirtError> {
        match self {
            Self::LiveMetadata { after, .. } => domain.set_metadata_live(after.as_ref()),
            Self::Metadata { after, .. } => domain.set_metadata(after.as_ref()),
            Self::Attach(device) => domain.attach(&device.whole, &device.what),
            Self::Detach(device) => domain.detach(&device.key, &device.what),
        }
    }

    fn inverse(&self) -> Self {
        match self.clone() {
            Self::Metadata { before, after } => Self::Metadata {
                before: after,
                after: before,
            },
            Self::LiveMetadata { before, after } => Self::LiveMetadata {
                before: after,
                after: before,
            },
            Self::Attach(device) => Self::Detach(device),
            Self::Detach(device) => Self::Attach(device),
        }
    }
}

const fn outcome(undone: bool) -> &'static str {
    if undone {
        "the earlier changes were undone"
    } else {
        "nothing was changed"
    }
}

/// An edit that failed, and the state of the definition afterwards.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The definition is unchanged.
    #[error("{cause}; {}", outcome(*undone))]
    Undone {
        cause: LibvirtError,
        /// Whether anything had to be undone.
        undone: bool,
    },
    /// Some edits could not be undone.
    #[error(
        "{cause}; undoing the earlier changes failed too: {}; see 'virsh dumpxml --inactive'",
        failures.join("; ")
    )]
    HalfDone {
        cause: LibvirtError,
        failures: Vec<String>,
    },
}

/// Carries out all the changes, or none.
pub fn carry_out(domain: &Domain, changes: &[Change]) -> Result<(), ChangeError> {
    for (done, change) in changes.iter().enumerate() {
        let Err(cause) = change.carry_out(domain) else {
            continue;
        };
        let failures = take_back(domain, changes.get(..done).unwrap_or_default());
        return Err(if failures.is_empty() {
            let undone = done > 0;
            ChangeError::Undone { cause, undone }
        } else {
            ChangeError::HalfDone { cause, failures }
        });
    }
    Ok(())
}

/// The changes without those in `kept`: to undo everything except `kept`, only these
/// are undone.
pub fn beyond(changes: &[Change], kept: &[Change]) -> Vec<Change> {
    let mut metadata = None;
    let mut live = None;
    for change in kept {
        match change {
            Change::Metadata { after, .. } => metadata = Some(after),
            Change::LiveMetadata { after, .. } => live = Some(after),
            Change::Attach(_) | Change::Detach(_) => {}
        }
    }
    let changes = changes.iter().cloned().map(|change| match change {
        Change::Metadata { before, after } => Change::Metadata {
            before: metadata.cloned().unwrap_or(before),
            after,
        },
        Change::LiveMetadata { before, after } => Change::LiveMetadata {
            before: live.cloned().unwrap_or(before),
            after,
        },
        device => device,
    });
    let goes_further = |change: &Change| match change {
        Change::Metadata { before, after } | Change::LiveMetadata { before, after } => {
            before != after
        }
        device => !kept.contains(device),
    };
    changes.filter(goes_further).collect()
}

/// Undoes changes that were carried out, last first. Returns the reasons of failures.
pub fn take_back(domain: &Domain, changes: &[Change]) -> Vec<String> {
    let undo = changes.iter().rev();
    undo.filter_map(|change| change.inverse().carry_out(domain).err())
        .map(|error| error.to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(xml: &str) -> Option<SetMetadata> {
        (!xml.is_empty()).then(|| SetMetadata {
            key: "vgpu".to_owned(),
            xml: xml.to_owned(),
        })
    }

    fn both(before: &str, after: &str) -> [Change; 2] {
        let (before, after) = (metadata(before), metadata(after));
        [
            Change::Metadata {
                before: before.clone(),
                after: after.clone(),
            },
            Change::LiveMetadata { before, after },
        ]
    }

    fn detach(name: &str) -> Change {
        Change::Detach(Device {
            what: format!("hostdev '{name}'"),
            whole: format!("<hostdev>{name}</hostdev>"),
            key: name.to_owned(),
        })
    }

    #[test]
    fn what_goes_further_is_what_the_others_lack() {
        let all = [&[detach("a"), detach("b")][..], &both("ab", "")].concat();
        assert_eq!(beyond(&all, &[]), all);
        assert_eq!(beyond(&all, &all), []);
        let a = [&[detach("a")][..], &both("ab", "b")].concat();
        let back = [&[detach("b")][..], &both("b", "")].concat();
        assert_eq!(beyond(&all, &a), back);
        // Changes of the run alone do not touch the definition.
        let [_, live] = both("ab", "b");
        let [all_metadata, _] = both("ab", "");
        let [_, back_live] = both("b", "");
        assert_eq!(
            beyond(&all, &[live]),
            [detach("a"), detach("b"), all_metadata, back_live]
        );
    }
}
