//! Which stopped domains get other devices, as a function of data: what the definitions
//! name, and what the host offers now. The aim is that each stopped domain could be the
//! next one to start, with as few edits as possible.
//!
//! A device moves for one of three reasons, in this order:
//! 1. The domain could not have it now, but could have another one.
//! 2. Another domain names it too, and there is one that no domain names.
//! 3. libvirt starts the domain at boot, and the board has less room than such domains
//!    that name its devices: at boot no daemon can help yet.
//!
//! Each move makes one of these numbers smaller and none of those before it larger: the
//! domains that could not start, those that start at boot and find their board full, the
//! pairs of them that name one device, all pairs that do. So no choice is ever taken back
//! while the host stays as it is.

use std::collections::BTreeMap;

use crate::model::{DomainUuid, ParentName, PciAddress};

/// A stopped domain with devices that its definition names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stopped {
    pub(super) domain: DomainUuid,
    /// Whether libvirt starts it when the host boots.
    pub(super) autostart: bool,
    /// The named devices, in the order of the requests.
    pub(super) names: Vec<PciAddress>,
}

/// How little a device suits a domain: whether its board is full at boot, how many
/// domains that start at boot name it, how many domains name it.
pub(super) type Rank = (bool, u32, u32);

/// What the host offers to stopped domains now.
pub(super) trait Offers {
    type Error;

    /// Whether the domain would be refused a device that it names, but could have
    /// another one if there were one.
    fn is_refused(&self, stopped: &Stopped) -> Result<bool, Self::Error>;

    /// Devices with which the domain would not be refused, those of low rank first;
    /// None if there are none.
    fn others(
        &self,
        stopped: &Stopped,
        rank: &dyn Fn(PciAddress) -> Rank,
    ) -> Result<Option<Vec<PciAddress>>, Self::Error>;

    /// The board of a device that the domain could have now; None if it could not, or if
    /// the domain has several devices.
    fn board(
        &self,
        stopped: &Stopped,
        device: PciAddress,
    ) -> Result<Option<ParentName>, Self::Error>;

    /// How many devices of the domain's pool fit on the board now.
    fn room(&self, stopped: &Stopped, board: &ParentName) -> Result<u32, Self::Error>;
}

/// Why a domain gets other devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It would be refused its own.
    Refused,
    /// Another domain names one of them too.
    Shared,
    /// Their board has too little room for all domains that start at boot.
    Crowded,
}

/// The result.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// The new devices of domains, by their place in the list.
    pub(super) moves: BTreeMap<usize, (Vec<PciAddress>, Cause)>,
    /// Domains that would be refused a device, and for which there is no other.
    pub(super) without: Vec<usize>,
}

/// How many domains name each device.
#[derive(Debug, Default, Clone)]
pub(super) struct Names(BTreeMap<PciAddress, (u32, u32)>);

impl Names {
    /// Counts the names of a domain; `autostart`: libvirt starts it at boot.
    pub(super) fn add(&mut self, autostart: bool, names: &[PciAddress]) {
        for name in names {
            let (at_boot, all) = self.0.entry(*name).or_default();
            *at_boot += u32::from(autostart);
            *all += 1;
        }
    }

    fn remove(&mut self, autostart: bool, names: &[PciAddress]) {
        for name in names {
            if let Some((at_boot, all)) = self.0.get_mut(name) {
                *at_boot = at_boot.saturating_sub(u32::from(autostart));
                *all = all.saturating_sub(1);
            }
        }
    }

    /// How many domains that start at boot name it, and how many domains do.
    fn of(&self, name: PciAddress) -> (u32, u32) {
        self.0.get(&name).copied().unwrap_or_default()
    }

    fn most(&self, names: &[PciAddress]) -> (u32, u32) {
        let counts = names.iter().map(|name| self.of(*name));
        counts.fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)))
    }
}

/// Chooses other devices. `names` are those of all other domains: running ones, and ones
/// that are not ours.
pub(super) fn choose<O: Offers>(
    stopped: &[Stopped],
    names: Names,
    offers: &O,
) -> Result<Chosen, O::Error> {
    let mut choice = Choice {
        stopped: stopped.to_vec(),
        names,
        at_boot: BTreeMap::new(),
        offers,
        chosen: Chosen::default(),
    };
    for (index, one) in stopped.iter().enumerate() {
        choice.names.add(one.autostart, &one.names);
        choice.count_board(index, 1)?;
    }
    // Domains that start at boot choose first, and give way last.
    let mut order: Vec<usize> = (0..stopped.len()).collect();
    order.sort_by_key(|&index| (!stopped[index].autostart, stopped[index].domain));
    for &index in &order {
        choice.replace_refused(index)?;
    }
    // Each move can make another one possible.
    const MOST_ROUNDS: usize = 8;
    for _ in 0..MOST_ROUNDS {
        let mut moved = choice.relieve_boards(&order)?;
        for &index in order.iter().rev() {
            moved |= choice.make_distinct(index)?;
        }
        if !moved {
            break;
        }
    }
    Ok(choice.chosen)
}

struct Choice<'a, O> {
    stopped: Vec<Stopped>,
    names: Names,
    /// How many domains that start at boot name a device of each board that they could
    /// have now.
    at_boot: BTreeMap<ParentName, i64>,
    offers: &'a O,
    chosen: Chosen,
}

