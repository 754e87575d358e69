//! GPU instances that starts of VMs make.

use std::time::Duration;

use nix::errno::Errno;

use super::*;
use crate::support::kernel::{Fault, Target};

const OTHER: &str = "0000:81:00.0";

/// A host whose pool has its GPU instances made on demand, and whose GPU is set up.
fn ready(board: &str, profile: &str, keys: &str) -> Scene {
    let scene = scene(board);
    on_demand(&scene, "some", profile, keys);
    works(&scene, "host apply --all");
    scene
}

fn on_demand(scene: &Scene, name: &str, profile: &str, keys: &str) {
    mig_pool(
        scene,
        name,
        profile,
        &format!("mode = \"on-demand\"\n{keys}"),
    );
}

/// As if the GPU instances that starts have made had been there for long.
fn much_later(scene: &Scene) {
    let path = scene.path(&our_instances::path(address()));
    // Nothing was made.
    let Ok(text) = std::fs::read_to_string(&path) else {
        return;
    };
    let mut note: serde_json::Value = serde_json::from_str(&text).unwrap();
    for used in note["used"].as_array_mut().unwrap() {
        if let Some(made) = used.get_mut("demanded") {
            *made = 0.into();
        }
    }
    std::fs::write(&path, note.to_string()).unwrap();
}

