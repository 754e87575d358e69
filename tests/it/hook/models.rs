//! Mediated devices that QEMU does not present as PCI devices: the model of a hostdev
//! must be that of its type.

use crate::support::{
    domain::Domain,
    machine::{Function, Machine, Type},
    refused::is_untouched,
    scene::Scene,
};

const MATRIX: &str = "0000:3b:00.0";

fn scene(device_api: &str) -> Scene {
    let passthrough = Type {
        id: "vfio_ap-passthrough".to_owned(),
        name: "VFIO AP Passthrough Device".to_owned(),
        framebuffer: 1,
        max: 8,
        device_api: device_api.to_owned(),
    };
    let matrix = Function {
        types: vec![passthrough.id.clone()],
        ..Function::board(MATRIX)
    };
    let scene = Scene::new(Machine {
        types: vec![passthrough],
        functions: vec![matrix],
        ..Machine::default()
    });
    scene.pool("crypto", "vfio_ap-passthrough");
    scene
}

fn refusal(scene: &Scene, model: &str) -> String {
    let domain = Domain::with_one(1, "crypto");
    let xml = domain.xml().replace("vfio-pci", model);
    let outcome = scene.hook_with(&domain, "prepare begin -", xml).run();
    let refusal = outcome.refusal().to_owned();
    is_untouched(scene);
    refusal
}

#[test]
fn a_hostdev_of_another_model_than_its_type_is_refused() {
    let scene = scene("vfio-ap");
    let wanted = |model: &str| {
        format!(
            "device 'gpu0' of domain 'vm1' has a <hostdev> with model='{model}', but \
             vfio_ap-passthrough of {MATRIX} needs model='vfio-ap'; 'virt-vgpu sync vm1' corrects \
             that, or 'virsh edit vm1'"
        )
    };
    for model in ["vfio-pci", "vfio-ccw", "x"] {
        assert_eq!(refusal(&scene, model), wanted(model));
    }
    let domain = Domain::with_one(1, "crypto");
    let xml = domain.xml().replace("vfio-pci", "vfio-ap");
    scene
        .hook_with(&domain, "prepare begin -", xml)
        .run()
        .ends_well();
    scene.is_settled();
    assert_eq!(scene.ours().len(), 1);
}

#[test]
fn so_is_a_type_that_libvirt_gives_to_no_vm() {
    let scene = scene("vfio-amba");
    assert_eq!(
        refusal(&scene, "vfio-pci"),
        "no device was made: /sys/class/mdev_bus/0000:3b:00.0/mdev_supported_types/\
         vfio_ap-passthrough/device_api: 'vfio-amba' is not an interface by which libvirt gives \
         mediated devices to VMs (vfio-pci, vfio-ccw, vfio-ap)"
    );
}
