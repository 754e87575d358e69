use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::host::{Deadline, Processes};

const DOMAIN: &str = "aaaaaaaa-0000-4000-8000-000000000001";

fn host() -> (TempDir, Host) {
    let root = TempDir::new().unwrap();
    let host = Host::new(root.path());
    (root, host)
}

fn claim(host: &Host) -> Claim {
    let domain = (DOMAIN.parse().unwrap(), "vm1".parse().unwrap());
    let device = device("mdev", "0000:3b:00.0", "nvidia-558");
    Claim::intent(host, domain, Origin::Prepare, vec![device])
}

fn device(kind: &str, parent: &str, type_id: &str) -> ClaimedDevice {
    let written = serde_json::json!({
        "name": "gpu0", "pool": "cad", "kind": kind, "uuid": DOMAIN, "parent": parent,
        "type": type_id,
    });
    serde_json::from_value(written).unwrap()
}

fn runs(mut claim: Claim) -> Claim {
    claim.state = State::Committed;
    claim.launched = true;
    claim.daemon = None;
    claim
}

/// Two runs look the same once QEMU runs: same devices, no daemon, launched.
#[test]
fn the_next_run_of_a_domain_is_another() {
    let (_root, host) = host();
    let (first, next) = (runs(claim(&host)), runs(claim(&host)));
    assert!(first.is_of_run(&first));
    assert!(!first.is_of_run(&next));
    // Steps of one run.
    let mut later = first.clone();
    later.touch();
    later.devices.clear();
    later.state = State::Releasing;
    assert!(first.is_of_run(&later));
    // After a reboot, process numbers and times since boot repeat.
    let mut rebooted = first.clone();
    rebooted.boot_id = Some("another".to_owned());
    assert!(!first.is_of_run(&rebooted));
    // A claim written before runs had names differs from one with a name.
    let mut old = first.clone();
    old.run = None;
    assert!(old.is_of_run(&old));
    assert!(!old.is_of_run(&next));
}

#[test]
fn a_claim_of_before_is_read_and_has_no_run() {
    let (_root, host) = host();
    let mut json = serde_json::to_value(claim(&host)).unwrap();
    assert!(json.as_object_mut().unwrap().remove("run").is_some());
    let read: Claim = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(read.run, None);
    assert_eq!(serde_json::to_value(read).unwrap(), json);
}

#[test]
fn a_claim_that_cannot_be_understood_may_hold_devices_of_the_pool() {
    let (_root, host) = host();
    let pool: PoolName = "cad".parse().unwrap();
    let path = Claim::path(DOMAIN.parse().unwrap());
    host.make_directory(DIRECTORY, 0o755).unwrap();
    assert_eq!(pool_in_use(&host, &pool).unwrap(), 0);
    let text = serde_json::to_string(&claim(&host)).unwrap() + "\n";
    host.replace_file(&path, text.as_bytes(), 0o644).unwrap();
    assert_eq!(pool_in_use(&host, &pool).unwrap(), 1);
    assert_eq!(pool_in_use(&host, &"ca".parse().unwrap()).unwrap(), 0);
    assert_eq!(pool_in_use(&host, &"other".parse().unwrap()).unwrap(), 0);
    let broken = &text[..text.len() - 3];
    host.replace_file(&path, broken.as_bytes(), 0o644).unwrap();
    let error = pool_in_use(&host, &pool).unwrap_err().to_string();
    assert!(error.starts_with(&format!("claim {path}: ")), "{error}");
    assert!(error.ends_with("remove the file"), "{error}");
    // Not even for other pools: the file may be truncated before its pools.
    assert!(pool_in_use(&host, &"other".parse().unwrap()).is_err());
}

/// The claim of an unfinished start: its daemon lives, or cannot be checked.
fn starting(host: &Host) -> Claim {
    let mut claim = claim(host);
    claim.daemon = Some(ProcessId::noted(host, 1));
    claim
}

