//! The settings of a pool of some kind, as the rest of the program sees them.

use std::{collections::BTreeMap, fmt, rc::Rc};

use super::{
    Board, Candidate, FieldSources, GpuSettings, HostView, Idle, MadeAs, Named, Placeholder,
    PlacementChoice, ToMake,
};
use crate::{
    capacity::{Fit, Placement, mig},
    device::{
        Sysfs,
        mdev::{Offer, Parent},
        step::Step,
    },
    model::{Handle, MdevTypeId, ParentName, PciAddress, Rom, TypeSelector},
    rule::{Rule, Verdict},
};

/// The kind's own part of a pool: its settings, and the devices that follow from them. It
/// reads the host and proposes steps; it changes nothing.
///
/// A device's element in the domain XML and its device nodes follow from its
/// [`crate::model::Handle`] alone, so they are not part of this trait.
pub trait Devices: fmt::Debug + Send + Sync {
    /// The type or profile of its devices as written in the file, for lists and
    /// refusals.
    fn type_name(&self) -> &str;

    /// The type in words: "mdev type 'nvidia-558'".
    fn type_in_words(&self) -> String;

    /// The type of mediated devices or the profile to make; None if nothing has to be
    /// made.
    fn selector(&self) -> Option<&TypeSelector> {
        None
    }

    /// The pool's settings for whole GPUs; None for kinds that have no GPUs.
    fn gpu_settings(&self) -> Option<&GpuSettings> {
        None
    }

    /// Whether the devices are plugged in when their domain has started, so that requests
    /// for them are optional.
    fn is_plugged_in_later(&self) -> bool {
        false
    }

    /// The other functions that a VM gets on the same slot of the guest, with that function;
    /// None if the host does not say.
    fn passed_along(&self, sysfs: &dyn Sysfs, function: PciAddress) -> Option<Vec<PciAddress>> {
        let _ = (sysfs, function);
        Some(Vec::new())
    }

    /// How the kernel can reset the device between two VMs, best first; None if it is not
    /// reset.
    fn reset_methods(&self, sysfs: &dyn Sysfs, handle: Handle) -> Option<Vec<String>> {
        let _ = (sysfs, handle);
        None
    }

    /// The option ROM of its functions, for new placeholders.
    fn rom(&self) -> Rom {
        Rom::default()
    }

