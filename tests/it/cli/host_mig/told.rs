//! What people are told of GPU instances, and of what others, or the driver, did to them.

use std::time::Duration;

use super::*;
use crate::support::kernel::{Fault, Target};

#[test]
fn a_pool_tells_its_settings() {
    let scene = scene("rtx-pro-6000");
    let keys = "heterogeneous = true\nscheduler = { policy = 'equal-share' }\n\
                [mig]\nmode = 'on-demand'\ngpu-instances = 2";
    scene.vgpu_pool_with("cad", "DC-1-12Q", keys);
    let text = works(&scene, "pool show cad");
    let (_, settings) = text.split_once("settings of kind").unwrap();
    let (settings, _) = settings.split_once("\n\n").unwrap();
    insta::assert_snapshot!(settings, @"
    'nvidia-vgpu':
     heterogeneous           yes
     mig.gpu-instances       2
     mig.mode                on-demand
     mig.vgpus-per-instance  0
     scheduler.policy        equal-share
    ");
}

#[test]
fn each_gpu_instance_is_shown() {
    let scene = scene("rtx-pro-6000");
    mig_pool(&scene, "cad", "DC-1-12Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    scene.prepare(&domain(&scene, 1, "cad")).succeeds();
    let profile = instances(&scene)[0].profile;
    scene
        .kernel
        .with_gpu(GPU, |gpu| gpu.gi_create(profile, Some(9)))
        .unwrap();
    insta::assert_snapshot!(works(&scene, "host show"), @"
    0000:41:00.0: pool cad, driver nvidia
      SETTING            WANTED  ACTUAL
      virtual functions  48      48
      MIG mode           on      on
      GPU instances: [===|......|!!!] keep 1g.24gb+gfx at 0-2 (in use by domain 'vm1'); cannot destroy 1g.24gb+gfx at 9-11 (not created by virt-vgpu); 6 of 12 slots free
      GPU instance 3 (1g.24gb+gfx at 0-2): pool 'cad'; best-effort; in use by domain 'vm1'
      GPU instance 6 (1g.24gb+gfx at 9-11): not from us; best-effort
      vGPU 0000:41:00.5: domain 'vm1'
    ");
    let json = works(&scene, "host show --json");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    insta::assert_snapshot!(json["gpus"][0]["instances"][0], @r#"{"heterogeneous":false,"id":3,"on_demand":false,"ours":true,"pools":["cad"],"profile":"1g.24gb+gfx","scheduler":{"averaging_factor":null,"frequency":null,"policy":"best-effort","strict_round_robin":null,"time_slice_ns":null},"size":3,"start":0,"users":["domain 'vm1'"]}"#);
}

#[test]
fn a_damaged_note_is_told_with_and_without_pools() {
    let scene = scene("rtx-pro-6000");
    mig_pool(&scene, "cad", "DC-2-12Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    let path = our_instances::path(address());
    let note = std::fs::read_to_string(scene.path(&path)).unwrap();
    std::fs::write(scene.path(&path), &note[..20]).unwrap();
    let problem = |scene: &Scene| {
        let status = works(scene, "status --json");
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let problems = status["problems"].as_array().unwrap();
        problems
            .iter()
            .map(|one| one.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join("\n")
    };
    insta::assert_snapshot!(problem(&scene), @"
    pool 'cad': 0000:41:00.0: /var/lib/virt-vgpu/gpu-instances/0000:41:00.0.json: EOF while parsing a value at line 2 column 18; remove the file: 'virt-vgpu host apply 0000:41:00.0' writes it anew, and takes GPU instances that exist for those of others
    0000:41:00.0: /var/lib/virt-vgpu/gpu-instances/0000:41:00.0.json: EOF while parsing a value at line 2 column 18; remove the file: 'virt-vgpu host apply 0000:41:00.0' writes it anew, and takes GPU instances that exist for those of others
    ");
    std::fs::remove_file(scene.path("etc/virt-vgpu/pools.d/cad.toml")).unwrap();
    insta::assert_snapshot!(problem(&scene), @"0000:41:00.0: /var/lib/virt-vgpu/gpu-instances/0000:41:00.0.json: EOF while parsing a value at line 2 column 18; remove the file: 'virt-vgpu host apply 0000:41:00.0' writes it anew, and takes GPU instances that exist for those of others");
    insta::assert_snapshot!(fails(&scene, "host apply --all"), @"0000:41:00.0: FAILED: /var/lib/virt-vgpu/gpu-instances/0000:41:00.0.json: EOF while parsing a value at line 2 column 18; remove the file: 'virt-vgpu host apply 0000:41:00.0' writes it anew, and takes GPU instances that exist for those of others");
    assert_eq!(instances(&scene).len(), 1);
}

/// The facts are asked for twice before anything is done, and the creation is the third question
/// of a GPU whose functions are there.
#[test]
fn what_the_driver_only_claims_is_told() {
    let scene = scene("rtx-pro-6000");
    mig_pool(&scene, "cad", "DC-2-12Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    let pretends = |questions: usize| {
        let as_ever = Fault::delay(Target::Nvml, Duration::ZERO).times(questions);
        scene.kernel.inject(as_ever);
        scene.kernel.inject(Fault::pretended(Target::Nvml).times(1));
    };
    mig_pool(&scene, "web", "DC-1-24Q", "gpu-instances = 1");
    pretends(2);
    insta::assert_snapshot!(fails(&scene, "host apply --all"), @"
    0000:41:00.0: FAILED: the driver said that it has created GPU instance 1g.24gb+gfx at memory slots 6-8, and it is not there; 'journalctl -k -g NVRM' shows its messages
      done: create GPU instance 1g.24gb+gfx at memory slots 6-8 (for pool 'web')
      GPU instances: [======|+++|...] keep 2g.48gb+gfx at 0-5; create 1g.24gb+gfx at 6-8; 3 of 12 slots free
    ");
    works(&scene, "host apply --all");
    assert_eq!(instances(&scene).len(), 2);
    std::fs::remove_file(scene.path("etc/virt-vgpu/pools.d/web.toml")).unwrap();
    pretends(3);
    insta::assert_snapshot!(fails(&scene, "host apply --all"), @"
    0000:41:00.0: FAILED: the driver said that it has destroyed GPU instance 1g.24gb+gfx at memory slots 6-8, and it is still there; 'journalctl -k -g NVRM' shows its messages
      done: destroy GPU instance 1g.24gb+gfx at memory slots 6-8 (no pool needs it)
      GPU instances: [======|......] keep 2g.48gb+gfx at 0-5; destroy 1g.24gb+gfx at 6-8 (no pool needs it); 6 of 12 slots free
    ");
    works(&scene, "host apply --all");
    assert_eq!(instances(&scene).len(), 1);
}

/// By hand, beside another one that is for vGPUs of the same profile.
#[test]
fn a_start_in_a_gpu_instance_that_is_gone_names_the_remedy() {
    let scene = scene("rtx-pro-6000");
    let keys = "gpu-instances = 1\nvgpus-per-instance = 1";
    mig_pool(&scene, "one", "DC-1-12Q", keys);
    mig_pool(&scene, "two", "DC-1-24Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    let noted = our_instances::read(&scene.host(), address()).unwrap();
    let of_one = noted
        .used
        .iter()
        .find(|used| used.pools[0].as_str() == "one");
    let id = of_one.unwrap().id;
    scene
        .kernel
        .with_gpu(GPU, |gpu| gpu.gi_destroy(id))
        .unwrap();
    let vm = domain(&scene, 1, "one");
    insta::assert_snapshot!(scene.prepare(&vm).refusal(), @"pool 'one' has no free DC-1-12Q for domain 'vm1': its XML names 0000:41:00.5: it has no GPU instances for DC-1-12Q yet; 'virt-vgpu host apply 0000:41:00.0' makes them; 'virt-vgpu start vm1' looks for another");
    works(&scene, "host apply --all");
    scene.prepare(&vm).succeeds();
}

/// What a domain has is not "of no domain of ours".
#[test]
fn explain_of_a_domain_that_runs_knows_its_own() {
    let scene = scene("rtx-pro-6000");
    mig_pool(&scene, "half", "DC-2-48Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    let vm = domain(&scene, 1, "half");
    scene.prepare(&vm).succeeds();
    scene.file("vm.xml", vm.xml());
    let file = scene.path("vm.xml");
    let text = command(&scene, &format!("explain --xml {}", file.display())).stdout;
    assert!(!text.contains("of ours"), "{text}");
    assert!(
        text.contains("this domain has it, with the type 1573"),
        "{text}"
    );
}

/// `sriov-manage` takes the GPU's driver away for a moment: a run beside it waits.
#[test]
fn a_run_waits_for_who_has_the_driver() {
    use fs2::FileExt;

    let scene = scene("rtx-pro-6000");
    mig_pool(&scene, "cad", "DC-2-12Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    let path = scene.path("run/virt-vgpu/host/driver.lock");
    let lock = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    lock.lock_exclusive().unwrap();
    let mut running = Program::command(scene.root(), "host apply --all").start();
    running.opens(&path);
    // Whatever it finds out, it finds out afterwards.
    mig_pool(&scene, "cad", "DC-2-12Q", "gpu-instances = 2");
    drop(lock);
    running.wait().succeeds();
    assert_eq!(instances(&scene).len(), 2);
}

#[test]
fn devices_know_gpu_instances() {
    let scene = scene("rtx-pro-6000");
    mig_pool(&scene, "cad", "DC-1-12Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    scene.prepare(&domain(&scene, 1, "cad")).succeeds();
    insta::assert_snapshot!(works(&scene, "devices --kind nvidia-vgpu"), @"
    ADDRESS       CLASS  ID         DRIVER  MIG                 NAME
    0000:41:00.0  gpu    10de:2bb5  nvidia  on, 1 GPU instance  -
    ");
    // Its 48 functions are told once.
    let all = works(&scene, "devices");
    let (_, remarks) = all.split_once("\n\n").unwrap();
    insta::assert_snapshot!(remarks, @"
    0000:41:00.0: the host needs it: 0000:41:00.0 → virtual function → 0000:41:00.4 → driver nvidia
    0000:41:00.0: the host needs it: 0000:41:00.0 → virtual function → 0000:41:00.5 → driver nvidia
    0000:41:00.0: 46 more things of the host need it; --json lists them
    0000:41:00.4, 0000:41:00.6, 0000:41:00.7, 0000:41:01.0, 0000:41:01.1, 0000:41:01.2, 0000:41:01.3, 0000:41:01.4 and 39 more: pool 'cad' (kind 'nvidia-vgpu') hands out parts of it; a device can only be in one of the two
    ");
}
