//! Single devices that a running VM has lost are freed, and no others; quarantined
//! functions are forgotten when they are recreated.

use std::time::Duration;

use virt_vgpu::{
    claims::{self, Doubt, Liveness, State},
    host::Deadline,
};

use crate::support::{
    domain::Domain,
    machine::{Gpu, Machine, SMALL},
    process::{Outcome, Program},
    scene::Scene,
};

const QEMU: u32 = 4711;
const GPU: &str = "0000:41:00.0";
const FIRST: &str = "0000:41:00.4";
const SECOND: &str = "0000:41:00.5";

fn reconcile(scene: &Scene, arguments: &str) -> Outcome {
    Program::command(scene.root(), &format!("reconcile {arguments}")).run()
}

/// Its output, with exit code 0.
#[track_caller]
fn said(scene: &Scene, arguments: &str) -> String {
    let outcome = reconcile(scene, arguments);
    outcome.succeeds();
    outcome.stdout
}

fn board() -> Scene {
    let scene = Scene::new(Machine::of_boards(1));
    scene.pool("cad", SMALL);
    scene
}

fn functions() -> Scene {
    let scene = Scene::new(Machine::of_gpus([Gpu::l40s(GPU).functions(2)]));
    scene.vgpu_pool("cad", "L40S-12Q");
    scene
}

fn domain() -> Domain {
    Domain::with_one(1, "cad").device("gpu1", "cad")
}

/// A running domain with two mediated devices, of which it has lost the second.
fn with_one_unused() -> (Scene, Domain, [String; 2]) {
    let (scene, domain) = (board(), domain());
    let mdevs: [String; 2] = domain.mdevs().try_into().unwrap();
    scene.prepare(&domain).ends_well();
    scene.hook(&domain, "start begin -").run().ends_well();
    scene.has_only(QEMU, &domain, &[&mdevs[0]]);
    scene.hook(&domain, "started begin -").run().ends_well();
    (scene, domain, mdevs)
}

fn claimed(scene: &Scene) -> Vec<String> {
    let claims = scene.claims();
    let devices = claims.iter().flat_map(|claim| &claim.devices);
    devices.map(|device| device.handle.to_string()).collect()
}

/// Nothing is freed, however much time has passed.
#[track_caller]
fn nothing_goes(scene: &Scene) {
    let before = (scene.claims(), scene.ours(), scene.our_vgpus());
    let text = said(scene, "--grace 0");
    assert!(!text.contains("removed"), "{text}");
    assert_eq!(
        (scene.claims(), scene.ours(), scene.our_vgpus()),
        before,
        "{text}"
    );
}

