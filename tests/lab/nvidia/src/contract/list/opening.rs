//! Opening a vGPU's VFIO device, and what remains afterwards.

use super::super::sequence::{Needs, Sequence};
use crate::model::Framework::{SriovMdev, VendorVfio};

pub(super) const LIST: &[Sequence] = &[
    Sequence {
        name: "a VM shows in the state while it has the vGPU",
        needs: Needs::board(&["l40s"]),
        steps: &[
            "create 0 {L40S-24Q}",
            "open 0 web",
            "state ~ open 5a000000-0000-4000-8000-000000000000 web",
            "open 0 db => EBUSY",
            "create 1 {L40S-24Q}",
            "open 1 db",
            "state ~ open 5a000000-0000-4000-8000-000000000001 db",
            "close 0",
            "state !~ web",
            "close 0 => EBADF",
            "open 0 web",
            "close 0",
            "close 1",
            "state !~ open",
        ],
    },
    Sequence {
        name: "what cannot be opened",
        needs: Needs::board(&["l40s"]),
        steps: &[
            "create 0 {L40S-24Q}",
            "open 0 => EIO",
            "state !~ open",
            "manager off",
            "open 0 web => EIO",
            "manager on",
            "open 0 web",
            "close 0",
        ],
    },
    Sequence {
        name: "a function without a type",
        needs: Needs::board(&["l40s"]).framework(&[VendorVfio]),
        steps: &[
            "open 0 web => ENODEV",
            "create 0 {L40S-24Q}",
            "open 0 web",
            "close 0",
            "release 0",
            "open 0 web => ENODEV",
        ],
    },
    Sequence {
        name: "SIGKILL within the first seconds wedges the function until it is recreated",
        needs: Needs::board(&["l40s"]).framework(&[SriovMdev, VendorVfio]),
        steps: &[
            "init 600000",
            "create 0 {L40S-24Q}",
            "create 3 {L40S-24Q}",
            "open 0 web",
            "close 0",
            "wedged => \"\"",
            "open 3 db",
            "kill 3",
            "wedged => 3",
            "state !~ open",
            // It looks healthy from the host.
            "open 3 db",
            "close 3",
            "release 3",
            "create 3 {L40S-24Q}",
            "wedged => 3",
            "vfs on",
            "wedged => 3",
            "vfs off",
            "vfs on",
            "wedged => \"\"",
        ],
    },
    Sequence {
        name: "SIGKILL later does no harm",
        needs: Needs::board(&["l40s"]).framework(&[SriovMdev, VendorVfio]),
        steps: &[
            "init 200",
            "create 0 {L40S-24Q}",
            "open 0 web",
            "wait 400",
            "kill 0",
            "wedged => \"\"",
        ],
    },
    Sequence {
        name: "an mdev is removed when the plugin is gone",
        needs: Needs::board(&["t4"]),
        steps: &[
            "create 0 {T4-4Q}",
            "plugin-exit 300",
            "open 0 web",
            "close 0",
            "release 0",
            "state !~ vgpu",
        ],
    },
];
