//! The hook hands out virtual functions that become vGPUs, on the model of NVIDIA's
//! driver: a domain's complete run with one.

use nix::errno::Errno;

use crate::support::{
    domain::Domain,
    kernel::{Fault, Target},
    machine::{Gpu, Machine},
    process::Outcome,
    refused::on_host,
    scene::Scene,
};

const FIRST: &str = "0000:41:00.4";
const SECOND: &str = "0000:41:00.5";
const FOREIGN: &str = "0000:41:00.6";

fn scene() -> Scene {
    let gpu = Gpu::l40s("0000:41:00.0").functions(4);
    let scene = Scene::new(Machine::of_gpus([gpu]).with_vgpu(FOREIGN, "L40S-12Q"));
    let keys = "[defaults]\nframe-rate-limit = 0";
    scene.vgpu_pool_with("cad", "L40S-12Q", keys);
    scene
}

fn domain(number: usize, function: &str) -> Domain {
    Domain::new(number).function("gpu0", "cad", function)
}

fn released(scene: &Scene, domain: &Domain) -> Outcome {
    scene.hook(domain, "release end shutdown").run()
}

#[test]
fn a_function_is_a_vgpu_for_as_long_as_its_vm_runs() {
    let (scene, domain) = (scene(), domain(1, FIRST));
    scene.prepare(&domain).ends_well();
    scene.is_settled();
    let vgpus = scene.our_vgpus();
    assert_eq!(vgpus.keys().collect::<Vec<_>>(), [FIRST]);
    assert_eq!(vgpus[FIRST].profile, "L40S-12Q");
    assert_eq!(vgpus[FIRST].parameters, "frame_rate_limiter=0");
    scene.runs_on(4711, &domain, &[FIRST]);
    for words in ["start begin -", "started begin -"] {
        scene.hook(&domain, words).run().ends_well();
    }
    scene.is_settled();
    scene.ends(4711);
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn a_function_that_a_process_has_open_stays_claimed() {
    let (scene, domain) = (scene(), domain(1, FIRST));
    scene.prepare(&domain).ends_well();
    scene.opens_function(4711, &domain, FIRST);
    assert_eq!(released(&scene, &domain).code, Some(0));
    assert_eq!(scene.claims().len(), 1);
    assert_eq!(scene.our_vgpus().len(), 1);
    scene.ends(4711);
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn a_driver_that_refuses_refuses_the_start() {
    let (scene, domain) = (scene(), domain(1, FIRST));
    for target in [Target::SetType, Target::Parameters] {
        scene.kernel.inject(Fault::errno(target, Errno::EIO));
        let outcome = scene.prepare(&domain);
        let line = on_host(&scene, outcome.refusal());
        assert!(
            line.contains("Input/output error (os error 5)"),
            "{target:?}: {line}"
        );
        scene.is_empty();
        scene.kernel.heal();
    }
    scene.prepare(&domain).ends_well();
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn two_functions_and_no_third() {
    let scene = scene();
    let (one, two) = (domain(1, FIRST), domain(2, SECOND));
    scene.prepare(&one).ends_well();
    scene.prepare(&two).ends_well();
    scene.is_settled();
    let foreign = domain(3, FOREIGN);
    scene.prepare(&foreign).refusal();
    scene.is_settled();
    scene.stop(&one);
    scene.stop(&two);
    scene.is_empty();
}

#[test]
fn a_function_that_fell_off_the_bus_is_given_back() {
    let (scene, domain) = (scene(), domain(1, FIRST));
    scene.prepare(&domain).ends_well();
    scene.kernel.remove_parent(FIRST);
    scene.stop(&domain);
    scene.is_empty();
}

/// With `managed='yes'` libvirt would rebind the function, and the function would be
/// unusable until its GPU's functions are recreated.
#[test]
fn a_function_that_libvirt_would_rebind_is_refused() {
    let (scene, domain) = (scene(), domain(1, FIRST));
    let xml = domain.xml().replace("managed='no'", "managed='yes'");
    let outcome = scene.hook_with(&domain, "prepare begin -", xml).run();
    assert_eq!(
        on_host(&scene, outcome.refusal()),
        "device 'gpu0' of domain 'vm1': its hostdev has managed='yes', so libvirt would \
         unbind the function from the driver that it needs; set managed='no' with \
         'virsh edit vm1'"
    );
    scene.is_empty();
}
