//! How far two words are apart, for messages about one that was mistyped.

/// Slips between two words: letters added, left out, exchanged, or swapped with
/// their neighbour. Takes quadratic time.
pub(crate) fn slips(from: &str, to: &str) -> usize {
    strsim::osa_distance(from, to)
}
