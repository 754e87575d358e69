//! virt-vgpu-nvml as a process, with the lab's library and GPUs of several kinds: its
//! answers are those of the boards' tables, its settings take effect, and it handles
//! every fault of the library or driver.

use std::{process::Command, time::Duration};

use lab_nvidia::{
    boards::{self, VgpuType},
    model::{Attribute, Parent, VgpuHandle, Vm},
};
use virt_vgpu::{
    apply::Acts,
    device::nvml::{
        Answer, Failure, FailureKind, GpuFacts, Heterogeneous, Nvml, Placements, Question,
        Scheduler, SchedulerLimits, SchedulerPolicy, Told, TypeFacts, VgpuFacts,
    },
    host::{Deadline, Host, NvmlChild},
    model::{PciAddress, VgpuTypeId},
};

use crate::support::nvml_driver::{ADDRESSES, Driver, PROGRAM};

mod guests;
mod instance_settings;
mod mig;

const MODELS: [&str; 4] = ["l40s", "a100-40", "t4", "rtx-pro-6000"];

const VM: &str = "a0ad5ef2-15f0-4a8b-8d2b-4a1f3a1b9d10";
const MDEV: &str = "5c2e92c2-33a4-4f6c-9be6-4d7b7e3c9b11";

const BEST_EFFORT: Scheduler = Scheduler {
    policy: SchedulerPolicy::BestEffort,
    strict_round_robin: None,
    averaging_factor: None,
    frequency: None,
    time_slice_ns: None,
};

const STRICT: Scheduler = Scheduler {
    policy: SchedulerPolicy::EqualShare,
    strict_round_robin: Some(true),
    averaging_factor: Some(33),
    frequency: Some(480),
    time_slice_ns: None,
};

const SLICES: Scheduler = Scheduler {
    policy: SchedulerPolicy::FixedShare,
    strict_round_robin: Some(false),
    averaging_factor: None,
    frequency: None,
    time_slice_ns: Some(2_000_000),
};

/// The address of the driver's GPU with this number.
fn gpu(number: usize) -> PciAddress {
    ADDRESSES[number].parse().unwrap()
}

fn all(driver: &Driver) -> Vec<GpuFacts> {
    match driver.ask(&Question::Gpus) {
        Answer::Gpus(gpus) => gpus,
        other => panic!("{other:?}"),
    }
}

