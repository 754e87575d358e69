//! The choice on hosts in memory: boards with functions, some of them taken.

use std::{collections::BTreeSet, convert::Infallible};

use proptest::prelude::*;

use super::*;

/// Boards of eight functions each.
#[derive(Debug, Clone, Default)]
struct Host {
    /// How many more devices fit on each board.
    room: Vec<u32>,
    /// The functions that somebody has.
    taken: BTreeSet<PciAddress>,
}

fn function(board: usize, number: usize) -> PciAddress {
    format!("0000:{board:02x}:00.{number}").parse().unwrap()
}

fn board(function: PciAddress) -> usize {
    usize::from(function.bus().1)
}

fn name(board: usize) -> ParentName {
    format!("0000:{board:02x}:1f.0").parse().unwrap()
}

impl Host {
    fn can_have(&self, function: PciAddress) -> bool {
        let room = self.room.get(board(function));
        room.is_some_and(|room| *room > 0) && !self.taken.contains(&function)
    }

    fn available(&self) -> Vec<PciAddress> {
        let boards = 0..self.room.len();
        let all = boards.flat_map(|board| (0..8).map(move |number| function(board, number)));
        all.filter(|function| self.can_have(*function)).collect()
    }

    /// Whether all fit at once.
    fn can_start(&self, names: &[PciAddress]) -> bool {
        let on_board = |of: usize| names.iter().filter(|name| board(**name) == of).count();
        names.iter().all(|name| self.can_have(*name))
            && (0..self.room.len()).all(|of| on_board(of) <= self.room[of] as usize)
    }
}

impl Offers for Host {
    type Error = Infallible;

    fn is_refused(&self, stopped: &Stopped) -> Result<bool, Infallible> {
        Ok(!self.can_start(&stopped.names))
    }

    fn others(
        &self,
        stopped: &Stopped,
        rank: &dyn Fn(PciAddress) -> Rank,
    ) -> Result<Option<Vec<PciAddress>>, Infallible> {
        let mut best = self.available();
        best.sort_by_key(|function| rank(*function));
        let mut others: Vec<PciAddress> = Vec::new();
        for one in best {
            let more = [others.as_slice(), &[one]].concat();
            if others.len() < stopped.names.len() && self.can_start(&more) {
                others = more;
            }
        }
        Ok((others.len() == stopped.names.len()).then_some(others))
    }

    fn board(
        &self,
        stopped: &Stopped,
        device: PciAddress,
    ) -> Result<Option<ParentName>, Infallible> {
        let has_one = stopped.names.len() == 1;
        Ok((has_one && self.can_have(device)).then(|| name(board(device))))
    }

    fn room(&self, _: &Stopped, of: &ParentName) -> Result<u32, Infallible> {
        let boards = 0..self.room.len();
        let mut rooms = boards.filter(|board| name(*board) == *of);
        Ok(rooms.next().map_or(0, |board| self.room[board]))
    }
}

fn domain(number: usize, autostart: bool, names: &[PciAddress]) -> Stopped {
    Stopped {
        domain: format!("aaaaaaaa-0000-4000-8000-{number:012}")
            .parse()
            .unwrap(),
        autostart,
        names: names.to_vec(),
    }
}

fn chosen(host: &Host, stopped: &[Stopped], others: &[PciAddress]) -> Chosen {
    let mut names = Names::default();
    names.add(false, others);
    choose(stopped, names, host).unwrap()
}

fn after(stopped: &[Stopped], chosen: &Chosen) -> Vec<Stopped> {
    let mut after = stopped.to_vec();
    for (index, (names, _)) in &chosen.moves {
        after[*index].names.clone_from(names);
    }
    after
}

/// The names after the choice, and how many edits it took.
fn settled(host: &Host, stopped: &[Stopped]) -> (Vec<PciAddress>, usize) {
    let chosen = chosen(host, stopped, &[]);
    let names = after(stopped, &chosen)
        .into_iter()
        .flat_map(|one| one.names);
    (names.collect(), chosen.moves.len())
}

fn host(room: &[u32], taken: &[PciAddress]) -> Host {
    Host {
        room: room.to_vec(),
        taken: taken.iter().copied().collect(),
    }
}

#[test]
fn a_domain_whose_device_could_be_had_is_left_alone() {
    let names = [function(0, 0), function(0, 1), function(0, 2)];
    let stopped: Vec<_> = (0..3).map(|n| domain(n, false, &[names[n]])).collect();
    // One more fits on the board: that is enough for whichever is the next to start.
    let one_fits = host(&[1, 8], &[function(0, 5)]);
    assert_eq!(chosen(&one_fits, &stopped, &[]), Chosen::default());
    // A stop makes more room and moves nobody.
    let two_fit = host(&[2, 8], &[]);
    assert_eq!(chosen(&two_fit, &stopped, &[]), Chosen::default());
}

