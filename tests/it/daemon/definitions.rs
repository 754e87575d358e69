//! `virt-vgpud` and `virt-vgpu sync` against a real libvirt: the state of a definition
//! some time after it was written. No host device is needed.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use virt_vgpu::{
    domain::{self, DomainDef, Hostdev},
    host::Deadline,
    model::MdevUuid,
};

use crate::support::libvirtd::Libvirtd;

/// Far longer than any step takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const NAMESPACE: &str = "urn:virt-vgpu:devices:1";

/// A directory that replaces the host, with its pools, and a libvirt. Each test has its
/// own libvirt, because two daemons of ours on one would conflict.
struct Fixture {
    root: TempDir,
    libvirt: Libvirtd,
}

/// The daemon, killed at the end.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Fixture {
    fn new() -> Self {
        let root = crate::support::root();
        let pools = root.path().join("etc/virt-vgpu/pools.d");
        fs::create_dir_all(&pools).unwrap();
        for (name, extra) in [
            ("cad", "guest-driver = '/srv/drivers.iso'"),
            ("spare", "[defaults]\noptional = true"),
            ("broken", "instances = 'many'"),
        ] {
            let text = format!("kind = 'mdev'\ntype = 'nvidia-558'\n{extra}\n");
            fs::write(pools.join(format!("{name}.toml")), text).unwrap();
        }
        Self {
            root,
            libvirt: Libvirtd::start(),
        }
    }

    fn daemon(&self) -> Daemon {
        let daemon = Command::new(env!("CARGO_BIN_EXE_virt-vgpud"))
            .args(["--connect", &self.libvirt.uri])
            .env("VIRT_VGPU_ROOT", self.root.path())
            .stdin(Stdio::null())
            .spawn();
        Daemon(daemon.unwrap())
    }

    /// Exit code, standard output and standard error of `virt-vgpu sync`.
    fn sync(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_virt-vgpu"))
            .arg("sync")
            .args(arguments)
            .args(["--connect", &self.libvirt.uri])
            .env("VIRT_VGPU_ROOT", self.root.path())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        (code, text(output.stdout), text(output.stderr))
    }

    fn problems(&self) -> Vec<String> {
        let notes = fs::read_to_string(self.root.path().join("run/virt-vgpu/daemon.json"));
        let Ok(notes) = notes else { return Vec::new() };
        let notes: serde_json::Value = serde_json::from_str(&notes).unwrap();
        let problems = notes["problems"].as_array().unwrap().iter();
        problems
            .map(|problem| problem.as_str().unwrap().to_owned())
            .collect()
    }
}

/// A domain of that number, with its requests and further devices.
struct Vm<'l> {
    libvirt: &'l Libvirtd,
    name: String,
    uuid: String,
}

impl<'l> Vm<'l> {
    fn new(fixture: &'l Fixture, number: u8) -> Self {
        Self {
            libvirt: &fixture.libvirt,
            name: format!("vm{number}"),
            uuid: format!("bbbbbbbb-0000-4000-8000-0000000000{number:02}"),
        }
    }

    fn define(&self, requests: &str, devices: &str) {
        let metadata = match requests {
            "" => String::new(),
            requests => {
                format!("<v:devices xmlns:v='{NAMESPACE}'>{requests}</v:devices>")
            }
        };
        self.define_with(&metadata, devices);
    }

    fn define_with(&self, metadata: &str, devices: &str) {
        let Self { name, uuid, .. } = self;
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid>\
             <metadata>{metadata}</metadata><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os>\
             <devices>{devices}</devices></domain>"
        );
        self.libvirt.make("define", &xml);
    }

    fn definition(&self) -> DomainDef {
        domain::parse(&self.libvirt.definition(&self.name)).unwrap()
    }

    fn device(&self, name: &str) -> MdevUuid {
        MdevUuid::for_device(self.uuid.parse().unwrap(), &name.parse().unwrap())
    }

    fn hostdev(&self, name: &str) -> String {
        Hostdev::placeholder(self.device(name), &name.parse().unwrap()).to_xml()
    }

    /// The aliases of the placeholders, and whether each belongs to this domain.
    fn placeholders(&self) -> Vec<(String, bool)> {
        let hostdevs = self.definition().hostdevs.into_iter();
        hostdevs
            .map(|one| {
                let alias = one.alias.unwrap_or_default();
                let name = alias.trim_start_matches(domain::ALIAS_PREFIX);
                let own = one.handle == self.device(name).into();
                (alias, own)
            })
            .collect()
    }

    fn await_placeholders(&self, wanted: &[(&str, bool)]) {
        let is_so = || {
            let found = self.placeholders();
            found.len() == wanted.len()
                && found
                    .iter()
                    .zip(wanted)
                    .all(|((alias, own), wanted)| (alias.as_str(), *own) == *wanted)
        };
        let so = Deadline::after(PATIENCE).wait_until(is_so);
        assert!(so, "{:?}, not {wanted:?}", self.placeholders());
    }
}

