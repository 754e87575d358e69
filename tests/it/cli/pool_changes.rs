//! `virt-vgpu pool check FILE` tells what a file changes of the installed pool, and what each
//! change needs.

use serde_json::{Value, json};

use crate::support::{
    domain::Domain,
    machine::{Gpu, Machine, Plain},
    process::Program,
    scene::Scene,
};

const FIRST: &str = "0000:41:00.0";
const SECOND: &str = "0000:42:00.0";

const ALL: &str = "[[rule]]\nwhere = [{ field = 'vendor-id', op = 'equal', value = '10de' }]\n";

fn checked(scene: &Scene, new: &str, arguments: &str) -> String {
    scene.file("root/cad.toml", new);
    let file = scene.path("root/cad.toml");
    let command = format!("pool check {} {arguments}", file.display());
    let outcome = Program::command(scene.root(), &command).run();
    outcome.succeeds();
    outcome.stdout
}

/// The lines about changes.
fn told(scene: &Scene, new: &str) -> Vec<String> {
    let text = checked(scene, new, "");
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("change: "));
    lines.map(str::to_owned).collect()
}

/// The keys that change, with what they need.
fn needed(scene: &Scene, new: &str) -> Vec<(String, String)> {
    let report: Value = serde_json::from_str(&checked(scene, new, "--json")).unwrap();
    let changes = report["changes"].as_array().cloned().unwrap_or_default();
    let word = |change: &Value, key: &str| change[key].as_str().unwrap().to_owned();
    let pairs = changes.iter();
    pairs
        .map(|change| (word(change, "key"), word(change, "effect")))
        .collect()
}

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(key, effect): &(&str, &str)| ((*key).to_owned(), (*effect).to_owned());
    wanted.iter().map(owned).collect()
}

fn vgpus(keys: &str) -> String {
    format!("kind = 'nvidia-vgpu'\nprofile = 'L40S-12Q'\n{keys}\n{ALL}")
}

fn scene(installed: &str) -> Scene {
    let gpus = [
        Gpu::l40s(FIRST).functions(4),
        Gpu::l40s(SECOND).functions(4),
    ];
    let scene = Scene::new(Machine::of_gpus(gpus));
    scene.file("etc/virt-vgpu/pools.d/cad.toml", installed);
    scene
}

#[test]
fn each_changed_key_is_told_with_what_it_needs() {
    let scene = scene(&vgpus("instances = 4\nplacement = 'pack'"));
    // The installed file itself, and one that only writes down what holds anyway.
    for same in [
        "instances = 4\nplacement = 'pack'",
        "instances = 4\nheterogeneous = false\n[defaults]\noptional = false",
    ] {
        assert_eq!(told(&scene, &vgpus(same)), Vec::<String>::new(), "{same}");
    }
    let new = vgpus("description = 'CAD'\n[defaults]\nframe-rate-limit = 60")
        .replace("L40S-12Q", "L40S-8Q");
    let next = "each VM has it from its next start on";
    assert_eq!(
        told(&scene, &new),
        [
            "pool 'cad': description (none to \"CAD\"): it is for people; nothing has to be done"
                .to_owned(),
            format!(
                "pool 'cad': profile (\"L40S-12Q\" to \"L40S-8Q\"): new vGPUs are of it; \
                 {next}"
            ),
            format!(
                "pool 'cad': instances (4 to 0): VMs keep what they have, also where it is more \
                 than the new limit; {next}"
            ),
            format!(
                "pool 'cad': defaults.frame-rate-limit (none to 60): it is a parameter that a vGPU \
                 is made with; {next}"
            ),
        ]
    );
    // The installed file of the strongest directory counts.
    scene.file("usr/lib/virt-vgpu/pools.d/cad.toml", &new);
    assert_eq!(told(&scene, &new).len(), 4);
}

#[test]
fn a_file_without_an_installed_pool_changes_nothing_and_a_broken_one_is_named() {
    let scene = scene("");
    std::fs::remove_file(scene.path("etc/virt-vgpu/pools.d/cad.toml")).unwrap();
    assert_eq!(
        checked(&scene, &vgpus(""), ""),
        "1 pool checked: 0 errors, 0 warnings\n"
    );
    scene.file("etc/virt-vgpu/pools.d/cad.toml", "kind = 'mdef'\n");
    let text = checked(&scene, &vgpus(""), "");
    assert!(
        text.contains(
            "root/cad.toml: is not compared with the installed pool: \
             /etc/virt-vgpu/pools.d/cad.toml:1: key 'kind': unknown kind 'mdef'"
        ),
        "{text}"
    );
}

