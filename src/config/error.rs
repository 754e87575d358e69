//! What can be wrong with a pool: its file's text, or getting at the file.

use std::{io, path::PathBuf};

use super::Distrust;
use crate::{document::ConfigError, model::PoolName};

/// Why a pool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No place has a file of that name.
    #[error("there is no pool '{pool}'; see 'virt-vgpu pool list'")]
    NotFound {
        /// The pool that was asked for.
        pool: PoolName,
    },
    /// A link to /dev/null stands in for the file.
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
    /// Others than root could have written the file.
    #[error("{} is not used: {why}", path.display())]
    Untrusted {
        /// The file, or the link to /dev/null.
        path: PathBuf,
        /// What they can change.
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