fn put(host: &Host, path: &str, text: &str) {
    let path = host.path(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Puts a directory where a file is expected: it exists but cannot be read.
fn unreadable(host: &Host, path: &str) {
    std::fs::create_dir_all(host.path(path)).unwrap();
}

fn liveness(claim: &Claim, host: &Host) -> Liveness {
    let processes = Processes::scan_to_free(host).unwrap();
    claim.liveness(host, &processes, DEFAULT_GRACE)
}

#[test]
fn a_start_is_left_alone_where_its_daemon_cannot_be_looked_at() {
    let (_root, host) = host();
    assert_eq!(liveness(&starting(&host), &host), Liveness::Stale);
    unreadable(&host, "/proc/1/stat");
    let doubt = Liveness::Unknown(Doubt::Starting);
    assert_eq!(liveness(&starting(&host), &host), doubt);
}

#[test]
fn a_start_is_left_alone_where_the_boot_cannot_be_told() {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    let (_root, host) = host();
    put(
        &host,
        "/proc/1/stat",
        &format!("1 (x) S{}", " 0".repeat(19)),
    );
    put(&host, BOOT_ID, "one\n");
    let claim = starting(&host);
    let doubt = Liveness::Unknown(Doubt::Starting);
    assert_eq!(liveness(&claim, &host), doubt);
    put(&host, BOOT_ID, "another\n");
    assert_eq!(liveness(&claim, &host), Liveness::Stale);
    std::fs::remove_file(host.path(BOOT_ID)).unwrap();
    unreadable(&host, BOOT_ID);
    assert_eq!(liveness(&claim, &host), doubt);
    // Without that record, an unknown state is no proof either.
    let unnoted = starting(&host);
    std::fs::remove_dir(host.path(BOOT_ID)).unwrap();
    put(&host, BOOT_ID, "one\n");
    assert_eq!(liveness(&unnoted, &host), doubt);
}

#[test]
fn a_domain_is_not_over_where_libvirts_pidfile_cannot_be_read() {
    const PIDFILE: &str = "/run/libvirt/qemu/vm1.pid";
    let (_root, host) = host();
    let claim = claim(&host);
    let doubt = |what: &str| Liveness::Unknown(Doubt::Unreadable(what.to_owned()));
    assert_eq!(liveness(&claim, &host), Liveness::Stale);
    unreadable(&host, PIDFILE);
    let what = format!("{PIDFILE}: Is a directory (os error 21)");
    assert_eq!(liveness(&claim, &host), doubt(&what));
    std::fs::remove_dir(host.path(PIDFILE)).unwrap();
    put(&host, PIDFILE, "");
    let what = format!("{PIDFILE}: '' is not a process number");
    assert_eq!(liveness(&claim, &host), doubt(&what));
    put(&host, PIDFILE, "7\n");
    assert_eq!(liveness(&claim, &host), Liveness::Stale);
    unreadable(&host, "/proc/7/cmdline");
    let what = "/proc/7/cmdline: Is a directory (os error 21)";
    assert_eq!(liveness(&claim, &host), doubt(what));
}

const FUNCTION: &str = "/sys/bus/pci/devices/0000:41:00.4";

fn claim_of_function(host: &Host) -> Claim {
    let mut claim = claim(host);
    claim.devices[0] = device("vendor-vfio", "0000:41:00.4", "558");
    claim
}

fn now() -> Deadline {
    Deadline::after(Duration::ZERO)
}

/// A link that points to itself: it exists, but nothing is known about it.
fn loops(host: &Host, path: &str) {
    let path = host.path(path);
    std::os::unix::fs::symlink(path.file_name().unwrap(), &path).unwrap();
}

#[test]
fn a_function_that_cannot_be_looked_at_stays_claimed() {
    let (_root, host) = host();
    let lock = ClaimLock::acquire(&host, DOMAIN.parse().unwrap(), "test", now()).unwrap();
    let claim = claim_of_function(&host);
    save(&host, &lock, &claim).unwrap();
    unreadable(&host, FUNCTION);
    loops(&host, &format!("{FUNCTION}/nvidia"));
    let released = give_back(&host, &lock, &claim, now());
    let why = format!(
        "{FUNCTION}/nvidia/current_vgpu_type: Too many levels of symbolic links (os error 40)"
    );
    assert_eq!(released.devices[0].1, DeviceOutcome::Kept(why));
    let left = load(&host, claim.domain).unwrap().unwrap();
    assert_eq!(
        (left.state, left.devices),
        (State::Releasing, claim.devices)
    );
}

#[test]
fn a_function_that_cannot_be_looked_at_stays_in_quarantine() {
    let (_root, host) = host();
    let lock = ClaimLock::acquire(&host, DOMAIN.parse().unwrap(), "test", now()).unwrap();
    let claim = claim_of_function(&host);
    unreadable(&host, FUNCTION);
    quarantine(&host, &lock, &claim, "it is wedged").unwrap();
    assert_eq!(quarantined(&host).unwrap().len(), 1);
    std::fs::remove_dir(host.path(FUNCTION)).unwrap();
    loops(&host, FUNCTION);
    assert_eq!(quarantined(&host).unwrap().len(), 1);
    assert_eq!(repaired(&host).unwrap(), Vec::new());
    std::fs::remove_file(host.path(FUNCTION)).unwrap();
    assert_eq!(quarantined(&host).unwrap(), Vec::new());
    assert_eq!(repaired(&host).unwrap().len(), 1);
}

#[test]
fn a_claim_that_cannot_be_understood_holds_its_functions() {
    let (_root, host) = host();
    let claim = claim_of_function(&host);
    let path = Claim::path(claim.domain);
    let held = |except| functions(&host, except).map_err(|error| error.to_string());
    let by = |name: &str| {
        let function = "0000:41:00.4".parse().unwrap();
        Ok(BTreeMap::from([(function, name.parse().unwrap())]))
    };
    let text = serde_json::to_string_pretty(&claim).unwrap() + "\n";
    put(&host, &path, &text);
    assert_eq!(held(None), by("vm1"));
    assert_eq!(held(Some(claim.domain)), Ok(BTreeMap::new()));
    // Truncated, or of a later version.
    put(&host, &path, &text[..text.len() - 3]);
    assert_eq!(held(None), by(DOMAIN));
    put(
        &host,
        &path,
        &text.replace("\"version\": 1", "\"version\": 2"),
    );
    assert_eq!(held(None), by(DOMAIN));
    assert_eq!(held(Some(claim.domain)), Ok(BTreeMap::new()));
    std::fs::remove_file(host.path(&path)).unwrap();
    unreadable(&host, &path);
    let why = format!(
        "claim {path}: Is a directory (os error 21); when that domain no longer runs, remove the \
         file"
    );
    assert_eq!(held(None), Err(why));
}

#[test]
fn a_claim_of_a_later_version_is_not_called_broken() {
    let (_root, host) = host();
    let domain: DomainUuid = DOMAIN.parse().unwrap();
    let path = Claim::path(domain);
    put(&host, &path, "{\"version\": 99, \"whatever\": 1}\n");
    let error = load(&host, domain).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "claim {path}: this version does not know format 99; install that version again; it \
             knows the devices in it"
        )
    );
}

