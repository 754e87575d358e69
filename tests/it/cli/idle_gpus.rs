//! GPUs that a pool's rules take but that make nothing yet: the refusal, `explain`,
//! `status` and `pool preview` report them in the same way. Also the messages for a
//! pool without any GPU.

use lab_nvidia::model::Framework;

use crate::support::{
    domain::Domain,
    machine::{Function, Gpu, Machine},
    process::Program,
    scene::Scene,
};

const GPU: &str = "0000:41:00.0";
const NOT_THERE: &str =
    "its virtual functions do not exist yet; run 'virt-vgpu host apply 0000:41:00.0'";

fn disabled(framework: Framework, board: &str) -> Scene {
    let gpu = Gpu {
        enabled: false,
        ..Gpu::new(board, framework, GPU)
    };
    Scene::new(Machine::of_gpus([gpu]))
}

fn shown(scene: &Scene, arguments: &str) -> String {
    let outcome = Program::command(scene.root(), arguments).run();
    outcome.succeeds();
    outcome.stdout
}

/// The output of `explain` for a domain without a claim.
fn explained(scene: &Scene, domain: &Domain) -> String {
    scene.file("vm1.xml", domain.xml());
    let file = scene.path("vm1.xml");
    let arguments = format!("explain --xml {}", file.display());
    Program::command(scene.root(), &arguments).run().stdout
}

#[test]
fn functions_that_are_not_enabled_are_no_missing_match() {
    for (framework, board, profile) in [
        (Framework::SriovMdev, "a40", "A40-12Q"),
        (Framework::VendorVfio, "l40s", "L40S-12Q"),
    ] {
        let scene = disabled(framework, board);
        scene.vgpu_pool("cad", profile);
        let domain = Domain::with_one(1, "cad");
        let wanted = format!(
            "pool 'cad' has no free {profile} for domain 'vm1': {GPU}: {NOT_THERE}; see 'virt-vgpu \
             explain vm1'"
        );
        assert_eq!(scene.prepare(&domain).refusal(), wanted);
        let explained = explained(&scene, &domain);
        let line = explained.lines().find(|line| line.contains("PARENT"));
        assert!(line.is_some(), "{explained}");
        assert_eq!(explained.matches(NOT_THERE).count(), 2, "{explained}");
        let status = shown(&scene, "status");
        let problem = format!("problem: pool 'cad': {GPU}: {NOT_THERE}\n");
        assert!(status.contains(&problem), "{status}");
        assert!(shown(&scene, "pool preview cad").contains(NOT_THERE));
    }
}

#[test]
fn a_function_that_is_not_there_yet_is_told_with_its_gpu() {
    let scene = disabled(Framework::VendorVfio, "l40s");
    scene.vgpu_pool("cad", "L40S-12Q");
    let domain = Domain::new(1).function("gpu0", "cad", "0000:41:00.4");
    assert_eq!(
        scene.prepare(&domain).refusal(),
        format!(
            "pool 'cad' has no free L40S-12Q for domain 'vm1': its XML names 0000:41:00.4: it is \
             not a virtual function of this host; {GPU}: {NOT_THERE}; 'virt-vgpu start vm1' looks \
             for \
             another"
        )
    );
}

#[test]
fn a_gpu_without_types_yet_is_told() {
    let gpu = Function {
        types: Vec::new(),
        ..Function::board(GPU)
    };
    let scene = Scene::new(Machine::with([gpu]));
    scene.vgpu_pool("cad", "T4-4Q");
    let why = "the driver offers no vGPU types; 'systemctl status nvidia-vgpud' shows whether \
               NVIDIA's types were loaded";
    assert_eq!(
        scene.prepare(&Domain::with_one(1, "cad")).refusal(),
        format!(
            "pool 'cad' has no free T4-4Q for domain 'vm1': {GPU}: {why}; see 'virt-vgpu explain vm1'"
        )
    );
    let status = shown(&scene, "status");
    let problem = format!("problem: pool 'cad': {GPU}: {why}\n");
    assert!(status.contains(&problem), "{status}");
}

#[test]
fn one_of_another_framework_than_the_xml_is_told() {
    let scene = Scene::new(Machine::of_gpus([Gpu::l40s(GPU).functions(2)]));
    scene.vgpu_pool("cad", "L40S-12Q");
    assert_eq!(
        scene.prepare(&Domain::with_one(1, "cad")).refusal(),
        format!(
            "pool 'cad' has no free L40S-12Q for domain 'vm1': {GPU}: its vGPUs are virtual \
             functions, but the XML has a mediated device; 'virt-vgpu sync' corrects that; see \
             'virt-vgpu explain vm1'"
        )
    );
}

#[test]
fn a_gpu_next_to_one_in_use_is_told_too() {
    let gpus = [
        Gpu {
            enabled: false,
            ..Gpu::l40s(GPU)
        },
        Gpu::l40s("0000:51:00.0").functions(1),
    ];
    let scene = Scene::new(Machine::of_gpus(gpus));
    scene.vgpu_pool("cad", "L40S-12Q");
    let status = shown(&scene, "status");
    assert!(status.contains(&format!("{GPU}: {NOT_THERE}")), "{status}");
    let preview = shown(&scene, "pool preview cad");
    assert!(preview.contains("in the pool (2 of 2)"), "{preview}");
}

