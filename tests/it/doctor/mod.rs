//! The checks of `virt-vgpu doctor`. Each has a text of its name in `tests/fixtures/doctor`: a
//! host with the fault, on which the check must find it, and the same host without the fault, on
//! which it must find nothing.
//!
//! The texts have the form of the machines (`support::machines`), with lines of their own:
//! `== with NAME` takes another text too, `== fault` and `== sound` begin what only one of the two
//! hosts has, `without PATH` removes what is there, and `@01@` is a byte.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use proptest::prelude::*;
use regex::Regex;
use tempfile::TempDir;
use virt_vgpu::{
    device::nvml::{Failure, FailureKind, GpuFacts, Told},
    host::Host,
    report::doctor::{
        CHECKS, DoctorReport, Finding, Outside, Severity, Silence, Versions, examine,
    },
};

use crate::support::machines::{self, Entry};

mod hosts;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/doctor");

/// Texts that are parts of others.
const PARTS: [&str; 2] = ["base", "vgpu"];

fn text(name: &str) -> String {
    fs::read_to_string(Path::new(FIXTURES).join(name)).unwrap_or_else(|error| {
        panic!("tests/fixtures/doctor/{name}: {error}: every check has a text of its name")
    })
}

/// A host as entries, and as a directory.
#[derive(Default, Clone)]
struct Tree {
    text: String,
    without: Vec<String>,
}

impl Tree {
    /// The sound host that all others stand on.
    fn base() -> Self {
        let mut tree = Self::default();
        tree.add(&text("base"));
        tree
    }

    fn with(mut self, more: &str) -> Self {
        self.add(more);
        self
    }

    fn add(&mut self, more: &str) {
        for line in more.lines() {
            match line.strip_prefix("without ") {
                Some(path) => self.without.push(path.to_owned()),
                None => {
                    self.text.push_str(line);
                    self.text.push('\n');
                }
            }
        }
    }

    fn directory(&self) -> TempDir {
        crate::support::ordinary_umask();
        // Hundreds of hosts of a hundred files each are made in memory.
        let memory = Path::new("/dev/shm");
        let root = match memory.is_dir() {
            true => TempDir::new_in(memory).unwrap(),
            false => TempDir::new().unwrap(),
        };
        let text = self.text.replace("@01@", "\u{1}").replace("@00@", "\u{0}");
        let mut entries: BTreeMap<String, Entry> = machines::unfolded(&text);
        for path in &self.without {
            let below = format!("{path}/");
            entries.retain(|entry, _| entry != path && !entry.starts_with(&below));
        }
        // Links into the host's root count from this directory.
        machines::write(&entries, root.path());
        for (path, entry) in &entries {
            let path = root.path().join(path.trim_start_matches('/'));
            if matches!(entry, Entry::File(text) if text.starts_with("#!")) {
                fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        root
    }

    fn examine(&self) -> DoctorReport {
        let root = self.directory();
        let host = Host::new(root.path());
        examine(&host, &Stored { host: &host })
    }
}

/// Answers from files below `/outside`.
struct Stored<'a> {
    host: &'a Host,
}

impl Stored<'_> {
    fn read(&self, path: &str) -> String {
        self.host.read_file(path).unwrap_or_default()
    }
}

impl Outside for Stored<'_> {
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let after = |option: &str| {
            let place = arguments.iter().position(|one| *one == option)?;
            arguments.get(place + 1).copied()
        };
        if program == "/usr/sbin/modinfo" {
            return Ok(self.read("/outside/signer"));
        }
        assert_eq!(program, "/usr/bin/journalctl");
        let journal = match after("-u").or(after("-t")) {
            Some(unit) => unit,
            None if arguments.contains(&"-k") => "kernel",
            None => "all",
        };
        let pattern = Regex::new(after("-g").unwrap()).unwrap();
        let text = self.read(&format!("/outside/journal/{journal}"));
        let lines = text.lines().filter(|line| pattern.is_match(line));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }

    fn versions(&self) -> Result<Versions, Silence> {
        let text = self.read("/outside/versions");
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        if let Some(why) = value("silent ") {
            return Err(Silence::NoAnswer(why.to_owned()));
        }
        Ok(Versions {
            libvirt: value("libvirt ").unwrap().parse().unwrap(),
            qemu: value("qemu ").map(|version| version.parse().unwrap()),
        })
    }

    fn facts(&self) -> Result<Vec<GpuFacts>, String> {
        fn unknown<T>() -> Told<T> {
            Told::Unavailable(Failure {
                kind: FailureKind::NotSupported,
                message: "not asked".to_owned(),
            })
        }
        let text = self.read("/outside/facts");
        let facts = text.lines().map(|line| {
            let (address, mig) = line.split_once(' ').unwrap();
            GpuFacts {
                address: address.parse().unwrap(),
                name: unknown(),
                uuid: unknown(),
                memory_mib: unknown(),
                hosts_vgpus: unknown(),
                mig: Told::Value(mig == "on"),
                instances: unknown(),
                heterogeneous: unknown(),
                heterogeneous_multi_vgpu: unknown(),
                scheduler: unknown(),
                scheduler_limits: unknown(),
                types: unknown(),
                vgpus: unknown(),
            }
        });
        Ok(facts.collect())
    }
}

