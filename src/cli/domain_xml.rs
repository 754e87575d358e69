//! Domain XML that the user has in a file, or pipes in.

use std::{io::Read, path::Path};

use anyhow::Context;

use crate::{domain, host};

/// As much XML as the hook reads.
const LONGEST: u64 = domain::MAX_BYTES as u64;

/// The file's text; `-` is standard input.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        let input = std::io::stdin().lock();
        input.take(LONGEST).read_to_string(&mut text).map(|_| text)
    } else {
        host::read_at_most(path, LONGEST)
    };
    read.with_context(|| format!("cannot read {}", path.display()))
}
