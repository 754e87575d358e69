//! `attach` and `detach` against a real libvirt: compares virsh's output before and
//! after. No host device is needed, because an absent one can be defined.

use std::{fs, process::Command, sync::LazyLock, time::Duration};

use tempfile::TempDir;
use virt_vgpu::host::{Deadline, EditLock, Host};

use crate::support::libvirtd::Libvirtd;

static LIBVIRTD: LazyLock<Libvirtd> = LazyLock::new(Libvirtd::start);

/// Pools for a directory that replaces the host.
const POOLS: &[(&str, &str)] = &[
    ("cad", "guest-driver = '/srv/drivers.iso'"),
    ("render", ""),
    ("two", "instances = 2"),
    ("spare", "[defaults]\noptional = true"),
    ("broken", "instances = 'many'"),
];

struct Fixture {
    root: TempDir,
    domain: String,
    uuid: String,
}

impl Fixture {
    /// A stopped domain. The number makes its UUID.
    fn new(number: u8, machine: &str, metadata: &str, devices: &str) -> Self {
        let fixture = Self::without_domain(number);
        LIBVIRTD.make("define", &fixture.xml(machine, metadata, devices));
        fixture
    }

    fn without_domain(number: u8) -> Self {
        let root = crate::support::root();
        let pools = root.path().join("etc/virt-vgpu/pools.d");
        fs::create_dir_all(&pools).unwrap();
        for (name, extra) in POOLS {
            let text = format!("kind = 'mdev'\ntype = 'nvidia-558'\n{extra}\n");
            fs::write(pools.join(format!("{name}.toml")), text).unwrap();
        }
        Self {
            root,
            domain: format!("ws{number}"),
            uuid: format!("aaaaaaaa-0000-4000-8000-0000000000{number:02}"),
        }
    }

    fn xml(&self, machine: &str, metadata: &str, devices: &str) -> String {
        format!(
            "<domain type='qemu'><name>{}</name><uuid>{}</uuid><metadata>{metadata}</metadata>\
             <memory unit='MiB'>32</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='{machine}'>hvm</type></os>\
             <devices>{devices}</devices></domain>",
            self.domain, self.uuid
        )
    }

    /// Exit code, standard output and standard error of the command on the
    /// domain.
    fn run(&self, verb: &str, arguments: &[&str]) -> (i32, String, String) {
        self.run_on(&self.domain, verb, arguments)
    }

    fn run_on(&self, domain: &str, verb: &str, arguments: &[&str]) -> (i32, String, String) {
        LIBVIRTD.virt_vgpu(self.root.path(), &[&[verb, domain], arguments].concat())
    }

    /// Standard output of a command that must succeed and say nothing else.
    fn done(&self, verb: &str, arguments: &[&str]) -> String {
        let (code, out, error) = self.run(verb, arguments);
        assert_eq!(
            (code, error.as_str()),
            (0, ""),
            "{verb} {arguments:?}: {out}"
        );
        out
    }

    /// Standard error of a command that must fail and change nothing.
    fn refused(&self, verb: &str, arguments: &[&str]) -> String {
        let before = self.definition();
        let (code, out, error) = self.run(verb, arguments);
        assert_eq!(
            (code, out.as_str()),
            (1, ""),
            "{verb} {arguments:?}: {error}"
        );
        assert_eq!(self.definition(), before);
        assert_eq!(error.lines().count(), 1, "{error}");
        error.trim_end().to_owned()
    }

    fn definition(&self) -> String {
        LIBVIRTD.definition(&self.domain)
    }

    fn device(&self, name: &str) -> String {
        let domain = self.uuid.parse().unwrap();
        let name = name.parse().unwrap();
        virt_vgpu::model::MdevUuid::for_device(domain, &name).to_string()
    }

    fn hostdev(&self, uuid: &str, rest: &str) -> String {
        format!(
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>\
             <source><address uuid='{uuid}'/></source>{rest}</hostdev>"
        )
    }
}