#[test]
fn a_board_that_is_full_loses_its_domains_to_one_that_has_room() {
    let stopped = [
        domain(0, false, &[function(0, 1)]),
        domain(1, false, &[function(1, 0)]),
        domain(2, false, &[function(0, 2)]),
    ];
    let full = host(&[0, 1], &[function(0, 0)]);
    let (names, edits) = settled(&full, &stopped);
    assert_eq!(names, [function(1, 1), function(1, 0), function(1, 2)]);
    assert_eq!(edits, 2);
    // Nothing is free anywhere: all stay where they are.
    let nothing = chosen(&host(&[0, 0], &[]), &stopped, &[]);
    assert_eq!(nothing.moves, BTreeMap::new());
    assert_eq!(nothing.without, [0, 1, 2]);
}

#[test]
fn domains_share_devices_evenly_and_without_moving_to_and_fro() {
    // Whole devices: one on each board. The first was claimed.
    let taken = |free: &[usize]| {
        let all = (0..3).flat_map(|board| (0..8).map(move |number| (board, number)));
        let is_taken = |(board, number): &(usize, usize)| *number > 0 || !free.contains(board);
        let taken = all.filter(is_taken);
        taken
            .map(|(board, number)| function(board, number))
            .collect()
    };
    let with = |free: &[usize]| Host {
        room: vec![1; 3],
        taken: taken(free),
    };
    let stopped: Vec<_> = (0..9)
        .map(|n| domain(n, false, &[function(n % 3, 0)]))
        .collect();
    let first_is_claimed = with(&[1, 2]);
    let chosen_now = chosen(&first_is_claimed, &stopped, &[]);
    let moved: Vec<_> = chosen_now.moves.keys().copied().collect();
    assert_eq!(moved, [0, 3, 6]);
    let rest = after(&stopped, &chosen_now);
    let on = |device: usize| {
        let names = rest.iter().filter(|one| one.names == [function(device, 0)]);
        names.count()
    };
    assert_eq!((on(1), on(2)), (5, 4));
    // It comes back: nobody names it, so those that share may have it, but only one does
    // not share it then.
    let back = chosen(&with(&[0, 1, 2]), &rest, &[]);
    assert_eq!(back.moves.len(), 1);
    assert_eq!(
        chosen(&with(&[0, 1, 2]), &after(&rest, &back), &[])
            .moves
            .len(),
        0
    );
}

#[test]
fn what_another_domain_names_is_the_last_choice() {
    let stopped = [domain(0, false, &[function(0, 0)])];
    let named: Vec<_> = (1..7).map(|number| function(0, number)).collect();
    let first_is_taken = host(&[4], &[function(0, 0)]);
    let chosen = chosen(&first_is_taken, &stopped, &named);
    let moved = (vec![function(0, 7)], Cause::Refused);
    assert_eq!(chosen.moves, BTreeMap::from([(0, moved)]));
}

#[test]
fn of_two_that_name_one_device_the_one_that_does_not_start_at_boot_gives_way() {
    let same = function(0, 0);
    for (autostart, moved) in [(0, 1), (1, 0)] {
        let stopped: Vec<_> = (0..2).map(|n| domain(n, n == autostart, &[same])).collect();
        let chosen = chosen(&host(&[8], &[]), &stopped, &[]);
        let expected = (vec![function(0, 1)], Cause::Shared);
        assert_eq!(chosen.moves, BTreeMap::from([(moved, expected)]));
    }
}

/// Two devices for three domains, two of which start at boot.
#[test]
fn domains_that_start_at_boot_come_first_where_there_are_not_enough() {
    let taken: Vec<_> = (2..8).map(|number| function(0, number)).collect();
    let two = host(&[2], &taken);
    let (a, b) = (function(0, 0), function(0, 1));
    let stopped = [
        domain(0, false, &[b]),
        domain(1, true, &[a]),
        domain(2, true, &[a]),
    ];
    let (names, edits) = settled(&two, &stopped);
    assert_eq!((names.as_slice(), edits), (&[b, a, b][..], 1));
}

