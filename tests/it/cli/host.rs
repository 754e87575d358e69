//! `virt-vgpu host` on directories that replace a host. Scripts replace NVIDIA's
//! program and the program that asks NVML: no root, no driver.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use virt_vgpu::{
    device::nvml::{
        Answer, Failure, FailureKind, GpuFacts, Heterogeneous, Scheduler, SchedulerLimits,
        SchedulerPolicy, Told,
    },
    model::MdevUuid,
};

const A: &str = "0000:3b:00.0";
const B: &str = "0000:5e:00.0";
const DOMAIN: &str = "aaaaaaaa-0000-4000-8000-000000000001";

/// A host with two GPUs without virtual functions, and NVIDIA's driver.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(crate::support::root());
        for gpu in [A, B] {
            tree.gpu(gpu, 2);
        }
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/host-settings");
        // Links, not copies: a program that was just written cannot always be run.
        for (script, place) in [
            ("sriov-manage", "usr/lib/nvidia"),
            ("virt-vgpu-nvml", "usr/sbin"),
        ] {
            fs::create_dir_all(tree.path(place)).unwrap();
            let link = tree.path(&format!("{place}/{script}"));
            symlink(scripts.join(script), link).unwrap();
        }
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    fn gpu(&self, gpu: &str, functions: u32) {
        let device = format!("sys/bus/pci/devices/{gpu}");
        self.write(&format!("{device}/vendor"), "0x10de");
        self.write(&format!("{device}/class"), "0x030200");
        self.write(&format!("{device}/sriov_totalvfs"), &functions.to_string());
        self.write(&format!("{device}/sriov_numvfs"), "0");
        self.driver(gpu, "nvidia");
        self.facts(gpu, |_| {});
    }

    fn driver(&self, gpu: &str, driver: &str) {
        let link = self.path(&format!("sys/bus/pci/devices/{gpu}/driver"));
        let _ = fs::remove_file(&link);
        symlink(format!("../../../../bus/pci/drivers/{driver}"), link).unwrap();
    }

    /// NVML's facts about a GPU: those of a healthy one, changed by the test.
    fn facts(&self, gpu: &str, change: impl FnOnce(&mut GpuFacts)) {
        let unavailable = || Failure {
            kind: FailureKind::NotSupported,
            message: "not asked for".to_owned(),
        };
        let mut facts = GpuFacts {
            address: gpu.parse().unwrap(),
            name: Told::Value("NVIDIA L40S".to_owned()),
            uuid: Told::Unavailable(unavailable()),
            memory_mib: Told::Value(46068),
            hosts_vgpus: Told::Value(true),
            mig: Told::Value(false),
            instances: Told::Unavailable(unavailable()),
            heterogeneous: Told::Value(Heterogeneous {
                supported: true,
                enabled: false,
            }),
            heterogeneous_multi_vgpu: Told::Value(true),
            scheduler: Told::Value(Scheduler {
                policy: SchedulerPolicy::BestEffort,
                strict_round_robin: None,
                averaging_factor: None,
                frequency: None,
                time_slice_ns: None,
            }),
            scheduler_limits: Told::Value(SchedulerLimits {
                policies: vec![
                    SchedulerPolicy::BestEffort,
                    SchedulerPolicy::EqualShare,
                    SchedulerPolicy::FixedShare,
                ],
                strict_round_robin: true,
                time_slice_ns: (1_000_000, 30_000_000),
                frequency: (63, 960),
                averaging_factor: (1, 60),
            }),
            types: Told::Unavailable(unavailable()),
            vgpus: Told::Unavailable(unavailable()),
        };
        change(&mut facts);
        let answer = serde_json::to_string(&Answer::Gpus(vec![facts])).unwrap();
        self.write(&format!("nvml/{gpu}"), &answer);
    }

    /// NVML's answer to every attempt to set something.
    fn nvml_refuses(&self, what: &str, kind: FailureKind, message: &str) {
        let answer = Answer::Failed(Failure {
            kind,
            message: message.to_owned(),
        });
        let answer = serde_json::to_string(&answer).unwrap();
        self.write(&format!("nvml/{what}"), &answer);
    }

    fn pool(&self, name: &str, gpu: &str, text: &str) {
        let rule =
            format!("[[rule]]\nwhere = [{{ field = 'address', op = 'equal', value = '{gpu}' }}]");
        let text = format!("kind = 'nvidia-vgpu'\nprofile = 'L40S-12Q'\n{text}\n{rule}");
        self.write(&format!("etc/virt-vgpu/pools.d/{name}.toml"), &text);
    }

    /// A claim of domain ws7 on a virtual function.
    fn claim(&self, function: &str) {
        let uuid = MdevUuid::for_device(DOMAIN.parse().unwrap(), &"gpu0".parse().unwrap());
        let claim = serde_json::json!({
            "version": 1, "domain": DOMAIN, "domain_name": "ws7", "state": "committed",
            "origin": "prepare", "launched": true, "boot_id": null, "since_boot_ms": 0,
            "daemon": null, "devices": [{"name": "gpu0", "pool": "cad", "kind": "vendor-vfio",
                "uuid": uuid, "parent": function, "type": "1155"}],
        });
        self.write(
            &format!("run/virt-vgpu/claims/{DOMAIN}.json"),
            &claim.to_string(),
        );
        self.give_type(function);
    }

    fn give_type(&self, function: &str) {
        let path = format!("sys/bus/pci/devices/{function}/nvidia/current_vgpu_type");
        self.write(&path, "1155");
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virt-vgpu"));
        command
            .arg("host")
            .args(arguments.split_whitespace())
            .env("VIRT_VGPU_ROOT", self.0.path())
            .env("VIRT_VGPU_FAULT_PAUSES", "none");
        command
    }

    fn host(&self, arguments: &str) -> (i32, String) {
        let output = self.command(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(said).unwrap(),
        )
    }

    /// Checks success and returns the output.
    fn works(&self, arguments: &str) -> String {
        let (code, said) = self.host(arguments);
        assert_eq!(code, 0, "{said}");
        said
    }

    /// Checks exit code 1 and returns the output.
    fn fails(&self, arguments: &str) -> String {
        let (code, said) = self.host(arguments);
        assert_eq!(code, 1, "{said}");
        said
    }

    /// The commands that changed something since the last call.
    fn calls(&self) -> String {
        let calls = self.read("calls");
        let _ = fs::remove_file(self.path("calls"));
        calls
    }
}