/// The two hosts of a check: with the fault, and without it.
fn hosts_of(id: &str) -> (Tree, Tree) {
    let text = text(id);
    let (mut fault, mut sound) = (Tree::base(), Tree::base());
    let mut section = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== with ") {
            let part = self::text(name);
            fault.add(&part);
            sound.add(&part);
        } else if let Some(name) = line.strip_prefix("== ") {
            section = name;
        } else {
            match section {
                "fault" => fault.add(line),
                "sound" => sound.add(line),
                _ => {
                    fault.add(line);
                    sound.add(line);
                }
            }
        }
    }
    (fault, sound)
}

fn findings<'r>(report: &'r DoctorReport, id: &str) -> Vec<&'r Finding> {
    let findings = report.findings.iter();
    findings.filter(|finding| finding.check == id).collect()
}

/// Findings for a snapshot.
fn written(findings: &[&Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        text += &format!("{:?}: {}\n", finding.severity, finding.what);
        for evidence in &finding.evidence {
            text += &format!("  read: {evidence}\n");
        }
        text += &format!("  to do: {}\n", finding.advice);
        for command in &finding.commands {
            text += &format!("    {command}\n");
        }
    }
    text
}

#[test]
fn every_check_finds_its_fault_and_nothing_without_it() {
    let mut all = String::new();
    let mut wrong = Vec::new();
    for check in CHECKS {
        let (fault, sound) = hosts_of(check.id);
        let report = fault.examine();
        let found = findings(&report, check.id);
        if found.is_empty() {
            wrong.push(format!(
                "{}: not found; not made: {:?}",
                check.id, report.not_made
            ));
        }
        all += &format!("# {}\n{}", check.id, written(&found));
        let report = sound.examine();
        let found = findings(&report, check.id);
        if !found.is_empty() {
            wrong.push(format!("{}: found on the sound host: {found:?}", check.id));
        }
        let not_made = report.not_made.iter().find(|one| one.check == check.id);
        if let Some(not_made) = not_made {
            wrong.push(format!("{}: {}", check.id, not_made.reason));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    // The time of a file that this test has made.
    let time = Regex::new(r"changed at \d+ s").unwrap();
    insta::assert_snapshot!("findings", time.replace_all(&all, "changed at TIME s"));
}

#[test]
fn every_check_has_a_name_of_its_own_and_says_what_it_is() {
    let ids: BTreeSet<&str> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(ids.len(), CHECKS.len());
    for check in CHECKS {
        let id = check.id;
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(id.chars().all(is_plain) && !id.ends_with('-'), "{id}");
        assert!(!check.about.ends_with('.'), "{id}");
        assert!(check.about.len() <= 100, "{id}: {}", check.about.len());
        let text = check.explanation;
        // A paragraph: some sentences, on one line here.
        let sentences = text.matches(". ").count() + 1;
        assert!(text.ends_with('.') && sentences >= 2, "{id}: {text}");
        assert!(!text.contains('\n') && !text.contains("  "), "{id}: {text}");
        let longest = text.split(". ").map(|s| s.split(' ').count()).max();
        assert!(longest <= Some(50), "{id}: a sentence of {longest:?} words");
    }
}

/// The texts are those of the checks, and no others.
#[test]
fn every_text_is_one_of_a_check() {
    let files = fs::read_dir(FIXTURES).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<String> = files.collect();
    let ids = CHECKS.iter().map(|check| check.id);
    let wanted: BTreeSet<String> = ids.chain(PARTS).map(str::to_owned).collect();
    assert_eq!(files, wanted);
}

#[test]
fn a_sound_host_has_no_findings() {
    for host in [Tree::base(), Tree::base().with(&text("vgpu"))] {
        let report = host.examine();
        let found: Vec<&Finding> = report.findings.iter().collect();
        assert_eq!(written(&found), "");
        assert_eq!(report.not_made, []);
        assert_eq!(report.made, CHECKS.len());
    }
}

/// Files that the checks parse.
const PARSED: &[&str] = &[
    "/proc/cmdline",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/900/stat",
    "/proc/900/status",
    "/proc/900/limits",
    "/proc/sys/kernel/osrelease",
    "/etc/modprobe.d/x.conf",
    "/lib/modules/6.12.9/modules.dep",
    "/sys/devices/pci0000:00/0000:00:1d.0/0000:3b:00.0/sriov_totalvfs",
    "/sys/devices/pci0000:00/0000:00:1d.0/0000:3b:00.0/sriov_offset",
    "/sys/devices/pci0000:00/0000:00:1d.0/0000:3b:00.0/sriov_stride",
    "/sys/devices/pci0000:00/0000:00:1d.0/0000:3b:00.0/resource",
    "/sys/devices/pci0000:00/0000:00:1d.0/0000:3b:00.0/class",
    "/run/virt-vgpu/daemon.json",
    "/etc/libvirt/hooks/qemu",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever stands in the files, every check is made, or says why not.
    #[test]
    fn no_text_stops_the_doctor(
        texts in prop::collection::vec(
            prop_oneof![
                "[0-9]{1,20}",
                "0x[0-9a-f]{1,17} 0x[0-9a-f]{1,17} 0x[0-9a-f]{1,9}",
                "(options|softdep|install|blacklist|MemTotal:|HugePages_Total:|btime) .{0,30}",
                "(?s).{0,80}",
            ],
            PARSED.len(),
        )
    ) {
        let root = Tree::base().with(&text("vgpu")).directory();
        for (path, text) in PARSED.iter().zip(&texts) {
            let path = root.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::new(root.path());
        let report = examine(&host, &Stored { host: &host });
        prop_assert!(report.made + report.not_made.len() == CHECKS.len());
    }
}

#[test]
fn the_command_of_an_unreadable_claim_keeps_it_unless_libvirt_says_that_its_domain_is_off() {
    const UUID: &str = "11111111-2222-4333-8444-555555555555";
    const OTHER: &str = "11111111-2222-4333-8444-555555555556";
    let claims = "/run/virt-vgpu/claims";
    let (fault, _) = hosts_of("claim-unreadable");
    let report = fault.examine();
    let command = &findings(&report, "claim-unreadable")[0].commands[0];
    for (virsh, stays) in [
        (format!("echo {OTHER}; echo {UUID}; echo"), true),
        (format!("echo {OTHER}; echo"), false),
        ("echo".to_owned(), false),
        ("echo 'failed to connect' >&2; exit 1".to_owned(), true),
        (format!("echo {OTHER}; exit 1"), true),
    ] {
        let root = fault.directory();
        let bin = TempDir::new().unwrap();
        let program = bin.path().join("virsh");
        let script =
            format!("#!/bin/sh\n[ \"$*\" = '-c qemu:///system list --uuid' ] || exit 9\n{virsh}\n");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let below = format!("{}{claims}", root.path().display());
        let path = format!(
            "{}:{}",
            bin.path().display(),
            std::env::var("PATH").unwrap()
        );
        let output = Command::new("sh")
            .args(["-c", &command.replace(claims, &below)])
            .env("PATH", path)
            .output()
            .unwrap();
        let claim = Path::new(&below).join(format!("{UUID}.json"));
        assert_eq!(claim.exists(), stays, "{virsh}: {output:?}");
    }
}

#[test]
fn a_pipe_in_place_of_a_file_is_told_of_and_not_waited_for() {
    let pool = "without /sys/bus/pci/drivers/vfio-pci\nfile /etc/virt-vgpu/pools.d/disks.toml\n  \
                kind = 'pci'";
    let root = Tree::base().with(pool).directory();
    for path in ["etc/modprobe.d/x.conf", "lib/modules/6.12.9/modules.dep"] {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
    }
    // A file of the administrator that turns off one of the system's.
    let mask = root.path().join("etc/modprobe.d/off.conf");
    std::os::unix::fs::symlink("/dev/null", mask).unwrap();
    let host = Host::new(root.path());
    let report = examine(&host, &Stored { host: &host });
    assert_eq!(report.not_made, []);
    let found: Vec<String> = report
        .findings
        .iter()
        .map(|one| format!("{}: {}", one.check, one.evidence.join(", ")))
        .collect();
    let of = |path: &str, check: &str| format!("{check}: {path}: it is no regular file");
    let modules = |check| of("/lib/modules/6.12.9/modules.dep", check);
    let options = |check| of("/etc/modprobe.d/x.conf", check);
    assert_eq!(
        found,
        [
            modules("vfio-pci-missing"),
            options("vfio-ids-fixed"),
            options("driver-softdep"),
            options("modprobe-install"),
            options("module-blacklisted"),
            modules("nvidia-module-missing"),
            modules("nvidia-module-not-loaded"),
        ]
    );
}

#[test]
fn errors_come_first() {
    let host = Tree::base()
        .with("file /etc/modprobe.d/off.conf\n  install vfio-pci /bin/false")
        .with("without /etc/libvirt/hooks/qemu.d/50-virt-vgpu")
        .with("file /proc/meminfo\n  MemTotal: 1 kB\n  HugePages_Total: 1");
    let report = host.examine();
    let severities: Vec<Severity> = report.findings.iter().map(|one| one.severity).collect();
    assert_eq!(
        severities,
        [Severity::Error, Severity::Warning, Severity::Note]
    );
}
