//! What a host, or a directory that looks like one, offers to pools. The pool's kind
//! looks at the host, and the pool's rules judge what it finds.

use std::{cell::RefCell, collections::BTreeMap, io, rc::Rc};

use super::Answers;
use crate::{
    capacity::Fit,
    config::Pool,
    device::{
        mdev::{MdevHost, Offer, Parent},
        nvml::{Failure, GpuFacts},
    },
    kind::{Candidate, HostView, Idle, Placeholder},
    model::{MdevTypeId, ParentName, PoolName},
    rule::{Rule, Verdict},
};

/// A device and the verdict of a pool's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The device that the rules apply to, as a parent or a GPU.
    pub parent: Parent,
    /// The verdict of the pool's rules.
    pub verdict: Verdict,
}

/// A pool, and devices that another one takes too.
pub type Rivals<'a> = (&'a Pool, Vec<ParentName>);

/// The pools of the host, read when they are needed.
pub trait AllPools {
    /// Those that can be used.
    fn all_pools(&self) -> &[Pool];
}

/// The supply of a host. It remembers what it has read, so a new one is made for each
/// plan.
pub struct HostSupply<'a> {
    view: HostView<'a>,
    answers: Option<&'a Answers>,
    all_pools: Option<&'a dyn AllPools>,
    /// By pool, what the host needs itself ([`Self::needed`]).
    needed: RefCell<BTreeMap<PoolName, Rc<Needed>>>,
}

impl std::fmt::Debug for HostSupply<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostSupply")
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}

/// What rules are about and the host itself needs, all of it or a part, with the reason.
type Needed = BTreeMap<ParentName, (Extent, String)>;

/// How much of what rules are about is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    All,
    Part,
}

impl<'a> HostSupply<'a> {
    /// The supply of the host in this view.
    #[must_use]
    pub fn of(view: HostView<'a>) -> Self {
        Self {
            view,
            answers: None,
            all_pools: None,
            needed: RefCell::default(),
        }
    }

    /// The same supply, with the drivers' answers to other plans of the same look.
    #[must_use]
    pub fn with_answers(mut self, answers: &'a Answers) -> Self {
        self.answers = Some(answers);
        self
    }

    /// The same supply, which knows the other pools of the host.
    #[must_use]
    pub fn beside(mut self, all_pools: &'a dyn AllPools) -> Self {
        self.all_pools = Some(all_pools);
        self
    }