#[test]
fn a_request_is_followed_by_its_placeholder_and_takes_it_along() {
    let fixture = Fixture::new();
    let (early, late) = (Vm::new(&fixture, 1), Vm::new(&fixture, 2));
    // Defined before the daemon starts: found by its first scan.
    early.define("<v:device name='gpu0' pool='cad'/>", "");
    let daemon = fixture.daemon();
    early.await_placeholders(&[("ua-vgpu-gpu0", true)]);
    // Defined later, two devices.
    late.define(
        "<v:device name='a' pool='cad'/><v:device name='b' pool='cad'/>",
        "",
    );
    late.await_placeholders(&[("ua-vgpu-a", true), ("ua-vgpu-b", true)]);
    // Metadata written and taken out on their own.
    let element = "<devices><device name='b' pool='cad'/></devices>";
    let metadata = |vm: &Vm<'_>, rest: &[&str]| {
        let base = ["metadata", vm.name.as_str(), NAMESPACE, "--config"];
        vm.libvirt.virsh(&[&base, rest].concat());
    };
    metadata(&late, &["--key", "v", "--set", element]);
    late.await_placeholders(&[("ua-vgpu-b", true)]);
    metadata(&early, &["--remove"]);
    early.await_placeholders(&[]);
    metadata(&early, &["--key", "v", "--set", element]);
    early.await_placeholders(&[("ua-vgpu-b", true)]);
    assert_eq!(fixture.problems(), Vec::<String>::new());

    // The daemon is killed, and a domain is changed meanwhile.
    drop(daemon);
    metadata(&early, &["--remove"]);
    let _daemon = fixture.daemon();
    early.await_placeholders(&[]);
    late.await_placeholders(&[("ua-vgpu-b", true)]);
}

#[test]
fn a_clone_gets_devices_of_its_own_and_what_is_not_ours_stays() {
    let fixture = Fixture::new();
    let (original, clone) = (Vm::new(&fixture, 3), Vm::new(&fixture, 4));
    let foreign = "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>\
        <source><address uuid='cccccccc-0000-4000-8000-000000000001'/></source>\
        <alias name='ua-mine'/></hostdev>";
    let devices = original.hostdev("gpu0") + foreign;
    let request = "<v:device name='gpu0' pool='cad'/>";
    let _daemon = fixture.daemon();
    clone.define(request, &devices);
    clone.await_placeholders(&[("ua-mine", false), ("ua-vgpu-gpu0", true)]);
    // A placeholder with a foreign UUID and our alias, without a request, was not
    // written by us.
    clone.define("", &devices);
    original.define("", &devices);
    original.await_placeholders(&[("ua-mine", false)]);
    assert_eq!(
        clone.placeholders(),
        [
            ("ua-vgpu-gpu0".to_owned(), false),
            ("ua-mine".to_owned(), false)
        ]
    );
}

#[test]
fn what_cannot_be_had_is_said_and_harms_nothing_else() {
    let fixture = Fixture::new();
    let vm = Vm::new(&fixture, 5);
    let _daemon = fixture.daemon();
    vm.define(
        "<v:device name='a' pool='broken'/><v:device name='b' pool='none'/>\
         <v:device name='c' pool='spare'/><v:device name='d' pool='cad'/>",
        "",
    );
    vm.await_placeholders(&[("ua-vgpu-d", true)]);
    let both = || fixture.problems().len() == 2;
    assert!(Deadline::after(PATIENCE).wait_until(both));
    let problems = fixture.problems();
    assert!(
        problems[0].starts_with("domain 'vm5': /etc/virt-vgpu/pools.d/broken.toml:")
            || problems[0].starts_with("domain 'vm5': pool 'broken'"),
        "{problems:?}"
    );
    assert_eq!(
        problems[1],
        "domain 'vm5': there is no pool 'none'; see 'virt-vgpu pool list'"
    );
    // The pool says that its device is optional, and now the request says so too.
    let definition = vm.definition();
    let optional = definition.requests.iter().map(|one| one.optional);
    assert_eq!(Vec::from_iter(optional), [None, None, Some(true), None]);
}

