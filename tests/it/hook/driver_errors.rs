//! NVIDIA's driver refuses a write while a vGPU is made, once or always, with each of
//! its errnos: another function serves, or the start is refused in one line, and
//! nothing of the attempt is left.

use std::fmt::Write as _;

use lab_nvidia::model::Framework;
use nix::errno::Errno;
use virt_vgpu::claims::State;

use crate::support::{
    domain::Domain,
    kernel::{Fault, Target},
    machine::{Gpu, Machine},
    process::Outcome,
    refused::on_host,
    scene::Scene,
    side_by_side::{each, map},
};

const FIRST: &str = "0000:41:00.4";
const FOREIGN: &str = "0000:41:00.5";
const ERRNOS: [Errno; 4] = [Errno::EIO, Errno::EPERM, Errno::EBUSY, Errno::ENODEV];

/// Two L40S with mixed sizes; the first holds a foreign vGPU.
fn scene(framework: Framework) -> Scene {
    let gpu = |address| {
        Gpu::new("l40s", framework, address)
            .functions(3)
            .heterogeneous()
    };
    let machine = Machine::of_gpus([gpu("0000:41:00.0"), gpu("0000:61:00.0")]);
    let scene = Scene::new(match framework {
        Framework::VendorVfio => machine.with_vgpu(FOREIGN, "L40S-24Q"),
        _ => machine.with_mdev(
            "f0e1c000-0000-4000-8000-000000000001",
            FOREIGN,
            "nvidia-1155",
        ),
    });
    let keys = "heterogeneous = true\n[defaults]\nframe-rate-limit = 0";
    scene.vgpu_pool_with("cad", "L40S-12Q", keys);
    scene
}

fn domain(framework: Framework) -> Domain {
    match framework {
        Framework::VendorVfio => Domain::new(1).function("gpu0", "cad", FIRST),
        _ => Domain::with_one(1, "cad"),
    }
}

