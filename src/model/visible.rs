//! Makes foreign text safe for a terminal: a domain's name, a process's name or a text
//! from sysfs must not move the cursor, reverse the line or look like one of our lines.
//! All output for people passes through here; JSON and the journal's fields do not.

use std::borrow::Cow;

/// The text on one line. Every character that a terminal acts on or does not show is
/// written as its escape: `\n`, `\u{1b}`, `\u{202e}`.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    with_visible(text, "")
}

/// Like [`visible`], for a text of several lines: line breaks stay.
#[must_use]
pub fn visible_lines(text: &str) -> Cow<'_, str> {
    with_visible(text, "\n")
}

/// Like [`visible_lines`], for a file's text: tabs stay too.
#[must_use]
pub fn visible_file(text: &str) -> Cow<'_, str> {
    with_visible(text, "\n\t")
}

fn with_visible<'a>(text: &'a str, kept: &str) -> Cow<'a, str> {
    let stays = |c: char| is_plain(c) || kept.contains(c);
    if text.chars().all(stays) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if stays(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
    }
    Cow::Owned(shown)
}

/// Whether a terminal shows the character as itself. The standard library knows the
/// categories: it escapes control, format and separator characters, and unassigned
/// characters. It also escapes a combining mark, except after a letter.
fn is_plain(c: char) -> bool {
    if c.is_ascii() {
        return c == ' ' || c.is_ascii_graphic();
    }
    let mut buffer = [b'a'; 5];
    let length = 1 + c.encode_utf8(&mut buffer[1..]).len();
    std::str::from_utf8(&buffer[..length]).is_ok_and(|text| text.escape_debug().nth(1) == Some(c))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Control, format and separator characters (Cc, Cf, Zl, Zp, Zs) of Unicode 16.
    const HIDDEN: &[(u32, u32)] = &[
        (0x00, 0x1f),
        (0x7f, 0xa0),
        (0xad, 0xad),
        (0x600, 0x605),
        (0x61c, 0x61c),
        (0x6dd, 0x6dd),
        (0x70f, 0x70f),
        (0x890, 0x891),
        (0x8e2, 0x8e2),
        (0x1680, 0x1680),
        (0x180e, 0x180e),
        (0x2000, 0x200f),
        (0x2028, 0x202f),
        (0x205f, 0x206f),
        (0x3000, 0x3000),
        (0xfeff, 0xfeff),
        (0xfff9, 0xfffb),
        (0x110bd, 0x110bd),
        (0x110cd, 0x110cd),
        (0x13430, 0x1343f),
        (0x1bca0, 0x1bca3),
        (0x1d173, 0x1d17a),
        (0xe0001, 0xe0001),
        (0xe0020, 0xe007f),
    ];

    #[test]
    fn what_a_terminal_acts_on_becomes_visible() {
        for &(first, last) in HIDDEN {
            for c in (first..=last).filter_map(char::from_u32) {
                let shown = visible(c.encode_utf8(&mut [0; 4])).into_owned();
                assert!(shown.starts_with('\\'), "{:x}", u32::from(c));
                assert!(shown.chars().all(|c| c.is_ascii_graphic()), "{shown}");
            }
        }
        assert_eq!(
            visible("\u{1b}[2J\u{9b}1m\u{202e}\u{2028}\r\n\t\u{7f}\0"),
            r"\u{1b}[2J\u{9b}1m\u{202e}\u{2028}\r\n\t\u{7f}\0"
        );
    }

    #[test]
    fn what_people_write_stays() {
        for text in [
            "ws7",
            "Q4OS FreeXP Debian 12",
            r#"it's "quoted" \ and more: ~|`$"#,
            "büro ﬀ ñ n\u{303} Ελλάδα",
            "仮想マシン 가상머신 🖥️",
            "हिन्दी ไทย العربية",
        ] {
            assert!(
                matches!(visible(text), Cow::Borrowed(same) if same == text),
                "{text}"
            );
        }
    }

    #[test]
    fn line_breaks_stay_where_they_are_ours() {
        assert_eq!(visible_lines("a\tb\nc\r\n"), "a\\tb\nc\\r\n");
        assert_eq!(visible_file("a\tb\nc\r\n"), "a\tb\nc\\r\n");
    }

    proptest! {
        #[test]
        fn nothing_hidden_is_left_and_a_second_pass_changes_nothing(text: String) {
            let shown = visible(&text);
            let hidden = |c: char| HIDDEN.iter().any(|&(first, last)| {
                c != ' ' && (first..=last).contains(&u32::from(c))
            });
            prop_assert!(!shown.contains(hidden), "{shown:?}");
            prop_assert_eq!(visible(&shown), shown.clone());
        }
    }
}