fn one(driver: &Driver) -> GpuFacts {
    match driver.ask(&Question::Gpu { gpu: gpu(0) }) {
        Answer::Gpus(gpus) if gpus.len() == 1 => gpus.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn set_heterogeneous(driver: &Driver, on: bool) -> Answer {
    driver.ask(&Question::SetHeterogeneous { gpu: gpu(0), on })
}

fn set_scheduler(driver: &Driver, scheduler: Scheduler) -> Answer {
    let gpu = gpu(0);
    driver.ask(&Question::SetScheduler { gpu, scheduler })
}

fn failure(kind: FailureKind, message: &str) -> Failure {
    let message = message.to_owned();
    Failure { kind, message }
}

fn failed(kind: FailureKind, message: &str) -> Answer {
    Answer::Failed(failure(kind, message))
}

/// A VM opens a vGPU of a type on the VF with this number of the first GPU.
fn open_on_vf(driver: &Driver, vf: u32, type_id: u32) {
    let gpu = &mut driver.twins().gpus[0];
    let vgpu_handle = VgpuHandle::Vf(vf);
    gpu.write(
        &vgpu_handle,
        Attribute::CurrentVgpuType,
        &type_id.to_string(),
    )
    .unwrap();
    gpu.open(&vgpu_handle, vm()).unwrap();
}

fn vm() -> Vm {
    Vm {
        pid: 4711,
        uuid: Some(VM.to_owned()),
        name: Some("ws1".to_owned()),
    }
}

#[test]
fn gpus_are_what_their_tables_say() {
    let driver = Driver::with(&MODELS);
    let found = all(&driver);
    let addresses: Vec<String> = found.iter().map(|gpu| gpu.address.to_string()).collect();
    assert_eq!(addresses, ADDRESSES);
    for (model, facts) in MODELS.iter().zip(found) {
        let board = boards::find(model).unwrap();
        assert_eq!(facts.name, Told::Value(board.name.clone()));
        let uuid = facts.uuid.value().unwrap();
        assert!(uuid.starts_with("GPU-") && uuid.len() == 40, "{uuid}");
        assert_eq!(facts.memory_mib, Told::Value(board.memory_mib.into()));
        assert_eq!(facts.hosts_vgpus, Told::Value(true));
        let no_mig = format!(
            "cannot read the MIG mode of {}: Not Supported",
            facts.address
        );
        assert_eq!(
            facts.mig,
            if board.features.mig {
                Told::Value(false)
            } else {
                Told::Unavailable(failure(FailureKind::NotSupported, &no_mig))
            }
        );
        assert_eq!(
            facts.heterogeneous,
            Told::Value(Heterogeneous {
                supported: board.features.hetero,
                enabled: false,
            })
        );
        assert_eq!(facts.heterogeneous_multi_vgpu, Told::Value(true));
        assert_eq!(facts.scheduler, Told::Value(BEST_EFFORT));
        assert_eq!(facts.vgpus, Told::Value(Vec::new()));
        let mut types: Vec<TypeFacts> =
            board.types.iter().map(|kind| wanted(board, kind)).collect();
        types.sort_by_key(|kind| kind.id);
        assert_eq!(facts.types, Told::Value(types), "{model}");
    }
}

/// The facts about a type on an empty GPU, with MIG mode and heterogeneous mode off.
fn wanted(board: &boards::Board, kind: &VgpuType) -> TypeFacts {
    let time_sliced = kind.gi_profile.is_none();
    let placements = (board.features.hetero && time_sliced).then(|| Placements {
        size: kind.slots,
        supported: board.mixed[&kind.slots].clone(),
        creatable: Vec::new(),
    });
    TypeFacts {
        id: VgpuTypeId::new(kind.id).unwrap(),
        name: kind.name.clone(),
        framebuffer_mib: kind.framebuffer_mib.into(),
        heads: Some(kind.heads),
        max_resolution: Some(kind.resolution),
        frame_rate_limit: Some(kind.frame_rate_limit),
        max_instances: kind.max_instances,
        max_per_vm: Some(if matches!(kind.series(), 'Q' | 'C') {
            16
        } else {
            1
        }),
        gpu_instance_profile: kind.gi_profile,
        most_per_instance: kind.max_per_gi,
        creatable: time_sliced,
        placements,
        instance_placements: Vec::new(),
    }
}

#[test]
fn schedulers_have_their_cards_limits() {
    let driver = Driver::with(&["l40s", "t4"]);
    let policies = vec![
        SchedulerPolicy::BestEffort,
        SchedulerPolicy::EqualShare,
        SchedulerPolicy::FixedShare,
    ];
    let strict = SchedulerLimits {
        policies,
        strict_round_robin: true,
        time_slice_ns: (1_000_000, 30_000_000),
        frequency: (63, 960),
        averaging_factor: (1, 60),
    };
    let without = SchedulerLimits {
        strict_round_robin: false,
        frequency: (0, 0),
        averaging_factor: (0, 0),
        ..strict.clone()
    };
    let limits = all(&driver).into_iter().map(|gpu| gpu.scheduler_limits);
    let limits: Vec<_> = limits.collect();
    assert_eq!(limits, [Told::Value(strict), Told::Value(without)]);
}

#[test]
fn vgpus_are_those_that_vms_have_open() {
    let driver = Driver::with(&["l40s"]);
    driver.twins().gpus[0].set_hetero(true).unwrap();
    open_on_vf(&driver, 4, 1155);
    // It was made, but not opened.
    driver.twins().gpus[0]
        .write(&VgpuHandle::Vf(5), Attribute::CurrentVgpuType, "1153")
        .unwrap();
    let on_function = VgpuFacts {
        type_id: VgpuTypeId::new(1155).unwrap(),
        vm: Some(VM.parse().unwrap()),
        mdev: None,
        placement: Some(0),
    };
    assert_eq!(one(&driver).vgpus, Told::Value(vec![on_function]));
}

#[test]
fn vgpus_of_a_gpu_without_functions_are_mdevs() {
    let driver = Driver::with(&["t4"]);
    {
        let t4 = &mut driver.twins().gpus[0];
        t4.mdev_create(Parent::Pf, 232, MDEV).unwrap();
        t4.open(&VgpuHandle::Mdev(MDEV.to_owned()), vm()).unwrap();
    }
    let on_gpu = VgpuFacts {
        type_id: VgpuTypeId::new(232).unwrap(),
        vm: Some(VM.parse().unwrap()),
        mdev: Some(MDEV.parse().unwrap()),
        placement: None,
    };
    assert_eq!(one(&driver).vgpus, Told::Value(vec![on_gpu]));
}

#[test]
fn with_mixed_sizes_the_free_places_are_told() {
    let driver = Driver::with(&["l40s"]);
    driver.twins().gpus[0].set_hetero(true).unwrap();
    open_on_vf(&driver, 0, 1155);
    for kind in one(&driver).types.value().unwrap() {
        let free = driver.twins().gpus[0].placements(kind.id.to_string().parse().unwrap());
        let free = free.unwrap();
        assert_eq!(kind.creatable, !free.is_empty(), "{}", kind.name);
        assert_eq!(
            kind.placements.as_ref().unwrap().creatable,
            free,
            "{}",
            kind.name
        );
    }
}

#[test]
fn with_mig_mode_types_of_the_whole_gpu_cannot_be_made() {
    let driver = Driver::with(&["rtx-pro-6000"]);
    {
        let gpu = &mut driver.twins().gpus[0];
        assert_eq!(gpu.set_mig(true), Ok(true));
        gpu.gi_create(47, None).unwrap();
    }
    let facts = one(&driver);
    assert_eq!(facts.mig, Told::Value(true));
    let off = Heterogeneous {
        supported: true,
        enabled: false,
    };
    assert_eq!(facts.heterogeneous, Told::Value(off));
    for kind in facts.types.value().unwrap() {
        let fits = kind.gpu_instance_profile == Some(47);
        assert_eq!(kind.creatable, fits, "{}", kind.name);
    }
    let message = "cannot read the scheduler of 0000:3b:00.0: Not Supported";
    assert_eq!(
        facts.scheduler,
        Told::Unavailable(failure(FailureKind::NotSupported, message))
    );
}

#[test]
fn heterogeneous_mode_is_set_and_read_back() {
    let driver = Driver::with(&["l40s"]);
    for on in [true, false] {
        assert_eq!(set_heterogeneous(&driver, on), Answer::Done);
        let mode = Heterogeneous {
            supported: true,
            enabled: on,
        };
        assert_eq!(one(&driver).heterogeneous, Told::Value(mode));
    }
}

#[test]
fn heterogeneous_mode_is_refused_for_what_it_is() {
    let driver = Driver::with(&["l40s"]);
    driver.twins().refuses_changes = true;
    assert_eq!(
        set_heterogeneous(&driver, true),
        failed(
            FailureKind::NoPermission,
            "cannot switch the heterogeneous mode of 0000:3b:00.0 on: Insufficient Permissions"
        )
    );
    driver.twins().refuses_changes = false;
    driver.twins().only_claims = true;
    assert_eq!(
        set_heterogeneous(&driver, true),
        failed(
            FailureKind::Other,
            "cannot switch the heterogeneous mode of 0000:3b:00.0 on: the driver says that it is \
             done, but the mode has not changed"
        )
    );
    driver.twins().only_claims = false;
    open_on_vf(&driver, 0, 1155);
    assert_eq!(
        set_heterogeneous(&driver, true),
        failed(
            FailureKind::InUse,
            "cannot switch the heterogeneous mode of 0000:3b:00.0 on: In use by another client"
        )
    );
    // There is nothing to do, so nothing conflicts.
    assert_eq!(set_heterogeneous(&driver, false), Answer::Done);
    assert_eq!(
        set_heterogeneous(&Driver::with(&["t4"]), true),
        failed(
            FailureKind::NotSupported,
            "cannot switch the heterogeneous mode of 0000:3b:00.0 on: Not Supported"
        )
    );
}

#[test]
fn schedulers_are_set_and_read_back() {
    let driver = Driver::with(&["l40s"]);
    for scheduler in [STRICT, SLICES, BEST_EFFORT] {
        assert_eq!(set_scheduler(&driver, scheduler), Answer::Done);
        assert_eq!(one(&driver).scheduler, Told::Value(scheduler));
    }
    let on_its_own = Scheduler {
        policy: SchedulerPolicy::EqualShare,
        ..BEST_EFFORT
    };
    assert_eq!(set_scheduler(&driver, on_its_own), Answer::Done);
    assert_eq!(one(&driver).scheduler, Told::Value(on_its_own));
}

#[test]
fn schedulers_are_refused_for_what_they_are() {
    let cannot = |kind, why: &str| {
        failed(
            kind,
            &format!("cannot set the scheduler of 0000:3b:00.0: {why}"),
        )
    };
    let driver = Driver::with(&["l40s"]);
    let fast = Scheduler {
        frequency: Some(961),
        ..STRICT
    };
    assert_eq!(
        set_scheduler(&driver, fast),
        cannot(
            FailureKind::Invalid,
            "frequency 961 Hz, but the card accepts 63 to 960"
        )
    );
    driver.twins().only_claims = true;
    assert_eq!(
        set_scheduler(&driver, STRICT),
        cannot(
            FailureKind::Other,
            "set to equal-share, with strict round robin, averaging factor 33, 480 Hz, but the \
             driver reports best-effort"
        )
    );
    driver.twins().only_claims = false;
    driver.twins().refuses_changes = true;
    assert_eq!(
        set_scheduler(&driver, STRICT),
        cannot(FailureKind::NoPermission, "Insufficient Permissions")
    );
    driver.twins().refuses_changes = false;
    driver.twins().gpus[0].set_hetero(true).unwrap();
    assert_eq!(
        set_scheduler(&driver, SLICES),
        cannot(
            FailureKind::Invalid,
            "fixed share does not work in heterogeneous mode"
        )
    );
    assert_eq!(set_scheduler(&driver, STRICT), Answer::Done);
    // It was made, but not opened: NVML does not list it.
    driver.twins().gpus[0]
        .write(&VgpuHandle::Vf(0), Attribute::CurrentVgpuType, "1155")
        .unwrap();
    assert_eq!(
        set_scheduler(&driver, BEST_EFFORT),
        cannot(FailureKind::InUse, "there are vGPUs on it")
    );
    // It is already in place.
    assert_eq!(set_scheduler(&driver, STRICT), Answer::Done);

    let mig = Driver::with(&["h100"]);
    mig.twins().gpus[0].set_mig(true).unwrap();
    assert_eq!(
        set_scheduler(&mig, SLICES),
        cannot(FailureKind::NotSupported, "Not Supported")
    );
    assert_eq!(
        set_scheduler(&Driver::with(&["t4"]), STRICT),
        cannot(FailureKind::Invalid, "the card has no strict round robin")
    );
}

#[test]
fn without_the_first_scheduler_interface_the_second_does() {
    let first = [
        "nvmlDeviceGetVgpuSchedulerState",
        "nvmlDeviceSetVgpuSchedulerState",
    ];
    let driver = Driver::with(&["l40s"]).without(&first);
    assert_eq!(set_scheduler(&driver, STRICT), Answer::Done);
    assert_eq!(one(&driver).scheduler, Told::Value(STRICT));
    assert_eq!(
        set_scheduler(&driver, SLICES),
        failed(
            FailureKind::NotSupported,
            "cannot set the scheduler of 0000:3b:00.0: this driver no longer has time slices"
        )
    );
    let second = ["nvmlDeviceSetVgpuSchedulerState_v2", first[1]];
    let neither = Driver::with(&["l40s"]).without(&second);
    let Answer::Failed(failure) = set_scheduler(&neither, STRICT) else {
        panic!("there is no way to set it");
    };
    assert_eq!(failure.kind, FailureKind::NoSymbol);
    let what = "cannot set the scheduler of 0000:3b:00.0: libnvidia-ml.so.1 lacks it: ";
    assert!(failure.message.starts_with(what), "{}", failure.message);
    let symbol = "undefined symbol: nvmlDeviceSetVgpuSchedulerState_v2";
    assert!(failure.message.ends_with(symbol), "{}", failure.message);
}

/// Each missing function affects only what needs it; that includes nvmlShutdown.
#[test]
fn what_a_library_lacks_is_all_that_is_missing() {
    let whole = one(&Driver::with(&["l40s"]));
    let lacking = Driver::with(&["l40s"]).without(&[
        "nvmlShutdown",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetVgpuHeterogeneousMode",
        "nvmlDeviceGetVgpuSchedulerCapabilities",
        "nvmlVgpuTypeGetFrameRateLimit",
        "nvmlDeviceGetActiveVgpus",
    ]);
    let found = one(&lacking);
    let kind = |told: Option<&Failure>| told.map(|failure| failure.kind);
    let no_symbol = Some(FailureKind::NoSymbol);
    assert_eq!(kind(why(&found.heterogeneous)), no_symbol);
    assert_eq!(kind(why(&found.scheduler_limits)), no_symbol);
    assert_eq!(kind(why(&found.vgpus)), no_symbol);
    let mut types = whole.types.value().unwrap().clone();
    for kind in &mut types {
        kind.frame_rate_limit = None;
        kind.placements = None;
    }
    assert_eq!(
        found,
        GpuFacts {
            heterogeneous: found.heterogeneous.clone(),
            scheduler_limits: found.scheduler_limits.clone(),
            vgpus: found.vgpus.clone(),
            types: Told::Value(types),
            ..whole
        }
    );
}

fn why<T>(told: &Told<T>) -> Option<&Failure> {
    match told {
        Told::Value(_) => None,
        Told::Unavailable(failure) => Some(failure),
    }
}

#[test]
fn a_gpu_that_is_lost_or_unknown() {
    let driver = Driver::with(&["l40s", "t4"]);
    driver.twins().lost = Some(ADDRESSES[0]);
    let found: Vec<_> = all(&driver).into_iter().map(|gpu| gpu.address).collect();
    assert_eq!(found, [gpu(1)]);
    assert_eq!(
        driver.ask(&Question::Gpu { gpu: gpu(0) }),
        failed(
            FailureKind::NoGpu,
            "cannot open GPU 0000:3b:00.0: GPU is lost"
        )
    );
    assert_eq!(
        driver.ask(&Question::Gpu { gpu: gpu(3) }),
        failed(
            FailureKind::NoGpu,
            "cannot open GPU 0000:af:00.0: Not Found"
        )
    );
    driver.twins().gpus.truncate(1);
    assert_eq!(
        driver.ask(&Question::Gpus),
        failed(FailureKind::NoGpu, "cannot open GPU number 0: GPU is lost")
    );
    driver.twins().gpus.clear();
    assert_eq!(driver.ask(&Question::Gpus), Answer::Gpus(Vec::new()));
}

/// The answer as the product's other programs read it.
#[test]
fn answers_are_a_line_of_json() {
    let driver = Driver::with(&["t4"]);
    let output =
        driver.run("{\"do\":\"set-heterogeneous\",\"gpu\":\"00000000:3B:00.0\",\"on\":true}\n");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "{\"failed\":{\"kind\":\"not-supported\",\"message\":\"cannot switch the heterogeneous \
         mode of 0000:3b:00.0 on: Not Supported\"}}\n"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_is_no_question_is_not_answered() {
    let driver = Driver::with(&["t4"]);
    for (question, why) in [
        ("", "there is no question"),
        (
            r#"{"do":"reset"}"#,
            "not a question: unknown variant `reset`, expected one of `gpus`, `gpu`, `guests`, \
             `set-heterogeneous`, `set-scheduler`, `set-instance-heterogeneous`, \
             `set-instance-scheduler`, `set-mig`, `create-instance`, `destroy-instance` at line 1 \
             column 13",
        ),
        (
            r#"{"do":"gpus"} {"do":"gpus"} {"do":"gpus"}"#,
            "there are more than two questions",
        ),
        (
            r#"{"do":"gpu","gpu":"eth0"}"#,
            "not a question: 'eth0' is not a PCI address (dddd:bb:ss.f, as in 0000:3b:00.0)",
        ),
    ] {
        let output = driver.run(question);
        assert_eq!(output.status.code(), Some(2), "{question}");
        assert_eq!(output.stdout, b"", "{question}");
        let line =
            format!("virt-vgpu-nvml: {why}; programs ask this one, people use 'virt-vgpu'\n");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), line);
    }
    let output = Command::new(PROGRAM).arg("gpus").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "virt-vgpu-nvml: it takes no arguments; programs ask this one, people use 'virt-vgpu'\n"
    );
}

