//! Other discs for VMs that run: against a real libvirt and QEMU.

use std::{
    os::unix::fs::{MetadataExt, symlink},
    path::PathBuf,
    sync::LazyLock,
};

use super::*;
use crate::support::{
    domain::Domain,
    libvirtd::Libvirtd,
    machine::{Machine, SMALL},
    scene::Scene,
};

static LIBVIRTD: LazyLock<Libvirtd> = LazyLock::new(Libvirtd::start);

const SET: &str = "/var/lib/virt-vgpu/drivers/nvidia-580.65.05";

/// The numbers of the images that a domain's QEMU has open; it may have a name that leads to
/// another one by now.
fn open_images(domain: &Domain) -> Vec<u64> {
    let uuid = domain.uuid.to_string();
    let is_its = |process: &PathBuf| {
        let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(&format!("-uuid\0{uuid}"))
    };
    let processes = fs::read_dir("/proc").unwrap();
    let processes = processes.map(|entry| entry.unwrap().path());
    let open = processes.filter(is_its).flat_map(|process| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten();
        files.map(|file| file.unwrap().path())
    });
    let is_image = |file: &PathBuf| {
        fs::read_link(file).is_ok_and(|name| name.to_string_lossy().contains(".iso"))
    };
    let images = open.filter(is_image);
    let mut numbers: Vec<u64> = images
        .map(|image| image.metadata().unwrap().ino())
        .collect();
    numbers.dedup();
    numbers
}

#[test]
fn running_vms_get_the_disc_of_today() {
    let scene = Scene::new(Machine::of_boards(1));
    scene.daemon_lives();
    scene.pool_with("cad", SMALL, "guest-driver = 'nvidia-580.65.05'");
    scene.file("etc/libvirt/qemu.conf", "user = \"+0\"\n");
    fs::create_dir_all(scene.path("usr/bin")).unwrap();
    for program in ["/usr/bin/env", "/usr/bin/xorriso"] {
        symlink(program, scene.path(program)).unwrap();
    }
    scene.file("bundle.zip", Archive::of_nvidia().bytes());
    scene.file("a.tok", "sesame");
    let driver = |arguments: &str| {
        let root = scene.root().display().to_string();
        let arguments = arguments.replace('@', &format!("{root}/"));
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let (code, out, error) =
            LIBVIRTD.virt_vgpu(scene.root(), &[&["driver"], &*arguments].concat());
        let text = format!("{out}{error}").replace(&format!("{root}/"), "/");
        format!("{code}\n{text}")
    };
    let update = |more: &str| driver(&format!("iso nvidia-580.65.05 --update-running{more}"));
    driver("add @bundle.zip");
    insta::assert_snapshot!(update(""), @"
    0
    no VM runs with a disc of a pool that lends nvidia-580.65.05
    ");

    let vm = Domain::new(71).request("gpu0", "pool='cad' guest-drivers='yes'", true);
    scene.prepare(&vm).succeeds();
    LIBVIRTD.sees_state_of(scene.root());
    LIBVIRTD.make(
        "create",
        &format!(
            "<domain type='qemu'><name>{}</name><uuid>{}</uuid><memory unit='MiB'>32</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
             <disk type='file' device='cdrom'><source file='{}' startupPolicy='optional'>\
             <seclabel model='dac' relabel='no'/></source><target dev='sdc' bus='sata'/><readonly/>\
             <alias name='ua-vgpu-guest-drivers'/></disk>\
             <memballoon model='none'/></devices></domain>",
            vm.name,
            vm.uuid,
            vm.media()
        ),
    );
    let image = |name: &str| {
        let image = scene.path(&format!("{SET}/{name}"));
        image.metadata().unwrap().ino()
    };
    let claimed = || {
        let claim = scene.claims().remove(0);
        claim.media.unwrap().image
    };
    assert_eq!(open_images(&vm), [image("guest.iso")]);
    insta::assert_snapshot!(update(""), @"
    0
    domain 'vm71' has /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest.iso
    ");

    // With the pool's token, and again.
    driver("token add @a.tok --pool cad");
    insta::assert_snapshot!(update(" --dry-run"), @"
    0
    domain 'vm71' would get /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-cad.iso
    ");
    assert_eq!(open_images(&vm), [image("guest.iso")]);
    insta::assert_snapshot!(update(""), @"
    0
    domain 'vm71' has now /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-cad.iso
    ");
    assert_eq!(open_images(&vm), [image("guest-pool-cad.iso")]);
    assert_eq!(claimed(), Path::new(SET).join("guest-pool-cad.iso"));
    insta::assert_snapshot!(update(" --json"), @r#"
    0
    {
      "name": "nvidia-580.65.05",
      "running": [
        {
          "domain": "vm71",
          "domain_uuid": "aaaaaaaa-0000-4000-8000-000000000047",
          "outcome": "current",
          "image": "/var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-cad.iso"
        }
      ]
    }
    "#);

    // Made again: the VM has the former build, whose file has no name any more.
    let former = image("guest-pool-cad.iso");
    driver("iso nvidia-580.65.05");
    assert_ne!(former, image("guest-pool-cad.iso"));
    assert_eq!(open_images(&vm), [former]);
    insta::assert_snapshot!(update(""), @"
    0
    domain 'vm71' has now /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-cad.iso
    ");
    assert_eq!(open_images(&vm), [image("guest-pool-cad.iso")]);

    // A link that cannot be changed: the former disc is put in again.
    driver("token add @a.tok --domain aaaaaaaa-0000-4000-8000-000000000047");
    let own = image("guest-domain-aaaaaaaa-0000-4000-8000-000000000047.iso");
    fs::remove_file(scene.path(&vm.media())).unwrap();
    fs::hard_link(
        scene.path(&format!("{SET}/guest-pool-cad.iso")),
        scene.path(&vm.media()),
    )
    .unwrap();
    insta::assert_snapshot!(update(""), @"
    1
    problem: domain 'vm71': cannot change /var/lib/virt-vgpu/media/aaaaaaaa-0000-4000-8000-000000000047.iso: entity already exists; it has its former disc again
    ");
    assert_eq!(open_images(&vm), [image("guest-pool-cad.iso")]);
    assert_eq!(claimed(), Path::new(SET).join("guest-pool-cad.iso"));
    fs::remove_file(scene.path(&vm.media())).unwrap();

    // QEMU can reach neither the new disc nor the former one; the next run fills the drive.
    LIBVIRTD.sees_no_state();
    insta::assert_snapshot!(update(""), @"
    1
    problem: domain 'vm71': cannot put the guest-driver disc in: Cannot access storage file '/var/lib/virt-vgpu/media/aaaaaaaa-0000-4000-8000-000000000047.iso': No such file or directory; the drive is empty now, and the former disc cannot be put in either: cannot put the guest-driver disc in: Cannot access storage file '/var/lib/virt-vgpu/media/aaaaaaaa-0000-4000-8000-000000000047.iso': No such file or directory; mend the cause, then run this again
    ");
    assert!(open_images(&vm).is_empty());
    LIBVIRTD.sees_state_of(scene.root());
    insta::assert_snapshot!(update(""), @"
    0
    domain 'vm71' has now /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-domain-aaaaaaaa-0000-4000-8000-000000000047.iso
    ");
    assert_eq!(open_images(&vm), [own]);

    LIBVIRTD.virsh(&["destroy", &vm.name]);
    insta::assert_snapshot!(update(""), @"
    0
    no VM runs with a disc of a pool that lends nvidia-580.65.05
    ");
    scene.stop(&vm);
}
