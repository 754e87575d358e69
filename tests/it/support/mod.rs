//! Models of the machine: the kernel's mdev core and NVIDIA's driver in memory, a mount
//! that shows them to real processes, and a directory with pools, domains and claims
//! around it; plain files for commands that only read; a libvirtd, and a driver for
//! NVML.

use std::time::Duration;

use virt_vgpu::host::Deadline;

pub mod domain;
pub mod kernel;
#[cfg(feature = "cli")]
pub mod libvirtd;
pub mod machine;
pub mod machines;
pub mod making;
pub mod mount;
#[cfg(feature = "nvml")]
pub mod nvml_driver;
pub mod nvml_server;
#[cfg(feature = "cli")]
pub mod plain_tree;
pub mod process;
pub mod refused;
pub mod scene;
pub mod side_by_side;
pub mod sources;
pub mod tree;
pub mod twin_host;
#[cfg(feature = "cli")]
pub mod uevents;

/// Waits for an event, longer than the slowest machine takes.
#[track_caller]
pub fn eventually(what: &str, is_so: impl FnMut() -> bool) {
    const PATIENCE: Duration = Duration::from_secs(60);
    assert!(Deadline::after(PATIENCE).wait_until(is_so), "{what}");
}

/// Files that others can write are not trusted, and the umask of the user who runs the
/// tests may create such files.
pub fn ordinary_umask() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
}

/// An empty directory that replaces a host's root.
pub fn root() -> tempfile::TempDir {
    ordinary_umask();
    tempfile::tempdir().unwrap()
}