#[test]
fn the_device_that_qemu_has_no_more_goes_and_the_other_stays() {
    let (scene, domain, [first, second]) = with_one_unused();
    let uuid = domain.uuid;
    let wanted = |second_is: &str| {
        format!(
            "vm1 ({uuid}): in use: domain 'vm1' is running\n  {first} on 0000:3b:00.0: claimed\n  \
             {second} on 0000:3b:00.0: {second_is}\n"
        )
    };
    let why = "the running domain has lost it";
    let dry = said(&scene, "--grace 0 --dry-run");
    assert_eq!(dry, wanted(&format!("would be removed: {why}")));
    assert_eq!(claimed(&scene), [first.clone(), second.clone()]);
    assert_eq!(
        said(&scene, "--grace 0"),
        wanted(&format!("removed: {why}"))
    );
    assert_eq!(claimed(&scene), std::slice::from_ref(&first));
    scene.is_settled();
    nothing_goes(&scene);
    let hook = scene.hook(&domain, "reconnect begin -").logging();
    hook.run().ends_well();
    scene.ends(QEMU);
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn json_says_which_device_went() {
    let (scene, domain, [first, second]) = with_one_unused();
    let text = said(&scene, "--grace 0 --json");
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let wanted = serde_json::json!({
        "dry_run": false,
        "claims": [{
            "domain": "vm1",
            "domain_uuid": domain.uuid.to_string(),
            "result": "in-use",
            "reason": "domain 'vm1' is running",
            "devices": [
                {"uuid": first, "parent": "0000:3b:00.0", "outcome": "claimed"},
                {
                    "uuid": second,
                    "parent": "0000:3b:00.0",
                    "outcome": "removed: the running domain has lost it",
                },
            ],
        }],
        "damaged": [],
        "repaired": [],
    });
    assert_eq!(report, wanted);
}

#[test]
fn a_function_goes_likewise() {
    let scene = functions();
    let domain = Domain::new(1)
        .function("gpu0", "cad", FIRST)
        .function("gpu1", "cad", SECOND);
    scene.starts(QEMU, &domain, &[FIRST, SECOND]);
    nothing_goes(&scene);
    // QEMU closes the first device.
    scene.has_only(QEMU, &domain, &[SECOND]);
    said(&scene, "--grace 0");
    assert_eq!(claimed(&scene), [SECOND]);
    scene.is_settled();
    // Another VM gets it, and the remaining one still belongs to the first VM.
    let other = Domain::new(2).function("gpu0", "cad", FIRST);
    scene.prepare(&other).ends_well();
    scene.is_settled();
    assert_eq!(scene.claims().len(), 2);
}

#[test]
fn the_last_device_takes_the_claim_with_it_but_not_a_medium() {
    let scene = board();
    scene.image("/srv/iso/guest.iso");
    scene.pool_with("iso", SMALL, "guest-driver = \"/srv/iso/guest.iso\"");
    let plain = Domain::with_one(1, "cad");
    let medium = Domain::new(2).request("gpu0", "pool='iso' guest-drivers='yes'", true);
    scene.starts(QEMU, &plain, &[]);
    scene.starts(QEMU + 1, &medium, &[]);
    said(&scene, "--grace 0");
    assert!(scene.ours().is_empty());
    let claims = scene.claims();
    assert_eq!(claims.len(), 1);
    assert_eq!(
        (claims[0].domain, claims[0].devices.len()),
        (medium.uuid, 0)
    );
    scene.is_settled();
    // The device of the domain's request is no longer in its XML.
    let unplugged = Domain::new(1).request("gpu0", "pool='cad'", false);
    let hook = scene.hook(&unplugged, "reconnect begin -").logging();
    hook.run().ends_well();
    let hook = scene.hook(&plain, "reconnect begin -").logging().run();
    assert!(
        hook.stderr.contains("asks for devices but has no claim"),
        "{hook:?}"
    );
    scene.ends(QEMU + 1);
    scene.stop(&medium);
    scene.is_empty();
}

#[test]
fn one_that_does_not_go_stays_claimed_and_fails() {
    use crate::support::kernel::{Fault, Target};
    use nix::errno::Errno;
    let (scene, domain, mdevs) = with_one_unused();
    scene
        .kernel
        .inject(Fault::errno(Target::Remove, Errno::EIO));
    let outcome = reconcile(&scene, "--grace 0");
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stdout.contains(": kept: "), "{outcome:?}");
    assert_eq!(claimed(&scene), mdevs);
    assert_eq!(scene.claims()[0].leaving, []);
    assert_eq!(scene.claims()[0].state, State::Committed);
    let hook = scene.hook(&domain, "reconnect begin -").logging();
    hook.run().ends_well();
}

#[test]
fn in_doubt_a_device_stays() {
    let (scene, domain) = (board(), domain());
    // The domain starts: QEMU runs before it opens anything.
    scene.prepare(&domain).ends_well();
    scene.has_only(QEMU, &domain, &[]);
    nothing_goes(&scene);
    scene.hook(&domain, "start begin -").run().ends_well();
    nothing_goes(&scene);
    // QEMU runs, and the claim has just changed.
    scene.hook(&domain, "started begin -").run().ends_well();
    let text = said(&scene, "");
    assert!(!text.contains("removed"), "{text}");
    // A process has them open, through a node that was removed meanwhile.
    let group = |uuid: &String| scene.kernel.mdevs()[uuid].iommu_group;
    let holder = scene.path("proc/4712");
    std::fs::create_dir_all(holder.join("fd")).unwrap();
    for (number, uuid) in domain.mdevs().iter().enumerate() {
        let node = format!("/dev/vfio/{} (deleted)", group(uuid));
        std::os::unix::fs::symlink(node, holder.join(format!("fd/{number}"))).unwrap();
    }
    nothing_goes(&scene);
    std::fs::remove_dir_all(holder).unwrap();
    // The claim is of another boot.
    let claim = scene.claims().remove(0);
    let path = format!("run/virt-vgpu/claims/{}.json", domain.uuid);
    let put = |claim: &claims::Claim| scene.file(&path, serde_json::to_string(claim).unwrap());
    let mut older = claim.clone();
    older.boot_id = Some("another".to_owned());
    put(&older);
    nothing_goes(&scene);
    put(&claim);
    said(&scene, "--grace 0");
    scene.is_empty();
}