#[test]
fn domains_that_start_at_boot_fit_on_their_boards_together() {
    let names = [
        function(0, 0),
        function(0, 1),
        function(0, 2),
        function(0, 3),
    ];
    let all =
        |autostart: bool| -> Vec<_> { (0..4).map(|n| domain(n, autostart, &[names[n]])).collect() };
    let roomy = host(&[2, 2], &[]);
    assert_eq!(settled(&roomy, &all(false)).1, 0);
    let (names, edits) = settled(&roomy, &all(true));
    assert_eq!(names[..2], [function(0, 0), function(0, 1)]);
    assert_eq!(names[2..], [function(1, 0), function(1, 1)]);
    assert_eq!(edits, 2);
    // More than fit anywhere: those that do not fit stay.
    let (_, edits) = settled(&host(&[2, 1], &[]), &all(true));
    assert_eq!(edits, 1);
}

#[test]
fn devices_of_one_domain_must_fit_together() {
    let stopped = [domain(0, false, &[function(0, 0), function(0, 1)])];
    let one_each = host(&[1, 1], &[]);
    let (names, edits) = settled(&one_each, &stopped);
    assert_eq!(names, [function(0, 0), function(1, 0)]);
    assert_eq!(edits, 1);
}

fn hosts() -> impl Strategy<Value = Host> {
    let taken = prop::collection::btree_set((0usize..3, 0usize..8), 0..20);
    (prop::collection::vec(0u32..9, 3), taken).prop_map(|(room, taken)| Host {
        room,
        taken: taken
            .into_iter()
            .map(|(board, number)| function(board, number))
            .collect(),
    })
}

fn domains(most_names: usize) -> impl Strategy<Value = Vec<Stopped>> {
    let names = prop::collection::vec((0usize..3, 0usize..8), 1..=most_names);
    let one = (any::<bool>(), names);
    prop::collection::vec(one, 0..14).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        let stopped = numbered.map(|(number, (autostart, names))| {
            let names: BTreeSet<_> = names.into_iter().collect();
            let names: Vec<_> = names.into_iter().map(|(a, b)| function(a, b)).collect();
            domain(number, autostart, &names)
        });
        stopped.collect()
    })
}

fn pairs(stopped: &[Stopped], autostart: bool) -> usize {
    let names = stopped.iter().filter(|one| one.autostart || !autostart);
    let names: Vec<_> = names.flat_map(|one| &one.names).collect();
    let mut pairs = 0;
    for (index, name) in names.iter().enumerate() {
        pairs += names[..index].iter().filter(|other| *other == name).count();
    }
    pairs
}

proptest! {
    #[test]
    fn every_domain_that_could_start_can_and_nobody_moves_again(
        host in hosts(), stopped in domains(2),
    ) {
        let first = chosen(&host, &stopped, &[]);
        let rest = after(&stopped, &first);
        for (index, one) in rest.iter().enumerate() {
            let has_choice = host.others(one, &|_| (false, 0, 0)).unwrap().is_some();
            prop_assert_eq!(host.can_start(&one.names), has_choice, "{:?}", one);
            prop_assert_eq!(first.without.contains(&index), !has_choice);
        }
        prop_assert_eq!(chosen(&host, &rest, &[]).moves, BTreeMap::new());
    }

    /// Without domains that start at boot, each edit is for one of the first two reasons.
    #[test]
    fn nobody_moves_for_nothing(host in hosts(), stopped in domains(1)) {
        let mut stopped = stopped;
        stopped.iter_mut().for_each(|one| one.autostart = false);
        let is_shared = |index: usize| {
            let mut others = stopped.iter().enumerate();
            others.any(|(other, one)| other != index && one.names == stopped[index].names)
        };
        let first = chosen(&host, &stopped, &[]);
        for (index, (names, cause)) in &first.moves {
            let one = &stopped[*index];
            let reason = match host.can_start(&one.names) {
                false => Cause::Refused,
                true => Cause::Shared,
            };
            prop_assert_eq!(*cause, reason);
            prop_assert!(reason == Cause::Refused || is_shared(*index), "{:?}", one);
            prop_assert_ne!(names, &one.names);
        }
    }

    #[test]
    fn names_are_distinct_where_there_are_enough(
        host in hosts(), stopped in domains(1), boot in any::<bool>(),
    ) {
        let mut stopped = stopped;
        // Boards that are large enough for all.
        let room = vec![20; host.room.len()];
        let host = Host { room, ..host };
        if !boot {
            stopped.iter_mut().for_each(|one| one.autostart = false);
        }
        let rest = after(&stopped, &chosen(&host, &stopped, &[]));
        let available = host.available().len();
        if available >= rest.len() {
            prop_assert_eq!(pairs(&rest, false), 0);
        }
        let at_boot = rest.iter().filter(|one| one.autostart).count();
        if available > 0 && available >= at_boot {
            prop_assert_eq!(pairs(&rest, true), 0);
        }
    }
}
