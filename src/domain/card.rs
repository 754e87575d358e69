//! A device with several PCI functions, such as a graphics card with its audio function:
//! the VM gets all of them on one slot. Each has a `<hostdev>` of its own, because libvirt
//! pairs no functions by itself. The first one has the alias of the request, `ua-vgpu-gpu0`;
//! the others have `ua-vgpu-gpu0_1` and so on, with their function number in the guest.

use super::{
    DomainDef, DomainError, Hostdev,
    excerpt::{hostdev_text, retargeted, span_of},
    fill::{replaced_whole, with_device, without_span},
    hostdev::{ALIAS_PREFIX, alias},
    reader::Scanner,
};
use crate::model::{DeviceName, PciAddress};

/// A slot of the guest's PCI bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestSlot {
    /// The bus: the index of its controller.
    pub bus: u8,
    /// The slot on it.
    pub slot: u8,
}

/// The place of a function in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestPlace {
    /// The slot.
    pub at: GuestSlot,
    /// The number of the function on the slot.
    pub function: u8,
    /// Whether the slot has other functions as well (only function 0 says so).
    pub multifunction: bool,
}

impl std::fmt::Display for GuestPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { at, function, .. } = self;
        let more = match self.multifunction {
            true => " multifunction='on'",
            false => "",
        };
        write!(
            f,
            "<address type='pci' domain='0x0000' bus='0x{:02x}' slot='0x{:02x}' \
             function='0x{function:x}'{more}/>",
            at.bus, at.slot
        )
    }
}

/// A placeholder with the other functions that the VM gets on the same slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// The placeholder of the request.
    pub first: Hostdev,
    /// The other functions of the host, in ascending order, all after the first.
    pub others: Vec<PciAddress>,
}

impl From<Hostdev> for Card {
    fn from(first: Hostdev) -> Self {
        Self {
            first,
            others: Vec::new(),
        }
    }
}

/// The alias of another function of a device's card.
fn alias_of_other(name: &DeviceName, function: u8) -> String {
    format!("{}_{function}", alias(name))
}

/// The request and the number in the guest that the alias of another function says.
#[must_use]
pub fn other_of_card(alias: &str) -> Option<(DeviceName, u8)> {
    let (name, function) = alias.strip_prefix(ALIAS_PREFIX)?.rsplit_once('_')?;
    Some((name.parse().ok()?, function.parse().ok()?))
}

impl Card {
    /// All functions of the host, the first one first.
    #[must_use]
    pub fn functions(&self) -> Vec<PciAddress> {
        let first = self.first.handle.pci().into_iter();
        first.chain(self.others.iter().copied()).collect()
    }

    /// The hostdevs of the functions, each with its place on that slot. A single function
    /// gets its place from libvirt.
    ///
    /// # Errors
    /// When the guest has no slot for several functions.
    pub fn hostdevs(
        &self,
        name: &DeviceName,
        slot: Option<GuestSlot>,
    ) -> Result<Vec<Hostdev>, NoSlot> {
        let mut first = self.first.clone();
        let Some(own) = first.handle.pci().filter(|_| !self.others.is_empty()) else {
            return Ok(vec![first]);
        };
        let at = slot.ok_or_else(|| NoSlot(name.clone()))?;
        let place = |function, multifunction| GuestPlace {
            at,
            function,
            multifunction,
        };
        first.guest = Some(place(0, true));
        let mut all = vec![first];
        for other in &self.others {
            let number = other.parts().3.saturating_sub(own.parts().3);
            all.push(Hostdev {
                alias: Some(alias_of_other(name, number)),
                guest: Some(place(number, false)),
                ..Hostdev::bare((*other).into())
            });
        }
        Ok(all)
    }
}

/// The guest has no slot for the functions of a device.
#[derive(Debug, thiserror::Error)]
#[error(
    "the guest has no free PCI slot for the functions of device '{0}'; take another device out of \
     its definition"
)]
pub struct NoSlot(DeviceName);

/// A hostdev that is to be replaced, added or removed.
#[derive(Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The hostdev that goes, with its text.
    pub before: Option<(Hostdev, String)>,
    /// The hostdev that comes, with its text.
    pub after: Option<(Hostdev, String)>,
}

/// Why a document cannot have other functions.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The document is not well-formed.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// The guest has no place for them.
    #[error(transparent)]
    NoSlot(#[from] NoSlot),
}

