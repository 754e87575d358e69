//! Heterogeneous mode and scheduler.

use super::super::sequence::{Needs, Sequence};
use crate::model::Framework::{SriovMdev, VendorVfio};

pub(super) const LIST: &[Sequence] = &[
    Sequence {
        name: "heterogeneous mode only on an empty GPU",
        needs: Needs::board(&["l40s"]),
        steps: &[
            "ctl hetero 1",
            "state ~ hetero 1",
            "ctl hetero 1",
            "create 0 {L40S-24Q}",
            "ctl hetero 0 => EBUSY",
            "ctl hetero 1 => EBUSY",
            "state ~ hetero 1",
            "release 0",
            "ctl hetero 0",
            "state ~ hetero 0",
        ],
    },
    Sequence {
        name: "heterogeneous mode is gone when the GPU is bound again",
        needs: Needs::board(&["l40s"]).framework(&[SriovMdev, VendorVfio]),
        steps: &[
            "ctl hetero 1",
            "vfs on",
            "state ~ hetero 0",
            "ctl hetero 1",
            "create 0 {L40S-24Q}",
            "create 1 {L40S-12Q}",
            "vfs on",
            "state ~ hetero 0",
            "state ~ forgotten {L40S-12Q} vf1",
            // The memory is free again.
            "ctl creatable ~ {L40S-48Q} 1",
            "release 0",
            "release 1",
            "vfs off",
            "ctl hetero 1",
            "vfs on",
            "state ~ hetero 0",
        ],
    },
    Sequence {
        name: "heterogeneous mode and MIG exclude each other",
        needs: Needs::board(&["rtx-pro-6000"]),
        steps: &[
            "ctl mig 1 => 0",
            "ctl hetero 1 => EOPNOTSUPP",
            "ctl hetero 0 => EOPNOTSUPP",
            "ctl scheduler 2 0 0 0 0 => EOPNOTSUPP",
        ],
    },
    Sequence {
        name: "the scheduler only on an empty GPU, and gone when bound again",
        needs: Needs::board(&["l40s"]),
        steps: &[
            "state ~ scheduler 1 0 0 0 0",
            "ctl scheduler 2 0 0 0 0",
            "state ~ scheduler 2 0 0 0 0",
            "ctl scheduler 3 1 0 0 2000000",
            "state ~ scheduler 3 1 0 0 2000000",
            "create 0 {L40S-24Q}",
            "ctl scheduler 2 0 0 0 0 => EOPNOTSUPP",
            "ctl scheduler 4 0 0 0 0 => EOPNOTSUPP",
            "release 0",
            "ctl scheduler 2 2 33 480 0",
            "state ~ scheduler 2 2 33 480 0",
            "vfs on",
            "state ~ scheduler 1 0 0 0 0",
        ],
    },
    Sequence {
        name: "the scheduler's limits",
        needs: Needs::board(&["l40s"]),
        steps: &[
            "ctl scheduler 0 0 0 0 0 => EINVAL",
            "ctl scheduler 4 0 0 0 0 => EINVAL",
            "ctl scheduler 2 1 0 0 999999 => EINVAL",
            "ctl scheduler 2 1 0 0 1000000",
            "ctl scheduler 2 1 0 0 30000000",
            "ctl scheduler 2 1 0 0 30000001 => EINVAL",
            "ctl scheduler 2 2 1 63 0",
            "ctl scheduler 2 2 60 960 0",
            "ctl scheduler 2 2 61 960 0 => EINVAL",
            "ctl scheduler 2 2 60 961 0 => EINVAL",
            "ctl scheduler 2 2 60 62 0 => EINVAL",
            "state ~ scheduler 2 2 60 960 0",
        ],
    },
    Sequence {
        name: "adaptive round robin only where the board has it",
        needs: Needs::board(&["a40", "t4"]),
        steps: &[
            "ctl scheduler 2 2 33 480 0 => EINVAL",
            "ctl scheduler 2 1 0 0 2000000",
            "ctl scheduler 3 0 0 0 0",
        ],
    },
    Sequence {
        name: "no fixed share with heterogeneous mode",
        needs: Needs::board(&["l40s"]),
        steps: &[
            "ctl hetero 1",
            "ctl scheduler 3 0 0 0 0 => EINVAL",
            "ctl scheduler 2 0 0 0 0",
            "ctl scheduler 1 0 0 0 0",
        ],
    },
];