#[test]
fn the_guest_has_an_hour_at_most() {
    for (wait, why) in [
        ("3601", "3601 is not in 0..=3600"),
        (
            "18446744073709551615",
            "18446744073709551615 is not in 0..=3600",
        ),
        (
            "18446744073709551616",
            "number too large to fit in target type",
        ),
    ] {
        let arguments = ["detach", "none", "--all", "--live", "--wait", wait];
        let output = Command::new(env!("CARGO_BIN_EXE_virt-vgpu"))
            .args(arguments)
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        let wanted = format!("error: invalid value '{wait}' for '--wait <SECONDS>': {why}\n");
        assert_eq!(output.status.code(), Some(2));
        assert!(error.starts_with(&wanted), "{error}");
    }
}

const OWNER: &str =
    "<o:owner xmlns:o='urn:owner' a='1'><o:mail>x@example.org</o:mail><!-- kept --></o:owner>";

const OURS: &str = "<g:devices xmlns:g='urn:virt-vgpu:devices:1'><!-- ours --><g:device name='old' pool='render' frame-rate-limit='0'/></g:devices>";

const NS: &str = "xmlns:vgpu='urn:virt-vgpu:devices:1'";

#[test]
fn what_is_attached_and_detached_leaves_no_trace() {
    for (number, machine, bus, target) in [(1, "q35", "sata", "sda"), (2, "pc", "ide", "hda")] {
        let disk = format!(
            "<disk type='file' device='cdrom'><target dev='{target}' bus='{bus}'/><readonly/></disk>"
        );
        let fixture = Fixture::new(number, machine, OWNER, &disk);
        let (domain, uuid) = (&fixture.domain, fixture.device("gpu0"));
        let before = fixture.definition();
        let arguments = ["--pool", "cad", "--guest-drivers"];
        let drive = if machine == "pc" { "hdb" } else { "sdb" };
        assert_eq!(
            fixture.done("attach", &arguments),
            format!(
                "attached gpu0 (uuid {uuid}) from pool cad to {domain}; takes effect at the next start\n\
                 added the guest-driver CD-ROM to {domain} as {drive}; takes effect at the next start\n"
            )
        );
        let attached = fixture.definition();
        for part in [
            "<vgpu:device name=\"gpu0\" pool=\"cad\" guest-drivers=\"yes\"/>".to_owned(),
            format!("<address uuid='{uuid}'/>"),
            "<alias name='ua-vgpu-gpu0'/>".to_owned(),
            format!(
                "<source file='/var/lib/virt-vgpu/media/{}.iso' startupPolicy='optional'>",
                fixture.uuid
            ),
            "<o:owner xmlns:o=\"urn:owner\" a=\"1\">".to_owned(),
            "<!-- kept -->".to_owned(),
        ] {
            assert!(attached.contains(&part), "{part} is not in:\n{attached}");
        }
        let nothing = format!("nothing to do: {domain} has gpu0 from pool cad\n");
        assert_eq!(fixture.done("attach", &arguments), nothing);
        assert_eq!(fixture.definition(), attached);
        assert_eq!(
            fixture.done("detach", &["--name", "gpu0"]),
            format!(
                "detached gpu0 (uuid {uuid}) of pool cad from {domain}; takes effect at the next start\n\
                 removed the guest-driver CD-ROM from {domain}; takes effect at the next start\n"
            )
        );
        assert_eq!(fixture.definition(), before);
        let nothing = format!("nothing to do: {domain} has no such device\n");
        assert_eq!(fixture.done("detach", &["--all"]), nothing);
        assert_eq!(fixture.definition(), before);
    }
}

