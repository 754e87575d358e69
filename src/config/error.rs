//! Errors of a pool: a mistake in its file, or a file that cannot be used.

use std::{io, path::PathBuf};

use super::Distrust;
use crate::{document::ConfigError, model::PoolName};

/// Why a pool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No directory has a file of that name.
    #[error("there is no pool '{pool}'; see 'virt-vgpu pool list'")]
    NotFound {
        /// The pool that was asked for.
        pool: PoolName,
    },
    /// A link to /dev/null replaces the file.
    #[error("pool '{pool}' is masked by {}; see 'virt-vgpu pool list'", path.display())]
    Masked {
        /// The pool that was asked for.
        pool: PoolName,
        /// The link.
        path: PathBuf,
    },
    /// The file has a mistake.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Other users than root could have written the file.
    #[error("{} is not used: {why}", path.display())]
    Untrusted {
        /// The file, or the link to /dev/null.
        path: PathBuf,
        /// What other users can change.
        why: Distrust,
    },
    /// The file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
}
