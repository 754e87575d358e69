//! All sequences, one table per topic. They express in operations and answers what
//! `README.md` says in words. The expected answers were written from the README and not
//! copied from the twin.

use super::sequence::Sequence;

mod creation;
mod current_type;
mod files;
mod mig;
mod modes;
mod opening;
mod placements;

/// The tables.
pub const TOPICS: [&[Sequence]; 7] = [
    creation::LIST,
    current_type::LIST,
    files::LIST,
    placements::LIST,
    mig::LIST,
    modes::LIST,
    opening::LIST,
];

/// All sequences.
pub fn all() -> impl Iterator<Item = &'static Sequence> {
    TOPICS.into_iter().flatten()
}