/// Otherwise a hook would wait forever for somebody to write into it.
#[test]
fn a_pipe_in_the_place_of_a_claim_is_not_waited_for() {
    let (_root, host) = host();
    let domain: DomainUuid = DOMAIN.parse().unwrap();
    host.make_directory(DIRECTORY, 0o755).unwrap();
    let path = host.path(&Claim::path(domain));
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    assert!(load(&host, domain).is_err());
    assert!(pool_in_use(&host, &"cad".parse().unwrap()).is_err());
}

/// The interest of another domain's plan.
fn interest(pool: Option<&PoolName>) -> Interest<'_> {
    Interest {
        pools: pool.into_iter().collect(),
        functions: true,
        announced: Some("bbbbbbbb-0000-4000-8000-000000000001".parse().unwrap()),
        ..Interest::default()
    }
}

fn written(host: &Host, claim: &Claim) {
    let text = serde_json::to_string_pretty(claim).unwrap() + "\n";
    put(host, &Claim::path(claim.domain), &text);
}

#[test]
fn what_is_being_made_or_taken_back_counts_for_others() {
    let (_root, host) = host();
    let announced = |interest: &Interest<'_>, since| {
        let seen = Seen::read(&host, interest, since).unwrap();
        seen.announced.len()
    };
    let all = interest(None);
    let intent = claim(&host);
    written(&host, &intent);
    assert_eq!(announced(&all, None), 1);
    // A domain's own devices are no obstacle.
    let own = Interest {
        announced: Some(intent.domain),
        ..interest(None)
    };
    assert_eq!(announced(&own, None), 0);
    // A device that exists was seen there, unless it was made after the look began.
    let mut there = runs(intent);
    there.since_boot_ms = 5000;
    written(&host, &there);
    assert_eq!(announced(&all, None), 0);
    assert_eq!(announced(&all, Some(Duration::from_millis(5001))), 0);
    assert_eq!(announced(&all, Some(Duration::from_millis(5000))), 1);
    there.leaving = vec!["gpu0".parse().unwrap()];
    written(&host, &there);
    assert_eq!(announced(&all, None), 1);
    let seen = Seen::read(&host, &all, None).unwrap();
    assert_eq!(seen.not_among(&BTreeSet::new()).len(), 1);
    let shown = BTreeSet::from([DOMAIN.parse().unwrap()]);
    assert_eq!(seen.not_among(&shown), Vec::<&MovingDevice>::new());
}