const MIXED: &str = "heterogeneous = true";
const EQUAL: &str =
    "scheduler = { policy = 'equal-share', strict-round-robin = true, frequency = 480 }";

#[test]
fn the_steps_are_printed_in_order_and_nothing_is_done() {
    let tree = Tree::new();
    tree.pool("cad", A, &format!("{MIXED}\n{EQUAL}"));
    insta::assert_snapshot!(tree.works("apply --all --dry-run"), @"
    0000:3b:00.0: would be set
      1. /usr/lib/nvidia/sriov-manage -e 0000:3b:00.0 (0 of 2 virtual functions are there)
      2. wait until its functions have vGPU types (new functions show their vGPU types a while later)
      3. switch heterogeneous mode on (for pool 'cad'; a GPU begins with one size)
      4. set the scheduler: equal-share, strict round robin, 480 Hz (for pool 'cad'; a GPU begins with best-effort)
    ");
    assert_eq!(tree.calls(), "");
}

#[test]
fn what_was_printed_is_done_once() {
    let tree = Tree::new();
    tree.pool("cad", A, &format!("{MIXED}\n{EQUAL}"));
    insta::assert_snapshot!(tree.works("apply --all"), @"
    0000:3b:00.0: set
      done: /usr/lib/nvidia/sriov-manage -e 0000:3b:00.0 (0 of 2 virtual functions are there)
      done: switch heterogeneous mode on (for pool 'cad'; it is off)
      done: set the scheduler: equal-share, strict round robin, 480 Hz (for pool 'cad'; it is best-effort)
    ");
    insta::assert_snapshot!(tree.calls(), @r#"
    sriov-manage -e 0000:3b:00.0
    {"do":"set-heterogeneous","gpu":"0000:3b:00.0","on":true}
    {"do":"set-scheduler","gpu":"0000:3b:00.0","scheduler":{"policy":"equal-share","strict_round_robin":true,"averaging_factor":null,"frequency":480,"time_slice_ns":null}}
    "#);
    assert_eq!(tree.works("apply --all"), "0000:3b:00.0: nothing to do\n");
    assert_eq!(tree.calls(), "");
    tree.pool("cad", A, "");
    insta::assert_snapshot!(tree.works("apply 3b:00.0"), @"
    0000:3b:00.0: set
      done: switch heterogeneous mode off (for pool 'cad'; it is on)
    ");
    insta::assert_snapshot!(tree.calls(), @r#"{"do":"set-heterogeneous","gpu":"0000:3b:00.0","on":false}"#);
}

/// Whatever a run was at when it failed or died, the next one goes on from there.
#[test]
fn a_crash_or_an_error_at_any_effect_is_made_up_for() {
    let wanted = || {
        let tree = Tree::new();
        tree.pool("cad", A, &format!("{MIXED}\n{EQUAL}"));
        tree
    };
    let tree = wanted();
    let trace = tree.path("trace");
    let run = tree
        .command("apply --all")
        .env("VIRT_VGPU_FAULT_TRACE", &trace)
        .output();
    assert!(run.unwrap().status.success());
    let effects = tree.read("trace");
    let of_nvml = effects.lines().filter(|line| line.contains(" nvml "));
    assert_eq!(of_nvml.count(), 2, "{effects}");
    let facts = tree.read(&format!("nvml/{A}"));
    for number in 1..=effects.lines().count() {
        for fault in [format!("kill:{number}"), format!("5:{number}")] {
            let tree = wanted();
            let run = tree
                .command("apply --all")
                .env("VIRT_VGPU_FAULT", &fault)
                .output()
                .unwrap();
            assert!(!run.status.success(), "{fault}");
            tree.works("apply --all");
            assert_eq!(tree.read(&format!("nvml/{A}")), facts, "{fault}");
            assert_eq!(tree.works("apply --all"), "0000:3b:00.0: nothing to do\n");
        }
    }
}

#[test]
fn a_pool_without_settings_needs_no_nvml() {
    let tree = Tree::new();
    fs::remove_file(tree.path("usr/sbin/virt-vgpu-nvml")).unwrap();
    tree.pool("cad", A, "");
    tree.works("apply --all");
    assert_eq!(tree.calls(), "sriov-manage -e 0000:3b:00.0\n");
    assert_eq!(tree.works("apply --all"), "0000:3b:00.0: nothing to do\n");
    assert_eq!(tree.calls(), "");
    tree.pool("cad", A, MIXED);
    insta::assert_snapshot!(tree.fails("apply --all"), @"0000:3b:00.0: FAILED: whether it mixes sizes cannot be told: cannot ask NVML through /usr/sbin/virt-vgpu-nvml: No such file or directory (os error 2); see whether 'nvidia-smi' works");
}

#[test]
fn a_gpu_that_no_pool_takes_is_never_touched() {
    let tree = Tree::new();
    assert_eq!(
        tree.works("apply --all"),
        "no pool takes a GPU: nothing to do\n"
    );
    tree.pool("cad", A, "");
    insta::assert_snapshot!(tree.fails(&format!("apply {B}")), @"0000:5e:00.0: REFUSED: no pool of kind nvidia-vgpu takes it, so nothing is known of how it should be; 'virt-vgpu pool preview POOL' tells why a pool does not");
    tree.driver(B, "vfio-pci");
    for (address, said) in [
        (
            B,
            "0000:5e:00.0 is not for vGPUs: its driver is 'vfio-pci', not nvidia; bind it to nvidia first",
        ),
        (
            "0000:99:00.0",
            "there is no GPU '0000:99:00.0': the only one is 0000:3b:00.0; 'virt-vgpu host show' lists all",
        ),
    ] {
        let wanted = format!("virt-vgpu: {said}\n");
        assert_eq!(tree.fails(&format!("apply {address}")), wanted);
    }
    tree.driver(B, "pci-pf-stub");
    insta::assert_snapshot!(tree.fails(&format!("apply {B}")), @"virt-vgpu: 0000:5e:00.0 is being changed by sriov-manage now, which binds it to pci-pf-stub for a moment; try again, or see whether it was killed ('ps -C sriov-manage')");
    assert_eq!(tree.calls(), "");
    tree.works("apply --all");
    assert_eq!(
        tree.fails("apply 0000:3b:00.1"),
        "virt-vgpu: 0000:3b:00.1 is a virtual function: settings are those of its GPU, 0000:3b:00.0\n"
    );
}

#[test]
fn pools_that_differ_are_told_and_leave_other_gpus_alone() {
    let tree = Tree::new();
    tree.pool("cad", A, MIXED);
    tree.pool("web", A, "");
    tree.pool("other", B, "");
    insta::assert_snapshot!(tree.fails("apply --all"), @"
    0000:3b:00.0: REFUSED: pool 'cad' (/etc/virt-vgpu/pools.d/cad.toml) wants heterogeneous = true and pool 'web' (/etc/virt-vgpu/pools.d/web.toml) wants heterogeneous = false; make the two files agree, or let their rules match different GPUs
    0000:5e:00.0: set
      done: /usr/lib/nvidia/sriov-manage -e 0000:5e:00.0 (0 of 2 virtual functions are there)
    ");
    assert_eq!(tree.calls(), "sriov-manage -e 0000:5e:00.0\n");
    tree.pool("cad", A, "scheduler.policy = 'fixed-share'");
    tree.pool("web", A, EQUAL);
    insta::assert_snapshot!(tree.fails("apply 3b:00.0"), @"0000:3b:00.0: REFUSED: pool 'cad' (/etc/virt-vgpu/pools.d/cad.toml) wants the scheduler fixed-share and pool 'web' (/etc/virt-vgpu/pools.d/web.toml) wants the scheduler equal-share, strict round robin, 480 Hz; make the two files agree, or let their rules match different GPUs");
    tree.pool("web", A, "");
    assert_eq!(tree.host("apply 3b:00.0").0, 0);
}

#[test]
fn a_gpu_in_use_is_refused_with_its_domain_and_others_are_set() {
    let tree = Tree::new();
    tree.pool("cad", A, "");
    tree.pool("web", B, "");
    tree.works("apply --all");
    tree.claim("0000:3b:00.2");
    // Having nothing to do is no error.
    assert_eq!(tree.works("apply 3b:00.0"), "0000:3b:00.0: nothing to do\n");
    tree.pool("cad", A, MIXED);
    tree.pool("web", B, MIXED);
    tree.calls();
    insta::assert_snapshot!(tree.fails("apply --all --dry-run"), @"
    0000:3b:00.0: REFUSED: in use: domain 'ws7' has vGPU 0000:3b:00.2; shut it down, then run 'virt-vgpu host apply 0000:3b:00.0'
      not done: switch heterogeneous mode on (for pool 'cad'; it is off)
    0000:5e:00.0: would be set
      1. switch heterogeneous mode on (for pool 'web'; it is off)
    ");
    insta::assert_snapshot!(tree.fails("apply --all"), @"
    0000:3b:00.0: REFUSED: in use: domain 'ws7' has vGPU 0000:3b:00.2; shut it down, then run 'virt-vgpu host apply 0000:3b:00.0'
      not done: switch heterogeneous mode on (for pool 'cad'; it is off)
    0000:5e:00.0: set
      done: switch heterogeneous mode on (for pool 'web'; it is off)
    ");
    insta::assert_snapshot!(tree.calls(), @r#"{"do":"set-heterogeneous","gpu":"0000:5e:00.0","on":true}"#);
    insta::assert_snapshot!(tree.works("show"), @"
    0000:3b:00.0: pool cad, driver nvidia
      SETTING            WANTED  ACTUAL
      virtual functions  2       2
      heterogeneous      on      off
      scheduler          -       best-effort
      vGPU 0000:3b:00.2: domain 'ws7'
      differs: switch heterogeneous mode on (for pool 'cad'; it is off): in use: domain 'ws7' has vGPU 0000:3b:00.2; shut it down, then run 'virt-vgpu host apply 0000:3b:00.0'

    0000:5e:00.0: pool web, driver nvidia
      SETTING            WANTED  ACTUAL
      virtual functions  2       2
      heterogeneous      on      on
      scheduler          -       best-effort
    ");
    insta::assert_snapshot!(tree.fails("apply --renew --yes 3b:00.0"), @"
    0000:3b:00.0: REFUSED: in use: domain 'ws7' has vGPU 0000:3b:00.2; shut it down, then run 'virt-vgpu host apply 0000:3b:00.0'
      not done: /usr/lib/nvidia/sriov-manage -d 0000:3b:00.0, then -e 0000:3b:00.0 (asked for by --renew)
    ");
    tree.give_type("0000:5e:00.1");
    tree.pool("web", B, "");
    insta::assert_snapshot!(tree.fails(&format!("apply {B}")), @"
    0000:5e:00.0: REFUSED: in use: vGPU 0000:5e:00.1, which no domain has from us; when whoever made it has removed it, run 'virt-vgpu host apply 0000:5e:00.0'
      not done: switch heterogeneous mode off (for pool 'web'; it is on)
    ");
    assert_eq!(tree.calls(), "");
}

#[test]
fn only_a_refused_unbind_lock_is_tried_again() {
    let tree = Tree::new();
    tree.pool("cad", A, "");
    let locked = "Cannot obtain unbindLock for 0000:3b:00.0";
    tree.write("refusals", &format!("{locked}\n{locked}"));
    insta::assert_snapshot!(tree.works("apply --all"), @"
    0000:3b:00.0: set
      done: /usr/lib/nvidia/sriov-manage -e 0000:3b:00.0 (0 of 2 virtual functions are there)
    ");
    assert_eq!(tree.calls().lines().count(), 3);

    tree.pool("cad", B, "");
    tree.write("refusals", "modprobe: FATAL: Module pci-pf-stub not found");
    insta::assert_snapshot!(tree.fails("apply --all"), @"
    0000:5e:00.0: FAILED: sriov-manage -e failed (exit status: 1): modprobe: FATAL: Module pci-pf-stub not found; 'journalctl -k -g NVRM' shows its messages
      not done: /usr/lib/nvidia/sriov-manage -e 0000:5e:00.0 (0 of 2 virtual functions are there)
    ");
    assert_eq!(tree.calls().lines().count(), 1);

    tree.write("refusals", &[locked; 6].join("\n"));
    // Any process may choose this name.
    tree.write("proc/77/comm", "nv\u{1b}[2J\u{9b}1m\n0000");
    fs::create_dir_all(tree.path("proc/77/fd")).unwrap();
    symlink("/dev/nvidiactl", tree.path("proc/77/fd/3")).unwrap();
    // As a service has it on a host with both versions of control groups, and as a login has it.
    tree.write("proc/78/comm", "nv-hostengine\n");
    let service =
        "1:name=systemd:/system.slice/nvidia-dcgm.service\n0::/system.slice/nvidia-dcgm.service\n";
    tree.write("proc/78/cgroup", service);
    fs::create_dir_all(tree.path("proc/78/fd")).unwrap();
    symlink("/dev/nvidia0", tree.path("proc/78/fd/3")).unwrap();
    tree.write(
        "proc/77/cgroup",
        "0::/user.slice/user-0.slice/session-3.scope\n",
    );
    insta::assert_snapshot!(tree.fails("apply --all"), @r"
    0000:5e:00.0: FAILED: sriov-manage -e failed 6 times: Cannot obtain unbindLock for 0000:3b:00.0; stop what has the driver open, then try again: nv\u{1b}[2J\u{9b}1m\n0000 (process 77), nv-hostengine (process 78 of nvidia-dcgm.service)
      not done: /usr/lib/nvidia/sriov-manage -e 0000:5e:00.0 (0 of 2 virtual functions are there)
    ");
    assert_eq!(tree.calls().lines().count(), 6);

    fs::remove_file(tree.path("usr/lib/nvidia/sriov-manage")).unwrap();
    insta::assert_snapshot!(tree.fails("apply --all"), @"
    0000:5e:00.0: FAILED: /usr/lib/nvidia/sriov-manage: No such file or directory (os error 2); it comes with NVIDIA's vGPU driver for KVM: install that one
      not done: /usr/lib/nvidia/sriov-manage -e 0000:5e:00.0 (0 of 2 virtual functions are there)
    ");
}

/// The longest patience is as long as the clock reaches, and nothing panics.
#[test]
fn patience_has_no_greatest_number() {
    let tree = Tree::new();
    tree.pool("cad", A, MIXED);
    let (code, said) = tree.host(&format!("apply --all --wait {}", u64::MAX));
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_silent_failure_of_nvidias_program_is_tried_again() {
    let tree = Tree::new();
    tree.pool("cad", A, "");
    let calls = "sriov-manage -e 0000:3b:00.0\n";
    let again = "sriov-manage -d 0000:3b:00.0\nsriov-manage -e 0000:3b:00.0\n";
    tree.write("silences", "1");
    insta::assert_snapshot!(tree.works("apply --all"), @"
    0000:3b:00.0: set
      done: /usr/lib/nvidia/sriov-manage -e 0000:3b:00.0 (0 of 2 virtual functions are there)
    ");
    assert_eq!(tree.calls(), format!("{calls}{again}"));
    tree.write("silences", "1\n2\n3");
    insta::assert_snapshot!(tree.fails("apply --renew --yes 3b:00.0"), @"
    0000:3b:00.0: FAILED: sriov-manage -e made no virtual functions, nor after 15 s and 30 s more, with -d before it; it says nothing; either this version of NVIDIA's driver makes no vGPUs on this board ('journalctl -k -g NVRM' shows its messages), or SR-IOV, ARI or above-4G decoding is off in the firmware, or the IOMMU in the kernel
      not done: /usr/lib/nvidia/sriov-manage -d 0000:3b:00.0, then -e 0000:3b:00.0 (asked for by --renew)
    ");
    assert_eq!(tree.calls(), format!("{again}{again}{again}"));
}

#[test]
fn functions_without_types_are_waited_for_until_the_deadline() {
    let tree = Tree::new();
    tree.pool("cad", A, MIXED);
    tree.write("no-types", "");
    insta::assert_snapshot!(tree.fails("apply --all --wait 0"), @"
    0000:3b:00.0: FAILED: 2 virtual functions have no vGPU types (0000:3b:00.1 to 0000:3b:00.2) after 0 s; 'systemctl status nvidia-vgpud' shows whether NVIDIA's types were loaded; 'virt-vgpu host apply --renew 0000:3b:00.0' recreates the functions
      done:     /usr/lib/nvidia/sriov-manage -e 0000:3b:00.0 (0 of 2 virtual functions are there)
      not done: wait until its functions have vGPU types (2 virtual functions have no vGPU types (0000:3b:00.1 to 0000:3b:00.2))
    ");
    assert_eq!(tree.calls(), "sriov-manage -e 0000:3b:00.0\n");
    insta::assert_snapshot!(tree.works("show 3b:00.0"), @"
    0000:3b:00.0: pool cad, driver nvidia
      SETTING            WANTED  ACTUAL
      virtual functions  2       2
      heterogeneous      on      off
      scheduler          -       best-effort
      differs: wait until its functions have vGPU types (2 virtual functions have no vGPU types (0000:3b:00.1 to 0000:3b:00.2)): 'virt-vgpu host apply 0000:3b:00.0' does it
      differs: switch heterogeneous mode on (for pool 'cad'; it is off): 'virt-vgpu host apply 0000:3b:00.0' does it
    ");
    // The remedy: nothing of the old functions stays.
    fs::remove_file(tree.path("no-types")).unwrap();
    tree.write("run/virt-vgpu/quarantine/0000:3b:00.1.json", "{}");
    tree.write("run/virt-vgpu/quarantine/0000:5e:00.1.json", "{}");
    assert_eq!(
        tree.fails("apply --renew 3b:00.0"),
        "virt-vgpu: nothing was renewed: there is no terminal to ask on; pass --yes\n"
    );
    insta::assert_snapshot!(tree.works("apply --renew 3b:00.0 --dry-run"), @"
    0000:3b:00.0: would be set
      1. /usr/lib/nvidia/sriov-manage -d 0000:3b:00.0, then -e 0000:3b:00.0 (asked for by --renew)
      2. switch heterogeneous mode on (for pool 'cad'; a GPU begins with one size)
    ");
    assert_eq!(tree.calls(), "");
    insta::assert_snapshot!(tree.works("apply --renew --yes 3b:00.0"), @"
    0000:3b:00.0: set
      done: /usr/lib/nvidia/sriov-manage -d 0000:3b:00.0, then -e 0000:3b:00.0 (asked for by --renew)
      done: switch heterogeneous mode on (for pool 'cad'; it is off)
    ");
    insta::assert_snapshot!(tree.calls(), @r#"
    sriov-manage -d 0000:3b:00.0
    sriov-manage -e 0000:3b:00.0
    {"do":"set-heterogeneous","gpu":"0000:3b:00.0","on":true}
    "#);
    let left = fs::read_dir(tree.path("run/virt-vgpu/quarantine")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["0000:5e:00.1.json"]);
}

#[test]
fn a_gpu_without_a_driver_is_waited_for() {
    let tree = Tree::new();
    tree.pool("cad", A, "");
    fs::remove_file(tree.path(&format!("sys/bus/pci/devices/{A}/driver"))).unwrap();
    insta::assert_snapshot!(tree.works("apply --all --dry-run"), @"
    0000:3b:00.0: would be set
      1. wait until the driver nvidia has bound (no driver is bound)
      2. /usr/lib/nvidia/sriov-manage -e 0000:3b:00.0 (0 of 2 virtual functions are there)
      3. wait until its functions have vGPU types (new functions show their vGPU types a while later)
    ");
    insta::assert_snapshot!(tree.fails("apply --all --wait 0"), @"
    0000:3b:00.0: FAILED: no driver has bound in 0 s; 'modprobe nvidia' loads it, 'journalctl -k -g NVRM' shows its messages
      not done: wait until the driver nvidia has bound (no driver is bound)
    ");
    assert_eq!(tree.calls(), "");
}

#[test]
fn boards_without_sriov_are_ready_when_they_have_types() {
    let tree = Tree::new();
    tree.gpu(A, 0);
    tree.pool("cad", A, MIXED);
    insta::assert_snapshot!(tree.fails("apply --all --wait 0"), @"
    0000:3b:00.0: FAILED: the driver offers no vGPU types after 0 s; 'systemctl status nvidia-vgpud' shows whether NVIDIA's types were loaded; its driver may be one without vGPUs, or not know this kernel
      not done: wait until its functions have vGPU types (the driver offers no vGPU types)
    ");
    tree.write(
        &format!("sys/bus/pci/devices/{A}/mdev_supported_types/nvidia-232/name"),
        "GRID T4-4Q",
    );
    insta::assert_snapshot!(tree.works("apply --all"), @"
    0000:3b:00.0: set
      done: switch heterogeneous mode on (for pool 'cad'; it is off)
    ");
    insta::assert_snapshot!(tree.calls(), @r#"{"do":"set-heterogeneous","gpu":"0000:3b:00.0","on":true}"#);
}

#[test]
fn what_the_card_does_not_take_is_told_before_it_is_tried() {
    let tree = Tree::new();
    tree.pool("cad", A, "");
    tree.works("apply --all");
    tree.calls();
    for (settings, wanted) in [
        (
            "scheduler = { policy = 'equal-share', strict-round-robin = true, frequency = 30 }",
            "frequency = 30 (it takes 63 to 960 Hz)",
        ),
        (
            "scheduler = { policy = 'equal-share', strict-round-robin = false, time-slice-ms = 0.5 }",
            "time-slice-ms = 0.5 (it takes 1 to 30)",
        ),
    ] {
        tree.pool("cad", A, settings);
        let wanted = format!(
            "0000:3b:00.0: FAILED: pool 'cad' wants what the card does not take: {wanted}; change \
             its [scheduler]\n"
        );
        assert_eq!(tree.fails("apply --all"), wanted);
    }
    tree.facts(A, |facts| {
        facts.heterogeneous = Told::Value(Heterogeneous {
            supported: false,
            enabled: false,
        });
        facts.mig = Told::Value(true);
    });
    tree.pool("cad", A, &format!("{MIXED}\n{EQUAL}"));
    insta::assert_snapshot!(tree.fails("apply --all"), @"0000:3b:00.0: FAILED: it cannot mix sizes while MIG mode is on ('nvidia-smi -i 0000:3b:00.0 -mig 0' switches it off); take heterogeneous = true out of pool 'cad'");
    insta::assert_snapshot!(tree.works("show 3b:00.0"), @"
    0000:3b:00.0: pool cad, driver nvidia
      SETTING            WANTED                                   ACTUAL
      virtual functions  2                                        2
      MIG mode           off                                      on
      heterogeneous      on                                       off
      scheduler          equal-share, strict round robin, 480 Hz  best-effort
      differs: it cannot mix sizes while MIG mode is on ('nvidia-smi -i 0000:3b:00.0 -mig 0' switches it off); take heterogeneous = true out of pool 'cad'
      differs: MIG mode is on, and the scheduler that pool 'cad' wants is for whole GPUs; take [scheduler] out of the pool, or switch MIG mode off
    ");
    assert_eq!(tree.calls(), "");
}

const OPTIONS: &str = "etc/modprobe.d/virt-vgpu.conf";

#[test]
fn a_scheduler_that_waits_for_the_driver_is_an_option_of_the_module() {
    let tree = Tree::new();
    tree.pool("cad", A, EQUAL);
    tree.pool("web", B, "scheduler.policy = 'fixed-share'");
    let refused = "nvmlDeviceSetVgpuSchedulerState: Not Supported";
    tree.nvml_refuses("set-scheduler", FailureKind::NotSupported, refused);
    insta::assert_snapshot!(tree.works("apply --all"), @"
    0000:3b:00.0: set
      done: /usr/lib/nvidia/sriov-manage -e 0000:3b:00.0 (0 of 2 virtual functions are there)
      done: write its scheduler into /etc/modprobe.d/virt-vgpu.conf (the driver takes it only when it is loaded)
      note: the scheduler waits in /etc/modprobe.d/virt-vgpu.conf until the driver is loaded again: reboot, after 'update-initramfs -u' where the initramfs has the driver
    0000:5e:00.0: set
      done: /usr/lib/nvidia/sriov-manage -e 0000:5e:00.0 (0 of 2 virtual functions are there)
      done: write its scheduler into /etc/modprobe.d/virt-vgpu.conf (the driver takes it only when it is loaded)
      note: the scheduler waits in /etc/modprobe.d/virt-vgpu.conf until the driver is loaded again: reboot, after 'update-initramfs -u' where the initramfs has the driver
    ");
    insta::assert_snapshot!(tree.read(OPTIONS), @r#"
    # Written by 'virt-vgpu host apply', and only by it: edit pool files instead.
    options nvidia NVreg_RegistryDwordsPerDevice="pci=0000:3b:00.0;RmPVMRL=0x1e0001;pci=0000:5e:00.0;RmPVMRL=0x11"
    "#);
    let modified = || {
        fs::metadata(tree.path(OPTIONS))
            .unwrap()
            .modified()
            .unwrap()
    };
    let first = modified();
    insta::assert_snapshot!(tree.works("apply --all"), @"
    0000:3b:00.0: nothing to do
      note: the scheduler waits in /etc/modprobe.d/virt-vgpu.conf until the driver is loaded again: reboot, after 'update-initramfs -u' where the initramfs has the driver
    0000:5e:00.0: nothing to do
      note: the scheduler waits in /etc/modprobe.d/virt-vgpu.conf until the driver is loaded again: reboot, after 'update-initramfs -u' where the initramfs has the driver
    ");
    assert_eq!(modified(), first);
    insta::assert_snapshot!(tree.works("show 3b:00.0"), @"
    0000:3b:00.0: pool cad, driver nvidia
      SETTING            WANTED                                   ACTUAL
      virtual functions  2                                        2
      heterogeneous      off                                      off
      scheduler          equal-share, strict round robin, 480 Hz  best-effort
      differs: set the scheduler: equal-share, strict round robin, 480 Hz (for pool 'cad'; it is best-effort): it waits in /etc/modprobe.d/virt-vgpu.conf until the driver is loaded again
    ");

    // The option that no pool needs any more goes; that of an absent board stays.
    tree.pool("web", B, "");
    let (board, away) = (
        tree.path(&format!("sys/bus/pci/devices/{A}")),
        tree.path("away"),
    );
    fs::rename(&board, &away).unwrap();
    tree.works(&format!("apply {B}"));
    insta::assert_snapshot!(tree.read(OPTIONS), @r#"
    # Written by 'virt-vgpu host apply', and only by it: edit pool files instead.
    options nvidia NVreg_RegistryDwordsPerDevice="pci=0000:3b:00.0;RmPVMRL=0x1e0001"
    "#);
    fs::rename(&away, &board).unwrap();
    tree.pool("cad", A, "");
    tree.works("apply --all");
    assert!(!tree.path(OPTIONS).exists());
}

#[test]
fn a_module_option_of_somebody_else_stays() {
    let tree = Tree::new();
    tree.write(OPTIONS, "options nvidia NVreg_Foo=1");
    tree.pool("cad", A, "");
    tree.works("apply --all");
    tree.pool("cad", A, EQUAL);
    let refused = "nvmlDeviceSetVgpuSchedulerState: no such function";
    tree.nvml_refuses("set-scheduler", FailureKind::NoSymbol, refused);
    insta::assert_snapshot!(tree.fails("apply --all"), @"0000:3b:00.0: FAILED: /etc/modprobe.d/virt-vgpu.conf is not ours (its first line says whose it is) and was left alone; move it to another name");
    assert_eq!(tree.read(OPTIONS), "options nvidia NVreg_Foo=1\n");
}

#[test]
fn what_nvml_refuses_is_told() {
    let tree = Tree::new();
    tree.pool("cad", A, MIXED);
    let refused = "nvmlDeviceSetVgpuHeterogeneousMode: In Use";
    tree.nvml_refuses("set-heterogeneous", FailureKind::InUse, refused);
    insta::assert_snapshot!(tree.fails("apply --all"), @"
    0000:3b:00.0: REFUSED: in use, says its driver: nvmlDeviceSetVgpuHeterogeneousMode: In Use; 'nvidia-smi vgpu' shows by whom
      done:     /usr/lib/nvidia/sriov-manage -e 0000:3b:00.0 (0 of 2 virtual functions are there)
      not done: switch heterogeneous mode on (for pool 'cad'; it is off)
    ");
    let refused = "nvmlDeviceSetVgpuHeterogeneousMode: GPU is lost";
    tree.nvml_refuses("set-heterogeneous", FailureKind::NoGpu, refused);
    insta::assert_snapshot!(tree.fails("apply --all"), @"
    0000:3b:00.0: FAILED: nvmlDeviceSetVgpuHeterogeneousMode: GPU is lost; 'journalctl -k -g NVRM' shows its messages
      not done: switch heterogeneous mode on (for pool 'cad'; it is off)
    ");
}

#[test]
fn json_says_the_same() {
    let tree = Tree::new();
    tree.pool("cad", A, MIXED);
    insta::assert_snapshot!(tree.works("apply --all --dry-run --json"), @r#"
    {
      "dry_run": true,
      "gpus": [
        {
          "gpu": "0000:3b:00.0",
          "pools": [
            "cad"
          ],
          "result": "would-be-set",
          "steps": [
            {
              "what": "/usr/lib/nvidia/sriov-manage -e 0000:3b:00.0",
              "why": "0 of 2 virtual functions are there",
              "done": false
            },
            {
              "what": "wait until its functions have vGPU types",
              "why": "new functions show their vGPU types a while later",
              "done": false
            },
            {
              "what": "switch heterogeneous mode on",
              "why": "for pool 'cad'; a GPU begins with one size",
              "done": false
            }
          ],
          "notes": []
        }
      ],
      "problems": []
    }
    "#);
    insta::assert_snapshot!(tree.works("show 3b:00.0 --json"), @r#"
    {
      "gpus": [
        {
          "gpu": "0000:3b:00.0",
          "pools": [
            "cad"
          ],
          "driver": "nvidia",
          "virtual_functions": {
            "wanted": 2,
            "actual": 0
          },
          "mig": {
            "wanted": false,
            "actual": null
          },
          "heterogeneous": {
            "wanted": true,
            "actual": null
          },
          "scheduler": {
            "wanted": null,
            "actual": null
          },
          "vgpus": [],
          "differences": [
            "/usr/lib/nvidia/sriov-manage -e 0000:3b:00.0 (0 of 2 virtual functions are there): 'virt-vgpu host apply 0000:3b:00.0' does it",
            "wait until its functions have vGPU types (new functions show their vGPU types a while later): 'virt-vgpu host apply 0000:3b:00.0' does it",
            "switch heterogeneous mode on (for pool 'cad'; a GPU begins with one size): 'virt-vgpu host apply 0000:3b:00.0' does it"
          ]
        }
      ],
      "problems": []
    }
    "#);
}

#[test]
fn a_pool_that_cannot_be_used_is_a_problem() {
    let tree = Tree::new();
    tree.write("etc/virt-vgpu/pools.d/bad.toml", "kind = 'nvidia-vgpu'");
    tree.pool("cad", A, "");
    let said = tree.fails("apply --all --dry-run");
    let said = said.replace(&tree.0.path().display().to_string(), "");
    insta::assert_snapshot!(said, @"
    0000:3b:00.0: would be set
      1. /usr/lib/nvidia/sriov-manage -e 0000:3b:00.0 (0 of 2 virtual functions are there)
      2. wait until its functions have vGPU types (new functions show their vGPU types a while later)
    problem: /etc/virt-vgpu/pools.d/bad.toml:1: key 'profile': is missing: kind 'nvidia-vgpu' wants a profile (as in L40S-12Q)
    ");
}

#[test]
fn what_apply_could_only_wait_for_is_not_proposed() {
    let tree = Tree::new();
    tree.gpu(A, 0);
    tree.pool("cad", A, "");
    insta::assert_snapshot!(tree.works("show 3b:00.0"), @"
    0000:3b:00.0: pool cad, driver nvidia
      SETTING            WANTED  ACTUAL
      virtual functions  0       0
      heterogeneous      off     off
      scheduler          -       best-effort
      differs: wait until its functions have vGPU types (the driver offers no vGPU types): its driver may be one without vGPUs, or not know this kernel; 'systemctl status nvidia-vgpud' shows whether NVIDIA's types were loaded
    ");
    fs::remove_file(tree.path(&format!("sys/bus/pci/devices/{A}/driver"))).unwrap();
    let shown = tree.works("show 3b:00.0");
    let wanted = "  differs: wait until the driver nvidia has bound (no driver is bound): 'modprobe nvidia' \
                  loads it, 'journalctl -k -g NVRM' shows its messages\n";
    assert!(shown.contains(wanted), "{shown}");
    assert!(
        shown.contains("vGPU types): they come with its driver\n"),
        "{shown}"
    );
    assert!(!shown.contains("host apply"), "{shown}");
}