/// What changes when the request's hostdev `from` makes way for that card: a guest treats a
/// device at another address as a new one, so each hostdev keeps its text and its place where
/// it can.
///
/// # Errors
/// When the text is not well-formed, or the guest has no slot.
pub fn exchanges(
    xml: &str,
    def: &DomainDef,
    name: &DeviceName,
    from: &Hostdev,
    card: &Card,
) -> Result<Vec<Exchange>, ExchangeError> {
    let mut present: Vec<&Hostdev> = vec![from];
    present.extend(def.others_of_card(name));
    // A device at another function has a neighbour at the first one.
    let own = from.guest.filter(|place| place.function == 0);
    let slot = own.map(|place| place.at).or_else(|| def.free_slot());
    let wanted = card.hostdevs(name, slot)?;
    let mut exchanges = Vec::new();
    for (index, next) in wanted.into_iter().enumerate() {
        let former = match index {
            0 => Some(from),
            _ => present.iter().copied().find(|one| one.alias == next.alias),
        };
        present.retain(|one| Some(*one) != former);
        let former = match former {
            Some(one) => text_of(xml, one)?,
            None => None,
        };
        let after = match &former {
            Some((one, text)) if is_pci(one) == is_pci(&next) => {
                let text = retargeted(text, next.handle, next.guest.as_ref())?;
                let kept = Hostdev {
                    handle: next.handle,
                    guest: next.guest.or(one.guest),
                    ..one.clone()
                };
                (kept, text)
            }
            _ => {
                let text = next.to_xml();
                (next, text)
            }
        };
        if former.as_ref().is_none_or(|(one, _)| *one != after.0) {
            exchanges.push(Exchange {
                before: former,
                after: Some(after),
            });
        }
    }
    for left in present {
        if let Some(before) = text_of(xml, left)? {
            exchanges.push(Exchange {
                before: Some(before),
                after: None,
            });
        }
    }
    Ok(exchanges)
}

fn text_of(xml: &str, hostdev: &Hostdev) -> Result<Option<(Hostdev, String)>, DomainError> {
    let text = hostdev_text(xml, hostdev)?;
    Ok(text.map(|text| (hostdev.clone(), text)))
}

fn is_pci(hostdev: &Hostdev) -> bool {
    hostdev.handle.pci().is_some()
}

/// The name of one of a device's hostdevs: that of its request, with the number of another
/// function.
#[must_use]
pub fn name_on_card(name: &DeviceName, hostdev: &Hostdev) -> String {
    let alias = hostdev.alias.as_deref();
    match alias.and_then(other_of_card) {
        Some((_, function)) => format!("{name}_{function}"),
        None => name.to_string(),
    }
}

/// The document after [`exchanges`]; every other byte is unchanged.
///
/// # Errors
/// As [`exchanges`].
pub fn with_card(
    xml: &str,
    def: &DomainDef,
    name: &DeviceName,
    from: &Hostdev,
    card: &Card,
) -> Result<String, ExchangeError> {
    let mut changed = Scanner::new(xml)?.xml().to_owned();
    for exchange in exchanges(xml, def, name, from, card)? {
        let span = match &exchange.before {
            Some((before, _)) => span_of(&changed, before)?,
            None => None,
        };
        changed = match (span, exchange.after) {
            (Some(span), Some((after, text))) => {
                let is_new = exchange
                    .before
                    .as_ref()
                    .is_some_and(|(one, _)| is_pci(one) != is_pci(&after));
                replaced_whole(&changed, span, &text, is_new)
            }
            (Some(span), None) => without_span(&changed, span),
            (None, Some((_, text))) => with_device(&changed, &text)?,
            (None, None) => changed,
        };
    }
    Ok(changed)
}

impl DomainDef {
    /// The hostdevs of the other functions of a request's card.
    pub fn others_of_card<'d>(&'d self, name: &'d DeviceName) -> impl Iterator<Item = &'d Hostdev> {
        self.hostdevs.iter().filter(move |one| {
            let alias = one.alias.as_deref();
            let is_other = alias.and_then(other_of_card);
            is_pci(one) && is_other.is_some_and(|(of, _)| of == *name)
        })
    }

    /// A slot of the guest that no device has. On PCI Express it is on a bus that does not
    /// exist yet: libvirt adds the root port (`virDomainPCIAddressSetGrow`). On a PCI bus it
    /// is the last free slot: libvirt and QEMU want some devices on the first ones.
    #[must_use]
    pub fn free_slot(&self) -> Option<GuestSlot> {
        let pci = self.controllers.iter().filter(|one| one.kind == "pci");
        let is_express = |model: &str| model.starts_with("pcie-");
        let machine = self.machine.as_deref().unwrap_or_default();
        let express = machine.contains("q35")
            || machine.starts_with("virt")
            || pci
                .clone()
                .any(|one| one.model.as_deref().is_some_and(is_express));
        if express {
            let controllers = pci.filter_map(|one| u8::try_from(one.index).ok());
            let buses = self.slots.iter().map(|one| one.bus);
            let last = controllers.chain(buses).max().unwrap_or(0);
            return Some(GuestSlot {
                bus: last.checked_add(1)?,
                slot: 0,
            });
        }
        // The machines of s390x have no PCI slots of this form.
        if self
            .arch
            .as_deref()
            .is_some_and(|arch| arch.starts_with("s390"))
        {
            return None;
        }
        let slots = (3..32u8).rev().map(|slot| GuestSlot { bus: 0, slot });
        slots.into_iter().find(|one| !self.slots.contains(one))
    }
}

#[cfg(test)]
#[path = "card_tests.rs"]
mod tests;
