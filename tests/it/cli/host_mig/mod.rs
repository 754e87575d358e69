//! GPU instances from pool files to VMs: `host apply` makes them on GPUs whose twins follow the
//! driver's rules, and starts of VMs use them.

use lab_nvidia::model::Framework;
use virt_vgpu::{
    device::{
        nvml::{GpuInstance, Nvml, SchedulerPolicy, Told},
        our_instances,
    },
    model::PciAddress,
};

use crate::support::{
    domain::Domain,
    machine::{Gpu, Machine},
    process::{Outcome, Program},
    scene::Scene,
};

mod on_demand;
mod told;

const GPU: &str = "0000:41:00.0";

fn address() -> PciAddress {
    GPU.parse().unwrap()
}

/// A host with one GPU, as its driver begins.
fn scene(board: &str) -> Scene {
    let gpu = Gpu {
        enabled: false,
        ..Gpu::new(board, Framework::VendorVfio, GPU)
    };
    let scene = Scene::new(Machine::of_gpus([gpu]));
    scene.daemon_lives();
    scene
}

fn mig_pool(scene: &Scene, name: &str, profile: &str, keys: &str) {
    scene.vgpu_pool_with(name, profile, &format!("[mig]\n{keys}"));
}

/// A domain whose placeholder is a function of its own.
fn domain(scene: &Scene, number: usize, pool: &str) -> Domain {
    Domain::new(number).function("gpu0", pool, &scene.kernel.functions(GPU)[number])
}

fn command(scene: &Scene, arguments: &str) -> Outcome {
    Program::command(scene.root(), arguments).run()
}

#[track_caller]
fn works(scene: &Scene, arguments: &str) -> String {
    let outcome = command(scene, arguments);
    outcome.succeeds();
    outcome.stdout
}

/// What it says with exit code 1.
#[track_caller]
fn fails(scene: &Scene, arguments: &str) -> String {
    let outcome = command(scene, arguments);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    outcome.stdout
}

/// The GPU instances that there are, in the order of their slots.
fn instances(scene: &Scene) -> Vec<GpuInstance> {
    let Told::Value(facts) = scene.kernel.gpu(address()).unwrap().instances else {
        panic!("no facts");
    };
    let mut instances = facts.instances;
    instances.sort_by_key(|one| one.start);
    instances
}

fn places(scene: &Scene) -> Vec<(u32, u32, u32)> {
    let places = instances(scene).into_iter();
    places
        .map(|one| (one.profile, one.start, one.size))
        .collect()
}

/// How many vGPUs are in each GPU instance, in the order of the slots.
fn vgpus(scene: &Scene) -> Vec<u32> {
    let counts = our_instances::counts(&scene.host(), address()).unwrap();
    let instances = instances(scene).into_iter();
    instances
        .map(|one| counts.get(&one.id).copied().unwrap_or_default())
        .collect()
}

