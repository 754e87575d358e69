//! A layout in one line of text, as `host apply --dry-run` shows it.

use super::{
    board::{Board, ProfileId, Slots},
    layout::{Instance, Layout, Why},
};

impl Layout {
    /// A map of the memory slots when the layout is there, and what the marks stand for:
    /// `=` stays, `+` is created, `!` stays although no pool needs it, `.` is free. What is
    /// destroyed is only in the words. On an A100:
    ///
    /// `[====|++|.|!] keep 3g.20gb at 0-3; create 2g.10gb at 4-5; …; 1 of 8 slots free`
    #[must_use]
    pub fn drawn(&self, board: &Board) -> String {
        let mut words = Vec::new();
        let named = |verb: &str, profile: ProfileId, slots: Slots, remark: &str| {
            format!("{verb} {} at {slots}{remark}", board.name(profile))
        };
        for one in &self.kept {
            let remark = used_by(one).unwrap_or_default();
            words.push(named("keep", one.profile, one.slots, &remark));
        }
        for one in &self.destroyed {
            let remark = match one.why {
                Why::NotNeeded => " (no pool needs it)",
                Why::InTheWay => " (in the way)",
            };
            let one = &one.instance;
            words.push(named("destroy", one.profile, one.slots, remark));
        }
        for new in &self.created {
            words.push(named("create", new.profile, new.slots, ""));
        }
        for one in &self.blocked {
            let remark = used_by(one).unwrap_or_else(|| " (not created by virt-vgpu)".to_owned());
            words.push(named("cannot destroy", one.profile, one.slots, &remark));
        }
        let free = self.occupied(board).free(board);
        words.push(format!("{free} of {} slots free", board.slots()));
        format!("[{}] {}", self.map(board), words.join("; "))
    }

    /// A character for each slot, and `|` between instances and between free slots that are
    /// beside an instance.
    fn map(&self, board: &Board) -> String {
        let kept = self.kept.iter().map(|one| (one.slots, '='));
        let created = self.created.iter().map(|new| (new.slots, '+'));
        let blocked = self.blocked.iter().map(|one| (one.slots, '!'));
        let marked: Vec<(Slots, char)> = kept.chain(created).chain(blocked).collect();
        let mut map = String::new();
        let mut before = None;
        for slot in 0..board.slots() {
            let here = marked
                .iter()
                .find(|(slots, _)| slots.bits() & (1 << slot) != 0);
            let owner = here.map(|(slots, _)| slots.start());
            if slot > 0 && owner != before {
                map.push('|');
            }
            map.push(here.map_or('.', |(_, mark)| *mark));
            before = owner;
        }
        map
    }
}

/// In brackets; None without users.
fn used_by(one: &Instance) -> Option<String> {
    let users = one.users.join(", ");
    (!one.users.is_empty()).then(|| format!(" (in use by {users})"))
}
