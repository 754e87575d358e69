//! Starts of VMs while GPUs are in maintenance.

use super::*;
use crate::support::{
    domain::Domain,
    machine::{Gpu, Machine},
    scene::Scene,
};

const FUNCTION: &str = "0000:3b:00.1";

fn domain(hostdev: &str) -> String {
    format!(
        "<domain type='kvm'><name>raw</name><uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid>\
         <memory>1024</memory><os><type>hvm</type></os><devices>{hostdev}</devices></domain>"
    )
}

fn pci(address: &str) -> String {
    let (rest, function) = address.rsplit_once('.').unwrap();
    let parts: Vec<&str> = rest.split(':').collect();
    format!(
        "<hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0x{}' \
         bus='0x{}' slot='0x{}' function='0x{function}'/></source></hostdev>",
        parts[0], parts[1], parts[2]
    )
}

fn start(place: &Place, xml: &str) -> Outcome {
    Program::hook(place.0.path(), "raw", "prepare begin -", xml).run()
}

/// Without any request.
#[test]
fn a_domain_that_names_such_a_gpu_itself_is_refused() {
    let place = Place::new();
    let uuid = "bbbbbbbb-0000-4000-8000-000000000001";
    let mdev = format!(
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address \
         uuid='{uuid}'/></source></hostdev>"
    );
    let device = place.path(&format!("sys/bus/pci/devices/{A}/{uuid}"));
    fs::create_dir_all(&device).unwrap();
    fs::create_dir_all(place.path(&format!(
        "sys/bus/pci/devices/{A}/mdev_supported_types/nvidia-1"
    )))
    .unwrap();
    symlink("../mdev_supported_types/nvidia-1", device.join("mdev_type")).unwrap();
    fs::create_dir_all(place.path("sys/bus/mdev/devices")).unwrap();
    symlink(
        format!("../../pci/devices/{A}/{uuid}"),
        place.path(&format!("sys/bus/mdev/devices/{uuid}")),
    )
    .unwrap();
    let named = [pci(A), pci("0000:3b:00.7"), pci(FUNCTION), mdev];
    for hostdev in &named {
        assert_eq!(start(&place, &domain(hostdev)).code, Some(0), "{hostdev}");
    }
    place.works(&format!("maintenance enter {A}"));
    let said: Vec<String> = named
        .iter()
        .map(|hostdev| {
            let refused = start(&place, &domain(hostdev));
            assert_eq!(refused.code, Some(1), "{hostdev}");
            refused.stderr
        })
        .collect();
    insta::assert_snapshot!(said.concat(), @"
    virt-vgpu: domain 'raw' names 0000:3b:00.0, and it is in maintenance until 'virt-vgpu maintenance leave'
    virt-vgpu: domain 'raw' names 0000:3b:00.7, and its GPU 0000:3b:00.0 is in maintenance until 'virt-vgpu maintenance leave'
    virt-vgpu: domain 'raw' names 0000:3b:00.1, and its GPU 0000:3b:00.0 is in maintenance until 'virt-vgpu maintenance leave'
    virt-vgpu: domain 'raw' names bbbbbbbb-0000-4000-8000-000000000001, and its GPU 0000:3b:00.0 is in maintenance until 'virt-vgpu maintenance leave'
    ");
    for other in [pci(B), pci("0000:01:00.0"), String::new()] {
        assert_eq!(start(&place, &domain(&other)).code, Some(0), "{other}");
    }
    // Everything else that libvirt tells never fails.
    for operation in [
        "start begin -",
        "started begin -",
        "stopped end -",
        "reconnect begin -",
    ] {
        let told = Program::hook(place.0.path(), "raw", operation, domain(&pci(A))).run();
        assert_eq!(
            (told.code, told.stderr),
            (Some(0), String::new()),
            "{operation}"
        );
    }
    place.works("maintenance leave");
    assert_eq!(start(&place, &domain(&pci(A))).code, Some(0));
    place.write("var/lib/virt-vgpu/maintenance.json", "{");
    insta::assert_snapshot!(start(&place, &domain(&pci(A))).stderr, @"virt-vgpu: domain 'raw' has devices of the host, and whether they are in maintenance cannot be told: /var/lib/virt-vgpu/maintenance.json: EOF while parsing an object at line 1 column 1; remove the file if no GPU is in maintenance, else run 'virt-vgpu maintenance enter' again after that");
    assert_eq!(start(&place, &domain("")).code, Some(0));
}

/// Two boards that make mediated devices, and two with virtual functions.
#[test]
fn a_pool_hands_out_nothing_of_such_a_gpu() {
    let scene = Scene::new(Machine::of_boards(2));
    scene.pool("cad", "nvidia-232");
    let boards: Vec<String> = fs::read_dir(scene.path("sys/class/mdev_bus"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let (first, second) = (boards.iter().min().unwrap(), boards.iter().max().unwrap());
    let domain = Domain::with_one(1, "cad");
    let enter = |scene: &Scene, gpus: &str| {
        let entered = Program::command(scene.root(), &format!("maintenance enter {gpus}")).run();
        assert_eq!(entered.code, Some(0), "{entered:?}");
    };
    enter(&scene, first);
    scene.prepare(&domain).ends_well();
    assert_eq!(
        scene.kernel.mdevs().values().next().unwrap().parent,
        *second
    );
    scene.stop(&domain);
    enter(&scene, "");
    insta::assert_snapshot!(scene.prepare(&domain).stderr, @"virt-vgpu: pool 'cad' has no free nvidia-232 for domain 'vm1': 0000:3b:00.0, 0000:3c:00.0: it is in maintenance until 'virt-vgpu maintenance leave'; see 'virt-vgpu explain vm1'");
    let status = Program::command(scene.root(), "status").run().stdout;
    insta::assert_snapshot!(status, @"
    POOL  TYPE        PARENTS  IN USE  FREE  LIMIT
    cad   nvidia-232  2        0       0     -

    no devices in use

    problem: in maintenance, and kept from VMs: 0000:3b:00.0, 0000:3c:00.0; 'virt-vgpu maintenance status' tells how it stands
    ");
    scene.is_empty();

    let gpu = Gpu::l40s("0000:41:00.0").functions(2);
    let scene = Scene::new(Machine::of_gpus([gpu]));
    scene.vgpu_pool("cad", "L40S-12Q");
    let domain = Domain::new(1).function("gpu0", "cad", "0000:41:00.4");
    enter(&scene, "");
    insta::assert_snapshot!(scene.prepare(&domain).stderr, @"virt-vgpu: pool 'cad' has no free L40S-12Q for domain 'vm1': its XML names 0000:41:00.4: its GPU 0000:41:00.0 is in maintenance until 'virt-vgpu maintenance leave'; 'virt-vgpu start vm1' looks for another");
    scene.is_empty();
    let applied = Program::command(scene.root(), "host apply --all").run();
    assert_eq!(applied.code, Some(0));
    insta::assert_snapshot!(applied.stdout, @"0000:41:00.0: in maintenance: 'virt-vgpu maintenance leave' sets it up");
    assert_eq!(
        Program::command(scene.root(), "maintenance leave")
            .run()
            .code,
        Some(0)
    );
    scene.prepare(&domain).ends_well();
    // In maintenance a VM keeps what it has, and gives it back when it ends.
    enter(&scene, "");
    let status = Program::command(scene.root(), "maintenance status").run();
    insta::assert_snapshot!(undated(&status.stdout), @"
    in maintenance since DATE: 0000:41:00.0
    in use:
      DOMAIN  DEVICES
      vm1     0000:41:00.4
    driver: not loaded
    next: 'virt-vgpu maintenance enter --shutdown' shuts VMs down, '--migrate URI' moves them; 'virt-vgpu maintenance leave' lets VMs have the GPUs again
    ");
    scene.stop(&domain);
    scene.is_empty();
}
