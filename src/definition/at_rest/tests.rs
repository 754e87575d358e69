//! Stopped domains on a host of two GPUs in plain files.

use std::{collections::BTreeMap, fs, os::unix::fs::symlink};

use tempfile::TempDir;

use super::{choice::Offers, *};
use crate::{domain, model::Together};

/// The functions of a GPU.
const FUNCTIONS: u32 = 16;

const GPUS: [&str; 2] = ["0000:3b:00.0", "0000:5e:00.0"];

struct Fixture {
    root: TempDir,
    host: Host,
}

fn function(gpu: usize, number: u32) -> PciAddress {
    let bus = &GPUS[gpu][..8];
    let (slot, function) = (number / 8, number % 8);
    format!("{bus}{:02x}.{function}", slot + 1).parse().unwrap()
}

impl Fixture {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let host = Host::new(root.path());
        let fixture = Self { root, host };
        for (gpu, address) in GPUS.iter().enumerate() {
            fixture.pci(address);
            for number in 0..FUNCTIONS {
                let at = function(gpu, number).to_string();
                fixture.pci(&at);
                let physfn = format!("sys/bus/pci/devices/{at}/physfn");
                symlink(format!("../{address}"), fixture.root.path().join(physfn)).unwrap();
                fixture.set_type(function(gpu, number), "0");
            }
            fixture.fits(gpu, true);
        }
        let pool = "kind = 'nvidia-vgpu'\nprofile = 'L40S-12Q'\n[[rule]]\n\
                    where = [{ field = 'vendor-id', op = 'equal', value = '10de' }]\n";
        fixture.write("etc/virt-vgpu/pools.d/cad.toml", pool);
        fixture
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn pci(&self, address: &str) {
        let at = format!("sys/bus/pci/devices/{address}");
        self.write(&format!("{at}/vendor"), "0x10de\n");
        self.write(&format!("{at}/class"), "0x030200\n");
        self.write(&format!("{at}/device"), "0x26b9\n");
        let driver = "sys/bus/pci/drivers/nvidia";
        fs::create_dir_all(self.root.path().join(driver)).unwrap();
        let link = |target: String, path: String| {
            symlink(target, self.root.path().join(path)).unwrap();
        };
        link("../../drivers/nvidia".to_owned(), format!("{at}/driver"));
        let device = format!("../../devices/{address}");
        link(device, format!("{driver}/{address}"));
    }

    fn set_type(&self, function: PciAddress, id: &str) {
        let nvidia = format!("sys/bus/pci/devices/{function}/nvidia");
        self.write(&format!("{nvidia}/current_vgpu_type"), &format!("{id}\n"));
    }

    /// Whether one more fits on the GPU.
    fn fits(&self, gpu: usize, fits: bool) {
        let list = if fits {
            "1153  : NVIDIA L40S-12Q\n"
        } else {
            ""
        };
        for number in 0..FUNCTIONS {
            let nvidia = format!("sys/bus/pci/devices/{}/nvidia", function(gpu, number));
            let text = format!("ID    : vGPU Name\n{list}");
            self.write(&format!("{nvidia}/creatable_vgpu_types"), &text);
        }
    }

    fn claim(&self, number: u32, function: PciAddress) {
        let uuid = uuid(number);
        let claim = serde_json::json!({
            "version": 1, "domain": uuid, "domain_name": format!("ws{number}"),
            "state": "committed", "origin": "prepare", "launched": true, "boot_id": null,
            "since_boot_ms": 1, "daemon": null,
            "devices": [{
                "name": "gpu0", "pool": "cad", "kind": "vendor-vfio", "uuid": uuid,
                "parent": function, "type": "1153",
            }],
        });
        let path = format!("run/virt-vgpu/claims/{uuid}.json");
        let text = serde_json::to_string_pretty(&claim).unwrap() + "\n";
        self.write(&path, &text);
        self.set_type(function, "1153");
    }

    fn quarantine(&self, function: PciAddress) {
        self.write(&format!("run/virt-vgpu/quarantine/{function}.json"), "");
    }

    /// The domains that move, with their new functions, and the reasons.
    fn moves(&self, domains: &[(DomainDef, StoppedDomain)]) -> Vec<(String, PciAddress, String)> {
        let mut moves = Vec::new();
        for (uuid, devices) in self.found(domains).moves {
            let of_it = domains.iter().find(|(def, _)| def.uuid == uuid);
            let name = of_it.unwrap().0.name.to_string();
            for one in devices {
                moves.push((name.clone(), one.to.unwrap(), one.reason));
            }
        }
        moves
    }

    fn found(&self, domains: &[(DomainDef, StoppedDomain)]) -> AtRest {
        let mut named = Named::default();
        domains.iter().for_each(|(def, _)| named.note(def));
        let stopped: Vec<_> = domains.iter().map(|(_, stopped)| *stopped).collect();
        at_rest(&self.host, &named, &stopped).unwrap()
    }
}

