//! A card whose functions come along: the VM has all of them on one slot.

use crate::support::{
    domain::Domain,
    kernel::Bound,
    machine::{Machine, Plain},
    scene::Scene,
};

const NIC: &str = "0000:04:00.0";
const FIRST: &str = "0000:05:00.0";
const SECOND: &str = "0000:05:00.1";
const THIRD: &str = "0000:05:00.2";

/// A card of three functions in one IOMMU group, and another device.
fn scene() -> Scene {
    let scene = Scene::new(Machine::of_pci([
        Plain::nic(NIC, 4),
        Plain::nic(FIRST, 5),
        Plain::nic(SECOND, 5),
        Plain::nic(THIRD, 5),
    ]));
    scene.pci_pool("cards");
    scene
}

fn domain(number: usize) -> Domain {
    Domain::new(number)
        .function("dev0", "cards", FIRST)
        .passing("ua-vgpu-dev0_1", SECOND)
        .passing("ua-vgpu-dev0_2", THIRD)
}

fn drivers(scene: &Scene) -> Vec<Option<String>> {
    let bound = scene.kernel.bound();
    let driver = |at| {
        bound
            .get(at)
            .and_then(|Bound { driver, .. }| driver.clone())
    };
    [NIC, FIRST, SECOND, THIRD].map(driver).to_vec()
}

fn bound_to(names: [&str; 4]) -> Vec<Option<String>> {
    names.map(|name| Some(name.to_owned())).to_vec()
}

#[test]
fn all_functions_are_the_vms_and_go_back() {
    let scene = scene();
    for _ in 0..2 {
        let domain = domain(1);
        scene.prepare(&domain).ends_well();
        scene.is_settled();
        assert_eq!(
            drivers(&scene),
            bound_to(["igb", "vfio-pci", "vfio-pci", "vfio-pci"])
        );
        scene.runs_on(4711, &domain, &[FIRST, SECOND, THIRD]);
        scene.ends(4711);
        scene.stop(&domain);
        scene.is_empty();
        assert_eq!(drivers(&scene), bound_to(["igb"; 4]));
    }
}

/// A definition that does not name them yet starts, and they are kept from everybody else.
#[test]
fn functions_that_the_xml_does_not_name_are_taken_along() {
    let scene = scene();
    let domain = Domain::new(1).function("dev0", "cards", FIRST);
    scene.prepare(&domain).ends_well();
    scene.is_settled();
    assert_eq!(
        drivers(&scene),
        bound_to(["igb", "vfio-pci", "vfio-pci", "vfio-pci"])
    );
}

#[test]
fn a_function_that_does_not_go_along_is_refused() {
    let scene = scene();
    let before = scene.kernel.bound();
    for other in [NIC, "0000:0a:00.1"] {
        let domain = Domain::new(1)
            .function("dev0", "cards", FIRST)
            .passing("ua-vgpu-dev0_1", other);
        let outcome = scene.prepare(&domain);
        assert_eq!(
            outcome.refusal(),
            format!(
                "domain 'vm1': the hostdev 'ua-vgpu-dev0_1' passes {other}, which does not go \
                 together with dev0, {FIRST}; 'virt-vgpu sync vm1' corrects it"
            )
        );
        scene.is_empty();
        assert_eq!(scene.kernel.bound(), before);
    }
}

#[test]
fn only_the_first_function_stands_for_its_card() {
    let scene = scene();
    let domain = Domain::new(1).function("dev0", "cards", SECOND);
    assert_eq!(
        scene.prepare(&domain).refusal(),
        format!(
            "pool 'cards' has no free PCI device for domain 'vm1': its XML names {SECOND}: it goes \
             with {FIRST}, the first function of its card (multifunction); 'virt-vgpu start vm1' looks for another"
        )
    );
    scene.is_empty();
}