#[test]
fn requests_of_before_keep_their_bytes_and_prefix() {
    let fixture = Fixture::new(3, "pc", &format!("{OWNER}{OURS}"), "");
    let old = fixture.device("old");
    // The request alone is half an attachment; the hostdev is removed first.
    assert_eq!(
        fixture.done("attach", &["--pool", "render"]),
        format!(
            "completed old (uuid {old}) of ws3: its hostdev was missing; takes effect at the next start\n"
        )
    );
    let before = fixture.definition();
    fixture.done("attach", &["--pool", "cad", "--count", "2"]);
    let attached = fixture.definition();
    for part in [
        "<!-- ours -->\n      <g:device name=\"old\" pool=\"render\" frame-rate-limit=\"0\"/>",
        "<g:device name=\"gpu0\" pool=\"cad\"/>",
        "<g:device name=\"gpu1\" pool=\"cad\"/>",
    ] {
        assert!(attached.contains(part), "{part} is not in:\n{attached}");
    }
    fixture.done("detach", &["--pool", "cad"]);
    assert_eq!(fixture.definition(), before);
    assert_eq!(
        fixture.done("detach", &["--name", "gpu0"]),
        "nothing to do: ws3 has no such device; it has old\n"
    );
    fixture.done("detach", &["--all"]);
    // A comment was written by a person and stays.
    let left = fixture.definition();
    assert!(
        left.contains("<!-- ours -->") && !left.contains("<g:device "),
        "{left}"
    );
}

#[test]
fn a_running_domain_is_edited_for_its_next_start() {
    let fixture = Fixture::new(4, "pc", "", "");
    let libvirtd = &*LIBVIRTD;
    libvirtd.virsh(&["start", "ws4"]);
    let live = libvirtd.virsh(&["dumpxml", "ws4"]);
    let uuid = fixture.device("gpu0");
    let id = libvirtd.virsh(&["domid", "ws4"]);
    let (code, out, _) = fixture.run_on(id.trim(), "attach", &["--pool", "cad"]);
    assert_eq!(code, 0);
    assert_eq!(
        out,
        format!(
            "attached gpu0 (uuid {uuid}) from pool cad to ws4; ws4 is running: takes effect after \
             it is shut down and started again\n"
        )
    );
    assert_eq!(libvirtd.virsh(&["dumpxml", "ws4"]), live);
    assert!(fixture.definition().contains(&uuid));
    let (code, out, _) = fixture.run_on(&fixture.uuid, "detach", &["--all"]);
    assert_eq!(code, 0);
    assert_eq!(
        out,
        format!(
            "detached gpu0 (uuid {uuid}) of pool cad from ws4; ws4 is running and keeps its \
             devices until it stops\n"
        )
    );
    libvirtd.virsh(&["destroy", "ws4"]);
}

#[test]
fn a_transient_domain_is_refused() {
    let fixture = Fixture::without_domain(5);
    LIBVIRTD.make("create", &fixture.xml("pc", "", ""));
    let wanted = "virt-vgpu: domain 'ws5' is transient: it has no definition that could be edited; \
                  'virt-vgpu attach --live' adds a device while it runs, 'detach --live' removes \
                  one, \
                  'virt-vgpu create' makes a domain from XML that asks for one, 'virsh define' keeps it\n";
    for (verb, arguments) in [("attach", ["--pool", "cad"]), ("detach", ["--pool", "cad"])] {
        let (code, out, error) = fixture.run(verb, &arguments);
        assert_eq!((code, out.as_str(), error.as_str()), (1, "", wanted));
    }
    LIBVIRTD.virsh(&["destroy", "ws5"]);
}