fn uuid(number: u32) -> DomainUuid {
    format!("aaaaaaaa-0000-4000-8000-{number:012}")
        .parse()
        .unwrap()
}

/// A stopped domain that names these.
fn vm(number: u32, functions: &[PciAddress]) -> (DomainDef, StoppedDomain) {
    let (mut requests, mut hostdevs) = (String::new(), String::new());
    for (index, function) in functions.iter().enumerate() {
        let name = format!("gpu{index}");
        requests += &format!("<v:device name='{name}' pool='cad'/>");
        hostdevs += &Hostdev::placeholder(*function, &name.parse().unwrap()).to_xml();
    }
    let uuid = uuid(number);
    let def = domain::parse(&format!(
        "<domain><name>ws{number}</name><uuid>{uuid}</uuid><metadata>\
         <v:devices xmlns:v='urn:virt-vgpu:devices:1'>{requests}</v:devices></metadata>\
         <devices>{hostdevs}</devices></domain>"
    ));
    let stopped = StoppedDomain {
        uuid,
        autostart: false,
        saved: false,
    };
    (def.unwrap(), stopped)
}

const FULL: &str = "a L40S-12Q does not fit on its GPU now";

fn moved(vm: &str, to: PciAddress, why: &str) -> (String, PciAddress, String) {
    (vm.to_owned(), to, why.to_owned())
}

#[test]
fn a_full_gpu_loses_its_domains_to_one_with_room_and_gets_none_back() {
    let fixture = Fixture::new();
    let mut vms = vec![
        vm(1, &[function(0, 1)]),
        vm(2, &[function(1, 0)]),
        vm(3, &[function(0, 2)]),
    ];
    assert_eq!(fixture.moves(&vms), []);
    fixture.claim(9, function(0, 0));
    // Another function of the GPU has it, and the GPU takes one more.
    assert_eq!(fixture.moves(&vms), []);
    fixture.fits(0, false);
    let expected = [
        moved("ws1", function(1, 1), FULL),
        moved("ws3", function(1, 2), FULL),
    ];
    assert_eq!(fixture.moves(&vms), expected);
    vms[0] = vm(1, &[function(1, 1)]);
    vms[2] = vm(3, &[function(1, 2)]);
    assert_eq!(fixture.moves(&vms), []);
    // There is room again: nobody moves for that.
    fixture.fits(0, true);
    assert_eq!(fixture.moves(&vms), []);
    // Full everywhere: that may change before the next start, and is not worth a word.
    fixture.fits(0, false);
    fixture.fits(1, false);
    let found = fixture.found(&vms);
    assert_eq!(
        (found.moves, found.stuck, found.others),
        (vec![], vec![], vec![])
    );
}

#[test]
fn a_claimed_or_quarantined_or_absent_function_is_exchanged() {
    let fixture = Fixture::new();
    let absent: PciAddress = "0000:7f:00.1".parse().unwrap();
    let vms = [
        vm(1, &[function(0, 0)]),
        vm(2, &[function(0, 1)]),
        vm(3, &[absent]),
        vm(4, &[function(0, 3)]),
    ];
    fixture.claim(9, function(0, 0));
    fixture.quarantine(function(0, 1));
    let moves = fixture.moves(&vms);
    let to: Vec<_> = moves.iter().map(|(vm, to, _)| (vm.as_str(), *to)).collect();
    // The pool packs; what others name is left to them.
    let expected = [
        ("ws1", function(0, 2)),
        ("ws2", function(0, 4)),
        ("ws3", function(0, 5)),
    ];
    assert_eq!(to, expected);
    assert_eq!(moves[0].2, "domain 'ws9' has it");
}

#[test]
fn domains_that_start_run_or_have_a_saved_state_are_left_alone() {
    let fixture = Fixture::new();
    fixture.claim(1, function(0, 0));
    let same = || vm(1, &[function(0, 0)]);
    let mut saved = vm(2, &[function(0, 0)]);
    saved.1.saved = true;
    assert_eq!(fixture.moves(&[same(), saved.clone()]), []);
    saved.1.saved = false;
    let moves = fixture.moves(&[same(), saved]);
    assert_eq!(moves, [moved("ws2", function(0, 1), "domain 'ws1' has it")]);
    // Not in libvirt's list: it runs, though it has no claim.
    let mut named = Named::default();
    named.note(&vm(3, &[function(0, 0)]).0);
    let found = at_rest(&fixture.host, &named, &[]).unwrap();
    assert_eq!(found.moves, []);
}

#[test]
fn a_function_that_nothing_can_replace_is_said() {
    let fixture = Fixture::new();
    fixture.claim(9, function(0, 0));
    fixture.fits(0, false);
    fixture.fits(1, false);
    let found = fixture.found(&[vm(1, &[function(0, 0)]), vm(2, &[function(0, 1)])]);
    assert_eq!(found.moves, []);
    let [(of, stuck)] = found.stuck.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(*of, uuid(1));
    let text = format!(
        "gpu0 stays at {}, and nothing else is free: domain 'ws9' has it; stop a domain that uses \
         the pool, or add devices to it",
        function(0, 0)
    );
    assert_eq!(stuck.to_string(), text);
}

