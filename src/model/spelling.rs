//! The distance between two words, for messages about a mistyped word.

/// The number of typing errors between two words: letters added, left out, replaced, or
/// swapped with their neighbour. Takes quadratic time.
pub(crate) fn slips(from: &str, to: &str) -> usize {
    strsim::osa_distance(from, to)
}