#[test]
fn half_attached_devices_are_completed_and_cloned_ones_mended() {
    let old = "11111111-2222-5333-8444-555555555555";
    let fixture = Fixture::without_domain(6);
    let (gpu0, gpu1) = (fixture.device("gpu0"), fixture.device("gpu1"));
    let metadata = format!(
        "<vgpu:devices {NS}><vgpu:device name='gpu1' pool='cad' guest-drivers='yes'/></vgpu:devices>"
    );
    let address = "<address type='pci' domain='0' bus='0' slot='0x09' function='0'/>";
    let devices = [
        fixture.hostdev(&gpu0, "<alias name='ua-vgpu-gpu0'/>"),
        fixture.hostdev(old, &format!("<alias name='ua-vgpu-gpu1'/>{address}")),
        "<disk type='file' device='cdrom'><source file='/var/lib/virt-vgpu/media/old.iso'/>\
         <target dev='hdc' bus='ide'/><readonly/><alias name='ua-vgpu-guest-drivers'/></disk>"
            .to_owned(),
    ];
    LIBVIRTD.make("define", &fixture.xml("pc", &metadata, &devices.concat()));
    let next = "takes effect at the next start";
    assert_eq!(
        fixture.done("attach", &["--pool", "cad", "--count", "2"]),
        format!(
            "corrected gpu1 (uuid {gpu1}) of ws6: its hostdev had the UUID of another domain; \
             {next}\n\
             completed gpu0 (uuid {gpu0}) of ws6: its request was missing; {next}\n\
             corrected the guest-driver CD-ROM hdc of ws6: it had the path of another domain; \
             {next}\n"
        )
    );
    let mended = fixture.definition();
    assert!(
        !mended.contains(old) && !mended.contains("media/old.iso"),
        "{mended}"
    );
    assert!(mended.contains(&format!("media/{}.iso", fixture.uuid)));
    assert!(mended.contains("<target dev='hdc' bus='ide'/>"));
    let hostdev = mended
        .split("<hostdev")
        .find(|part| part.contains(&gpu1))
        .unwrap();
    assert!(hostdev.contains("slot='0x09'"), "{hostdev}");
    fixture.done("detach", &["--all"]);
    let left = fixture.definition();
    assert!(!left.contains("vgpu"), "{left}");
}

#[test]
fn a_failing_step_undoes_those_before_it() {
    // Without PCI there can be no hostdev.
    let none = "<controller type='usb' model='none'/><memballoon model='none'/>";
    let fixture = Fixture::new(7, "isapc", OWNER, none);
    assert_eq!(
        fixture.refused("attach", &["--pool", "cad"]),
        "virt-vgpu: cannot attach to domain 'ws7': cannot attach hostdev 'gpu0': XML error: No PCI \
         buses available; the earlier changes were undone"
    );
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let metadata = format!(
        "<vgpu:devices {NS}><vgpu:device name='a' pool='render' optional='yes'/></vgpu:devices>"
    );
    let devices = "<input type='tablet' bus='usb'><alias name='ua-vgpu-gpu0'/></input>";
    let fixture = Fixture::new(8, "pc", &metadata, devices);
    let pools = fixture.root.path().join("etc/virt-vgpu/pools.d");
    for (arguments, wanted) in [
        (&["--pool", "rendr"][..], "there is no pool 'rendr' (did you mean 'render'?); there are: broken, cad, render, spare, two".to_owned()),
        (&["--pool", "broken"], "pool 'broken' cannot be used: /etc/virt-vgpu/pools.d/broken.toml:3: key 'instances': ".to_owned()),
        (&["--pool", "cad", "--name", "a"], "cannot attach to domain 'ws8': the domain has a device 'a' of pool 'render'; detach it or choose another name".to_owned()),
        (&["--pool", "cad", "--name", "gpu0"], "cannot attach to domain 'ws8': another device of the domain has the alias 'ua-vgpu-gpu0'; choose another name".to_owned()),
        (&["--pool", "cad", "--name", "guest-drivers"], "cannot attach to domain 'ws8': the name 'guest-drivers' is reserved for the CD-ROM with guest drivers; choose another name".to_owned()),
        (&["--pool", "render", "--guest-drivers"], "cannot attach to domain 'ws8': pool 'render' has no guest drivers; set 'guest-driver' in /etc/virt-vgpu/pools.d/render.toml".to_owned()),
        (&["--pool", "cad", "--count", "17"], "cannot attach to domain 'ws8': one VM can have at most 16 vGPUs and other mediated devices, not 17".to_owned()),
        (&["--pool", "cad", "--count", "64"], "cannot attach to domain 'ws8': the domain would have more than 64 devices, the most that it can ask for".to_owned()),
        (&["--pool", "two", "--count", "3"], "cannot attach to domain 'ws8': domain 'ws8' would have 3 devices of pool 'two', which hands out at most 2 to all domains together; see 'instances' in /etc/virt-vgpu/pools.d/two.toml".to_owned()),
        (&["--pool", "cad", "--connect", "qemu:///session"], "qemu:///session: domains of a session run without root and get no devices; use '--connect qemu:///system'".to_owned()),
        (&["--pool", "cad", "--connect", "qemu+ssh://kvm2/system"], "qemu+ssh://kvm2/system: pools are those of the host that runs the domain; run virt-vgpu on 'kvm2'".to_owned()),
        (&["--pool", "cad", "--connect", "qemu+unix:///system?socket=/none"], "cannot connect to libvirt at qemu+unix:///system?socket=/none: Failed to connect socket to '/none': No such file or directory; is libvirtd (or virtqemud) running?".to_owned()),
    ] {
        let error = fixture.refused("attach", arguments);
        let wanted = format!("virt-vgpu: {wanted}");
        assert!(error.starts_with(&wanted), "{error}\n{wanted}");
    }
    assert!(pools.exists());
    let (code, _, error) = fixture.run_on("nobody", "attach", &["--pool", "cad"]);
    let wanted = format!(
        "virt-vgpu: there is no domain 'nobody' at {}; see 'virsh list --all'\n",
        LIBVIRTD.uri
    );
    assert_eq!((code, error), (1, wanted));
    for usage in [
        &["--pool", "cad", "--count", "65"][..],
        &["--pool", "CAD"],
        &[],
    ] {
        assert_eq!(fixture.run("attach", usage).0, 2, "{usage:?}");
    }
    // Without --name, a taken name is skipped.
    let out = fixture.done("attach", &["--pool", "cad"]);
    assert!(out.starts_with("attached gpu1 "), "{out}");
}

