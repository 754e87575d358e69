//! A pool of whole PCI functions.

use std::collections::BTreeMap;

use super::{
    Pci, WORD, binding, critical, function, named,
    settings::{Settings, TimeOfPlug},
};
use crate::{
    device::{
        Sysfs, driver,
        mdev::{Offer, Parent},
        pci,
        step::Step,
    },
    kind::{Candidate, Devices, FieldSources, HostView, Kind, MadeAs, Named, Placeholder, ToMake},
    model::{Handle, PciAddress, Rom},
    rule::{Field, FieldValue, Rule, Verdict},
};

/// The settings of a pool of whole PCI functions.
#[derive(Debug)]
pub(super) struct PciPool {
    /// `[pci]`.
    pub(super) settings: Settings,
}

impl Devices for PciPool {
    fn type_name(&self) -> &str {
        "PCI device"
    }

    fn type_in_words(&self) -> String {
        "whole PCI devices".to_owned()
    }

    fn is_plugged_in_later(&self) -> bool {
        self.settings.placeholder == TimeOfPlug::HotPlug
    }

    fn passed_along(&self, sysfs: &dyn Sysfs, function: PciAddress) -> Option<Vec<PciAddress>> {
        if !self.settings.multifunction {
            return Some(Vec::new());
        }
        function::subject(sysfs, function)?;
        let group = function::read_group(sysfs, function).ok()?;
        let card = function::card(sysfs, &group, function);
        let (first, others) = card.split_first()?;
        Some(match *first == function {
            true => others.to_vec(),
            false => Vec::new(),
        })
    }

    fn reset_methods(&self, sysfs: &dyn Sysfs, handle: Handle) -> Option<Vec<String>> {
        pci::reset_methods(sysfs, handle.pci()?).ok()
    }

    fn rom(&self) -> Rom {
        self.settings.rom.clone()
    }

    fn settings(&self) -> BTreeMap<&'static str, serde_json::Value> {
        self.settings.by_key()
    }

    fn verdict(&self, sources: FieldSources<'_>, rules: &[Rule], function: &Parent) -> Verdict {
        sources.verdict(rules, function, None)
    }

    fn named(&self, view: &HostView<'_>, text: &str) -> Result<Named, String> {
        named::named(self, view, text)
    }

    /// A device in use has the driver for VMs, whichever it had when the rule took it. This
    /// does no harm, because the device comes back to its driver; unless it stays bound.
    fn doubt_about(&self, rule: &Rule) -> Option<String> {
        let vfio = FieldValue::Text(driver::VFIO_PCI.to_owned());
        let mut tests = rule.filters.iter();
        let is_lost = tests
            .any(|filter| filter.field() == Field::Driver && filter.check(Some(&vfio)).is_err());
        (is_lost && self.settings.keep_bound).then(|| {
            format!(
                "tests '{}', but with keep-bound = true the driver of a device is {} from its \
                 first VM on, also between VMs: the rule does not take it any more; test \
                 'vendor-id' and 'device-id', or 'address', instead",
                Field::Driver,
                driver::VFIO_PCI,
            )
        })
    }

    fn candidates(
        &self,
        view: &HostView<'_>,
        placeholder: &Placeholder,
    ) -> Result<Vec<Candidate>, String> {
        match placeholder {
            Placeholder::Function(one) => {
                let there = function::subject(view.sysfs(), *one);
                Ok(there
                    .map(|_| function::of(view, *one))
                    .into_iter()
                    .collect())
            }
            Placeholder::Functions | Placeholder::Any => {
                let all = pci::functions(view.sysfs());
                let all = all.map_err(|e| format!("cannot list PCI devices: {e}"))?;
                Ok(all
                    .iter()
                    .map(|(one, _)| function::of(view, *one))
                    .collect())
            }
            Placeholder::Mdev => Err(format!(
                "its placeholder is a mediated device, which a pool of kind '{}' never hands out",
                Pci.name()
            )),
        }
    }

    fn subject_of(&self, _: &HostView<'_>, candidate: &Candidate) -> Parent {
        candidate.parent.clone()
    }

    fn offer(&self, view: &HostView<'_>, candidate: &Candidate) -> Offer {
        match candidate.function() {
            Some(one) => self.offer_of(view, one),
            None => Offer::NoSuchType,
        }
    }

    fn steps(
        &self,
        view: &HostView<'_>,
        candidate: &Candidate,
        made: &ToMake<'_>,
    ) -> Result<Vec<Step>, String> {
        let Some(function) = candidate.function() else {
            return Err("it is no PCI function".to_owned());
        };
        let group = function::group(view, function).map_err(|offer| match offer {
            Offer::Unreadable(why) | Offer::Taken(why) | Offer::NoRoom(why) => why,
            Offer::Type { .. } | Offer::NoSuchType => "its IOMMU group is unknown".to_owned(),
        })?;
        binding::steps(view.sysfs(), &group, function, made.along, &self.settings)
    }

    fn made_as(&self, candidate: &Candidate) -> MadeAs {
        MadeAs {
            word: WORD,
            rests_on: match candidate.function() {
                Some(function) => driver::link(function),
                None => candidate.parent.path(),
            },
            can_wedge: false,
        }
    }

    fn along(&self, view: &HostView<'_>, candidate: &Candidate) -> Vec<PciAddress> {
        let own = candidate.function();
        let group = own.and_then(|function| function::group(view, function).ok());
        let endpoints = group.iter().flat_map(|group| &group.endpoints);
        let others = endpoints.map(|(one, _)| *one);
        others.filter(|one| Some(*one) != own).collect()
    }

    fn critical(&self, view: &HostView<'_>, candidate: &Candidate) -> Option<String> {
        critical::why(view, candidate.function()?)
    }

    fn room(&self, view: &HostView<'_>, function: &Parent) -> (Offer, bool) {
        let offer = match function.name.pci() {
            Some(one) => self.offer_of(view, one),
            None => Offer::NoSuchType,
        };
        (offer, true)
    }
}

impl PciPool {
    /// The function that stands for the card of that one: another one only if the functions of
    /// a card come along with its first.
    pub(super) fn stands_for(&self, view: &HostView<'_>, function: PciAddress) -> PciAddress {
        if !self.settings.multifunction {
            return function;
        }
        let group = function::group(view, function).ok();
        let card = group.map(|group| function::card(view.sysfs(), &group, function));
        let first = card.and_then(|card| card.first().copied());
        first.unwrap_or(function)
    }

    fn offer_of(&self, view: &HostView<'_>, function: PciAddress) -> Offer {
        let first = self.stands_for(view, function);
        if first == function {
            return function::offer(view, function);
        }
        Offer::Taken(format!(
            "it goes with {first}, the first function of its card (multifunction)"
        ))
    }
}