#[test]
fn a_start_makes_one_and_the_next_start_uses_it() {
    let scene = ready("rtx-pro-6000", "DC-1-12Q", "");
    assert!(instances(&scene).is_empty());
    insta::assert_snapshot!(works(&scene, "status"), @"
    POOL  TYPE      PARENTS  IN USE  FREE  LIMIT
    some  DC-1-12Q  1        0       8     -

    no devices in use
    ");
    insta::assert_snapshot!(works(&scene, "pool preview some"), @"
    pool 'some' (type 'DC-1-12Q'), /etc/virt-vgpu/pools.d/some.toml

    in the pool (1 of 1):
      DEVICE        TAKEN BY  AVAILABLE  ALSO IN POOL
      0000:41:00.0  rule 1    8          -
    ");
    let vm = domain(&scene, 1, "some");
    scene.file("vm.xml", vm.xml());
    let file = scene.path("vm.xml");
    let explain = format!("explain --xml {}", file.display());
    insta::assert_snapshot!(works(&scene, &explain), @"
    domain 'vm1' would be served

    gpu0 from pool some
      uuid    9a644b72-229d-5e8f-b09a-25956123a508
      parent  0000:41:00.5
      type    1558
      why     pack: 0 in use on 0000:41:00.0, 1 of 1558 left, in a GPU instance that is made for it

    pool some: DC-1-12Q, pack, 0 in use, 8 free
      PARENT                    BOARD         NODE  IN USE  ROOM
      0000:41:00.4 and 47 more  0000:41:00.0  -     0       1 of 1558 left
    ");
    assert!(instances(&scene).is_empty(), "explain makes nothing");
    for number in 1..=3 {
        scene.prepare(&domain(&scene, number, "some")).succeeds();
    }
    assert_eq!(vgpus(&scene), [2, 1]);
    insta::assert_snapshot!(works(&scene, "status"), @"
    POOL  TYPE      PARENTS  IN USE  FREE  LIMIT
    some  DC-1-12Q  1        3       5     -

    DOMAIN  DEVICE  POOL  TYPE  PARENT        UUID                                  STATE
    vm1     gpu0    some  1558  0000:41:00.5  9a644b72-229d-5e8f-b09a-25956123a508  starting
    vm2     gpu0    some  1558  0000:41:00.6  001889cd-9880-567b-a44f-705fe81fa221  starting
    vm3     gpu0    some  1558  0000:41:00.7  cc812a70-fe7f-567d-913e-a918e649c35a  starting
    ");
    for number in 4..=8 {
        scene.prepare(&domain(&scene, number, "some")).succeeds();
    }
    assert_eq!(vgpus(&scene), [2, 2, 2, 2]);
    insta::assert_snapshot!(scene.prepare(&domain(&scene, 9, "some")).refusal(), @"pool 'some' has no free DC-1-12Q for domain 'vm9': its XML names 0000:41:01.5: its 4 GPU instances for DC-1-12Q have all the vGPUs that they take, and no further one fits; 'virt-vgpu start vm9' looks for another");
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: nothing to do
      GPU instances: [===|===|===|===] keep 1g.24gb+gfx at 0-2 (in use by domain 'vm1', domain 'vm2'); keep 1g.24gb+gfx at 3-5 (in use by domain 'vm3', domain 'vm4'); keep 1g.24gb+gfx at 6-8 (in use by domain 'vm5', domain 'vm6'); keep 1g.24gb+gfx at 9-11 (in use by domain 'vm7', domain 'vm8'); 0 of 12 slots free
    ");
    scene.is_sound();
}

#[test]
fn an_idle_one_goes_and_one_that_is_used_stays() {
    let scene = ready("rtx-pro-6000", "DC-1-12Q", "gpu-instances = 1");
    let domains: Vec<Domain> = (1..=5).map(|one| domain(&scene, one, "some")).collect();
    for domain in &domains {
        scene.prepare(domain).succeeds();
    }
    assert_eq!(vgpus(&scene), [2, 2, 1]);
    // The one that was there ahead and the third one are empty; the second takes the place of the
    // first.
    for domain in [&domains[0], &domains[1], &domains[4]] {
        scene.stop(domain);
    }
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: destroy GPU instance 1g.24gb+gfx at memory slots 0-2 (it came with VMs that do not use it any more)
      done: destroy GPU instance 1g.24gb+gfx at memory slots 6-8 (it came with VMs that do not use it any more)
      GPU instances: [...|===|......] keep 1g.24gb+gfx at 3-5 (in use by domain 'vm3', domain 'vm4'); destroy 1g.24gb+gfx at 0-2 (no pool needs it); destroy 1g.24gb+gfx at 6-8 (no pool needs it); 9 of 12 slots free
    ");
    much_later(&scene);
    insta::assert_snapshot!(works(&scene, "status"), @"
    POOL  TYPE      PARENTS  IN USE  FREE  LIMIT
    some  DC-1-12Q  1        2       6     -

    DOMAIN  DEVICE  POOL  TYPE  PARENT        UUID                                  STATE
    vm3     gpu0    some  1558  0000:41:00.7  cc812a70-fe7f-567d-913e-a918e649c35a  starting
    vm4     gpu0    some  1558  0000:41:01.0  39479700-0492-5f04-9dab-3dc93d79724b  starting
    ");
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: nothing to do
      GPU instances: [...|===|......] keep 1g.24gb+gfx at 3-5 (in use by domain 'vm3', domain 'vm4'); 9 of 12 slots free
    ");
    assert_eq!(vgpus(&scene), [2]);
    scene.prepare(&domains[0]).succeeds();
    assert_eq!(vgpus(&scene), [1, 2]);
    // What is there ahead stays, used or not.
    for domain in [&domains[0], &domains[2], &domains[3]] {
        scene.stop(domain);
    }
    much_later(&scene);
    works(&scene, "host apply --all");
    assert_eq!(vgpus(&scene), [0]);
}

/// Also before `host apply` has made what is wanted ahead.
#[test]
fn what_other_pools_want_ahead_keeps_its_place() {
    let scene = ready("rtx-pro-6000", "DC-1-24Q", "");
    mig_pool(&scene, "half", "DC-2-12Q", "gpu-instances = 1");
    for number in 1..=2 {
        scene.prepare(&domain(&scene, number, "some")).succeeds();
    }
    insta::assert_snapshot!(scene.prepare(&domain(&scene, 3, "some")).refusal(), @"pool 'some' has no free DC-1-24Q for domain 'vm3': its XML names 0000:41:00.7: one more GPU instance 1g.24gb+gfx does not fit: 2g.48gb+gfx + 3 × 1g.24gb+gfx do not fit on one GPU; what fits: 2g.48gb+gfx + 2 × 1g.24gb+gfx (without 1 × 1g.24gb+gfx of pool 'some'); or: 3 × 1g.24gb+gfx (without 1 × 2g.48gb+gfx of pool 'half'); 'virt-vgpu start vm3' looks for another");
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: create GPU instance 2g.48gb+gfx at memory slots 0-5 (for pool 'half')
      GPU instances: [++++++|===|===] keep 1g.24gb+gfx at 6-8 (in use by domain 'vm1'); keep 1g.24gb+gfx at 9-11 (in use by domain 'vm2'); create 2g.48gb+gfx at 0-5; 0 of 12 slots free
    ");
    insta::assert_snapshot!(scene.prepare(&domain(&scene, 3, "some")).refusal(), @"pool 'some' has no free DC-1-24Q for domain 'vm3': its XML names 0000:41:00.7: its 2 GPU instances for DC-1-24Q have all the vGPUs that they take, and no further one fits; 'virt-vgpu start vm3' looks for another");
}

/// One that no VM uses any more makes room for another size.
#[test]
fn an_idle_one_makes_room_for_another_pool() {
    let scene = ready("rtx-pro-6000", "DC-1-24Q", "");
    on_demand(&scene, "whole", "DC-4-96Q", "");
    let small = domain(&scene, 1, "some");
    let large = domain(&scene, 2, "whole");
    scene.prepare(&small).succeeds();
    insta::assert_snapshot!(scene.prepare(&large).refusal(), @"pool 'whole' has no free DC-4-96Q for domain 'vm2': its XML names 0000:41:00.6: it has no GPU instance for DC-4-96Q now, and no further one fits; 'virt-vgpu start vm2' looks for another");
    scene.stop(&small);
    scene.prepare(&large).succeeds();
    assert_eq!(vgpus(&scene), [1]);
    assert!(
        scene
            .prepare(&small)
            .refusal()
            .contains("no further one fits")
    );
}

#[test]
fn one_vm_gets_two_in_new_ones() {
    let scene = ready("rtx-pro-6000", "DC-1-24Q", "");
    let functions = scene.kernel.functions(GPU);
    let vm = Domain::new(1)
        .function("gpu0", "some", &functions[3])
        .function("gpu1", "some", &functions[4]);
    scene.prepare(&vm).succeeds();
    assert_eq!(vgpus(&scene), [1, 1]);
    scene.stop(&vm);
    scene.is_empty();
}

#[test]
fn its_scheduler_and_its_sizes_come_with_it() {
    let scene = scene("rtx-pro-6000");
    let keys = "scheduler = { policy = 'equal-share', strict-round-robin = true, frequency = 480 }\n\
                heterogeneous = true\n[mig]\nmode = 'on-demand'";
    scene.vgpu_pool_with("mixed", "DC-1-12Q", keys);
    works(&scene, "host apply --all");
    scene.prepare(&domain(&scene, 1, "mixed")).succeeds();
    let made = instances(&scene);
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].heterogeneous, Some(true));
    assert_eq!(
        made[0].scheduler.unwrap().policy,
        SchedulerPolicy::EqualShare
    );
    scene.prepare(&domain(&scene, 2, "mixed")).succeeds();
    scene.prepare(&domain(&scene, 3, "mixed")).succeeds();
    assert_eq!(vgpus(&scene), [2, 1]);
}

/// A GPU instance that is there comes before one that has to be made, wherever it is.
#[test]
fn what_is_there_on_another_gpu_comes_first() {
    let gpu = |address: &str| Gpu {
        enabled: false,
        ..Gpu::new("h100", Framework::VendorVfio, address)
    };
    let scene = Scene::new(Machine::of_gpus([gpu(GPU), gpu(OTHER)]));
    scene.daemon_lives();
    on_demand(&scene, "some", "H100-2-20C", "");
    works(&scene, "host apply --all");
    let functions = |gpu: &str| scene.kernel.functions(gpu);
    let on = |number: usize, function: &str| Domain::new(number).function("gpu0", "some", function);
    scene.prepare(&on(1, &functions(OTHER)[0])).succeeds();
    scene.prepare(&on(2, &functions(GPU)[0])).succeeds();
    scene.stop(&on(1, &functions(OTHER)[0]));
    // By itself this GPU would be fuller.
    scene.prepare(&on(3, &functions(GPU)[1])).succeeds();
    // The function in its XML is taken, so any other will do.
    let guest = on(4, &functions(GPU)[1]);
    let outcome = scene.hook(&guest, "migrate begin -").run();
    assert!(
        outcome.stdout.contains("domain='0x0000' bus='0x81'"),
        "{outcome:?}"
    );
    assert_eq!(instances(&scene).len(), 2, "no third one");
}

/// Of two GPUs, the one that loses less gets the new GPU instance: a whole GPU stays for large
/// ones. Where the pool wants its vGPUs spread, they are.
#[test]
fn a_new_one_is_made_where_it_costs_the_least() {
    for (placement, buses) in [("pack", ["41", "41", "81"]), ("spread", ["81", "41", "81"])] {
        let gpu = |address: &str| Gpu {
            enabled: false,
            ..Gpu::new("h100", Framework::VendorVfio, address)
        };
        let scene = Scene::new(Machine::of_gpus([gpu(GPU), gpu(OTHER)]));
        scene.daemon_lives();
        let keys = format!("placement = '{placement}'\n[mig]\nmode = 'on-demand'");
        scene.vgpu_pool_with("some", "H100-2-20C", &keys);
        works(&scene, "host apply --all");
        let taken = scene.kernel.functions(GPU)[0].clone();
        scene
            .prepare(&Domain::new(9).function("gpu0", "some", &taken))
            .succeeds();
        let went = (1..=3).map(|number| {
            let guest = Domain::new(number).function("gpu0", "some", &taken);
            let said = scene.hook(&guest, "migrate begin -").run().stdout;
            let bus = said.split("bus='0x").nth(1).unwrap();
            bus[..2].to_owned()
        });
        assert_eq!(went.collect::<Vec<_>>(), buses, "{placement}");
    }
}

#[test]
fn mediated_devices_get_theirs() {
    let gpu = Gpu {
        enabled: false,
        ..Gpu::new("a100-80", Framework::SriovMdev, GPU)
    };
    let scene = Scene::new(Machine::of_gpus([gpu]));
    scene.daemon_lives();
    on_demand(&scene, "some", "A100D-2-20C", "");
    works(&scene, "host apply --all");
    let domains: Vec<Domain> = (1..=4)
        .map(|number| Domain::with_one(number, "some"))
        .collect();
    for domain in &domains[..3] {
        scene.prepare(domain).succeeds();
    }
    assert_eq!(instances(&scene).len(), 3);
    insta::assert_snapshot!(scene.prepare(&domains[3]).refusal(), @"pool 'some' has no free A100D-2-20C for domain 'vm4': 0000:41:00.4, 0000:41:00.5, 0000:41:00.6, 0000:41:00.7, 0000:41:01.0, 0000:41:01.1, 0000:41:01.2, 0000:41:01.3 and 12 more: its 3 GPU instances for A100D-2-20C have all the vGPUs that they take, and no further one fits; see 'virt-vgpu explain vm4'");
    scene.stop(&domains[1]);
    scene.prepare(&domains[3]).succeeds();
    assert_eq!(instances(&scene).len(), 3);
    for domain in &domains {
        scene.stop(domain);
    }
    much_later(&scene);
    works(&scene, "host apply --all");
    assert!(instances(&scene).is_empty());
    scene.is_empty();
}

/// Few: each waits for NVIDIA's driver, and a start has a deadline. The lab starts twenty.
#[test]
fn starts_at_once_make_as_many_as_they_need() {
    let scene = scene("rtx-pro-6000");
    let keys = "instances = 5\n[mig]\nmode = 'on-demand'";
    scene.vgpu_pool_with("some", "DC-1-12Q", keys);
    works(&scene, "host apply --all");
    let domains: Vec<Domain> = (0..6).map(|one| domain(&scene, one, "some")).collect();
    let running: Vec<_> = domains
        .iter()
        .map(|domain| scene.hook(domain, "prepare begin -").start())
        .collect();
    let outcomes: Vec<Outcome> = running.into_iter().map(|running| running.wait()).collect();
    let refused: Vec<&Outcome> = outcomes.iter().filter(|one| one.code != Some(0)).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    let mut there = vgpus(&scene);
    there.sort_unstable();
    assert_eq!(there, [1, 2, 2]);
    scene.is_sound();
}

/// Whatever the start was at when it failed or died: the next one goes on, and nothing stays for
/// ever.
#[test]
fn a_crash_or_an_error_at_any_effect_of_a_start_is_made_up_for() {
    let vm = |scene: &Scene| domain(scene, 1, "some");
    let keys = "scheduler = { policy = 'equal-share', strict-round-robin = true, frequency = 480 }\n\
                [mig]\nmode = 'on-demand'";
    let wanted = || {
        let scene = scene("rtx-pro-6000");
        scene.vgpu_pool_with("some", "DC-1-12Q", keys);
        works(&scene, "host apply --all");
        scene
    };
    let first = wanted();
    let trace = first.path("trace");
    let run = first.hook(&vm(&first), "prepare begin -").trace(&trace);
    run.run().succeeds();
    let effects = std::fs::read_to_string(trace).unwrap();
    let of_nvml = effects.lines().filter(|line| line.contains(" nvml "));
    assert_eq!(of_nvml.count(), 2, "{effects}");
    // What comes after the note about the new one is the same as in other starts.
    let of_note = |line: &&str| line.contains("/gpu-instances/");
    let last = effects.lines().rfind(of_note).unwrap();
    let last: usize = last.split(' ').next().unwrap().parse().unwrap();
    let scene = wanted();
    let vm = vm(&scene);
    for number in 1..=last + 1 {
        for fault in [format!("kill:{number}"), format!("5:{number}")] {
            scene.hook(&vm, "prepare begin -").fault(&fault).run();
            let outcome = scene.prepare(&vm);
            assert!(outcome.succeeded(), "{fault}: {outcome:?}\n{effects}");
            assert_eq!(scene.our_vgpus().len(), 1, "{fault}: {effects}");
            scene.stop(&vm);
            much_later(&scene);
            works(&scene, "host apply --all");
            assert!(instances(&scene).is_empty(), "{fault}: {effects}");
            let noted = our_instances::read(&scene.host(), address()).unwrap();
            assert!(noted.made.is_empty() && noted.used.is_empty(), "{fault}");
            scene.is_empty();
        }
    }
}

/// The plan and the look ask for facts; the third question makes the GPU instance.
#[test]
fn what_the_driver_does_not_make_is_said_and_not_noted() {
    let scene = ready("rtx-pro-6000", "DC-1-12Q", "");
    let vm = domain(&scene, 1, "some");
    let as_ever = Fault::delay(Target::Nvml, Duration::ZERO).times(2);
    scene.kernel.inject(as_ever);
    scene
        .kernel
        .inject(Fault::errno(Target::Nvml, Errno::EIO).times(1));
    insta::assert_snapshot!(scene.prepare(&vm).refusal(), @"pool 'some' has no free DC-1-12Q for domain 'vm1': its XML names 0000:41:00.5: GPU instance 1g.24gb+gfx at memory slots 0-2 was not made: Unknown Error; 'virt-vgpu host show' tells what the GPU takes; 'virt-vgpu start vm1' looks for another");
    scene.is_empty();
    let noted = our_instances::read(&scene.host(), address()).unwrap();
    assert!(noted.made.is_empty() && noted.used.is_empty(), "{noted:?}");
    scene.prepare(&vm).succeeds();
    assert_eq!(vgpus(&scene), [1]);
}

/// Without MIG mode, as after a driver reload, nothing can be made.
#[test]
fn the_mode_is_not_switched_by_a_start() {
    let scene = scene("rtx-pro-6000");
    on_demand(&scene, "some", "DC-1-12Q", "");
    scene.kernel.sriov_manage(&format!("-e {GPU}"));
    insta::assert_snapshot!(scene.prepare(&domain(&scene, 1, "some")).refusal(), @"pool 'some' has no free DC-1-12Q for domain 'vm1': its XML names 0000:41:00.5: it has no GPU instance for DC-1-12Q now, and whether a further one fits is not known: MIG mode is off; 'virt-vgpu host apply 0000:41:00.0' switches it on; 'virt-vgpu start vm1' looks for another");
}

/// The plan is made and announced before the GPU's lock is there. What is idle may have been
/// given back by then.
#[test]
fn a_start_whose_gpu_instance_is_given_back_meanwhile_makes_another() {
    use fs2::FileExt;

    let scene = ready("rtx-pro-6000", "DC-1-12Q", "");
    let vm = domain(&scene, 1, "some");
    scene.prepare(&vm).succeeds();
    scene.stop(&vm);
    let before = instances(&scene)[0];
    let path = scene.path(&format!("run/virt-vgpu/locks/{GPU}"));
    let lock = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    lock.lock_exclusive().unwrap();
    let mut running = scene.hook(&vm, "prepare begin -").start();
    running.opens(&path);
    scene
        .kernel
        .with_gpu(GPU, |gpu| gpu.gi_destroy(before.id))
        .unwrap();
    let path = scene.path(&our_instances::path(address()));
    let note = std::fs::read_to_string(&path).unwrap();
    let mut note: serde_json::Value = serde_json::from_str(&note).unwrap();
    note["used"] = serde_json::json!([]);
    std::fs::write(&path, note.to_string()).unwrap();
    drop(lock);
    running.wait().succeeds();
    assert_eq!(vgpus(&scene), [1]);
    scene.is_sound();
}

/// A GPU instance with vGPUs of the size that the pool had before is none for it.
#[test]
fn a_pool_that_changes_its_size_gets_others() {
    let scene = ready("rtx-pro-6000", "DC-1-12Q", "");
    scene.prepare(&domain(&scene, 1, "some")).succeeds();
    on_demand(&scene, "some", "DC-1-24Q", "");
    works(&scene, "host apply --all");
    scene.prepare(&domain(&scene, 2, "some")).succeeds();
    assert_eq!(vgpus(&scene), [1, 1]);
    scene.stop(&domain(&scene, 1, "some"));
    much_later(&scene);
    works(&scene, "host apply --all");
    assert_eq!(vgpus(&scene), [1]);
    scene.is_sound();
}

/// Which GPU instance is for whom, the pools say, and not their order.
#[test]
fn pools_with_one_profile_and_different_sizes_get_each_their_own() {
    let scene = scene("rtx-pro-6000");
    on_demand(&scene, "desk12", "DC-1-12Q", "");
    on_demand(&scene, "desk24", "DC-1-24Q", "");
    let keys = "scheduler = { policy = 'equal-share' }\n[mig]\nmode = 'on-demand'";
    scene.vgpu_pool_with("also12", "DC-1-12Q", keys);
    works(&scene, "host apply --all");
    scene.prepare(&domain(&scene, 1, "desk24")).succeeds();
    assert_eq!(vgpus(&scene), [1]);
    for number in 2..=3 {
        scene.prepare(&domain(&scene, number, "desk12")).succeeds();
    }
    scene.prepare(&domain(&scene, 4, "also12")).succeeds();
    let mut there = vgpus(&scene);
    there.sort_unstable();
    assert_eq!(there, [1, 1, 2]);
    let noted = our_instances::read(&scene.host(), address()).unwrap();
    let pools = noted.used.iter().map(|used| used.pools[0].to_string());
    let mut pools: Vec<String> = pools.collect();
    pools.sort();
    assert_eq!(pools, ["also12", "desk12", "desk24"]);
    assert_eq!(command(&scene, "host apply --all").code, Some(0));
    assert_eq!(
        our_instances::read(&scene.host(), address()).unwrap(),
        noted
    );
}

/// A pool that has gone leaves nothing that could stay in the way of a start.
#[test]
fn what_is_for_no_pool_makes_room() {
    let scene = ready("rtx-pro-6000", "DC-1-24Q", "");
    on_demand(&scene, "whole", "DC-4-96Q", "");
    let small = domain(&scene, 1, "some");
    scene.prepare(&small).succeeds();
    std::fs::remove_file(scene.path("etc/virt-vgpu/pools.d/some.toml")).unwrap();
    works(&scene, "host apply --all");
    scene.stop(&small);
    scene.prepare(&domain(&scene, 2, "whole")).succeeds();
    assert_eq!(vgpus(&scene), [1]);
}

/// By hand, between two starts: the driver refuses what is not there, and another one is made.
#[test]
fn one_that_was_destroyed_by_hand_is_made_again() {
    let scene = ready("rtx-pro-6000", "DC-1-12Q", "");
    let vm = domain(&scene, 1, "some");
    scene.prepare(&vm).succeeds();
    scene.stop(&vm);
    let id = instances(&scene)[0].id;
    scene
        .kernel
        .with_gpu(GPU, |gpu| gpu.gi_destroy(id))
        .unwrap();
    scene.prepare(&vm).succeeds();
    assert_eq!(vgpus(&scene), [1]);
    scene.is_sound();
}
