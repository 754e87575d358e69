//! NVML's return codes, their texts, and the code for each errno of the kernel module.

use std::ffi::{CStr, c_uint};

use nix::errno::Errno;

/// A return code other than success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub c_uint);

/// The result of a call.
pub type Answer<T = ()> = Result<T, Code>;

impl Code {
    pub const UNINITIALIZED: Self = Self(1);
    pub const INVALID_ARGUMENT: Self = Self(2);
    pub const NOT_SUPPORTED: Self = Self(3);
    pub const NO_PERMISSION: Self = Self(4);
    pub const NOT_FOUND: Self = Self(6);
    pub const INSUFFICIENT_SIZE: Self = Self(7);
    pub const DRIVER_NOT_LOADED: Self = Self(9);
    pub const GPU_IS_LOST: Self = Self(15);
    pub const IN_USE: Self = Self(19);
    pub const INSUFFICIENT_RESOURCES: Self = Self(23);
    pub const VERSION_MISMATCH: Self = Self(25);
    pub const UNKNOWN: Self = Self(999);
}

impl From<Errno> for Code {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EPERM => Self::NO_PERMISSION,
            Errno::EINVAL => Self::INVALID_ARGUMENT,
            Errno::EOPNOTSUPP => Self::NOT_SUPPORTED,
            Errno::ENOENT => Self::NOT_FOUND,
            Errno::EBUSY => Self::IN_USE,
            Errno::ENOSPC => Self::INSUFFICIENT_RESOURCES,
            Errno::ENODEV => Self::GPU_IS_LOST,
            _ => Self::UNKNOWN,
        }
    }
}

/// The text of `nvmlErrorString`.
pub fn text(code: c_uint) -> &'static CStr {
    match code {
        0 => c"Success",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        4 => c"Insufficient Permissions",
        5 => c"Already Initialized",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        8 => c"Insufficient External Power",
        9 => c"Driver Not Loaded",
        10 => c"Timeout",
        11 => c"Interrupt Request Issue",
        12 => c"NVML Shared Library Not Found",
        13 => c"Function Not Found",
        14 => c"Corrupted infoROM",
        15 => c"GPU is lost",
        16 => c"GPU requires reset",
        17 => c"GPU access blocked by the operating system",
        18 => c"Driver/library version mismatch",
        19 => c"In use by another client",
        20 => c"Insufficient Memory",
        21 => c"No data",
        22 => c"ECC is not supported with vGPU",
        23 => c"Insufficient Resources",
        24 => c"Frequency not supported",
        25 => c"API call version mismatch",
        26 => c"Deprecated",
        27 => c"Not Ready",
        28 => c"GPU not found",
        29 => c"Invalid state",
        _ => c"Unknown Error",
    }
}