#[test]
fn counts_are_of_all_domains() {
    let (_root, host) = host();
    let pool: PoolName = "cad".parse().unwrap();
    let seen = |interest: &Interest<'_>| {
        let seen = Seen::read(&host, interest, None);
        seen.map(|seen| (seen.in_use, seen.functions.len()))
            .map_err(|error| error.to_string())
    };
    let in_use = |count| BTreeMap::from([(pool.clone(), count)]);
    assert_eq!(seen(&interest(Some(&pool))), Ok((in_use(0), 0)));
    written(&host, &claim_of_function(&host));
    assert_eq!(seen(&interest(Some(&pool))), Ok((in_use(1), 1)));
    let own = Interest {
        except: Some(DOMAIN.parse().unwrap()),
        ..interest(Some(&pool))
    };
    assert_eq!(seen(&own), Ok((in_use(1), 0)));
    // It is unknown how many devices a truncated claim has.
    put(
        &host,
        &Claim::path(DOMAIN.parse().unwrap()),
        "{\"version\": 1, \"cad",
    );
    assert!(seen(&interest(Some(&pool))).is_err());
    assert_eq!(seen(&interest(None)), Ok((BTreeMap::new(), 0)));
}

#[test]
fn a_claim_that_is_written_after_a_look_is_noticed() {
    let (_root, host) = host();
    let settled = || {
        let mut seen = None;
        let is_settled = || {
            let now = Seen::read(&host, &interest(None), None).unwrap();
            let is_settled = now.is_current(&host);
            seen = Some(now);
            is_settled
        };
        assert!(Deadline::after(Duration::from_secs(60)).wait_until(is_settled));
        seen.unwrap()
    };
    let before_any = settled();
    let domain = DOMAIN.parse().unwrap();
    let lock = ClaimLock::acquire(&host, domain, "test", now()).unwrap();
    let mut claim = claim(&host);
    save(&host, &lock, &claim).unwrap();
    assert!(!before_any.is_current(&host));
    let with_one = settled();
    claim.touch();
    save(&host, &lock, &claim).unwrap();
    assert!(!with_one.is_current(&host));
    let touched = settled();
    remove(&host, &lock, domain).unwrap();
    assert!(!touched.is_current(&host));
}

/// Written as JSON and read back, a claim is unchanged.
#[test]
fn a_claim_says_the_same_when_it_is_read() {
    let (_root, host) = host();
    for mut claim in [claim(&host), claim_of_function(&host)] {
        claim.devices[0].nodes = vec!["/dev/vfio/7".to_owned()];
        claim.devices[0].placement = Some(crate::capacity::Placement::in_memory(12, 12));
        let text = serde_json::to_string(&claim).unwrap();
        let read: Claim = serde_json::from_str(&text).unwrap();
        assert_eq!(format!("{read:?}"), format!("{claim:?}"));
    }
}

#[test]
fn a_device_of_no_known_kind_is_refused_by_name() {
    let written = serde_json::json!({
        "name": "gpu0", "pool": "cad", "kind": "quantum", "uuid": DOMAIN, "parent": "q0",
        "type": "1",
    });
    let error = serde_json::from_value::<ClaimedDevice>(written).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a device of kind 'quantum' without a handle"
    );
}
