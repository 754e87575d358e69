//! `vgpu_params` and `vm_name`.

use super::super::sequence::{Needs, Sequence};
use crate::model::Framework::{SriovMdev, VendorVfio};

pub(super) const LIST: &[Sequence] = &[
    Sequence {
        name: "parameters: the last byte is lost, whatever it is",
        needs: Needs::board(&["l40s"]),
        steps: &[
            "create 0 {L40S-24Q}",
            "read 0 vgpu_params => \"\"",
            "write 0 vgpu_params \"frame_rate_limiter=0,disable_vnc=1\\n\"",
            "read 0 vgpu_params => frame_rate_limiter=0,disable_vnc=1",
            "write 0 vgpu_params \"disable_vnc=1\"",
            "read 0 vgpu_params => disable_vnc=",
            "write 0 vgpu_params *1025 => E2BIG",
            "read 0 vgpu_params => disable_vnc=",
            "write 0 vgpu_params *1024",
            "read 0 vgpu_params ~ xxxxxxxx",
            "write 0 vgpu_params \" \"",
            "read 0 vgpu_params => \"\"",
        ],
    },
    Sequence {
        name: "parameters: not while a VM has the vGPU, and gone with it",
        needs: Needs::board(&["l40s"]),
        steps: &[
            "create 0 {L40S-24Q}",
            "write 0 vgpu_params a=1",
            "open 0 web",
            "write 0 vgpu_params a=2 => EPERM",
            "read 0 vgpu_params => a=1",
            "close 0",
            "read 0 vgpu_params => a=1",
            "write 0 vgpu_params a=3",
            "release 0",
            "create 0 {L40S-24Q}",
            "read 0 vgpu_params => \"\"",
        ],
    },
    Sequence {
        name: "no vGPU: ENXIO, where the function has the files",
        needs: Needs::board(&["l40s"]).framework(&[VendorVfio]),
        steps: &[
            "read 0 vgpu_params => ENXIO",
            "write 0 vgpu_params a=1 => ENXIO",
            "read 0 placement_id => ENXIO",
            "write 0 placement_id 0 => ENXIO",
            "write 0 placement_id x => ENXIO",
            "read 0 gpu_instance_id => ENXIO",
            "write 0 gpu_instance_id 1 => ENXIO",
        ],
    },
    Sequence {
        name: "no mdev: no files",
        needs: Needs::board(&["l40s"]).framework(&[SriovMdev]),
        steps: &[
            "read 0 vgpu_params => ENOENT",
            "write 0 placement_id 0 => ENOENT",
            "create 0 {L40S-24Q}",
            "read 0 placement_id => 0",
            "read 0 current_vgpu_type => ENOENT",
            "read 0 creatable_vgpu_types => ENOENT",
        ],
    },
    Sequence {
        name: "an mdev knows its VM's name",
        needs: Needs::board(&["t4"]),
        steps: &[
            "create 0 {T4-4Q}",
            "read 0 vm_name => \"\"",
            "open 0 web",
            "read 0 vm_name => web",
            "close 0",
            "read 0 vm_name => \"\"",
            "write 0 vm_name web => EACCES",
            "read 0 placement_id => Not Applicable",
            "read 0 gpu_instance_id => Not Applicable",
            "write 0 placement_id 0 => EIO",
            "write 0 gpu_instance_id 1 => EIO",
        ],
    },
];
