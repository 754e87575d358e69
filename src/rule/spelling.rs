//! Help with misspelt words: the nearest accepted word, and lists and foreign text in a
//! form that fits one line of an error message.

use crate::model::slips as distance;

/// The accepted word nearest to `word`, if it is near enough: one typing error for
/// every three letters, and at least one.
pub(crate) fn nearest<'a>(word: &str, accepted: &[&'a str]) -> Option<&'a str> {
    /// Longer words are not typing errors, and the distance takes quadratic time.
    const LONGEST: usize = 40;
    if word.len() > LONGEST {
        return None;
    }
    // People who know other tools write capitals and underscores.
    let word = word.to_lowercase().replace('_', "-");
    accepted
        .iter()
        .map(|&candidate| (distance(&word, candidate), candidate))
        .filter(|(slips, candidate)| *slips <= (candidate.len() / 3).max(1))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

/// The question to append to a message about an unknown word, or nothing.
pub(crate) fn did_you_mean(word: &str, accepted: &[&str]) -> String {
    nearest(word, accepted)
        .map(|candidate| format!(" (did you mean '{candidate}'?)"))
        .unwrap_or_default()
}

/// Foreign text for a message: one line, of bounded length.
pub(crate) fn shown(text: &str) -> String {
    crate::model::InvalidName::new("", text).found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let accepted = ["begins-with", "ends-with", "equal", "not-equal"];
        for (word, wanted) in [
            ("begin-with", Some("begins-with")),
            ("begins_with", Some("begins-with")),
            ("BEGINS-WITH", Some("begins-with")),
            ("equals", Some("equal")),
            ("eqaul", Some("equal")),
            ("less", None),
            ("not-eqal", Some("not-equal")),
            ("==", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &accepted), wanted, "{word:?}");
        }
        assert_eq!(nearest(&"x".repeat(10_000), &accepted), None);
    }

    #[test]
    fn distances_count_slips() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("mdve", "mdev"), 1);
        assert_eq!(distance("ca", "abc"), 3);
    }

    proptest! {
        #[test]
        fn distance_is_symmetric_and_zero_only_for_equals(a in ".{0,8}", b in ".{0,8}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
        }
    }
}