impl<O: Offers> Choice<'_, O> {
    fn replace_refused(&mut self, index: usize) -> Result<(), O::Error> {
        if !self.offers.is_refused(&self.stopped[index])? {
            return Ok(());
        }
        match self.others(index)? {
            Some(others) => self.change(index, others, Cause::Refused)?,
            None => self.chosen.without.push(index),
        }
        Ok(())
    }

    /// Gives the domain devices that it alone names, if there are any. A domain that
    /// starts at boot may share one with a domain that does not.
    fn make_distinct(&mut self, index: usize) -> Result<bool, O::Error> {
        if self.chosen.without.contains(&index) {
            return Ok(false);
        }
        let now = self.shared(index, &self.stopped[index].names.clone());
        if now == (0, 0) {
            return Ok(false);
        }
        let Some(others) = self.others(index)? else {
            return Ok(false);
        };
        let then = self.shared(index, &others);
        let is_better = then == (0, 0) || (now.0 > 0 && then.0 == 0);
        if !is_better || !self.leaves_room(index, &others)? {
            return Ok(false);
        }
        self.change(index, others, Cause::Shared)?;
        Ok(true)
    }

    /// Moves domains that start at boot from boards that have too little room for all of
    /// them to boards that have enough.
    fn relieve_boards(&mut self, order: &[usize]) -> Result<bool, O::Error> {
        let mut moved = false;
        let mut on_boards: BTreeMap<ParentName, u32> = BTreeMap::new();
        for &index in order {
            let Some(board) = self.board_at_boot(index)? else {
                continue;
            };
            let before = on_boards.entry(board.clone()).or_default();
            *before += 1;
            // Boards are asked only if it matters.
            if *before < 2 || *before <= self.offers.room(&self.stopped[index], &board)? {
                continue;
            }
            let Some(others) = self.others(index)? else {
                continue;
            };
            let own = self.stopped[index].names.clone();
            let (now, then) = (self.shared(index, &own), self.shared(index, &others));
            let to = self.board_of(index, &others)?;
            if to.is_some_and(|to| to != board)
                && then <= now
                && self.leaves_room(index, &others)?
            {
                *on_boards.entry(board).or_default() -= 1;
                self.change(index, others, Cause::Crowded)?;
                moved = true;
            }
        }
        Ok(moved)
    }

    /// How many others name the devices too: those that start at boot, if the domain does
    /// so itself, and all.
    fn shared(&mut self, index: usize, names: &[PciAddress]) -> (u32, u32) {
        let one = self.stopped[index].clone();
        self.names.remove(one.autostart, &one.names);
        let (at_boot, all) = self.names.most(names);
        self.names.add(one.autostart, &one.names);
        (if one.autostart { at_boot } else { 0 }, all)
    }

    /// Whether the board of the new devices has room at boot for one more, or is the same.
    fn leaves_room(&mut self, index: usize, others: &[PciAddress]) -> Result<bool, O::Error> {
        let Some(to) = self.board_of(index, others)? else {
            return Ok(true);
        };
        if !self.stopped[index].autostart || self.board_at_boot(index)? == Some(to.clone()) {
            return Ok(true);
        }
        let full = self.full_boards(index)?;
        Ok(full.get(&to) != Some(&true))
    }

    fn board_of(&self, index: usize, names: &[PciAddress]) -> Result<Option<ParentName>, O::Error> {
        match names {
            [name] => self.offers.board(&self.stopped[index], *name),
            _ => Ok(None),
        }
    }

    /// The board of a domain that starts at boot.
    fn board_at_boot(&self, index: usize) -> Result<Option<ParentName>, O::Error> {
        let one = &self.stopped[index];
        match one.autostart {
            true => self.board_of(index, &one.names),
            false => Ok(None),
        }
    }

    /// Whether other domains that start at boot leave no room on a board for this one,
    /// for each board that they name.
    fn full_boards(&self, index: usize) -> Result<BTreeMap<ParentName, bool>, O::Error> {
        let own = self.board_at_boot(index)?;
        let mut full = BTreeMap::new();
        for (board, count) in &self.at_boot {
            let others = count - i64::from(own.as_ref() == Some(board));
            if others > 0 {
                let room = self.offers.room(&self.stopped[index], board)?;
                full.insert(board.clone(), others >= i64::from(room));
            }
        }
        Ok(full)
    }

    fn count_board(&mut self, index: usize, more: i64) -> Result<(), O::Error> {
        if let Some(board) = self.board_at_boot(index)? {
            *self.at_boot.entry(board).or_default() += more;
        }
        Ok(())
    }

    /// Other devices for the domain, the best that there are.
    fn others(&mut self, index: usize) -> Result<Option<Vec<PciAddress>>, O::Error> {
        let one = self.stopped[index].clone();
        let full = match one.autostart {
            true => self.full_boards(index)?,
            false => BTreeMap::new(),
        };
        self.names.remove(one.autostart, &one.names);
        let rank = |device: PciAddress| {
            let is_full = !full.is_empty()
                && self
                    .offers
                    .board(&one, device)
                    .ok()
                    .flatten()
                    .is_some_and(|board| full.get(&board) == Some(&true));
            let (at_boot, all) = self.names.of(device);
            (is_full, at_boot, all)
        };
        let others = self.offers.others(&one, &rank);
        self.names.add(one.autostart, &one.names);
        Ok(others?.filter(|others| *others != one.names))
    }

    fn change(
        &mut self,
        index: usize,
        others: Vec<PciAddress>,
        cause: Cause,
    ) -> Result<(), O::Error> {
        self.count_board(index, -1)?;
        let one = &mut self.stopped[index];
        self.names.remove(one.autostart, &one.names);
        self.names.add(one.autostart, &others);
        one.names.clone_from(&others);
        let first = self.chosen.moves.get(&index).map(|(_, first)| *first);
        let cause = first.unwrap_or(cause);
        self.chosen.moves.insert(index, (others, cause));
        self.count_board(index, 1)
    }
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