#[test]
fn an_optional_device_has_no_placeholder() {
    let fixture = Fixture::new(9, "q35", "", "");
    assert_eq!(
        fixture.done("attach", &["--pool", "spare"]),
        "requested gpu0 from pool spare for ws9; it is optional, so the domain starts without it \
         and virt-vgpud plugs it in when one is free; takes effect at the next start\n"
    );
    let definition = fixture.definition();
    assert!(definition.contains("<vgpu:device name=\"gpu0\" pool=\"spare\" optional=\"yes\"/>"));
    assert!(!definition.contains("<hostdev"));
    let again = fixture.done("attach", &["--pool", "spare"]);
    assert_eq!(again, "nothing to do: ws9 has gpu0 from pool spare\n");
}

#[test]
fn names_are_numbered_and_a_dry_run_changes_nothing() {
    let fixture = Fixture::new(10, "q35", "", "");
    let before = fixture.definition();
    let arguments = ["--pool", "cad", "--name", "r", "--count", "2"];
    let dry = fixture.done("attach", &[&arguments[..], &["--dry-run"]].concat());
    assert_eq!(fixture.definition(), before);
    let (first, rest) = dry.split_once('\n').unwrap();
    assert_eq!(first, "nothing is changed yet; without --dry-run:");
    assert_eq!(fixture.done("attach", &arguments), rest);
    let attached = fixture.definition();
    let out = fixture.done("detach", &["--name", "r-0", "--dry-run", "--json"]);
    assert_eq!(fixture.definition(), attached);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let wanted = serde_json::json!({
        "domain": "ws10", "domain_uuid": fixture.uuid, "dry_run": true, "running": false,
        "changed": true, "guest_driver_cdrom_removed": false,
        "devices": [{"name": "r-0", "pool": "cad", "uuids": [fixture.device("r-0")]}],
    });
    assert_eq!(report, wanted);
    let out = fixture.done("attach", &["--pool", "cad", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let device = |name: &str| {
        serde_json::json!({"name": name, "uuid": fixture.device(name), "pool": "cad",
            "request": "unchanged", "hostdev": "unchanged"})
    };
    let wanted = serde_json::json!({
        "domain": "ws10", "domain_uuid": fixture.uuid, "dry_run": false, "running": false,
        "changed": false, "devices": [device("r-0"), device("r-1")],
    });
    assert_eq!(report, wanted);
}

#[test]
fn the_cdrom_goes_with_the_last_request_that_wants_it() {
    let fixture = Fixture::new(11, "q35", "", "");
    fixture.done("attach", &["--pool", "cad", "--count", "2"]);
    let out = fixture.done(
        "attach",
        &["--pool", "cad", "--name", "gpu1", "--guest-drivers"],
    );
    assert_eq!(
        out,
        "changed the request gpu1 of ws11; takes effect at the next start\n\
         added the guest-driver CD-ROM to ws11 as sda; takes effect at the next start\n"
    );
    fixture.done("detach", &["--name", "gpu0"]);
    assert!(fixture.definition().contains("ua-vgpu-guest-drivers"));
    fixture.done("detach", &["--name", "gpu1"]);
    assert!(!fixture.definition().contains("ua-vgpu"));
}

#[test]
fn edits_at_the_same_time_do_not_undo_each_other() {
    let fixture = Fixture::new(12, "pc", "", "");
    let before = fixture.definition();
    let names: Vec<String> = (0..4).map(|number| format!("n{number}")).collect();
    // All four read the definition only after the other edits.
    let host = Host::new(fixture.root.path());
    let domain = fixture.uuid.parse().unwrap();
    let soon = Deadline::after(Duration::from_secs(1));
    let other = EditLock::acquire(&host, domain, "a test", soon).unwrap();
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| fixture.done("attach", &["--pool", "cad", "--name", name]));
        }
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(fixture.definition(), before);
        drop(other);
    });
    let attached = fixture.definition();
    for name in &names {
        assert!(
            attached.contains(&format!("<vgpu:device name=\"{name}\"")),
            "{attached}"
        );
        assert!(attached.contains(&fixture.device(name)), "{attached}");
    }
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| fixture.done("detach", &["--name", name]));
        }
    });
    assert!(!fixture.definition().contains("vgpu"));
}