#[test]
fn settings_of_gpus_name_the_gpus_and_their_vms() {
    let scene = scene(&vgpus("[scheduler]\npolicy = 'equal-share'"));
    let function = scene.kernel.functions(FIRST)[0].clone();
    let domain = Domain::new(1).function("gpu0", "cad", &function);
    scene.prepare(&domain).ends_well();
    scene.runs_on(4711, &domain, &[&function]);
    let fixed = vgpus("[scheduler]\npolicy = 'fixed-share'");
    assert_eq!(
        told(&scene, &fixed),
        [format!(
            "pool 'cad': scheduler.policy (\"equal-share\" to \"fixed-share\"): the GPU or the GPU \
             instances share their time in another way; it needs a free GPU: shut down the VMs \
             that use it, then run 'virt-vgpu host apply --all' (now: {FIRST} is used by 'vm1'; \
             {SECOND} is free)"
        )]
    );
    let report: Value = serde_json::from_str(&checked(&scene, &fixed, "--json")).unwrap();
    assert_eq!(
        report["changes"],
        json!([{
            "pool": "cad",
            "key": "scheduler.policy",
            "from": "equal-share",
            "to": "fixed-share",
            "effect": "free-gpu",
            "about": "the GPU or the GPU instances share their time in another way",
            "gpus": [
                { "gpu": FIRST, "domains": ["vm1"], "in_use": true },
                { "gpu": SECOND, "domains": [], "in_use": false },
            ],
        }])
    );
    // Without one, any will do.
    let needs = needed(&scene, &vgpus(""));
    assert_eq!(needs, pairs(&[("scheduler.policy", "none")]));
    // This driver is known to take one only when it is loaded.
    scene.file(
        "etc/modprobe.d/virt-vgpu.conf",
        format!(
            "# Written by 'virt-vgpu host apply', and only by it: edit pool files instead.\n\
             options nvidia NVreg_RegistryDwordsPerDevice=\"pci={FIRST};RmPVMRL=0x1\"\n"
        ),
    );
    let needs = needed(&scene, &fixed);
    assert_eq!(needs, pairs(&[("scheduler.policy", "driver-load")]));
    // No other setting is one of the driver's options.
    let mixed = vgpus("heterogeneous = true\n[scheduler]\npolicy = 'equal-share'");
    let needs = needed(&scene, &mixed);
    assert_eq!(needs, pairs(&[("heterogeneous", "free-gpu")]));
}

#[test]
fn rules_need_a_free_gpu_only_if_one_comes_or_goes_that_is_set_up() {
    let only = |address: &str| {
        format!(
            "[[rule]]\nname = 'mine'\nwhere = [{{ field = 'address', op = 'equal', value = \
             '{address}' }}]\n"
        )
    };
    let shares = "heterogeneous = true";
    let plain = scene(&vgpus(""));
    let needs = needed(&plain, &vgpus("").replace(ALL, &only(FIRST)));
    assert_eq!(
        needs,
        pairs(&[("rule.name", "none"), ("rule.where", "next-start")])
    );
    let mixed = scene(&vgpus(shares));
    let new = vgpus(shares).replace(ALL, &only(FIRST));
    let told = told(&mixed, &new);
    assert_eq!(
        told[1],
        format!(
            "pool 'cad': rule.where: VMs get devices by the new rules; it needs a free GPU: shut \
             down the VMs that use it, then run 'virt-vgpu host apply --all' (now: {SECOND} is \
             free)"
        )
    );
    // The same GPUs by another rule.
    let class = ALL.replace("equal", "contains");
    let needs = needed(&mixed, &vgpus(shares).replace(ALL, &class));
    assert_eq!(needs, pairs(&[("rule.where", "next-start")]));
}

#[test]
fn gpu_instances_change_beside_running_vms_but_mig_mode_does_not() {
    let gpu = Gpu::new(
        "rtx-pro-6000",
        lab_nvidia::model::Framework::VendorVfio,
        FIRST,
    );
    let scene = Scene::new(Machine::of_gpus([gpu.functions(4)]));
    let pool = |profile: &str, keys: &str| {
        format!("kind = 'nvidia-vgpu'\nprofile = '{profile}'\n{keys}\n{ALL}")
    };
    let mig = |keys: &str| pool("DC-1-24Q", &format!("[mig]\n{keys}"));
    scene.file("etc/virt-vgpu/pools.d/cad.toml", mig("gpu-instances = 1"));
    for (new, wanted) in [
        (
            mig("gpu-instances = 2\nmode = 'on-demand'"),
            &[
                ("mig.gpu-instances", "gpu-instances"),
                ("mig.mode", "gpu-instances"),
            ][..],
        ),
        (
            mig("gpu-instances = 1\nvgpus-per-instance = 1\n[scheduler]\npolicy = 'best-effort'"),
            &[
                ("mig.vgpus-per-instance", "gpu-instances"),
                ("scheduler.policy", "gpu-instances"),
            ],
        ),
        (
            pool("DC-24Q", ""),
            &[("profile", "free-gpu"), ("mig.gpu-instances", "free-gpu")],
        ),
    ] {
        assert_eq!(needed(&scene, &new), pairs(wanted), "{new}");
    }
}

#[test]
fn placeholders_of_whole_devices_follow_or_are_attached_again() {
    let scene = Scene::new(Machine::of_pci([Plain::nic("0000:04:00.0", 4)]));
    let pool = |keys: &str| format!("kind = 'pci'\n[pci]\n{keys}\n{ALL}");
    scene.file("etc/virt-vgpu/pools.d/cad.toml", pool(""));
    for (new, wanted) in [
        ("multifunction = true", &[][..]),
        (
            "multifunction = false",
            &[("pci.multifunction", "definitions")],
        ),
        (
            "placeholder = 'hotplug'",
            &[
                ("pci.multifunction", "definitions"),
                ("pci.placeholder", "attach"),
            ],
        ),
        ("keep-bound = true", &[("pci.keep-bound", "next-start")]),
        ("rom = 'off'", &[("pci.rom", "attach")]),
    ] {
        assert_eq!(needed(&scene, &pool(new)), pairs(wanted), "{new}");
    }
}

/// The file takes the place of the pool: the two are no rivals, and keys of the former kind say
/// nothing.
#[test]
fn a_pool_of_another_kind() {
    let scene = scene(&vgpus(""));
    let new = format!("kind = 'pci'\n{ALL}");
    assert_eq!(
        told(&scene, &new),
        [
            "pool 'cad': kind (\"nvidia-vgpu\" to \"pci\"): the placeholders of one kind do not serve \
             another; devices that are attached from now on have it; take the others off with \
             'virt-vgpu detach' and attach them again"
        ]
    );
}