#[test]
fn sync_does_by_hand_what_the_daemon_does() {
    let fixture = Fixture::new();
    let (vm, plain) = (Vm::new(&fixture, 6), Vm::new(&fixture, 7));
    plain.define("", "");
    vm.define(
        "<v:device name='gpu0' pool='cad' guest-drivers='yes'/>",
        &Vm::new(&fixture, 8).hostdev("gpu0"),
    );
    let both = ["vm6", "vm7"];
    let says = "vm6: corrected the hostdev of gpu0, which belonged to another domain\n\
                vm6: added the guest-driver CD-ROM sda\n";
    let dry = format!("nothing is changed yet; without --dry-run:\n{says}");
    assert_eq!(
        fixture.sync(&[&both[..], &["--dry-run"]].concat()),
        (0, dry, String::new())
    );
    assert_eq!(vm.placeholders(), [("ua-vgpu-gpu0".to_owned(), false)]);
    assert_eq!(fixture.sync(&both), (0, says.to_owned(), String::new()));
    assert_eq!(vm.placeholders(), [("ua-vgpu-gpu0".to_owned(), true)]);
    let nothing = (0, "nothing to do\n".to_owned(), String::new());
    assert_eq!(fixture.sync(&both), nothing);

    vm.define("", &vm.hostdev("gpu0"));
    let (code, out, _) = fixture.sync(&["vm6", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    assert_eq!(
        report["domains"][0]["done"],
        serde_json::json!([{"change": "removed", "device": "gpu0"}])
    );
    assert_eq!(vm.placeholders(), []);

    vm.define("<v:device name='gpu0' pool='none'/>", "");
    let (code, out, _) = fixture.sync(&["vm6"]);
    assert_eq!(
        (code, out.as_str()),
        (
            1,
            "vm6: there is no pool 'none'; see 'virt-vgpu pool list'\n"
        )
    );
    let (code, out, error) = fixture.sync(&["nobody"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.starts_with("virt-vgpu: there is no domain 'nobody'"));
    let (code, ..) = fixture.sync(&[]);
    assert_eq!(code, 2);
}

#[test]
fn requests_of_a_mistyped_namespace_are_told_and_their_hostdevs_stay() {
    let fixture = Fixture::new();
    let vm = Vm::new(&fixture, 1);
    let _daemon = fixture.daemon();
    let mistyped = "<x:devices xmlns:x='urn:virt-vgpu:device:1'>\
                    <x:device name='gpu0' pool='cad'/></x:devices>";
    vm.define_with(mistyped, &vm.hostdev("gpu0"));
    let note = "<x:devices> asks for nothing: its namespace is 'urn:virt-vgpu:device:1'; write \
                xmlns:x='urn:virt-vgpu:devices:1'";
    let wanted = [format!("domain 'vm1': {note}")];
    let told = || fixture.problems() == wanted;
    assert!(
        Deadline::after(PATIENCE).wait_until(told),
        "{:?}",
        fixture.problems()
    );
    // A start is refused as long as the placeholder exists. That is better than a start
    // without a GPU.
    assert_eq!(vm.placeholders(), [("ua-vgpu-gpu0".to_owned(), true)]);
    let (code, out, _) = fixture.sync(&["--all"]);
    assert_eq!((code, out), (1, format!("vm1: {note}\n")));
    vm.define_with(mistyped, "");
    assert!(
        Deadline::after(PATIENCE).wait_until(told),
        "{:?}",
        fixture.problems()
    );
    let (code, out, _) = fixture.sync(&["--all"]);
    assert_eq!((code, out), (1, format!("vm1: {note}\n")));
    vm.define_with("", "");
    assert!(Deadline::after(PATIENCE).wait_until(|| fixture.problems().is_empty()));
}
