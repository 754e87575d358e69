//! Mediated devices of any driver, by the id or the name of their type.

use std::sync::Arc;

use super::{Devices, Keys, Kind, NVIDIA_PARAMETERS, PCI_FIELDS, Part, Subject, TypeKey, made_as};
use crate::{document::ConfigError, model::TypeSelector, rule::Field};

/// The row in the registry.
#[derive(Debug)]
pub(super) struct Mdev;

impl Kind for Mdev {
    fn name(&self) -> &'static str {
        "mdev"
    }

    fn about(&self) -> &'static str {
        "mediated devices of any driver"
    }

    fn subject(&self) -> Subject {
        Subject::Parent
    }

    fn subjects_in_words(&self) -> &'static str {
        "Parents of mediated devices"
    }

    fn keys(&self) -> Keys {
        Keys {
            made_as: Some(TypeKey {
                name: "type",
                about: "id or name of the mdev type",
            }),
            settings: &["guest-driver"],
            defaults: NVIDIA_PARAMETERS,
        }
    }

    fn fields(&self) -> Vec<Field> {
        PCI_FIELDS.to_vec()
    }

    fn parse(&self, part: &Part<'_>) -> Result<Arc<dyn Devices>, ConfigError> {
        let wants = ("type", "a type's id (as in nvidia-558) or name");
        let mdev_type = made_as(part, wants, self)?;
        Ok(Arc::new(MdevPool { mdev_type }))
    }
}

/// What a pool of mediated devices hands out.
#[derive(Debug, PartialEq, Eq)]
struct MdevPool {
    mdev_type: TypeSelector,
}

impl Devices for MdevPool {
    fn made_as(&self) -> &TypeSelector {
        &self.mdev_type
    }

    fn type_in_words(&self) -> String {
        format!("mdev type '{}'", self.mdev_type)
    }
}