#[test]
fn help_says_who_asks() {
    let shown = |argument| {
        let output = Command::new(PROGRAM).arg(argument).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    let version = concat!("virt-vgpu-nvml ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(shown("--version"), version);
    let help = shown("--help");
    assert!(
        help.starts_with(version) && help.contains("People use virt-vgpu."),
        "{help}"
    );
    assert!(help.lines().all(|line| line.len() <= 80), "{help}");
}

#[test]
fn without_a_library_or_a_driver_it_says_so() {
    let driver = Driver::with(&[]);
    driver.install_library(b"");
    let answer = driver.ask(&Question::Gpus);
    let Answer::Failed(failure) = &answer else {
        panic!("{answer:?}");
    };
    assert_eq!(failure.kind, FailureKind::NoLibrary);
    let what = "cannot start libnvidia-ml.so.1: a libloading error occurred: ";
    assert!(failure.message.starts_with(what), "{}", failure.message);

    let driver = Driver::with(&["t4"]);
    driver.unload_module();
    assert_eq!(
        driver.ask(&Question::Gpus),
        failed(
            FailureKind::NoLibrary,
            "cannot start libnvidia-ml.so.1: NVIDIA driver is not loaded"
        )
    );
}

/// The result of NvmlChild if the child does not answer correctly.
fn not_answered(script: &str) -> Failure {
    let driver = Driver::with(&[]);
    let host = driver.host_with(script);
    let child = NvmlChild::new(&host, Deadline::after(Duration::from_secs(60)));
    child.gpus().unwrap_err()
}

fn cannot_ask(kind: FailureKind, why: &str) -> Failure {
    let message = format!("cannot ask NVML through /usr/sbin/virt-vgpu-nvml: {why}");
    failure(kind, &message)
}

#[test]
fn the_child_answers_its_parent() {
    let driver = Driver::with(&["l40s", "t4"]);
    let host = driver.host();
    let child = NvmlChild::new(&host, Deadline::after(Duration::from_secs(60)));
    assert_eq!(child.gpus(), Ok(all(&driver)));
    assert_eq!(child.gpu(gpu(0)), Ok(one(&driver)));
    let on = mixed_sizes(1, true);
    assert_eq!(
        child.change(&on, None),
        Err(match driver.ask(&on) {
            Answer::Failed(failure) => failure,
            other => panic!("{other:?}"),
        })
    );
    assert_eq!(host.change_gpu(&mixed_sizes(0, true), None), Ok(()));
    assert!(is_mixing(&driver));
}

fn mixed_sizes(number: usize, on: bool) -> Question {
    let gpu = gpu(number);
    Question::SetHeterogeneous { gpu, on }
}

fn is_mixing(driver: &Driver) -> bool {
    one(driver).heterogeneous.value().unwrap().enabled
}

/// Who has given up has told that nothing was changed.
#[test]
fn a_change_whose_answer_nobody_hears_is_taken_back() {
    let driver = Driver::with(&["l40s"]);
    let (on, off) = (mixed_sizes(0, true), mixed_sizes(0, false));
    assert_eq!(driver.run_unheard(&[&on, &off]).code(), Some(1));
    assert!(!is_mixing(&driver));
    // Where nobody knows how it was, it stays.
    assert_eq!(driver.run_unheard(&[&on]).code(), Some(1));
    assert!(is_mixing(&driver));
}

/// The parent goes on. When the driver answers in the end, the child takes its change back
/// and is gone.
#[test]
fn a_change_that_comes_too_late_is_taken_back() {
    let driver = Driver::with(&["l40s"]);
    let host = driver.host();
    let hanging = driver.hang();
    let child = NvmlChild::new(&host, Deadline::after(Duration::from_secs(5)));
    let (on, off) = (mixed_sizes(0, true), mixed_sizes(0, false));
    assert_eq!(
        child.change(&on, Some(&off)),
        Err(cannot_ask(
            FailureKind::Other,
            "no answer from the driver in time"
        ))
    );
    drop(hanging);
    let changed = driver.closed.recv().unwrap();
    assert!(changed > 1, "{changed}");
    let taken_back = driver.closed.recv().unwrap();
    assert!(taken_back > 1, "{taken_back}");
    assert!(!is_mixing(&driver));
}

/// The parent goes on, and the child is killed: it never reaches its second command.
#[test]
fn a_driver_that_hangs_is_left_to_itself() {
    let driver = Driver::with(&["l40s"]);
    let host = driver.host();
    let hanging = driver.hang();
    let child = NvmlChild::new(&host, Deadline::after(Duration::from_secs(5)));
    assert_eq!(
        child.gpus(),
        Err(cannot_ask(
            FailureKind::Other,
            "no answer from the driver in time"
        ))
    );
    drop(hanging);
    assert_eq!(driver.closed.recv(), Ok(1));
}

#[test]
fn a_child_that_crashes_or_babbles_takes_nobody_with_it() {
    assert_eq!(
        not_answered("kill -SEGV $$"),
        cannot_ask(FailureKind::Other, "it died without an answer")
    );
    assert_eq!(
        not_answered("cat > /dev/null; echo NVRM"),
        cannot_ask(
            FailureKind::Other,
            "its answer: expected value at line 1 column 1"
        )
    );
}

#[test]
fn without_the_program_there_is_no_library() {
    let nowhere = tempfile::tempdir().unwrap();
    let host = Host::new(nowhere.path());
    let child = NvmlChild::new(&host, Deadline::after(Duration::from_secs(60)));
    assert_eq!(
        child.gpus(),
        Err(cannot_ask(
            FailureKind::NoLibrary,
            "No such file or directory (os error 2)"
        ))
    );
}