#[test]
fn gpus_of_another_driver_are_told() {
    let unbound = |address: &str, driver: &str| Function {
        driver: driver.to_owned(),
        types: Vec::new(),
        ..Function::board(address)
    };
    let scene = Scene::new(Machine::with([unbound("0000:3b:00.0", "vfio-pci")]));
    scene.vgpu_pool("cad", "T4-4Q");
    let why = "its driver is 'vfio-pci', but only nvidia makes vGPUs";
    assert_eq!(
        scene.prepare(&Domain::with_one(1, "cad")).refusal(),
        format!(
            "pool 'cad' has no free T4-4Q for domain 'vm1': 0000:3b:00.0: {why}; see 'virt-vgpu \
             explain vm1'"
        )
    );
    assert_eq!(
        shown(&scene, "pool preview cad"),
        format!(
            "pool 'cad' (type 'T4-4Q'), /etc/virt-vgpu/pools.d/cad.toml\n\nno GPU of this host is \
             bound to nvidia\n\nnot bound to nvidia, so in no pool of vGPUs:\n  0000:3b:00.0\n    \
             {why}\n"
        )
    );
    let status = shown(&scene, "status");
    assert!(
        status.contains(&format!("pool 'cad': 0000:3b:00.0: {why}\n")),
        "{status}"
    );
    assert_eq!(
        shown(&scene, "devices --kind nvidia-vgpu"),
        format!("no GPU is bound to nvidia; 0000:3b:00.0: {why}\n")
    );
    // A GPU that is passed through as a whole is no problem if another one makes vGPUs.
    let mut machine = Machine::of_gpus([Gpu::l40s(GPU).functions(2)]);
    machine.functions = vec![unbound("0000:3b:00.0", "vfio-pci")];
    let scene = Scene::new(machine);
    scene.vgpu_pool("cad", "L40S-12Q");
    let status = shown(&scene, "status");
    assert!(!status.contains("vfio-pci"), "{status}");
    let preview = shown(&scene, "pool preview cad");
    assert!(preview.contains("in the pool (1 of 1)"), "{preview}");
    assert!(preview.contains(why), "{preview}");
}

#[test]
fn a_host_without_gpus_is_told() {
    let scene = Scene::new(Machine::default());
    scene.vgpu_pool("cad", "T4-4Q");
    let preview = shown(&scene, "pool preview cad");
    assert!(
        preview.ends_with("\n\nthis host has no NVIDIA GPU\n"),
        "{preview}"
    );
    assert_eq!(
        scene.prepare(&Domain::with_one(1, "cad")).refusal(),
        "pool 'cad' has no free T4-4Q for domain 'vm1': no device on this host matches its rules; \
         see 'virt-vgpu pool preview cad'"
    );
    assert_eq!(
        shown(&scene, "devices --pool cad"),
        "pool 'cad' takes none; 'virt-vgpu pool preview cad' says why\n"
    );
}

#[test]
fn the_gpus_of_a_pool_are_shown_without_a_kind() {
    let gpus = [GPU, "0000:51:00.0"].map(|at| Gpu::l40s(at).functions(2));
    let scene = Scene::new(Machine::of_gpus(gpus));
    let rule = "[[rule]]\nwhere = [{ field = 'address', op = 'equal', value = '0000:51:00.0' }]";
    let text = format!("kind = 'nvidia-vgpu'\nprofile = 'L40S-12Q'\n{rule}\n");
    scene.file("etc/virt-vgpu/pools.d/one.toml", text);
    scene.vgpu_pool("all", "L40S-12Q");
    let one = "ADDRESS       CLASS  ID         DRIVER  NAME\n\
               0000:51:00.0  gpu    10de:26b9  nvidia  -\n";
    assert_eq!(shown(&scene, "devices --pool one"), one);
    assert_eq!(shown(&scene, "devices --pool one --kind nvidia-vgpu"), one);
    assert_eq!(shown(&scene, "devices --pool all 51:00.0"), one);
    let fields = shown(&scene, "devices --pool one --fields");
    assert!(fields.starts_with("0000:51:00.0\n"), "{fields}");
    let all = shown(&scene, "devices --pool all");
    assert_eq!(all.lines().count(), 3, "{all}");
    assert_eq!(shown(&scene, "devices --kind nvidia-vgpu"), all);
    for (arguments, wanted) in [
        (
            "devices --pool one --kind mdev",
            "pool 'one' has no devices of kind 'mdev': it is of kind 'nvidia-vgpu'; leave out --kind",
        ),
        (
            "devices --pool one 41:00.0",
            "pool 'one' does not take 0000:41:00.0; 'virt-vgpu pool preview one' says why",
        ),
        (
            "devices --kind nvidia-vgpu 41:00.4",
            "0000:41:00.4 is not a GPU that NVIDIA's driver has; 'virt-vgpu devices 0000:41:00.4' \
             shows what it is",
        ),
    ] {
        let outcome = Program::command(scene.root(), arguments).run();
        let said = (outcome.succeeded(), outcome.stderr.as_str());
        assert_eq!(said, (false, &*format!("virt-vgpu: {wanted}\n")));
    }
}
