//! Mediated devices of any driver, by the id or the name of their type.

use std::{io, rc::Rc, sync::Arc};

use super::{
    Board, Candidate, Devices, FieldSources, HostView, Keys, Kind, MadeAs, NVIDIA_PARAMETERS,
    Named, PCI_FIELDS, Part, Placeholder, Subject, ToMake, TypeKey, TypeOption, Words, board,
    read_type, vgpu_settings::settings,
};
use crate::{
    capacity::Fit,
    device::{
        Sysfs,
        mdev::{self, Offer, Parent},
        step::{Act, Attribute, Check, Made, Step, Undo},
    },
    document::ConfigError,
    model::{MdevTypeId, MdevUuid, ParentName, TypeSelector},
    rule::{Field, Rule, Verdict},
};

mod named;

/// The word in claims for a mediated device.
pub(super) const WORD: &str = "mdev";

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

    fn words(&self) -> Words {
        Words {
            subjects: "Parents of mediated devices",
            subject: "parent of mediated devices",
            none: "no mdev parents",
            host_has_none: "this host has no mdev parents",
            absent: "it is not a virtual function of this host",
            lists: "virt-vgpu host show",
            not_taken: "the pool's rules do not take its GPU",
            unbound: None,
        }
    }

    fn keys(&self) -> Keys {
        Keys {
            type_key: Some(TypeKey {
                name: "type",
                about: "id or name of the mdev type",
                option: TypeOption {
                    value_name: "TYPE",
                    help: "Id or name of the mdev type that the pool hands out",
                    creates: "With --type it is a pool of mediated devices of any driver; an \
                              SR-IOV card may be named by its physical function: then all its \
                              virtual functions are in the pool.",
                    parse: str::parse,
                },
            }),
            settings: &["guest-driver"],
            tables: &[],
            defaults: NVIDIA_PARAMETERS,
        }
    }

    fn fields(&self) -> Vec<Field> {
        PCI_FIELDS.to_vec()
    }

    fn parse(&self, part: &Part<'_>) -> Result<Arc<dyn Devices>, ConfigError> {
        let wants = ("type", "a type's id (as in nvidia-558) or name");
        let mdev_type = read_type(part, wants, self)?;
        Ok(Arc::new(MdevPool { mdev_type }))
    }

    fn subjects(&self, view: &HostView<'_>) -> io::Result<Vec<Parent>> {
        Ok(view.mdev().parents().to_vec())
    }

    fn subject_named(&self, sysfs: &dyn Sysfs, name: &ParentName) -> Option<Parent> {
        let parent = mdev::parent_named(sysfs, name);
        let has_types = sysfs.exists(&format!("{}/mdev_supported_types", parent.path()));
        has_types.then_some(parent)
    }

    fn is_chosen_ahead(&self) -> bool {
        false
    }
}

/// The settings of a pool of mediated devices.
#[derive(Debug)]
struct MdevPool {
    mdev_type: TypeSelector,
}

impl Devices for MdevPool {
    fn type_name(&self) -> &str {
        self.mdev_type.as_str()
    }

    fn selector(&self) -> Option<&TypeSelector> {
        Some(&self.mdev_type)
    }

    fn type_in_words(&self) -> String {
        format!("mdev type '{}'", self.mdev_type)
    }

    fn verdict(&self, sources: FieldSources<'_>, rules: &[Rule], parent: &Parent) -> Verdict {
        sources.verdict(rules, parent, None)
    }

    fn named(&self, view: &HostView<'_>, text: &str) -> Result<Named, String> {
        named::named(view.mdev(), &self.mdev_type, text)
    }

    fn candidates(
        &self,
        view: &HostView<'_>,
        placeholder: &Placeholder,
    ) -> Result<Vec<Candidate>, String> {
        match placeholder {
            Placeholder::Mdev | Placeholder::Any => view.parents(),
            Placeholder::Function(_) | Placeholder::Functions => Err(format!(
                "its placeholder is a PCI function, which a pool of kind '{}' never hands out",
                Mdev.name()
            )),
        }
    }

    fn subject_of(&self, _: &HostView<'_>, candidate: &Candidate) -> Parent {
        candidate.parent.clone()
    }

