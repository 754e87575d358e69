//! Values that JSON has no form for.

use std::path::{Path, PathBuf};

use serde::Serializer;

/// A path, which may have any bytes: what is not UTF-8 in it is shown as such, and is no
/// reason to print nothing.
pub fn path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// The same of one that may be missing.
#[allow(clippy::ref_option, reason = "serde's signature")]
pub fn some_path<S: Serializer>(some: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match some {
        Some(some) => path(some, serializer),
        None => serializer.serialize_none(),
    }
}