    /// Another pool that takes the same device, if one of the two hands it out whole and the
    /// other one hands out parts of it.
    #[must_use]
    pub fn rival(&self, pool: &Pool, subject: &Parent) -> Option<&'a Pool> {
        let whole = !pool.kind.is_of_whole_functions();
        self.taking(whole, subject, Some(&pool.name))
    }

    /// The first pool that takes the device and hands it out whole, or else in parts. A pool of
    /// the name `except` is what a file that is checked replaces.
    fn taking(&self, whole: bool, subject: &Parent, except: Option<&PoolName>) -> Option<&'a Pool> {
        let mut all = self.all_pools?.all_pools().iter();
        all.find(|pool| {
            let takes_it = || {
                let its = pool.kind.subject_named(self.view.sysfs(), &subject.name);
                its.is_some_and(|its| is_match(&self.verdict(pool, &pool.rules, &its)))
            };
            let is_meant = pool.kind.is_of_whole_functions() == whole;
            is_meant && Some(&pool.name) != except && takes_it()
        })
    }

    /// A sentence about a pool that hands out parts of the function, which then cannot be
    /// handed out whole.
    #[must_use]
    pub fn handed_out_in_parts(&self, function: &Parent) -> Option<String> {
        self.taking(false, function, None).map(parts_of)
    }

    /// All such pools, each with the devices that both take.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn rivals(&self, pool: &Pool) -> io::Result<BTreeMap<&'a PoolName, Rivals<'a>>> {
        let mut by_name: BTreeMap<&PoolName, Rivals<'a>> = BTreeMap::new();
        for standing in self.standings(pool)? {
            if !is_match(&standing.verdict) {
                continue;
            }
            if let Some(rival) = self.rival(pool, &standing.parent) {
                let entry = by_name.entry(&rival.name);
                let (_, devices) = entry.or_insert((rival, Vec::new()));
                devices.push(standing.parent.name);
            }
        }
        Ok(by_name)
    }

    /// The sentence about such a pool.
    fn rivalry(&self, pool: &Pool, subject: &Parent) -> Option<String> {
        let rival = self.rival(pool, subject)?;
        let (name, kind) = (&rival.name, rival.kind);
        Some(if pool.kind.is_of_whole_functions() {
            parts_of(rival)
        } else {
            format!(
                "pool '{name}' (kind '{kind}') hands it out whole; a device can only be in one of the two"
            )
        })
    }

    pub(super) fn answers(&self) -> Option<&'a Answers> {
        self.answers
    }

    /// Whether more questions are useless ([`crate::device::Sysfs::is_too_late`]).
    #[must_use]
    pub fn is_too_late(&self) -> bool {
        self.view.sysfs().is_too_late()
    }

    /// As [`crate::kind::Detail::ahead`].
    #[must_use]
    pub fn ahead(&self) -> usize {
        self.view.detail().ahead
    }

    /// As [`crate::kind::Detail::is_settled`].
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.view.detail().is_settled
    }

    /// The view of the host.
    #[must_use]
    pub fn view(&self) -> &HostView<'a> {
        &self.view
    }

    /// NVML's facts about all GPUs.
    ///
    /// # Errors
    /// Why NVML has no answer.
    pub fn facts(&self) -> Result<&[GpuFacts], &Failure> {
        self.view.facts()
    }

    /// The mediated devices of the host.
    #[must_use]
    pub fn mdev(&self) -> &MdevHost<'a> {
        self.view.mdev()
    }

    /// Every device that the pool's rules could take, with the verdict.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn standings(&self, pool: &Pool) -> io::Result<Vec<Standing>> {
        let standing = |parent: Parent| Standing {
            verdict: self.verdict(pool, &pool.rules, &parent),
            parent,
        };
        let subjects = pool.kind.subjects(&self.view)?;
        Ok(subjects.into_iter().map(standing).collect())
    }

    /// The GPU or other board that a device is or belongs to.
    #[must_use]
    pub fn board(&self, device: &Parent) -> ParentName {
        self.view.board(device)
    }

    /// The offer of one of the pool's devices ([`Self::standings`]), over all functions that
    /// make devices on it. False: the number is only an upper bound. A device that the host
    /// needs itself offers nothing, as in [`Self::offer`].
    #[must_use]
    pub fn room(&self, pool: &Pool, device: &Parent) -> (Offer, bool) {
        let withheld = self.view.under_maintenance(&device.name);
        if let Some(why) = withheld.or_else(|| self.rivalry(pool, device)) {
            return (Offer::Taken(why), true);
        }
        match self.needed(pool).get(&device.name) {
            Some((extent, why)) if !self.may_be_critical(pool, device) => match extent {
                Extent::All => (Offer::Taken(why.clone()), true),
                Extent::Part => (pool.devices.room(&self.view, device).0, false),
            },
            _ => pool.devices.room(&self.view, device),
        }
    }

    /// What the pool's rules can be about and the host itself needs.
    fn needed(&self, pool: &Pool) -> Rc<Needed> {
        if let Some(needed) = self.needed.borrow().get(&pool.name) {
            return Rc::clone(needed);
        }
        // What cannot be listed is told where the room is asked for.
        let candidates = self.candidates(pool, &Placeholder::Any);
        let candidates = candidates.unwrap_or_default();
        let subject = |one: &Candidate| pool.devices.subject_of(&self.view, one).name;
        let mut needed = Needed::new();
        for one in &candidates {
            if let Some(why) = pool.devices.critical(&self.view, one) {
                needed.entry(subject(one)).or_insert((Extent::All, why));
            }
        }
        if !needed.is_empty() {
            for one in &candidates {
                if let Some((extent, _)) = needed.get_mut(&subject(one)) {
                    if pool.devices.critical(&self.view, one).is_none() {
                        *extent = Extent::Part;
                    }
                }
            }
        }
        let needed = Rc::new(needed);
        let mut known = self.needed.borrow_mut();
        known.insert(pool.name.clone(), Rc::clone(&needed));
        needed
    }

    /// Whether a rule of the pool takes the device even if the host needs it.
    #[must_use]
    pub fn may_be_critical(&self, pool: &Pool, subject: &Parent) -> bool {
        let rules = pool.rules.iter().filter(|rule| rule.allow_critical);
        let rules: Vec<Rule> = rules.cloned().collect();
        is_match(&self.verdict(pool, &rules, subject))
    }

    /// Why the host needs the candidate's device, if a rule of the pool takes it all the same.
    #[must_use]
    pub fn taken_from_host(&self, pool: &Pool, candidate: &Candidate) -> Option<String> {
        // What the host needs is read only where the answer matters.
        if !self.allows_critical(pool, candidate) {
            return None;
        }
        pool.devices.critical(&self.view, candidate)
    }

    /// Whether a rule of the pool takes the candidate's device even if the host needs it.
    #[must_use]
    pub fn allows_critical(&self, pool: &Pool, candidate: &Candidate) -> bool {
        let mut rules = pool.rules.iter();
        rules.any(|rule| rule.allow_critical)
            && self.may_be_critical(pool, &pool.devices.subject_of(&self.view, candidate))
    }

    /// A sentence for each device that a rule of the pool takes although the host needs it.
    #[must_use]
    pub fn all_taken_from_host(&self, pool: &Pool) -> Vec<String> {
        // What cannot be listed is told where the devices are listed.
        let candidates = self.candidates(pool, &Placeholder::Any);
        let taken = candidates
            .unwrap_or_default()
            .into_iter()
            .filter_map(|one| {
                let why = self.taken_from_host(pool, &one)?;
                Some(format!(
                    "a rule with allow-critical takes {}: {why}",
                    one.parent.name
                ))
            });
        taken.collect()
    }

    /// How many more devices the pool's matching devices ([`Self::standings`]) can make
    /// together, computed from the offer of each ([`Self::room`]). Functions of one GPU
    /// share the GPU's capacity, and the pool's `instances` limits the total, including
    /// the `in_use` devices.
    pub fn free<'r>(
        &self,
        pool: &Pool,
        in_use: u32,
        rooms: impl IntoIterator<Item = (&'r Parent, Offer, bool)>,
    ) -> Fit {
        let mut boards: BTreeMap<ParentName, (Fit, Option<MdevTypeId>)> = BTreeMap::new();
        for (device, offer, exact) in rooms {
            let Offer::Type { id, available } = offer else {
                continue;
            };
            let more = match exact {
                true => Fit::Exactly(available),
                false => Fit::AtMost(available),
            };
            let board = self.view.board(device);
            let is_function = board != device.name;
            let (sum, of_board) = boards.entry(board).or_insert((Fit::Exactly(0), None));
            *sum = [*sum, more].into_iter().sum();
            if is_function {
                of_board.get_or_insert(id);
            }
        }
        let boards = boards.into_iter().map(|(board, (sum, shared))| {
            let shared = shared.filter(|_| sum.most() > 1);
            let left = |id: MdevTypeId| pool.devices.left_on_board(&self.view, &board, &id);
            match shared.and_then(left) {
                Some(left) if left.most() <= sum.most() => left,
                _ => sum,
            }
        });
        let free: Fit = boards.sum();
        match pool.instances {
            0 => free,
            limit => free.within(limit.saturating_sub(in_use)),
        }
    }

    /// All candidates for pools of this kind and requests with that placeholder, in
    /// ascending order. Whether the pool's rules take a candidate is checked in
    /// [`Self::offer`], because the check costs reading: a start asks in order of
    /// preference and stops at the first parent with space.
    ///
    /// # Errors
    /// A text, when the host cannot be read.
    pub fn candidates(
        &self,
        pool: &Pool,
        placeholder: &Placeholder,
    ) -> Result<Vec<Candidate>, String> {
        pool.devices.candidates(&self.view, placeholder)
    }

    /// What a candidate offers the pool now; None when the pool's rules do not take it.
    #[must_use]
    pub fn offer(&self, pool: &Pool, candidate: &Candidate) -> Option<Offer> {
        self.offer_if_taken(pool, candidate, || {
            pool.devices.offer(&self.view, candidate)
        })
    }

    /// The same with another answer than the driver's.
    pub(super) fn offer_if_taken(
        &self,
        pool: &Pool,
        candidate: &Candidate,
        ask: impl FnOnce() -> Offer,
    ) -> Option<Offer> {
        let subject = pool.devices.subject_of(&self.view, candidate);
        if !is_match(&self.verdict(pool, &pool.rules, &subject)) {
            return None;
        }
        if let Some(why) = self.view.under_maintenance(&candidate.parent.name) {
            return Some(Offer::Taken(why));
        }
        // A start of a part does not look at the other pools: that would cost reading them,
        // and a device whose parts are in use is not handed out whole.
        if pool.kind.is_of_whole_functions() {
            if let Some(why) = self.rivalry(pool, &subject) {
                return Some(Offer::Taken(why));
            }
        }
        if let Some(why) = pool.devices.critical(&self.view, candidate) {
            if !self.may_be_critical(pool, &subject) {
                return Some(Offer::Taken(why));
            }
        }
        Some(ask())
    }

    /// The devices that the pool's rules take but that are no candidates for
    /// `placeholder`, each with the reason.
    #[must_use]
    pub fn idle(&self, pool: &Pool, placeholder: &Placeholder) -> Vec<Idle> {
        let takes = |device: &Parent| is_match(&self.verdict(pool, &pool.rules, device));
        pool.devices.idle(&self.view, placeholder, &takes)
    }

    /// What the pool's rules say of a device.
    #[must_use]
    pub fn verdict_on(&self, pool: &Pool, subject: &Parent) -> Verdict {
        self.verdict(pool, &pool.rules, subject)
    }

    fn verdict(&self, pool: &Pool, rules: &[Rule], subject: &Parent) -> Verdict {
        let sources = self.view.field_sources();
        pool.devices.verdict(sources, rules, subject)
    }
}

fn parts_of(pool: &Pool) -> String {
    format!(
        "pool '{}' (kind '{}') hands out parts of it; a device can only be in one of the two",
        pool.name, pool.kind
    )
}

fn is_match(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Match { .. })
}