#[test]
fn explain_reads_the_definition_through_libvirt() {
    let fixture = Fixture::new(13, "pc", "", "");
    let nothing = "domain 'ws13' asks for no devices: the hook does nothing\n";
    assert_eq!(fixture.done("explain", &[]), nothing);
    fixture.done("attach", &["--pool", "two"]);
    let (code, out, error) = fixture.run("explain", &[]);
    let wanted = format!(
        "domain 'ws13' would be refused
  virt-vgpu: pool 'two' has no free nvidia-558 for domain 'ws13': no device on this host matches \
its rules; see 'virt-vgpu pool preview two'

gpu0 from pool two
  uuid    {}

pool two: nvidia-558, pack, 0 in use of at most 2, 0 free
  no device on this host matches its rules; see 'virt-vgpu pool preview two'
",
        fixture.device("gpu0")
    );
    assert_eq!((code, out, error), (1, wanted, String::new()));
}

#[test]
fn what_libvirt_keeps_and_nobody_reads_is_told() {
    let mistyped = "<x:devices xmlns:x='urn:virt-vgpu:devices'>\
                    <x:device name='gpu0' pool='cad'/></x:devices>";
    let fixture = Fixture::new(14, "pc", mistyped, "");
    let note = "<x:devices> asks for nothing: its namespace is 'urn:virt-vgpu:devices'; write \
                xmlns:x='urn:virt-vgpu:devices:1'";
    assert_eq!(
        fixture.done("explain", &[]),
        format!("domain 'ws14' asks for no devices: the hook does nothing\n\nnote: {note}\n")
    );
    let (code, out, error) = fixture.run("sync", &[]);
    assert_eq!((code, out), (1, format!("ws14: {note}\n")), "{error}");
    let said = fixture.done("attach", &["--pool", "cad"]);
    assert!(said.ends_with(&format!("\n{note}\n")), "{said}");
}
