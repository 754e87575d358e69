//! Domain XML from a file or from standard input.

use std::{io::Read, path::Path};

use anyhow::{Context, ensure};

use crate::{domain, host};

/// As much XML as the hook reads.
const LONGEST: u64 = domain::MAX_BYTES as u64;

/// The file's text; `-` is standard input. A text that is too long is refused, not
/// truncated.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        let input = std::io::stdin().lock();
        (input.take(LONGEST + 1).read_to_string(&mut text)).map(|_| text)
    } else {
        host::read_at_most(path, LONGEST + 1)
    };
    let text = read.with_context(|| format!("cannot read {}", name(path)))?;
    ensure!(
        text.len() <= domain::MAX_BYTES,
        "{} is longer than {} MiB, which is more than any domain's XML",
        name(path),
        domain::MAX_BYTES >> 20
    );
    Ok(text)
}

/// The file, for messages.
pub(super) fn name(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}