/// QEMU waits for the stream, and libvirt has not said `started`.
#[test]
fn a_domain_that_migrates_in_keeps_its_devices() {
    let (scene, domain) = (board(), domain());
    scene.hook(&domain, "migrate begin -").run();
    scene.has_only(QEMU, &domain, &[]);
    nothing_goes(&scene);
    scene.prepare(&domain).ends_well();
    nothing_goes(&scene);
    scene.hook(&domain, "start begin -").run().ends_well();
    nothing_goes(&scene);
}

/// The VM had the device, and somebody must be told.
#[test]
fn a_device_that_vanished_stays_claimed() {
    let (scene, domain, [first, second]) = with_one_unused();
    scene.has_only(QEMU, &domain, &[]);
    scene.kernel.remove_parent("0000:3b:00.0");
    said(&scene, "--grace 0");
    assert_eq!(claimed(&scene), [first.clone(), second.clone()]);
    // A device that disappeared while it was taken back is dropped.
    let mut claim = scene.claims().remove(0);
    claim.leaving = vec!["gpu1".parse().unwrap()];
    let path = format!("run/virt-vgpu/claims/{}.json", domain.uuid);
    scene.file(&path, serde_json::to_string(&claim).unwrap());
    let text = said(&scene, "--grace 0");
    assert!(
        text.contains(&format!("{second} on 0000:3b:00.0: did not exist")),
        "{text}"
    );
    assert_eq!(claimed(&scene), [first]);
}

/// Hooks wait for the lock: it is released in time, and the rest is reported as
/// remaining.
#[test]
fn what_there_is_no_time_for_is_left_for_the_next_time() {
    let scene = board();
    let domains = [1, 2].map(|number| Domain::with_one(number, "cad"));
    for domain in &domains {
        scene.prepare(domain).ends_well();
    }
    scene.kernel.remove_parent("0000:3b:00.0");
    let look = || {
        let (host, no_time) = (scene.host(), Deadline::after(Duration::ZERO));
        let report = claims::reconcile(&host, None, Duration::ZERO, false, no_time);
        let claims = report.unwrap().claims.into_iter();
        claims
            .map(|one| (one.claim.domain, one.liveness, one.released.is_some()))
            .collect::<Vec<_>>()
    };
    let [first, second] = domains.map(|domain| domain.uuid);
    let not_reached = Liveness::Unknown(Doubt::NotReached);
    assert_eq!(
        look(),
        [(first, Liveness::Stale, true), (second, not_reached, false)]
    );
    assert_eq!(scene.claims().len(), 1);
    assert_eq!(look(), [(second, Liveness::Stale, true)]);
    scene.is_empty();
}

/// The driver hangs with the first claim's device; the other claim comes later.
#[test]
fn a_driver_that_hangs_does_not_keep_the_lock() {
    use crate::support::kernel::{Fault, Target};
    let scene = board();
    let domains = [1, 2].map(|number| Domain::with_one(number, "cad"));
    for domain in &domains {
        scene.prepare(domain).ends_well();
    }
    scene.kernel.inject(Fault::hanging(Target::Remove).times(1));
    let outcome = reconcile(&scene, "--grace 0");
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let wanted = format!(
        "vm2 ({}): NOT checked: others took too long; run it again\n  {} on 0000:3b:00.0: \
         claimed\n",
        domains[1].uuid,
        domains[1].mdevs()[0]
    );
    assert!(outcome.stdout.ends_with(&wanted), "{outcome:?}");
    assert!(
        outcome
            .stdout
            .contains("): NOT freed: a device could not be removed\n")
    );
    // The other claim now comes first.
    let outcome = reconcile(&scene, "--grace 0");
    let freed = format!(
        "vm2 ({}): freed: the domain is not running\n",
        domains[1].uuid
    );
    assert!(outcome.stdout.contains(&freed), "{outcome:?}");
    scene.kernel.heal();
}

/// Its QEMU has just been killed: `release` will say so.
#[test]
fn a_domain_that_ended_early_is_not_said_to_start() {
    let scene = functions();
    let domain = Domain::new(1).function("gpu0", "cad", FIRST);
    scene.starts(QEMU, &domain, &[FIRST]);
    scene.ends(QEMU);
    let why = "the domain has ended soon after its start, and libvirt is about to say how";
    let wanted = format!("vm1 ({}): in doubt, kept: {why}\n", domain.uuid);
    assert!(said(&scene, "").starts_with(&wanted));
    let outcome = Program::command(scene.root(), "status --json").run();
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let claim = &report["claims"][0];
    assert_eq!(
        (&claim["state"], &claim["reason"]),
        (&"ending".into(), &why.into())
    );
}