#[test]
fn a_domain_with_two_devices_gets_two_that_are_there_together() {
    let fixture = Fixture::new();
    fixture.claim(9, function(0, 1));
    let two = vm(1, &[function(0, 0), function(0, 1)]);
    let other = vm(2, &[function(1, 0)]);
    let moves = fixture.moves(&[two, other]);
    let to: Vec<_> = moves.iter().map(|(_, to, _)| *to).collect();
    assert_eq!(to, [function(0, 2)]);
}

#[test]
fn a_domain_that_can_have_neither_of_its_devices_gets_two_others() {
    let fixture = Fixture::new();
    fixture.claim(8, function(0, 0));
    fixture.claim(9, function(0, 1));
    let moves = fixture.moves(&[vm(1, &[function(0, 0), function(0, 1)])]);
    let to: Vec<_> = moves.iter().map(|(_, to, _)| *to).collect();
    assert_eq!(to, [function(0, 2), function(0, 3)]);
}

/// Two devices of a domain that should be behind one bridge; of that, one board is more.
#[test]
fn only_a_device_that_has_to_move_comes_near_the_other() {
    let fixture = Fixture::new();
    fixture.claim(9, function(0, 1));
    let two = |together, functions: &[PciAddress]| {
        let (mut def, stopped) = vm(1, functions);
        for request in &mut def.requests {
            request.together = together;
        }
        (def, stopped)
    };
    let moves = |together, functions: &[PciAddress]| {
        let moves = fixture.moves(&[two(together, functions)]);
        moves.iter().map(|(_, to, _)| *to).collect::<Vec<_>>()
    };
    let (here, taken) = (function(1, 0), function(0, 1));
    assert_eq!(moves(None, &[here, taken]), [function(0, 0)]);
    let together = Some(Together::PcieRoot);
    assert_eq!(moves(together, &[here, taken]), [function(1, 1)]);
    // What could be had stays where it is, near or not.
    assert_eq!(moves(together, &[here, function(1, 1)]), []);
    assert_eq!(moves(together, &[here, function(0, 0)]), []);
}

#[test]
fn domains_that_start_at_boot_are_named_first() {
    let fixture = Fixture::new();
    fixture.fits(0, false);
    let mut vms: Vec<_> = (1..4)
        .map(|number| vm(number, &[function(0, number)]))
        .collect();
    vms[2].1.autostart = true;
    let moves = fixture.moves(&vms);
    let names: Vec<_> = moves.iter().map(|(vm, to, _)| (vm.as_str(), *to)).collect();
    let expected = [
        ("ws3", function(1, 0)),
        ("ws1", function(1, 1)),
        ("ws2", function(1, 2)),
    ];
    assert_eq!(names, expected);
}

/// One look serves all domains: the time hardly depends on their number.
#[test]
fn five_hundred_stopped_domains_cost_one_look() {
    let fixture = Fixture::new();
    let vms: Vec<_> = (0..500)
        .map(|number| vm(number, &[function(0, number % FUNCTIONS)]))
        .collect();
    // They share the functions of one GPU, and the other GPU has as many again.
    let began = std::time::Instant::now();
    let moves = fixture.moves(&vms);
    println!(
        "500 domains that share: {:?}, {} moves",
        began.elapsed(),
        moves.len()
    );
    assert_eq!(moves.len(), FUNCTIONS as usize);
    fixture.fits(0, false);
    let began = std::time::Instant::now();
    let moves = fixture.moves(&vms);
    println!(
        "500 domains on a full GPU: {:?}, {} moves",
        began.elapsed(),
        moves.len()
    );
    assert_eq!(moves.len(), 500);
    for number in 0..FUNCTIONS {
        let its = moves.iter().filter(|(_, to, _)| *to == function(1, number));
        let even = 500 / FUNCTIONS as usize;
        assert!((even..=even + 1).contains(&its.count()), "{number}");
    }
}

/// Domains of other pools have boards of their own, and ask about them.
#[test]
fn the_room_of_a_board_does_not_depend_on_what_else_is_asked() {
    let fixture = Fixture::new();
    let (def, stopped) = vm(1, &[function(0, 0)]);
    let definitions = BTreeMap::from([(def.uuid, &def)]);
    let offers = ByPlan::new(&fixture.host, definitions, BTreeMap::new());
    let one = Stopped {
        domain: stopped.uuid,
        autostart: true,
        names: vec![function(0, 0)],
    };
    let room = |board: &str| offers.room(&one, &board.parse().unwrap()).unwrap();
    let before = room(GPUS[0]);
    assert!(before > 0);
    for elsewhere in ["0000:01:00.0", "0000:e1:00.0"] {
        assert_eq!(room(elsewhere), 0);
        assert_eq!((room(GPUS[0]), room(GPUS[1])), (before, before));
    }
}