    fn offer(&self, view: &HostView<'_>, candidate: &Candidate) -> Offer {
        view.mdev().offer(&candidate.parent, &self.mdev_type)
    }

    fn steps(
        &self,
        _: &HostView<'_>,
        candidate: &Candidate,
        made: &ToMake<'_>,
    ) -> Result<Vec<Step>, String> {
        Ok(mediated(candidate, made))
    }

    fn made_as(&self, candidate: &Candidate) -> MadeAs {
        rests_on_parent(&candidate.parent.name)
    }

    fn room(&self, view: &HostView<'_>, parent: &Parent) -> (Offer, bool) {
        (view.mdev().offer(parent, &self.mdev_type), true)
    }

    fn left_on_board(
        &self,
        view: &HostView<'_>,
        board: &ParentName,
        id: &MdevTypeId,
    ) -> Option<Fit> {
        board::left_on_gpu(view, board, id)
    }

    fn board(&self, view: &HostView<'_>, candidate: &Candidate) -> Option<Rc<dyn Board>> {
        board::gpu_of(view, candidate)
    }

    fn holds_one(&self, candidate: &Candidate, id: &MdevTypeId) -> bool {
        board::is_function(candidate, id)
    }

    fn functions_hold_one(&self) -> bool {
        let wanted = self.mdev_type.as_str();
        // Ids and names that NVIDIA's driver gives its types.
        let mut starts = ["nvidia-", "NVIDIA ", "GRID "].iter();
        starts.any(|start| wanted.starts_with(start))
    }
}

/// The steps that make a mediated device, for pools of any kind. It is created, and
/// gets its place and its parameters if it is one of NVIDIA's driver.
pub(super) fn mediated(candidate: &Candidate, made: &ToMake<'_>) -> Vec<Step> {
    let mut steps = vec![creation(&candidate.parent, made.type_id, made.uuid)];
    if made.type_id.is_nvidias() {
        let directory = nvidia_attributes(made.uuid);
        steps.extend(settings(&directory, made));
    }
    steps
}

/// How a mediated device is made, for the claim; for pools of any kind.
pub(super) fn rests_on_parent(parent: &ParentName) -> MadeAs {
    MadeAs {
        word: WORD,
        rests_on: mdev::class_parent(parent).path(),
        can_wedge: false,
    }
}

/// The write that makes a device, its undo, and the conditions that hold afterwards.
pub(super) fn creation(parent: &Parent, type_id: &MdevTypeId, uuid: MdevUuid) -> Step {
    Step {
        what: format!("create {type_id} {uuid} on {}", parent.name),
        act: Act::Write(Attribute {
            path: format!("{}/mdev_supported_types/{type_id}/create", parent.path()),
            value: uuid.to_string(),
        }),
        undo: Some(removal(parent, uuid)),
        needs_no_undo: None,
        checks: vec![
            Check::LinkPasses {
                path: mdev::path(uuid),
                component: parent.name.to_string(),
            },
            Check::LinkPasses {
                path: format!("{}/mdev_type", mdev::path(uuid)),
                component: type_id.to_string(),
            },
            Check::Openable {
                device: mdev::path(uuid),
            },
        ],
    }
}

/// The removal of a device. The device exists as long as its link on the bus or its
/// directory below its parent exists. While a driver is still busy with a removal, only
/// the directory is left, and the UUID and the space are not free yet. The link of its
/// type is the last thing that the kernel makes (kernel `mdev_device_create`,
/// `mdev_device_remove_common`).
fn removal(parent: &Parent, uuid: MdevUuid) -> Undo {
    let device = mdev::path(uuid);
    Undo::Device(Made {
        write: Attribute {
            path: format!("{device}/remove"),
            value: "1".to_owned(),
        },
        whole: format!("{device}/mdev_type"),
        gone: traces(parent, uuid),
    })
}

/// The paths of a mediated device: all of them are gone after its removal.
pub(super) fn traces(parent: &Parent, uuid: MdevUuid) -> Vec<String> {
    vec![mdev::path(uuid), format!("{}/{uuid}", parent.path())]
}

/// The directory with the attributes of a vGPU of NVIDIA's driver.
fn nvidia_attributes(uuid: MdevUuid) -> String {
    format!("{}/nvidia", mdev::path(uuid))
}