#[test]
fn a_second_pool_takes_the_other_half() {
    let scene = scene("rtx-pro-6000");
    mig_pool(&scene, "cad", "DC-2-12Q", "gpu-instances = 1");
    insta::assert_snapshot!(works(&scene, "host apply --all --dry-run"), @"
    0000:41:00.0: would be set
      1. switch MIG mode on (for pool 'cad'; it is off)
      2. /usr/lib/nvidia/sriov-manage -e 0000:41:00.0 (0 of 48 virtual functions are there)
      3. wait until its functions have vGPU types (new functions show their vGPU types a while later)
      4. create GPU instance 2g.48gb+gfx at memory slots 0-5 (for pool 'cad')
      GPU instances: [++++++|......] create 2g.48gb+gfx at 0-5; 6 of 12 slots free
    ");
    assert!(instances(&scene).is_empty());
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: switch MIG mode on (for pool 'cad'; it is off)
      done: /usr/lib/nvidia/sriov-manage -e 0000:41:00.0 (0 of 48 virtual functions are there)
      done: create GPU instance 2g.48gb+gfx at memory slots 0-5 (for pool 'cad')
      GPU instances: [++++++|......] create 2g.48gb+gfx at 0-5; 6 of 12 slots free
    ");
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: nothing to do
      GPU instances: [======|......] keep 2g.48gb+gfx at 0-5; 6 of 12 slots free
    ");
    let domains: Vec<Domain> = (1..=5).map(|one| domain(&scene, one, "cad")).collect();
    for domain in &domains[..4] {
        scene.prepare(domain).succeeds();
    }
    assert_eq!(vgpus(&scene), [4]);
    insta::assert_snapshot!(scene.prepare(&domains[4]).refusal(), @"pool 'cad' has no free DC-2-12Q for domain 'vm5': its XML names 0000:41:01.1: its GPU instance for DC-2-12Q has all 4 vGPUs that it takes; 'virt-vgpu start vm5' looks for another");
    // The neighbours run while the other half is given away.
    mig_pool(&scene, "web", "DC-1-24Q", "gpu-instances = 2");
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: create GPU instance 1g.24gb+gfx at memory slots 6-8 (for pool 'web')
      done: create GPU instance 1g.24gb+gfx at memory slots 9-11 (for pool 'web')
      GPU instances: [======|+++|+++] keep 2g.48gb+gfx at 0-5 (in use by domain 'vm1', domain 'vm2', domain 'vm3', domain 'vm4'); create 1g.24gb+gfx at 6-8; create 1g.24gb+gfx at 9-11; 0 of 12 slots free
    ");
    for number in 6..=7 {
        scene.prepare(&domain(&scene, number, "web")).succeeds();
    }
    assert_eq!(vgpus(&scene), [4, 1, 1]);
    insta::assert_snapshot!(scene.prepare(&domain(&scene, 8, "web")).refusal(), @"pool 'web' has no free DC-1-24Q for domain 'vm8': its XML names 0000:41:01.4: its 2 GPU instances for DC-1-24Q have all the vGPUs that they take; 'virt-vgpu start vm8' looks for another");
}

/// The driver would put the third vGPU into the GPU instance of the other pool.
#[test]
fn a_pool_does_not_take_the_gpu_instances_of_another() {
    let scene = scene("rtx-pro-6000");
    mig_pool(&scene, "small", "DC-1-12Q", "gpu-instances = 1");
    mig_pool(&scene, "large", "DC-1-24Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    for number in 1..=2 {
        scene.prepare(&domain(&scene, number, "small")).succeeds();
    }
    insta::assert_snapshot!(scene.prepare(&domain(&scene, 3, "small")).refusal(), @"pool 'small' has no free DC-1-12Q for domain 'vm3': its XML names 0000:41:00.7: its GPU instance for DC-1-12Q has all 2 vGPUs that it takes; 'virt-vgpu start vm3' looks for another");
    scene.prepare(&domain(&scene, 4, "large")).succeeds();
    let mut there = vgpus(&scene);
    there.sort_unstable();
    assert_eq!(there, [1, 2]);
    insta::assert_snapshot!(works(&scene, "pool show small"), @"
    pool 'small'
      file              /etc/virt-vgpu/pools.d/small.toml
      kind              nvidia-vgpu
      description       none
      class             none
      type              DC-1-12Q
      instances         as many as fit
      placement         pack
      guest-driver      none

    settings of kind 'nvidia-vgpu':
      mig.gpu-instances       1
      mig.mode                at-boot
      mig.vgpus-per-instance  0

    for requests that do not say otherwise:
      console-vnc       as the driver has it
      debuggers         as the driver has it
      frame-rate-limit  as the driver has it
      optional          no
      profilers         as the driver has it
      unified-memory    as the driver has it

    rules (a device is in the pool when any of them takes it):
      rule 1 takes devices whose
        vendor-id is '10de'

    devices (2 in use, 0 free):
      DEVICE        TAKEN BY  AVAILABLE                                                    ALSO IN POOL
      0000:41:00.0  rule 1    its GPU instance for DC-1-12Q has all 2 vGPUs that it takes  large
    ");
}

#[test]
fn a_gpu_instance_takes_as_many_as_the_pool_says() {
    let scene = scene("rtx-pro-6000");
    let keys = "gpu-instances = 2\nvgpus-per-instance = 1";
    mig_pool(&scene, "whole", "DC-1-12Q", keys);
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: switch MIG mode on (for pool 'whole'; it is off)
      done: /usr/lib/nvidia/sriov-manage -e 0000:41:00.0 (0 of 48 virtual functions are there)
      done: create GPU instance 1g.24gb+gfx at memory slots 0-2 (for pool 'whole')
      done: create GPU instance 1g.24gb+gfx at memory slots 3-5 (for pool 'whole')
      GPU instances: [+++|+++|......] create 1g.24gb+gfx at 0-2; create 1g.24gb+gfx at 3-5; 6 of 12 slots free
      note: a GPU instance takes 2 of DC-1-12Q; pool 'whole' puts 1 into each and leaves the rest unused
    ");
    for number in 1..=2 {
        scene.prepare(&domain(&scene, number, "whole")).succeeds();
    }
    assert_eq!(vgpus(&scene), [1, 1]);
    insta::assert_snapshot!(scene.prepare(&domain(&scene, 3, "whole")).refusal(), @"pool 'whole' has no free DC-1-12Q for domain 'vm3': its XML names 0000:41:00.7: its 2 GPU instances for DC-1-12Q have all the vGPUs that they take; 'virt-vgpu start vm3' looks for another");
    mig_pool(
        &scene,
        "whole",
        "DC-1-12Q",
        "gpu-instances = 2\nvgpus-per-instance = 3",
    );
    insta::assert_snapshot!(fails(&scene, "host apply --all"), @"0000:41:00.0: FAILED: pool 'whole' wants vgpus-per-instance = 3, and a GPU instance takes 2 of DC-1-12Q; write 2 or less");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_changed() {
    for (board, profile, keys) in [
        ("rtx-pro-6000", "DC-2-12Q", "gpu-instances = 3"),
        ("rtx-pro-6000", "DC-2-99Q", "gpu-instances = 1"),
        ("l40s", "DC-2-12Q", "gpu-instances = 1"),
    ] {
        let scene = scene(board);
        mig_pool(&scene, "cad", profile, keys);
        let checked = fails(&scene, "pool check cad");
        let (error, _) = checked.split_once('\n').unwrap();
        let applied = fails(&scene, "host apply --all");
        let (applied, _) = applied.split_once('\n').unwrap();
        assert_eq!(
            error.replace("error: ", ""),
            applied.replace("FAILED: ", "")
        );
        for arguments in ["host apply --all --dry-run", "host apply --all"] {
            insta::allow_duplicates! {
                match (board, profile) {
                    ("l40s", _) => insta::assert_snapshot!(fails(&scene, arguments), @"0000:41:00.0: FAILED: it has no MIG; let the rules of pool 'cad' match other GPUs"),
                    (_, "DC-2-99Q") => insta::assert_snapshot!(fails(&scene, arguments), @"0000:41:00.0: FAILED: pool 'cad' wants profile 'DC-2-99Q', which this GPU does not have; 'virt-vgpu profiles 0000:41:00.0' lists those that it has"),
                    _ => insta::assert_snapshot!(fails(&scene, arguments), @"0000:41:00.0: FAILED: its GPU instances cannot be as its pools need them: pool 'cad' needs 3 × 2g.48gb+gfx, and this GPU can have 2; what fits: 2 × 2g.48gb+gfx (without 1 × 2g.48gb+gfx of pool 'cad')"),
                }
            }
        }
        let mig = scene.kernel.gpu(address()).unwrap().mig;
        assert_ne!(mig, Told::Value(true));
        assert!(scene.kernel.functions(GPU).is_empty());
    }
}

#[test]
fn pools_with_and_without_gpu_instances_are_refused_on_one_gpu() {
    let scene = scene("rtx-pro-6000");
    mig_pool(&scene, "cad", "DC-2-12Q", "gpu-instances = 1");
    scene.vgpu_pool("web", "DC-12Q");
    insta::assert_snapshot!(fails(&scene, "pool check"), @"
    error: 0000:41:00.0: pool 'cad' (/etc/virt-vgpu/pools.d/cad.toml) wants vGPUs in GPU instances and pool 'web' (/etc/virt-vgpu/pools.d/web.toml) wants time-sliced vGPUs; make the two files agree, or let their rules match different GPUs
    2 pools checked: 1 error, 0 warnings
    ");
    insta::assert_snapshot!(fails(&scene, "host apply --all"), @"0000:41:00.0: REFUSED: pool 'cad' (/etc/virt-vgpu/pools.d/cad.toml) wants vGPUs in GPU instances and pool 'web' (/etc/virt-vgpu/pools.d/web.toml) wants time-sliced vGPUs; make the two files agree, or let their rules match different GPUs");
}

#[test]
fn a_gpu_instance_goes_when_it_is_idle_and_stays_while_it_is_used() {
    let scene = scene("rtx-pro-6000");
    mig_pool(&scene, "cad", "DC-1-12Q", "gpu-instances = 2");
    works(&scene, "host apply --all");
    let vm = domain(&scene, 1, "cad");
    scene.prepare(&vm).succeeds();
    let used = instances(&scene)[vgpus(&scene).iter().position(|count| *count == 1).unwrap()];
    mig_pool(&scene, "cad", "DC-1-12Q", "gpu-instances = 1");
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: destroy GPU instance 1g.24gb+gfx at memory slots 3-5 (no pool needs it)
      GPU instances: [===|.........] keep 1g.24gb+gfx at 0-2 (in use by domain 'vm1'); destroy 1g.24gb+gfx at 3-5 (no pool needs it); 9 of 12 slots free
    ");
    assert_eq!(instances(&scene), [used]);
    // Another profile needs its slots.
    mig_pool(&scene, "cad", "DC-4-96Q", "gpu-instances = 1");
    insta::assert_snapshot!(fails(&scene, "host apply --all"), @"0000:41:00.0: REFUSED: its GPU instances cannot be as its pools need them: in the way: GPU instance 3 (1g.24gb+gfx at 0-2, in use by domain 'vm1'); what fits: nothing (without 1 × 4g.96gb+gfx of pool 'cad'); when nobody uses them any more, 'virt-vgpu host apply 0000:41:00.0' makes the change");
    let status = works(&scene, "status --json");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    insta::assert_snapshot!(status["problems"][0].as_str().unwrap(), @"0000:41:00.0: its GPU instances cannot be as its pools need them: in the way: GPU instance 3 (1g.24gb+gfx at 0-2, in use by domain 'vm1'); what fits: nothing (without 1 × 4g.96gb+gfx of pool 'cad'); when nobody uses them any more, 'virt-vgpu host apply 0000:41:00.0' makes the change");
    insta::assert_snapshot!(works(&scene, "host show"), @"
    0000:41:00.0: pool cad, driver nvidia
      SETTING            WANTED  ACTUAL
      virtual functions  48      48
      MIG mode           on      on
      GPU instance 3 (1g.24gb+gfx at 0-2): pool 'cad'; best-effort; in use by domain 'vm1'
      vGPU 0000:41:00.5: domain 'vm1'
      differs: its GPU instances cannot be as its pools need them: in the way: GPU instance 3 (1g.24gb+gfx at 0-2, in use by domain 'vm1'); what fits: nothing (without 1 × 4g.96gb+gfx of pool 'cad'); when nobody uses them any more, 'virt-vgpu host apply 0000:41:00.0' makes the change
    ");
    assert_eq!(instances(&scene), [used]);
    scene.stop(&vm);
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: destroy GPU instance 1g.24gb+gfx at memory slots 0-2 (no pool needs it)
      done: create GPU instance 4g.96gb+gfx at memory slots 0-11 (for pool 'cad')
      GPU instances: [++++++++++++] destroy 1g.24gb+gfx at 0-2 (no pool needs it); create 4g.96gb+gfx at 0-11; 0 of 12 slots free
    ");
}

#[test]
fn the_mode_goes_with_the_last_pool_if_it_came_with_one() {
    let scene = scene("rtx-pro-6000");
    mig_pool(&scene, "cad", "DC-2-12Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    scene.vgpu_pool("cad", "DC-12Q");
    insta::assert_snapshot!(works(&scene, "host apply --all --dry-run"), @"
    0000:41:00.0: would be set
      1. destroy GPU instance 2g.48gb+gfx at memory slots 0-5 (MIG mode is switched off without it)
      2. /usr/lib/nvidia/sriov-manage -d 0000:41:00.0 (MIG mode is switched without them)
      3. switch MIG mode off (for pool 'cad'; virt-vgpu switched it on for pools that have gone)
      4. /usr/lib/nvidia/sriov-manage -e 0000:41:00.0 (MIG mode is switched without them)
      5. wait until its functions have vGPU types (new functions show their vGPU types a while later)
    ");
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: destroy GPU instance 2g.48gb+gfx at memory slots 0-5 (MIG mode is switched off without it)
      done: /usr/lib/nvidia/sriov-manage -d 0000:41:00.0 (MIG mode is switched without them)
      done: switch MIG mode off (for pool 'cad'; virt-vgpu switched it on for pools that have gone)
      done: /usr/lib/nvidia/sriov-manage -e 0000:41:00.0 (0 of 48 virtual functions are there)
    ");
    assert!(!scene.path(&our_instances::path(address())).exists());
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"0000:41:00.0: nothing to do");
    scene.prepare(&domain(&scene, 1, "cad")).succeeds();
}

#[test]
fn what_others_made_stays() {
    let scene = scene("rtx-pro-6000");
    scene.kernel.with_gpu(GPU, |gpu| gpu.set_mig(true)).unwrap();
    scene.vgpu_pool("cad", "DC-12Q");
    insta::assert_snapshot!(fails(&scene, "host apply --all"), @"
    0000:41:00.0: FAILED: MIG mode is on, and pool 'cad' has time-sliced vGPUs, which it does not make then; virt-vgpu has not switched it on and leaves it so; when no VM uses the GPU, '/usr/lib/nvidia/sriov-manage -d 0000:41:00.0' and then 'nvidia-smi -i 0000:41:00.0 -mig 0' switch it off
      done: /usr/lib/nvidia/sriov-manage -e 0000:41:00.0 (0 of 48 virtual functions are there)
    ");
    mig_pool(&scene, "cad", "DC-2-12Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    const QUARTER: u32 = 14;
    scene
        .kernel
        .with_gpu(GPU, |gpu| gpu.gi_create(QUARTER, Some(9)))
        .unwrap();
    mig_pool(&scene, "cad", "DC-1-24Q", "gpu-instances = 4");
    insta::assert_snapshot!(fails(&scene, "host apply --all"), @"0000:41:00.0: FAILED: its GPU instances cannot be as its pools need them: in the way: GPU instance 6 (1g.24gb at 9-11, not created by virt-vgpu); what fits: 3 × 1g.24gb+gfx (without 1 × 1g.24gb+gfx of pool 'cad')");
    mig_pool(&scene, "cad", "DC-1-24Q", "gpu-instances = 3");
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: destroy GPU instance 2g.48gb+gfx at memory slots 0-5 (no pool needs it)
      done: create GPU instance 1g.24gb+gfx at memory slots 0-2 (for pool 'cad')
      done: create GPU instance 1g.24gb+gfx at memory slots 3-5 (for pool 'cad')
      done: create GPU instance 1g.24gb+gfx at memory slots 6-8 (for pool 'cad')
      GPU instances: [+++|+++|+++|!!!] destroy 2g.48gb+gfx at 0-5 (no pool needs it); create 1g.24gb+gfx at 0-2; create 1g.24gb+gfx at 3-5; create 1g.24gb+gfx at 6-8; cannot destroy 1g.24gb at 9-11 (not created by virt-vgpu); 0 of 12 slots free
    ");
    scene.vgpu_pool("cad", "DC-12Q");
    insta::assert_snapshot!(fails(&scene, "host apply --all"), @"0000:41:00.0: FAILED: MIG mode is on, and pool 'cad' has time-sliced vGPUs, which it does not make then; virt-vgpu has not switched it on and leaves it so; when no VM uses the GPU, '/usr/lib/nvidia/sriov-manage -d 0000:41:00.0' and then 'nvidia-smi -i 0000:41:00.0 -mig 0' switch it off");
}

/// `sriov-manage -d` and `-e` by hand, or a driver that was loaded again.
#[test]
fn what_was_lost_is_made_again() {
    let scene = scene("h200");
    mig_pool(&scene, "cad", "H200X-1-18C", "gpu-instances = 3");
    works(&scene, "host apply --all");
    let before = places(&scene);
    for lose in [
        |gpu: &mut lab_nvidia::model::Gpu| {
            gpu.set_vfs(false).unwrap();
            gpu.set_vfs(true).unwrap();
        },
        |gpu: &mut lab_nvidia::model::Gpu| {
            gpu.set_vfs(false).unwrap();
            gpu.reload().unwrap();
            gpu.load_types();
            gpu.set_manager(true);
        },
    ] {
        let vm = domain(&scene, 1, "cad");
        scene.kernel.with_gpu(GPU, lose);
        assert!(instances(&scene).is_empty());
        assert_eq!(scene.prepare(&vm).code, Some(1));
        works(&scene, "host apply --all");
        assert_eq!(places(&scene), before);
        scene.prepare(&vm).succeeds();
        scene.stop(&vm);
    }
}

/// Whatever a run was at when it failed or died, the next one goes on from there.
#[test]
fn a_crash_or_an_error_at_any_effect_is_made_up_for() {
    let wanted = || {
        let scene = scene("rtx-pro-6000");
        mig_pool(&scene, "cad", "DC-2-12Q", "gpu-instances = 1");
        mig_pool(&scene, "web", "DC-1-24Q", "gpu-instances = 1");
        scene
    };
    let first = wanted();
    let trace = first.path("trace");
    let run = Program::command(first.root(), "host apply --all").trace(&trace);
    run.run().succeeds();
    let effects = std::fs::read_to_string(trace).unwrap();
    let of_nvml = effects.lines().filter(|line| line.contains(" nvml "));
    assert_eq!(of_nvml.count(), 3, "{effects}");
    let note = |scene: &Scene| std::fs::read(scene.path(&our_instances::path(address()))).unwrap();
    for number in 1..=effects.lines().count() {
        for fault in [format!("kill:{number}"), format!("5:{number}")] {
            let scene = wanted();
            let run = Program::command(scene.root(), "host apply --all").fault(&fault);
            assert_ne!(run.run().code, Some(0), "{fault}: {effects}");
            works(&scene, "host apply --all");
            assert_eq!(places(&scene), places(&first), "{fault}");
            assert_eq!(note(&scene), note(&first), "{fault}");
        }
    }
}

#[test]
fn a_pool_is_made_and_checked_by_commands_alone() {
    let scene = scene("rtx-pro-6000");
    let made = works(
        &scene,
        "pool create half --profile DC-2-12Q --gpu-instances 1 --device 41:00.0",
    );
    insta::assert_snapshot!(made, @"
    wrote /etc/virt-vgpu/pools.d/half.toml

    DEVICE        TAKEN BY                    AVAILABLE                                                                        ALSO IN POOL
    0000:41:00.0  rule 'device 0000:41:00.0'  its virtual functions do not exist yet; run 'virt-vgpu host apply 0000:41:00.0'  -
    ");
    insta::assert_snapshot!(works(&scene, "status"), @"
    POOL  TYPE      PARENTS  IN USE  FREE  LIMIT
    half  DC-2-12Q  1        0       0     -

    no devices in use

    problem: pool 'half': 0000:41:00.0: its virtual functions do not exist yet; run 'virt-vgpu host apply 0000:41:00.0'

    problem: 0000:41:00.0 is not divided into GPU instances as its pools want it; 'virt-vgpu host apply 0000:41:00.0' does it
    ");
    works(&scene, "host apply --all");
    let made = works(
        &scene,
        "pool create quarter --profile DC-1-24Q --device 41:00.0",
    );
    insta::assert_snapshot!(made, @"
    wrote /etc/virt-vgpu/pools.d/quarter.toml
    note: without --gpu-instances no GPU instances are made for the pool: it uses those that others make, and MIG mode is left as it is
    note: 0000:41:00.0: pool 'half' (/etc/virt-vgpu/pools.d/half.toml) wants GPU instances that are made for it ([mig]) and pool 'quarter' (/etc/virt-vgpu/pools.d/quarter.toml) wants GPU instances that others make (no [mig]); make the two files agree, or let their rules match different GPUs

    DEVICE        TAKEN BY                    AVAILABLE                                                             ALSO IN POOL
    0000:41:00.0  rule 'device 0000:41:00.0'  its GPU makes no DC-1-24Q now, only vGPUs of other sizes or profiles  half
    ");
    insta::assert_snapshot!(works(&scene, "status"), @"
    POOL     TYPE      PARENTS  IN USE  FREE  LIMIT
    half     DC-2-12Q  1        0       4     -
    quarter  DC-1-24Q  1        0       0     -

    no devices in use

    problem: 0000:41:00.0: pool 'half' (/etc/virt-vgpu/pools.d/half.toml) wants GPU instances that are made for it ([mig]) and pool 'quarter' (/etc/virt-vgpu/pools.d/quarter.toml) wants GPU instances that others make (no [mig]); make the two files agree, or let their rules match different GPUs
    ");
    insta::assert_snapshot!(fails(&scene, "pool check"), @"
    error: 0000:41:00.0: pool 'half' (/etc/virt-vgpu/pools.d/half.toml) wants GPU instances that are made for it ([mig]) and pool 'quarter' (/etc/virt-vgpu/pools.d/quarter.toml) wants GPU instances that others make (no [mig]); make the two files agree, or let their rules match different GPUs
    2 pools checked: 1 error, 0 warnings
    ");
}

/// In GPU instances that mix sizes, each vGPU gets a place that leaves the most for others.
#[test]
fn sizes_are_mixed_in_gpu_instances() {
    let scene = scene("rtx-pro-6000");
    let pool = |name: &str, profile: &str| {
        let keys = "heterogeneous = true\n[mig]\ngpu-instances = 1";
        scene.vgpu_pool_with(name, profile, keys);
    };
    pool("large", "DC-2-24Q");
    pool("small", "DC-2-12Q");
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: switch MIG mode on (for pools 'large', 'small'; it is off)
      done: /usr/lib/nvidia/sriov-manage -e 0000:41:00.0 (0 of 48 virtual functions are there)
      done: create GPU instance 2g.48gb+gfx at memory slots 0-5 (for pools 'large', 'small')
      done: create GPU instance 2g.48gb+gfx at memory slots 6-11 (for pools 'large', 'small')
      done: switch heterogeneous mode of GPU instance 2g.48gb+gfx at memory slots 0-5 on (for pools 'large', 'small'; it is off)
      done: switch heterogeneous mode of GPU instance 2g.48gb+gfx at memory slots 6-11 on (for pools 'large', 'small'; it is off)
      GPU instances: [++++++|++++++] create 2g.48gb+gfx at 0-5; create 2g.48gb+gfx at 6-11; 0 of 12 slots free
    ");
    assert_eq!(
        works(&scene, "host apply --all").lines().next().unwrap(),
        "0000:41:00.0: nothing to do"
    );
    for (number, pool) in [(1, "small"), (2, "large"), (3, "small"), (4, "large")] {
        let vm = domain(&scene, number, pool);
        scene.prepare(&vm).succeeds();
    }
    insta::assert_snapshot!(works(&scene, "pool show large").lines().last().unwrap(), @"  0000:41:00.0  rule 1    1          small");
    scene.prepare(&domain(&scene, 5, "small")).succeeds();
    scene.prepare(&domain(&scene, 6, "small")).succeeds();
    let places: Vec<String> = scene
        .claims()
        .iter()
        .map(|claim| {
            let placement = claim.devices[0].placement.unwrap();
            format!(
                "{}: {} {placement}",
                claim.domain_name, claim.devices[0].pool
            )
        })
        .collect();
    insta::assert_snapshot!(places.join("\n"), @"
    vm1: small at 0 in GPU instance 1
    vm2: large at 24 in GPU instance 1
    vm3: small at 12 in GPU instance 1
    vm4: large at 0 in GPU instance 2
    vm5: small at 24 in GPU instance 2
    vm6: small at 36 in GPU instance 2
    ");
    insta::assert_snapshot!(scene.prepare(&domain(&scene, 7, "small")).refusal(), @"pool 'small' has no free DC-2-12Q for domain 'vm7': its XML names 0000:41:01.3: no place for a DC-2-12Q is free in its GPU instances; 'virt-vgpu start vm7' looks for another");
    scene.is_sound();
    // The mode of one that is in use stays until then.
    mig_pool(&scene, "small", "DC-2-12Q", "gpu-instances = 1");
    mig_pool(&scene, "large", "DC-2-24Q", "gpu-instances = 1");
    insta::assert_snapshot!(fails(&scene, "host apply --all"), @"0000:41:00.0: REFUSED: its GPU instances have vGPUs of other sizes than its pools want: 2g.48gb+gfx at memory slots 0-5 by domain 'vm1', domain 'vm2', domain 'vm3'; 2g.48gb+gfx at memory slots 6-11 by domain 'vm4', domain 'vm5', domain 'vm6'; when nobody uses them any more, 'virt-vgpu host apply 0000:41:00.0' makes the change");
    for number in 1..=6 {
        let vm = domain(
            &scene,
            number,
            if [2, 4].contains(&number) {
                "large"
            } else {
                "small"
            },
        );
        scene.stop(&vm);
    }
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: switch heterogeneous mode of GPU instance 2g.48gb+gfx at memory slots 0-5 off (for pool 'small'; it is on)
      done: switch heterogeneous mode of GPU instance 2g.48gb+gfx at memory slots 6-11 off (for pool 'large'; it is on)
      GPU instances: [======|======] keep 2g.48gb+gfx at 0-5; keep 2g.48gb+gfx at 6-11; 0 of 12 slots free
    ");
    // One mode for all GPU instances of one profile.
    pool("large", "DC-2-24Q");
    insta::assert_snapshot!(fails(&scene, "host apply --all"), @"0000:41:00.0: FAILED: pool 'large' wants heterogeneous = true and pool 'small' wants heterogeneous = false, and their vGPUs are in GPU instances of one profile; make the two agree, or let their rules match different GPUs");
}

#[test]
fn a_gpu_instance_shares_its_time_as_its_pools_say() {
    let scene = scene("rtx-pro-6000");
    let keys = "scheduler = { policy = 'equal-share', strict-round-robin = true, frequency = 480 }\n\
                [mig]\ngpu-instances = 1";
    scene.vgpu_pool_with("shared", "DC-1-12Q", keys);
    mig_pool(&scene, "plain", "DC-1-12A", "gpu-instances = 1");
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: switch MIG mode on (for pools 'plain', 'shared'; it is off)
      done: /usr/lib/nvidia/sriov-manage -e 0000:41:00.0 (0 of 48 virtual functions are there)
      done: create GPU instance 1g.24gb+gfx at memory slots 0-2 (for pools 'plain', 'shared')
      done: create GPU instance 1g.24gb+gfx at memory slots 3-5 (for pools 'plain', 'shared')
      done: set the scheduler of GPU instance 1g.24gb+gfx at memory slots 3-5: equal-share, strict round robin, 480 Hz (for pool 'shared'; it is best-effort)
      GPU instances: [+++|+++|......] create 1g.24gb+gfx at 0-2; create 1g.24gb+gfx at 3-5; 6 of 12 slots free
    ");
    let works_on = || {
        instances(&scene)
            .into_iter()
            .map(|one| one.scheduler.unwrap().policy)
    };
    assert_eq!(
        works_on().collect::<Vec<_>>(),
        [SchedulerPolicy::BestEffort, SchedulerPolicy::EqualShare]
    );
    let vm = domain(&scene, 1, "shared");
    scene.prepare(&vm).succeeds();
    assert_eq!(vgpus(&scene), [0, 1]);
    // Two fit; the other GPU instance is of a pool that shares its time in another way.
    let others = [2, 3].map(|number| scene.prepare(&domain(&scene, number, "shared")));
    others[0].succeeds();
    assert!(others[1].refusal().contains("all 2 vGPUs that it takes"));
    scene.stop(&domain(&scene, 2, "shared"));
    scene.vgpu_pool_with(
        "shared",
        "DC-1-12Q",
        "scheduler = { policy = 'best-effort' }\n[mig]\ngpu-instances = 1",
    );
    insta::assert_snapshot!(fails(&scene, "host apply --all"), @"0000:41:00.0: REFUSED: 'set the scheduler of GPU instance 1g.24gb+gfx at memory slots 3-5: best-effort' waits: it is in use by domain 'vm1'");
    scene.stop(&vm);
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: set the scheduler of GPU instance 1g.24gb+gfx at memory slots 3-5: best-effort (for pool 'shared'; it is equal-share, strict round robin, 480 Hz)
      GPU instances: [===|===|......] keep 1g.24gb+gfx at 0-2; keep 1g.24gb+gfx at 3-5; 6 of 12 slots free
    ");
}

/// The driver takes them all; which GPU instance each gets is decided before it is there.
#[test]
fn starts_at_once_share_the_gpu_instances_as_the_pools_say() {
    let scene = scene("rtx-pro-6000");
    let keys = "gpu-instances = 2\nvgpus-per-instance = 5";
    mig_pool(&scene, "few", "DC-1-4Q", keys);
    mig_pool(&scene, "many", "DC-1-3Q", "gpu-instances = 2");
    works(&scene, "host apply --all");
    let domains: Vec<Domain> = (0..12)
        .map(|number| domain(&scene, number, "few"))
        .chain((12..30).map(|number| domain(&scene, number, "many")))
        .collect();
    let running: Vec<_> = domains
        .iter()
        .map(|domain| scene.hook(domain, "prepare begin -").start())
        .collect();
    let refused = running.into_iter().map(|running| running.wait());
    let refused: Vec<Outcome> = refused.filter(|outcome| outcome.code != Some(0)).collect();
    assert_eq!(refused.len(), 4, "{refused:?}");
    for outcome in &refused {
        assert!(
            outcome.refusal().contains("GPU instances for DC-1-"),
            "{outcome:?}"
        );
    }
    let mut there = vgpus(&scene);
    there.sort_unstable();
    assert_eq!(there, [5, 5, 8, 8]);
    scene.is_sound();
    for domain in &domains {
        scene.stop(domain);
    }
    scene.is_empty();
}

/// With the mode off as well as on, so that a plan can be checked before anything is changed.
#[test]
fn profiles_in_gpu_instances_are_told_whatever_the_mode() {
    let scene = scene("rtx-pro-6000");
    let shown = |scene: &Scene| -> Vec<String> {
        let text = works(scene, "profiles");
        let lines = text.lines().filter(|line| {
            line.contains("PROFILE") || line.contains("-2-12Q") || line.contains(" DC-12Q ")
        });
        lines.map(ToOwned::to_owned).collect()
    };
    insta::assert_snapshot!(shown(&scene).join("\n"), @"
    PROFILE   ID    MEMORY     DISPLAYS  RESOLUTION  FPS  MAX  GPU INSTANCE       FITS  POOLS  NAME
    DC-12Q    1528  12288 MiB  4         7680x4320   60   8    -                  0     -      NVIDIA RTX Pro 6000 Blackwell DC-12Q
    DC-2-12Q  1564  12288 MiB  4         7680x4320   60   8    4 in 2g.48gb+gfx   0     -      NVIDIA RTX Pro 6000 Blackwell DC-2-12Q
    ");
    mig_pool(&scene, "half", "DC-2-12Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    insta::assert_snapshot!(shown(&scene).join("\n"), @"
    PROFILE   ID    MEMORY     DISPLAYS  RESOLUTION  FPS  MAX  GPU INSTANCE       FITS  POOLS  NAME
    DC-12Q    1528  12288 MiB  4         7680x4320   60   8    -                  0     -      NVIDIA RTX Pro 6000 Blackwell DC-12Q
    DC-2-12Q  1564  12288 MiB  4         7680x4320   60   8    4 in 2g.48gb+gfx   4     half   NVIDIA RTX Pro 6000 Blackwell DC-2-12Q
    ");
    scene.prepare(&domain(&scene, 1, "half")).succeeds();
    insta::assert_snapshot!(shown(&scene).join("\n"), @"
    PROFILE   ID    MEMORY     DISPLAYS  RESOLUTION  FPS  MAX  GPU INSTANCE       FITS  POOLS  NAME
    DC-12Q    1528  12288 MiB  4         7680x4320   60   8    -                  0     -      NVIDIA RTX Pro 6000 Blackwell DC-12Q
    DC-2-12Q  1564  12288 MiB  4         7680x4320   60   8    4 in 2g.48gb+gfx   3     half   NVIDIA RTX Pro 6000 Blackwell DC-2-12Q
    ");
    let text = works(&scene, "profiles --json");
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let profiles = list["gpus"][0]["profiles"].as_array().unwrap();
    let one = profiles
        .iter()
        .find(|one| one["profile"] == "DC-2-12Q")
        .unwrap();
    insta::assert_snapshot!(one["gpu_instance"], @r#"{"most_vgpus":4,"profile":"2g.48gb+gfx","profile_id":35}"#);
}

/// A pool that is deleted leaves nothing behind, and what others made stays.
#[test]
fn what_was_made_for_pools_goes_with_the_last_one() {
    let scene = scene("rtx-pro-6000");
    mig_pool(&scene, "half", "DC-2-12Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    let vm = domain(&scene, 1, "half");
    scene.prepare(&vm).succeeds();
    let pool = scene.path("/etc/virt-vgpu/pools.d/half.toml");
    std::fs::rename(&pool, scene.path("/half.toml")).unwrap();
    insta::assert_snapshot!(fails(&scene, "host apply --all"), @"
    0000:41:00.0: REFUSED: GPU instance 2g.48gb+gfx at memory slots 0-5 is in use by domain 'vm1'; shut it down, then run 'virt-vgpu host apply 0000:41:00.0'
      not done: destroy GPU instance 2g.48gb+gfx at memory slots 0-5 (no pool takes the GPU any more)
    ");
    scene.stop(&vm);
    // A pool that cannot be read may be one that takes the GPU.
    std::fs::write(&pool, "kind = 1\n").unwrap();
    assert!(fails(&scene, "host apply --all").contains("pools.d/half.toml:1"));
    std::fs::remove_file(&pool).unwrap();
    assert_eq!(instances(&scene).len(), 1);
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: destroy GPU instance 2g.48gb+gfx at memory slots 0-5 (no pool takes the GPU any more)
      done: /usr/lib/nvidia/sriov-manage -d 0000:41:00.0 (MIG mode is switched without them)
      done: switch MIG mode off (virt-vgpu switched it on for pools that have gone)
      done: /usr/lib/nvidia/sriov-manage -e 0000:41:00.0 (they were there, and not only pools of vGPUs use them)
    ");
    assert_eq!(scene.kernel.gpu(address()).unwrap().mig, Told::Value(false));
    assert!(!scene.path(&our_instances::path(address())).exists());
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"no pool takes a GPU: nothing to do");

    // MIG mode and a GPU instance of somebody else.
    const QUARTER: u32 = 14;
    let theirs = |gpu: &mut lab_nvidia::model::Gpu| {
        gpu.set_vfs(true).unwrap();
        gpu.set_mig(true).unwrap();
        gpu.gi_create(QUARTER, Some(9)).unwrap();
    };
    scene.kernel.with_gpu(GPU, theirs);
    std::fs::rename(scene.path("/half.toml"), &pool).unwrap();
    works(&scene, "host apply --all");
    assert_eq!(instances(&scene).len(), 2);
    std::fs::remove_file(&pool).unwrap();
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: destroy GPU instance 2g.48gb+gfx at memory slots 0-5 (no pool takes the GPU any more)
    ");
    assert_eq!(places(&scene), [(QUARTER, 9, 3)]);
    assert_eq!(scene.kernel.gpu(address()).unwrap().mig, Told::Value(true));
}

/// Pools may use a GPU instance of somebody else, but it is not changed, nor lost.
#[test]
fn a_gpu_instance_of_others_keeps_its_settings() {
    const QUARTER: u32 = 47;
    let scene = scene("rtx-pro-6000");
    mig_pool(&scene, "cad", "DC-1-12Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    let theirs = |gpu: &mut lab_nvidia::model::Gpu| gpu.gi_create(QUARTER, Some(9));
    scene.kernel.with_gpu(GPU, theirs).unwrap();
    let keys = "scheduler = { policy = 'equal-share' }\n[mig]\ngpu-instances = 2";
    scene.vgpu_pool_with("cad", "DC-1-12Q", keys);
    insta::assert_snapshot!(works(&scene, "host apply --all"), @"
    0000:41:00.0: set
      done: create GPU instance 1g.24gb+gfx at memory slots 3-5 (for pool 'cad')
      done: set the scheduler of GPU instance 1g.24gb+gfx at memory slots 0-2: equal-share (for pool 'cad'; it is best-effort)
      done: set the scheduler of GPU instance 1g.24gb+gfx at memory slots 3-5: equal-share (for pool 'cad'; it is best-effort)
      GPU instances: [===|+++|...|!!!] keep 1g.24gb+gfx at 0-2; create 1g.24gb+gfx at 3-5; cannot destroy 1g.24gb+gfx at 9-11 (not created by virt-vgpu); 3 of 12 slots free
    ");
    let policies: Vec<_> = instances(&scene)
        .iter()
        .map(|one| one.scheduler.unwrap().policy)
        .collect();
    assert_eq!(
        policies,
        [
            SchedulerPolicy::EqualShare,
            SchedulerPolicy::EqualShare,
            SchedulerPolicy::BestEffort
        ]
    );
    insta::assert_snapshot!(fails(&scene, "host apply --renew --yes 41:00.0"), @"
    0000:41:00.0: REFUSED: GPU instances that virt-vgpu has not created would be lost: 1g.24gb+gfx at memory slots 9-11; destroy them ('nvidia-smi mig -dgi -i 0000:41:00.0') when nobody needs them
      not done: /usr/lib/nvidia/sriov-manage -d 0000:41:00.0, then -e 0000:41:00.0 (asked for by --renew)
    ");
    assert_eq!(instances(&scene).len(), 3);
}

/// What the driver has refused is not ours, whoever makes it afterwards.
#[test]
fn a_gpu_instance_that_was_not_made_is_not_noted() {
    const MORE_THAN_IT_HAS: usize = 40;
    let failed = (1..MORE_THAN_IT_HAS).find_map(|number| {
        let scene = scene("rtx-pro-6000");
        mig_pool(&scene, "cad", "DC-2-12Q", "gpu-instances = 1");
        works(&scene, "host apply --all");
        mig_pool(&scene, "web", "DC-1-24Q", "gpu-instances = 1");
        let run = Program::command(scene.root(), "host apply --all");
        let outcome = run.fault(&format!("5:{number}")).run();
        outcome.stdout.contains("virt-vgpu-nvml").then_some(scene)
    });
    let scene = failed.expect("the creation never failed");
    let there = instances(&scene);
    assert_eq!(there.len(), 1);
    let noted = our_instances::read(&scene.host(), address()).unwrap();
    assert_eq!(noted.made, [there[0].place()]);
}

/// What a start would get and why, before and after its GPU instance is full.
#[test]
fn explain_names_the_gpu_instance() {
    let scene = scene("rtx-pro-6000");
    let explained = |number: usize| {
        let vm = domain(&scene, number, "half");
        scene.file("vm.xml", vm.xml());
        let file = scene.path("vm.xml");
        command(&scene, &format!("explain --xml {}", file.display())).stdout
    };
    mig_pool(&scene, "half", "DC-2-48Q", "gpu-instances = 1");
    works(&scene, "host apply --all");
    insta::assert_snapshot!(explained(1), @"
    domain 'vm1' would be served

    gpu0 from pool half
      uuid    9a644b72-229d-5e8f-b09a-25956123a508
      parent  0000:41:00.5
      type    1573
      why     pack: 0 in use on 0000:41:00.0, 1 of 1573 left, in GPU instance 1

    pool half: DC-2-48Q, pack, 0 in use, 1 free
      PARENT                    BOARD         NODE  IN USE  ROOM
      0000:41:00.4 and 47 more  0000:41:00.0  -     0       1 of 1573 left
    ");
    scene.prepare(&domain(&scene, 1, "half")).succeeds();
    insta::assert_snapshot!(explained(2), @"
    domain 'vm2' would be refused
      virt-vgpu: pool 'half' has no free DC-2-48Q for domain 'vm2': its XML names 0000:41:00.6: its GPU instance for DC-2-48Q has the one vGPU that it takes; 'virt-vgpu start vm2' looks for another

    gpu0 from pool half
      uuid    001889cd-9880-567b-a44f-705fe81fa221

    pool half: DC-2-48Q, pack, 1 in use, 0 free
      PARENT                    BOARD         NODE  IN USE  ROOM
      0000:41:00.4              0000:41:00.0  -     1       its GPU instance for DC-2-48Q has the one vGPU that it takes
      0000:41:00.5              0000:41:00.0  -     1       domain 'vm1' has it
      0000:41:00.6 and 45 more  0000:41:00.0  -     1       its GPU instance for DC-2-48Q has the one vGPU that it takes
    ");
    insta::assert_snapshot!(works(&scene, "pool preview half"), @"
    pool 'half' (type 'DC-2-48Q'), /etc/virt-vgpu/pools.d/half.toml

    in the pool (1 of 1):
      DEVICE        TAKEN BY  AVAILABLE                                                     ALSO IN POOL
      0000:41:00.0  rule 1    its GPU instance for DC-2-48Q has the one vGPU that it takes  -
    ");
    insta::assert_snapshot!(works(&scene, "devices --pool half"), @"
    ADDRESS       CLASS  ID         DRIVER  MIG                 NAME
    0000:41:00.0  gpu    10de:2bb5  nvidia  on, 1 GPU instance  -
    ");
}
