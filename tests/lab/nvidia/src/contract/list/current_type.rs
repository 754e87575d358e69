//! `creatable_vgpu_types` and the table of answers of `current_vgpu_type`, in both
//! dialects.

use super::super::sequence::{Needs, Sequence};
use crate::model::{
    Dialect::{Kmod, Rfc},
    Framework::VendorVfio,
};

const KMOD: Needs = Needs::board(&["l40s"])
    .framework(&[VendorVfio])
    .dialect(Kmod);
const RFC: Needs = Needs::board(&["l40s"])
    .framework(&[VendorVfio])
    .dialect(Rfc);

pub(super) const LIST: &[Sequence] = &[
    Sequence {
        name: "what can be created, as text",
        needs: Needs::board(&["l40s"]).framework(&[VendorVfio]),
        steps: &[
            "read 0 creatable_vgpu_types ~ ID    : vGPU Name | 1145  : NVIDIA L40S-1B | ",
            "read 0 creatable_vgpu_types ~ | {L40S-48Q}  : NVIDIA L40S-48Q | ",
            "create 0 {L40S-24Q}",
            "read 1 creatable_vgpu_types => ID    : vGPU Name | {L40S-24Q}  : NVIDIA L40S-24Q | {L40S-24A}  : NVIDIA L40S-24A | {L40S-24C}  : NVIDIA L40S-24C",
            "create 1 {L40S-24A}",
            "read 2 creatable_vgpu_types => ID    : vGPU Name",
            "write 2 creatable_vgpu_types 1 => EACCES",
            "read 2 vm_name => ENOENT",
        ],
    },
    Sequence {
        name: "a typed function lists nothing: the header alone",
        needs: KMOD,
        steps: &[
            "create 0 {L40S-24Q}",
            "read 0 creatable_vgpu_types => ID    : vGPU Name",
        ],
    },
    Sequence {
        name: "a typed function lists nothing: not even the header",
        needs: RFC,
        steps: &["create 0 {L40S-24Q}", "read 0 creatable_vgpu_types => \"\""],
    },
    Sequence {
        name: "numbers, in either dialect",
        needs: Needs::board(&["l40s"]).framework(&[VendorVfio]),
        steps: &[
            "read 0 current_vgpu_type => 0",
            "write 0 current_vgpu_type \"\"",
            "write 0 current_vgpu_type \"\\n\" => EINVAL",
            "write 0 current_vgpu_type \"none\\n\" => EINVAL",
            "write 0 current_vgpu_type \"-1\\n\" => EINVAL",
            "write 0 current_vgpu_type \" {L40S-24Q}\\n\" => EINVAL",
            "write 0 current_vgpu_type \"{L40S-24Q} \\n\" => EINVAL",
            "write 0 current_vgpu_type \"{L40S-24Q}\\n\\n\" => EINVAL",
            "write 0 current_vgpu_type \"0x483\\n\" => EINVAL",
            "write 0 current_vgpu_type \"4294967296\\n\" => ERANGE",
            "write 0 current_vgpu_type \"99999999999999999999\\n\" => ERANGE",
            "read 0 current_vgpu_type => 0",
            "write 0 current_vgpu_type \"{L40S-24Q}\"",
            "read 0 current_vgpu_type => {L40S-24Q}",
            "write 1 current_vgpu_type \"0{L40S-24Q}\\n\"",
            "read 1 current_vgpu_type => {L40S-24Q}",
        ],
    },
    Sequence {
        name: "kmod: every refusal is EIO, every wrong state EPERM",
        needs: KMOD,
        steps: &[
            "write 0 current_vgpu_type 0 => EPERM",
            "write 0 current_vgpu_type 1 => EIO",
            "write 0 current_vgpu_type {L40S-24Q}",
            "state ~ vgpu 0 {L40S-24Q} 0 - vf0 - - - -",
            "write 0 current_vgpu_type {L40S-24Q} => EPERM",
            "write 0 current_vgpu_type {L40S-24C} => EPERM",
            "write 0 current_vgpu_type 1 => EPERM",
            "write 1 current_vgpu_type {L40S-12Q} => EIO",
            "write 1 current_vgpu_type {L40S-24C}",
            "write 2 current_vgpu_type {L40S-24Q} => EIO",
            "open 0 web",
            "write 0 current_vgpu_type 0 => EPERM",
            "write 0 current_vgpu_type {L40S-24Q} => EPERM",
            "close 0",
            "write 0 current_vgpu_type 0",
            "write 0 current_vgpu_type 0 => EPERM",
            "read 0 current_vgpu_type => 0",
        ],
    },
    Sequence {
        name: "rfc: refusals apart, and a typed function changes its type",
        needs: RFC,
        steps: &[
            "write 0 current_vgpu_type 0",
            "write 0 current_vgpu_type 1 => ENODEV",
            "write 0 current_vgpu_type {L40S-24Q}",
            "write 1 current_vgpu_type {L40S-12Q} => EINVAL",
            "write 1 current_vgpu_type {L40S-24C}",
            "write 2 current_vgpu_type {L40S-24Q} => ENOSPC",
            "write 0 current_vgpu_type {L40S-24A}",
            "read 0 current_vgpu_type => {L40S-24A}",
            "state ~ vgpu 1 {L40S-24A} 0 - vf0",
            // The old type is removed before the new one is refused.
            "write 0 current_vgpu_type {L40S-12Q} => EINVAL",
            "read 0 current_vgpu_type => 0",
            "open 1 web",
            "write 1 current_vgpu_type 0 => EBUSY",
            "write 1 current_vgpu_type {L40S-24C} => EBUSY",
            "close 1",
            "write 1 current_vgpu_type {L40S-12Q}",
            "write 1 current_vgpu_type 0",
            "state !~ vgpu",
        ],
    },
    Sequence {
        name: "rfc: one type at a time is another type's EINVAL",
        needs: RFC.one_series(),
        steps: &[
            "write 0 current_vgpu_type {L40S-24Q}",
            "write 1 current_vgpu_type {L40S-24C} => EINVAL",
            "write 1 current_vgpu_type {L40S-24Q}",
        ],
    },
    Sequence {
        name: "kmod: the plugin's exit is waited for, but not forever",
        needs: KMOD,
        steps: &[
            "create 0 {L40S-24Q}",
            "plugin-exit 300",
            "open 0 web",
            "close 0",
            "write 0 current_vgpu_type 0",
            "create 0 {L40S-24Q}",
            "plugin-exit 9000",
            "open 0 web",
            "close 0",
            "write 0 current_vgpu_type 0 => EBUSY",
            "read 0 current_vgpu_type => {L40S-24Q}",
            "write 0 current_vgpu_type 0",
        ],
    },
    Sequence {
        name: "rfc: the plugin's exit is nobody's business",
        needs: RFC,
        steps: &[
            "create 0 {L40S-24Q}",
            "plugin-exit 9000",
            "open 0 web",
            "close 0",
            "write 0 current_vgpu_type 0",
            "read 0 current_vgpu_type => 0",
        ],
    },
    Sequence {
        name: "a function that was bound again by hand is of no use until it is recreated",
        needs: Needs::board(&["l40s"]).framework(&[VendorVfio]),
        steps: &[
            "rebind 0",
            "read 0 current_vgpu_type => 0",
            "write 0 current_vgpu_type {L40S-24Q} => EINVAL",
            "write 0 current_vgpu_type 0 => EINVAL",
            "write 1 current_vgpu_type {L40S-24Q}",
            "vfs off",
            "vfs on",
            "write 0 current_vgpu_type {L40S-24Q}",
        ],
    },
];
