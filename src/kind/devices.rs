//! What a pool of some kind is set to, as everybody else sees it.

use std::{fmt, rc::Rc};

use super::{
    Board, Candidate, FieldSources, GpuSettings, HostView, Idle, MadeAs, Named, Placeholder,
    PlacementChoice, ToMake,
};
use crate::{
    capacity::{Fit, Placement},
    device::{
        mdev::{Offer, Parent},
        step::Step,
    },
    model::{MdevTypeId, ParentName, TypeSelector},
    rule::{Rule, Verdict},
};

/// What a pool of a kind is set to: the kind's own part of its file, and what that makes
/// of the host. It reads, says what there is, and proposes steps; it changes nothing.
///
/// It has nothing to say of a device's element in the domain XML and of the nodes by which
/// a holder shows: both follow from the [`crate::model::Handle`] alone, whatever the kind.
pub trait Devices: fmt::Debug + Send + Sync {
    /// What they are, in a word for lists and refusals: the type or the profile that they
    /// are made as, as the file has it.
    fn type_name(&self) -> &str;

    /// The same in words: "mdev type 'nvidia-558'".
    fn type_in_words(&self) -> String;

    /// The type of mediated devices or the profile that they are made as; None where
    /// nothing has to be made.
    fn selector(&self) -> Option<&TypeSelector> {
        None
    }

    /// How the pool wants its GPUs to be set as a whole; None for kinds that are not
    /// about GPUs.
    fn gpu_settings(&self) -> Option<&GpuSettings> {
        None
    }

    /// The verdict of the pool's rules on what they are about ([`super::Kind::subjects`]).
    fn verdict(&self, sources: FieldSources<'_>, rules: &[Rule], subject: &Parent) -> Verdict;

    /// The device that a person calls that, as a rule of a new pool takes it.
    ///
    /// # Errors
    /// Why there is none, or none for what the pool is set to, and what there is instead.
    fn named(&self, view: &HostView<'_>, text: &str) -> Result<Named, String>;

    /// What of its part of the file is accepted and surely not meant, as far as this host
    /// can tell: the key, and why.
    fn doubt(&self, view: &HostView<'_>) -> Option<(&'static str, String)> {
        let _ = view;
        None
    }

    /// All that could serve a request with that placeholder, in ascending order. Whether the
    /// pool's rules take one is asked later, because to answer it costs reading.
    ///
    /// # Errors
    /// A text, when the host cannot be read at all, or such a placeholder cannot be served.
    fn candidates(
        &self,
        view: &HostView<'_>,
        placeholder: &Placeholder,
    ) -> Result<Vec<Candidate>, String>;

    /// What of the candidate the pool's rules are about.
    fn subject_of(&self, view: &HostView<'_>, candidate: &Candidate) -> Parent;

    /// What a candidate has for the pool now, whether or not the rules take it.
    fn offer(&self, view: &HostView<'_>, candidate: &Candidate) -> Offer;

    /// What makes the device; none where nothing has to be made.
    fn steps(&self, candidate: &Candidate, made: &ToMake<'_>) -> Vec<Step>;

    /// What a claim says of the way a device of the candidate is made.
    fn made_as(&self, candidate: &Candidate) -> MadeAs;

    /// What one that rules are about has for the pool over all that makes devices on it,
    /// and whether the number is exact: else there may be fewer.
    fn room(&self, view: &HostView<'_>, subject: &Parent) -> (Offer, bool);

    /// How many of a type a board takes over all that makes them on it; None where that
    /// is no more than these say by themselves.
    fn left_on_board(
        &self,
        view: &HostView<'_>,
        board: &ParentName,
        id: &MdevTypeId,
    ) -> Option<Fit> {
        let _ = (view, board, id);
        None
    }

    /// What the candidate's board has for several devices that are planned at once; None
    /// where nobody knows its sums.
    fn board(&self, view: &HostView<'_>, candidate: &Candidate) -> Option<Rc<dyn Board>> {
        let _ = (view, candidate);
        None
    }

    /// Whether all devices of the kind that one VM has must be on one type of board.
    fn wants_one_board_type(&self) -> bool {
        false
    }

    /// Whether the candidate holds one device, whatever its type; else it counts each of
    /// its types by itself.
    fn holds_one(&self, candidate: &Candidate, id: &MdevTypeId) -> bool {
        let _ = id;
        candidate.device.is_some()
    }

    /// Whether a virtual function on which a mediated device is takes no other one, so
    /// that its driver need not be asked.
    fn functions_hold_one(&self) -> bool {
        false
    }

    /// Where on the candidate's board the next device goes, besides the places that are
    /// taken by devices that are planned.
    fn place(
        &self,
        view: &HostView<'_>,
        candidate: &Candidate,
        taken: &[Placement],
    ) -> PlacementChoice {
        let _ = (view, candidate, taken);
        PlacementChoice::Anywhere
    }

    /// What the rules take and no candidate for `placeholder` stands for, each with the
    /// reason.
    fn idle(
        &self,
        view: &HostView<'_>,
        placeholder: &Placeholder,
        takes: &dyn Fn(&Parent) -> bool,
    ) -> Vec<Idle> {
        let _ = (view, placeholder, takes);
        Vec::new()
    }

    /// Why the host itself needs what the candidate is, if it does: then no rule takes it
    /// that does not say so. Plans and previews both ask.
    fn critical(&self, view: &HostView<'_>, candidate: &Candidate) -> Option<String> {
        let _ = (view, candidate);
        None
    }
}