fn quarantined(scene: &Scene) -> Vec<String> {
    let noted = claims::quarantined(&scene.host()).unwrap().into_iter();
    noted.map(|one| one.function.to_string()).collect()
}

/// libvirtd is away when the QEMU of a VM is killed, early or late. The result depends
/// on whether somebody has checked the claim in time.
#[test]
fn a_function_whose_vm_was_killed_early_is_quarantined_without_libvirt() {
    let killed = |look_early: bool| {
        let scene = functions();
        let domain = Domain::new(1).function("gpu0", "cad", FIRST);
        scene.starts(QEMU, &domain, &[FIRST]);
        scene.ends(QEMU);
        if look_early {
            said(&scene, "");
        }
        let mut claim = scene.claims().remove(0);
        claim.since_boot_ms = 0;
        let path = format!("run/virt-vgpu/claims/{}.json", domain.uuid);
        scene.file(&path, serde_json::to_string(&claim).unwrap());
        (scene, domain)
    };
    let why = "the QEMU of domain 'vm1' was killed while its vGPU was still starting, which may have \
               wedged the function";
    let (scene, domain) = killed(true);
    let freed = format!("vm1 ({}): freed: the domain is not running", domain.uuid);
    let text = said(&scene, "");
    let wanted = format!("{freed}; its functions are quarantined: {why}\n");
    assert!(text.starts_with(&wanted), "{text}");
    scene.is_empty();
    assert_eq!(quarantined(&scene), [FIRST]);
    // Nobody saw it in time: the VM may have run for hours.
    let (scene, _) = killed(false);
    let text = said(&scene, "");
    assert!(text.starts_with(&format!("{freed}\n")), "{text}");
    assert_eq!(quarantined(&scene), Vec::<String>::new());
    // libvirtd is back and calls the hook.
    for (reason, wanted) in [
        ("crashed", &[FIRST][..]),
        ("failed", &[FIRST]),
        ("-", &[FIRST]),
        ("shutdown", &[]),
        ("destroyed", &[]),
    ] {
        let (scene, domain) = killed(true);
        for operation in ["stopped", "release"] {
            let words = format!("{operation} end {reason}");
            scene.hook(&domain, &words).run().ends_well();
        }
        scene.is_empty();
        assert_eq!(quarantined(&scene), wanted, "{reason}");
    }
    // Or the VM starts again before that.
    let (scene, domain) = killed(true);
    let line = scene.prepare(&domain).refusal().to_owned();
    assert!(line.contains(why), "{line}");
    scene.is_empty();
}

/// A driver is slow to release a device, and its domain starts again without asking for
/// devices: that run is not concerned.
#[test]
fn what_would_not_go_goes_while_the_domain_runs_without_devices() {
    use crate::support::kernel::{Fault, Target};
    use nix::errno::Errno;
    let (scene, domain) = (board(), domain());
    let mdevs = domain.mdevs();
    scene.starts(QEMU, &domain, &[&mdevs[0], &mdevs[1]]);
    scene.ends(QEMU);
    scene
        .kernel
        .inject(Fault::errno(Target::Remove, Errno::EIO).times(2));
    scene.hook(&domain, "stopped end shutdown").run();
    assert_eq!(scene.claims()[0].state, State::Releasing);
    assert_eq!(claimed(&scene), mdevs);
    // A process has the second device open.
    let plain = Domain::new(1);
    for words in ["prepare begin -", "start begin -"] {
        scene.hook(&plain, words).run().ends_well();
    }
    scene.has_only(QEMU, &domain, &[]);
    scene.hook(&plain, "started begin -").run().ends_well();
    scene.has_only(QEMU + 1, &Domain::new(2), &[&mdevs[1]]);
    let hook = scene.hook(&plain, "reconnect begin -").logging();
    hook.run().ends_well();
    let uuid = domain.uuid;
    let wanted = format!(
        "vm1 ({uuid}): in use: domain 'vm1' is running\n  {} on 0000:3b:00.0: removed: the running \
         domain has lost it\n  {} on 0000:3b:00.0: claimed\n",
        mdevs[0], mdevs[1]
    );
    assert_eq!(said(&scene, "--grace 0"), wanted);
    assert_eq!(claimed(&scene), [mdevs[1].clone()]);
    assert_eq!(scene.claims()[0].state, State::Releasing);
    nothing_goes(&scene);
    scene.ends(QEMU + 1);
    said(&scene, "--grace 0");
    scene.is_empty();
}