    /// The kind's own settings as they count, by their keys in the file; null where libvirt
    /// decides.
    fn settings(&self) -> BTreeMap<&'static str, serde_json::Value> {
        BTreeMap::new()
    }

    /// The verdict of the pool's rules on a subject ([`super::Kind::subjects`]).
    fn verdict(&self, sources: FieldSources<'_>, rules: &[Rule], subject: &Parent) -> Verdict;

    /// The device that a person calls that, as a rule of a new pool takes it.
    ///
    /// # Errors
    /// Why there is none, or none for what the pool is set to, and what there is instead.
    fn named(&self, view: &HostView<'_>, text: &str) -> Result<Named, String>;

    /// A key of the kind's part of the file whose value is accepted but probably wrong on this
    /// host, with the reason.
    fn doubt(&self, view: &HostView<'_>) -> Option<(&'static str, String)> {
        let _ = view;
        None
    }

    /// What is accepted in a rule but probably not meant, as the end of a sentence about the
    /// rule.
    fn doubt_about(&self, rule: &Rule) -> Option<String> {
        let _ = rule;
        None
    }

    /// All candidates for a request with that placeholder, in ascending order. Whether
    /// the pool's rules take a candidate is asked later, because the answer costs
    /// reading.
    ///
    /// # Errors
    /// A text, when the host cannot be read, or such a placeholder cannot be served.
    fn candidates(
        &self,
        view: &HostView<'_>,
        placeholder: &Placeholder,
    ) -> Result<Vec<Candidate>, String>;

    /// The candidate's subject: the device to which the pool's rules apply.
    fn subject_of(&self, view: &HostView<'_>, candidate: &Candidate) -> Parent;

    /// The candidate's present offer for the pool, whether or not the rules take it.
    fn offer(&self, view: &HostView<'_>, candidate: &Candidate) -> Offer;

    /// What the candidate's board loses for others when a GPU instance has to be made there for
    /// the next device; None, which counts as the least: none has to be made, or it is not
    /// known.
    fn cost(&self, view: &HostView<'_>, candidate: &Candidate) -> Option<mig::Cost> {
        let _ = (view, candidate);
        None
    }

    /// Whether the candidate itself is free, without asking whether its board has room
    /// for one more; None if only its offer tells.
    fn is_free(&self, view: &HostView<'_>, candidate: &Candidate) -> Option<bool> {
        let _ = (view, candidate);
        None
    }

    /// The steps that make the device; empty if nothing has to be made.
    ///
    /// # Errors
    /// A text, when something that the steps depend on cannot be read.
    fn steps(
        &self,
        view: &HostView<'_>,
        candidate: &Candidate,
        made: &ToMake<'_>,
    ) -> Result<Vec<Step>, String>;

    /// Other PCI functions that the candidate's device takes along, because the hardware
    /// cannot keep them apart.
    fn along(&self, view: &HostView<'_>, candidate: &Candidate) -> Vec<PciAddress> {
        let _ = (view, candidate);
        Vec::new()
    }

    /// How a device of the candidate is made, for the claim.
    fn made_as(&self, candidate: &Candidate) -> MadeAs;

    /// A subject's offer for the pool, over all functions that make devices on it.
    /// False: the number is only an upper bound.
    fn room(&self, view: &HostView<'_>, subject: &Parent) -> (Offer, bool);

    /// How many of a type fit on a board, over all functions that make them; None if
    /// this is simply the sum of what the functions say.
    fn left_on_board(
        &self,
        view: &HostView<'_>,
        board: &ParentName,
        id: &MdevTypeId,
    ) -> Option<Fit> {
        let _ = (view, board, id);
        None
    }

    /// The capacity of the candidate's board for several devices that are planned at
    /// once; None if it is unknown.
    fn board(&self, view: &HostView<'_>, candidate: &Candidate) -> Option<Rc<dyn Board>> {
        let _ = (view, candidate);
        None
    }

    /// Whether all devices of this kind in one VM must be on the same type of board.
    fn wants_one_board_type(&self) -> bool {
        false
    }

    /// Whether the candidate holds one device, whatever its type. Otherwise it counts
    /// each of its types separately.
    fn holds_one(&self, candidate: &Candidate, id: &MdevTypeId) -> bool {
        let _ = id;
        candidate.device.is_some()
    }

    /// Whether a virtual function holds only one mediated device, so that the driver of a
    /// function that has one need not be asked.
    fn functions_hold_one(&self) -> bool {
        false
    }

    /// The place on the candidate's board for the next device, in addition to the
    /// places that planned devices take.
    fn place(
        &self,
        view: &HostView<'_>,
        candidate: &Candidate,
        taken: &[Placement],
    ) -> PlacementChoice {
        let _ = (view, candidate, taken);
        PlacementChoice::Anywhere
    }

    /// The devices that the rules take but that are no candidates for `placeholder`,
    /// each with the reason.
    fn idle(
        &self,
        view: &HostView<'_>,
        placeholder: &Placeholder,
        takes: &dyn Fn(&Parent) -> bool,
    ) -> Vec<Idle> {
        let _ = (view, placeholder, takes);
        Vec::new()
    }

    /// Why the host itself needs the candidate's device, if it does. Only rules with
    /// `allow-critical` take such a device. Plans and previews both ask this.
    fn critical(&self, view: &HostView<'_>, candidate: &Candidate) -> Option<String> {
        let _ = (view, candidate);
        None
    }
}
