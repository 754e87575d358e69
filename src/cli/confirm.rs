//! Asks before something is done that cannot be taken back.

use std::io::{self, BufRead, IsTerminal};

use anyhow::bail;

use crate::host::ask;

/// Asks on the terminal, on stderr: stdout is for the report. `undone` says what was not done
/// otherwise, as in `pool 'cad' was not deleted`.
///
/// # Errors
/// Without a terminal, or without a clear yes.
pub(super) fn confirm(question: &str, undone: &str) -> anyhow::Result<()> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        bail!("{undone}: there is no terminal to ask on; pass --yes");
    }
    ask(&format!("{question} [y/N] "));
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    match is_yes(&answer) {
        true => Ok(()),
        false => bail!("{undone}: you did not say yes"),
    }
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        for answer in ["y", "Y\n", "yes\n", " YES "] {
            assert!(is_yes(answer), "{answer:?}");
        }
        for answer in ["", "\n", "n", "no", "yess", "ja"] {
            assert!(!is_yes(answer), "{answer:?}");
        }
    }
}