/// A start was killed, and the next one asks for nothing.
#[test]
fn what_a_start_left_that_was_cut_short_goes_likewise() {
    let (scene, domain) = (board(), domain());
    let mdevs = domain.mdevs();
    scene.starts(QEMU, &domain, &[]);
    let mut claim = scene.claims().remove(0);
    (claim.state, claim.launched) = (State::Intent, false);
    let path = format!("run/virt-vgpu/claims/{}.json", domain.uuid);
    scene.file(&path, serde_json::to_string(&claim).unwrap());
    scene.has_only(QEMU, &domain, &[&mdevs[1]]);
    said(&scene, "--grace 0");
    assert_eq!(claimed(&scene), [mdevs[1].clone()]);
    scene.has_only(QEMU, &domain, &[]);
    said(&scene, "--grace 0");
    scene.is_empty();
}

/// Two processes give back devices of one VM. The first was killed after it announced a
/// device, and the device is still leaving when the second has removed another.
#[test]
fn a_device_that_was_leaving_is_still_leaving() {
    use crate::support::kernel::{Fault, Target};
    use nix::errno::Errno;
    let scene = board();
    let domain = domain().device("gpu2", "cad");
    let [first, second, third]: [String; 3] = domain.mdevs().try_into().unwrap();
    // The guest releases the second a moment later than the third.
    scene.starts(QEMU, &domain, &[&first, &second]);
    let mut claim = scene.claims().remove(0);
    claim.leaving = vec!["gpu1".parse().unwrap()];
    let leaving = claim.leaving.clone();
    let path = format!("run/virt-vgpu/claims/{}.json", domain.uuid);
    scene.file(&path, serde_json::to_string(&claim).unwrap());
    let fault = Fault::errno(Target::Remove, Errno::EIO).times(1);
    scene.kernel.inject(fault);
    assert_eq!(reconcile(&scene, "--grace 0").code, Some(1));
    assert_eq!(scene.claims()[0].leaving, leaving);
    assert_eq!(claimed(&scene), [&first, &second, &third].map(Clone::clone));
    said(&scene, "--grace 0");
    assert_eq!(scene.claims()[0].leaving, leaving);
    assert_eq!(claimed(&scene), [first.clone(), second]);
    scene.has_only(QEMU, &domain, &[&first]);
    said(&scene, "--grace 0");
    assert_eq!(claimed(&scene), [first]);
    assert_eq!(scene.claims()[0].leaving, []);
}

#[test]
fn recreated_functions_are_no_longer_quarantined() {
    let scene = functions();
    let directory = format!("/sys/bus/pci/devices/{FIRST}");
    let made = scene.host().inode(&directory).unwrap();
    let note = |function: &str, made: Option<u64>| {
        let note = serde_json::json!({
            "function": function, "domain": null, "reason": "it was killed", "made": made,
        });
        let path = format!("run/virt-vgpu/quarantine/{function}.json");
        scene.file(&path, note.to_string());
    };
    let quarantined = || {
        let noted = claims::quarantined(&scene.host()).unwrap().into_iter();
        let functions = noted.map(|one| one.function.to_string());
        functions.collect::<Vec<_>>()
    };
    let files = || {
        let names = std::fs::read_dir(scene.path("run/virt-vgpu/quarantine")).unwrap();
        names.count()
    };
    // Unchanged, of unknown inode, and unreadable.
    note(FIRST, Some(made));
    note(SECOND, None);
    scene.file("run/virt-vgpu/quarantine/0000:99:00.5.json", "{");
    let nothing = "no claims: nothing to free\n";
    assert_eq!(said(&scene, ""), nothing);
    assert_eq!(quarantined(), [FIRST, SECOND, "0000:99:00.5"]);
    // One was recreated, one has disappeared.
    note(FIRST, Some(made + 1));
    note("0000:99:00.4", None);
    let wanted = format!(
        "{nothing}{FIRST}: repaired, no longer quarantined\n\
         0000:99:00.4: repaired, no longer quarantined\n"
    );
    assert_eq!(said(&scene, "--dry-run"), wanted);
    assert_eq!(files(), 4);
    assert_eq!(said(&scene, ""), wanted);
    assert_eq!(files(), 2);
    assert_eq!(quarantined(), [SECOND, "0000:99:00.5"]);
    assert_eq!(said(&scene, ""), nothing);
}
