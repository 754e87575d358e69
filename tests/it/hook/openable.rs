//! A device that was made but that QEMU could not open: libvirt would refuse it later,
//! with an unhelpful message.

use crate::support::{
    domain::Domain,
    machine::{Gpu, Machine, SMALL},
    refused::is_untouched,
    scene::Scene,
};

const WHY: &str = "QEMU cannot open the created device";

#[test]
fn a_mediated_device_without_a_group_is_made_elsewhere() {
    let scene = Scene::new(Machine::of_boards(2));
    scene.pool("cad", SMALL);
    let domain = Domain::with_one(1, "cad");
    scene.kernel.lose_vfio("0000:3b:00.0");
    scene.prepare(&domain).ends_well();
    assert_eq!(
        scene.kernel.mdevs()[&domain.mdevs()[0]].parent,
        "0000:3c:00.0"
    );
    scene.is_settled();
    scene.stop(&domain);
    scene.kernel.lose_vfio("0000:3c:00.0");
    let outcome = scene.prepare(&domain);
    let wanted = format!(
        "pool 'cad' has no free nvidia-231 for domain 'vm1': 0000:3b:00.0, 0000:3c:00.0: {WHY}; \
         see 'virt-vgpu explain vm1'"
    );
    assert_eq!(outcome.refusal(), wanted);
    is_untouched(&scene);
}

#[test]
fn so_is_a_virtual_function() {
    let scene = Scene::new(Machine::of_gpus([Gpu::l40s("0000:41:00.0").functions(2)]));
    scene.vgpu_pool("cad", "L40S-12Q");
    scene.kernel.lose_vfio("0000:41:00.4");
    let domain = Domain::new(1).function("gpu0", "cad", "0000:41:00.4");
    let outcome = scene.prepare(&domain);
    let wanted = format!(
        "pool 'cad' has no free L40S-12Q for domain 'vm1': its XML names 0000:41:00.4: {WHY}; \
         'virt-vgpu start vm1' looks for another"
    );
    assert_eq!(outcome.refusal(), wanted);
    is_untouched(&scene);
    let outcome = scene.hook(&domain, "migrate begin -").run();
    outcome.succeeds();
    assert!(outcome.stdout.contains("function='0x5'"), "{outcome:?}");
    scene.is_settled();
}