/// The place of our one vGPU, with its parameters.
fn made(scene: &Scene) -> String {
    let ours = scene.ours();
    let mut mdevs = scene.kernel.mdevs();
    mdevs.retain(|uuid, _| ours.contains(uuid));
    let mdevs = mdevs
        .into_values()
        .map(|mdev| format!("{} {}", mdev.parent, mdev.parameters));
    let functions = scene
        .our_vgpus()
        .into_iter()
        .map(|(at, vgpu)| format!("{at} {}", vgpu.parameters));
    let all: Vec<String> = mdevs.chain(functions).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

/// The result in one line. Checks that nothing else is left.
fn outcome_in_words(scene: &Scene, domain: &Domain, outcome: &Outcome) -> String {
    if !outcome.succeeded() {
        let line = on_host(scene, outcome.refusal());
        scene.is_empty();
        return line;
    }
    assert_eq!(outcome.stderr, "");
    scene.is_settled();
    let made = made(scene);
    scene.stop(domain);
    scene.is_empty();
    made
}

/// The result of each errno at each write: errnos with the same result share a line, in
/// which ERRNO replaces the errno's text.
fn answers(framework: Framework, targets: &[Target], operation: &str) -> String {
    let mut cases = Vec::new();
    for &target in targets {
        for (times, word) in [(1, "once"), (usize::MAX, "always")] {
            cases.extend(ERRNOS.map(|errno| (target, errno, times, word)));
        }
    }
    let name = |(target, errno, _, word): &(Target, Errno, usize, &str)| {
        format!("{target:?}, {errno:?} {word}")
    };
    let answers = map(&cases, name, |&(target, errno, times, _)| {
        answer(
            framework,
            operation,
            errno,
            Fault::errno(target, errno).times(times),
        )
    });
    let mut text = String::new();
    for &target in targets {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for ((_, errno, _, word), words) in cases
            .iter()
            .zip(&answers)
            .filter(|(case, _)| case.0 == target)
        {
            let what = format!("{errno:?} {word}");
            match groups.iter_mut().find(|(known, _)| known == words) {
                Some((_, group)) => group.push(what),
                None => groups.push((words.clone(), vec![what])),
            }
        }
        for (words, group) in groups {
            writeln!(text, "{target:?}, {}:\n  {words}", group.join(", ")).unwrap();
        }
    }
    text
}

/// The result of a start with that fault; checks that the next start works without it.
fn answer(framework: Framework, operation: &str, errno: Errno, fault: Fault) -> String {
    let (scene, domain) = (scene(framework), domain(framework));
    scene.kernel.inject(fault);
    let outcome = scene.hook(&domain, operation).run();
    let answer = outcome_in_words(&scene, &domain, &outcome)
        .replace(&domain.mdevs()[0], "UUID")
        .replace(&std::io::Error::from(errno).to_string(), "ERRNO");
    // The driver works again.
    scene.kernel.heal();
    let outcome = scene.hook(&domain, operation).run();
    let words = outcome_in_words(&scene, &domain, &outcome);
    assert_eq!(words, format!("{FIRST} frame_rate_limiter=0"));
    answer
}

const OF_FUNCTIONS: [Target; 3] = [Target::SetType, Target::Placement, Target::Parameters];
const OF_MDEVS: [Target; 3] = [Target::Create, Target::Placement, Target::Parameters];

#[test]
fn the_function_that_the_xml_names_is_refused() {
    let answers = answers(Framework::VendorVfio, &OF_FUNCTIONS, "prepare begin -");
    insta::assert_snapshot!(answers, @r"
    SetType, EIO once, EPERM once, EBUSY once, ENODEV once, EIO always, EPERM always, EBUSY always, ENODEV always:
      pool 'cad' has no free L40S-12Q for domain 'vm1': its XML names 0000:41:00.4: current_vgpu_type failed: ERRNO; 'virt-vgpu start vm1' looks for another
    Placement, EIO once, EBUSY once, ENODEV once, EIO always, EBUSY always, ENODEV always:
      pool 'cad' has no free L40S-12Q for domain 'vm1': its XML names 0000:41:00.4: placement_id failed: ERRNO; 'virt-vgpu start vm1' looks for another
    Placement, EPERM once, EPERM always:
      cannot make device 'gpu0' of domain 'vm1': /sys/bus/pci/devices/0000:41:00.4/nvidia/placement_id: ERRNO
    Parameters, EIO once, EBUSY once, ENODEV once, EIO always, EBUSY always, ENODEV always:
      pool 'cad' has no free L40S-12Q for domain 'vm1': its XML names 0000:41:00.4: vgpu_params failed: ERRNO; 'virt-vgpu start vm1' looks for another
    Parameters, EPERM once, EPERM always:
      cannot make device 'gpu0' of domain 'vm1': /sys/bus/pci/devices/0000:41:00.4/nvidia/vgpu_params: ERRNO
    ");
}

#[test]
fn a_domain_that_comes_from_elsewhere_gets_another_function() {
    let answers = answers(Framework::VendorVfio, &OF_FUNCTIONS, "migrate begin -");
    insta::assert_snapshot!(answers, @r"
    SetType, EIO once, EPERM once, EBUSY once, ENODEV once:
      0000:41:00.6 frame_rate_limiter=0
    SetType, EIO always, EPERM always, EBUSY always, ENODEV always:
      pool 'cad' has no free L40S-12Q for domain 'vm1': 0000:41:00.4, 0000:41:00.6, 0000:61:00.4, 0000:61:00.5: current_vgpu_type failed: ERRNO; 0000:41:00.5: already has the type 1155, but belongs to no domain of ours; 0000:61:00.6: its board 0000:61:00.0 refuses 1153; see 'virt-vgpu explain vm1'
    Placement, EIO once, EBUSY once, ENODEV once:
      0000:41:00.6 frame_rate_limiter=0
    Placement, EPERM once, EPERM always:
      cannot make device 'gpu0' of domain 'vm1': /sys/bus/pci/devices/0000:41:00.4/nvidia/placement_id: ERRNO
    Placement, EIO always, EBUSY always, ENODEV always:
      pool 'cad' has no free L40S-12Q for domain 'vm1': 0000:41:00.4, 0000:41:00.6, 0000:61:00.4, 0000:61:00.5: placement_id failed: ERRNO; 0000:41:00.5: already has the type 1155, but belongs to no domain of ours; 0000:61:00.6: its board 0000:61:00.0 refuses 1153; see 'virt-vgpu explain vm1'
    Parameters, EIO once, EBUSY once, ENODEV once:
      0000:41:00.6 frame_rate_limiter=0
    Parameters, EPERM once, EPERM always:
      cannot make device 'gpu0' of domain 'vm1': /sys/bus/pci/devices/0000:41:00.4/nvidia/vgpu_params: ERRNO
    Parameters, EIO always, EBUSY always, ENODEV always:
      pool 'cad' has no free L40S-12Q for domain 'vm1': 0000:41:00.4, 0000:41:00.6, 0000:61:00.4, 0000:61:00.5: vgpu_params failed: ERRNO; 0000:41:00.5: already has the type 1155, but belongs to no domain of ours; 0000:61:00.6: its board 0000:61:00.0 refuses 1153; see 'virt-vgpu explain vm1'
    ");
}

#[test]
fn a_mediated_device_is_made_on_another_function() {
    let answers = answers(Framework::SriovMdev, &OF_MDEVS, "prepare begin -");
    insta::assert_snapshot!(answers, @r"
    Create, EIO once, EBUSY once, ENODEV once:
      0000:41:00.6 frame_rate_limiter=0
    Create, EPERM once, EPERM always:
      cannot make device 'gpu0' of domain 'vm1': /sys/class/mdev_bus/0000:41:00.4/mdev_supported_types/nvidia-1153/create: ERRNO
    Create, EIO always, EBUSY always, ENODEV always:
      pool 'cad' has no free L40S-12Q for domain 'vm1': 0000:41:00.4, 0000:41:00.6, 0000:61:00.4, 0000:61:00.5: create failed: ERRNO; 0000:41:00.5: no nvidia-1153 left; 0000:61:00.6: its board 0000:61:00.0 refuses nvidia-1153; see 'virt-vgpu explain vm1'
    Placement, EIO once, EBUSY once, ENODEV once:
      0000:41:00.6 frame_rate_limiter=0
    Placement, EPERM once, EPERM always:
      cannot make device 'gpu0' of domain 'vm1': /sys/bus/mdev/devices/UUID/nvidia/placement_id: ERRNO
    Placement, EIO always, EBUSY always, ENODEV always:
      pool 'cad' has no free L40S-12Q for domain 'vm1': 0000:41:00.4, 0000:41:00.6, 0000:61:00.4, 0000:61:00.5: placement_id failed: ERRNO; 0000:41:00.5: no nvidia-1153 left; 0000:61:00.6: its board 0000:61:00.0 refuses nvidia-1153; see 'virt-vgpu explain vm1'
    Parameters, EIO once, EBUSY once, ENODEV once:
      0000:41:00.6 frame_rate_limiter=0
    Parameters, EPERM once, EPERM always:
      cannot make device 'gpu0' of domain 'vm1': /sys/bus/mdev/devices/UUID/nvidia/vgpu_params: ERRNO
    Parameters, EIO always, EBUSY always, ENODEV always:
      pool 'cad' has no free L40S-12Q for domain 'vm1': 0000:41:00.4, 0000:41:00.6, 0000:61:00.4, 0000:61:00.5: vgpu_params failed: ERRNO; 0000:41:00.5: no nvidia-1153 left; 0000:61:00.6: its board 0000:61:00.0 refuses nvidia-1153; see 'virt-vgpu explain vm1'
    ");
}

/// The driver does not release a function when its VM has ended.
#[test]
fn what_is_not_let_go_stays_claimed_until_it_is() {
    let errnos = [Errno::EBUSY, Errno::EPERM];
    each(&errnos, ToString::to_string, |&errno| {
        let framework = Framework::VendorVfio;
        let (scene, domain) = (scene(framework), domain(framework));
        scene.prepare(&domain).ends_well();
        scene
            .kernel
            .inject(Fault::errno(Target::ReleaseType, errno));
        let outcome = scene.hook(&domain, "release end shutdown").run();
        assert_eq!((outcome.code, &*outcome.stdout), (Some(0), ""), "{errno}");
        let claims = scene.claims();
        assert_eq!(claims.len(), 1);
        assert_eq!(claims[0].state, State::Releasing);
        assert_eq!(made(&scene), format!("{FIRST} frame_rate_limiter=0"));
        scene.foreign_is_untouched();
        // No other domain gets it meanwhile.
        let other = Domain::new(2).function("gpu0", "cad", FIRST);
        let refused = scene.prepare(&other);
        assert_eq!(
            on_host(&scene, refused.refusal()),
            "pool 'cad' has no free L40S-12Q for domain 'vm2': its XML names 0000:41:00.4: \
             domain 'vm1' has it; 'virt-vgpu start vm2' looks for another"
        );
        scene.kernel.heal();
        #[cfg(feature = "cli")]
        {
            let outcome = scene.reconcile();
            assert_eq!((outcome.code, &*outcome.stderr), (Some(0), ""));
            scene.is_empty();
        }
        scene.prepare(&other).ends_well();
        scene.stop(&other);
        scene.is_empty();
    });
}

/// The same if the start could not be finished.
#[test]
fn a_start_that_cannot_be_undone_is_claimed_until_it_can() {
    let framework = Framework::VendorVfio;
    let (scene, domain) = (scene(framework), domain(framework));
    scene
        .kernel
        .inject(Fault::errno(Target::Parameters, Errno::EIO));
    scene
        .kernel
        .inject(Fault::errno(Target::ReleaseType, Errno::EBUSY));
    let outcome = scene.prepare(&domain);
    insta::assert_snapshot!(on_host(&scene, outcome.refusal()), @r"/sys/bus/pci/devices/0000:41:00.4/nvidia/vgpu_params: Input/output error (os error 5): it could not be undone yet (/sys/bus/pci/devices/0000:41:00.4/nvidia/current_vgpu_type: Device or resource busy (os error 16)); 'virt-vgpu reconcile' tries again");
    let claims = scene.claims();
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].state, State::Releasing);
    scene.kernel.heal();
    scene.prepare(&domain).ends_well();
    scene.is_settled();
    scene.stop(&domain);
    scene.is_empty();
}
