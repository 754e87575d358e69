//! How far two words are apart, for messages about one that was mistyped.

/// Slips between two words: letters added, left out, exchanged, or swapped with
/// their neighbour (the optimal string alignment distance). Takes quadratic time.
pub(crate) fn slips(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut two_above: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let exchanged = above[j] + usize::from(a != b);
            let mut slips = exchanged.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                slips = slips.min(two_above[j - 1] + 1);
            }
            row.push(slips);
        }
        two_above = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or_default()
}
