//! Commands that a message proposes. People paste them into root's shell, and other
//! people choose the names in them. So every name that is not plain is quoted.

use std::fmt::Display;

use super::{DomainName, DomainUuid, visible};

/// A command with its last argument, in quotation marks: `'virt-vgpu start ws7'`,
/// `"virsh edit 'Windows 11'"`. The text between the marks can be pasted into a shell.
#[must_use]
pub fn proposed(command: &str, argument: impl Display) -> String {
    proposed_with(command, argument, "")
}

/// Like [`proposed`], with options after the argument, unless the argument looks like
/// an option.
#[must_use]
pub fn proposed_with(command: &str, argument: impl Display, options: &str) -> String {
    let argument = argument.to_string();
    let word = quoted(&argument);
    let behind = |text: &str| match text {
        "" => String::new(),
        text => format!(" {text}"),
    };
    let options = behind(options);
    let line = if argument.starts_with('-') {
        format!("{command}{options} -- {word}")
    } else {
        format!("{command} {word}{options}")
    };
    let mark = if line.contains('\'') { '"' } else { '\'' };
    format!("{mark}{line}{mark}")
}

/// The argument that names a domain in a command: its name, or its UUID if the name
/// would have to be quoted or could be mistaken for something else (virsh takes a
/// number for an ID).
#[must_use]
pub fn domain_word(name: &DomainName, uuid: DomainUuid) -> String {
    let name = name.as_str();
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain(name) && !name.starts_with('-') && !is_number {
        name.to_owned()
    } else {
        uuid.to_string()
    }
}

fn is_plain(word: &str) -> bool {
    !word.is_empty()
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.,:/+@%=".contains(&byte))
}

/// A word quoted for a shell (sh, bash, zsh). Invisible characters need the form of
/// bash and zsh, which stays on one line.
#[must_use]
pub fn quoted(word: &str) -> String {
    use std::fmt::Write;
    if is_plain(word) {
        return word.to_owned();
    }
    if visible(word) == word {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    let mut text = String::from("$'");
    for c in word.chars() {
        let mut buffer = [0; 4];
        let one: &str = c.encode_utf8(&mut buffer);
        if matches!(c, '\'' | '\\') {
            text.push('\\');
            text.push(c);
        } else if visible(one) == one {
            text.push(c);
        } else {
            for byte in one.bytes() {
                let _ = write!(text, "\\{byte:03o}");
            }
        }
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::{prelude::*, test_runner::Config};

    use super::*;

    #[test]
    fn commands_can_be_pasted() {
        for (name, wanted) in [
            ("ws7", "'virsh edit ws7'"),
            ("win11-büro", r#""virsh edit 'win11-büro'""#),
            (
                "Q4OS FreeXP Debian 12",
                r#""virsh edit 'Q4OS FreeXP Debian 12'""#,
            ),
            ("ws9;touch x", r#""virsh edit 'ws9;touch x'""#),
            ("it's", r#""virsh edit 'it'\''s'""#),
            ("~root", r#""virsh edit '~root'""#),
            ("-x", "'virsh edit -- -x'"),
            ("", r#""virsh edit ''""#),
            ("a\u{202e}b", r#""virsh edit $'a\342\200\256b'""#),
        ] {
            assert_eq!(proposed("virsh edit", name), wanted);
        }
        let with = |name| proposed_with("virt-vgpu attach", name, "--live");
        assert_eq!(with("ws7"), "'virt-vgpu attach ws7 --live'");
        assert_eq!(with("-x"), "'virt-vgpu attach --live -- -x'");
        assert_eq!(with("a b"), r#""virt-vgpu attach 'a b' --live""#);
    }

    #[test]
    fn a_domain_whose_name_is_not_plain_is_called_by_its_uuid() {
        let uuid = "aaaaaaaa-0000-4000-8000-000000000001";
        let called = |name: &str| domain_word(&name.parse().unwrap(), uuid.parse().unwrap());
        assert_eq!(called("ws-7.lab_2"), "ws-7.lab_2");
        for name in [
            "Windows 11",
            "-x",
            "17",
            "it's",
            "a;b",
            "büro",
            "a\u{202e}b",
        ] {
            assert_eq!(called(name), uuid);
        }
    }

    proptest! {
        #![proptest_config(Config { cases: 32, ..Config::default() })]

        #[test]
        fn a_shell_gives_the_word_back(word in "[^\0]{0,20}") {
            let command = format!("LC_ALL=C; printf %s {}", quoted(&word));
            prop_assert!(!command.contains('\n'));
            let output = Command::new("bash").args(["-c", &command]).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
