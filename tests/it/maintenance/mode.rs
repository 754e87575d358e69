//! Entering, looking, leaving.

use super::*;

#[test]
fn gpus_go_into_maintenance_and_come_back() {
    let place = Place::new();
    insta::assert_snapshot!(place.works("maintenance status"), @"no GPU is in maintenance; 'virt-vgpu maintenance enter' begins it");
    insta::assert_snapshot!(place.refused("maintenance leave"), @"virt-vgpu: no GPU is in maintenance; 'virt-vgpu maintenance enter' begins it");
    insta::assert_snapshot!(place.works("maintenance enter 3b:00.0 --dry-run"), @"
    would be in maintenance: 0000:3b:00.0
    nobody uses them
    ");
    assert_eq!(place.read("var/lib/virt-vgpu/maintenance.json"), "");
    insta::assert_snapshot!(place.works("maintenance enter 3b:00.0"), @"
    in maintenance: 0000:3b:00.0
    nobody uses them
    ");
    insta::assert_snapshot!(place.works("maintenance status"), @"
    in maintenance since DATE: 0000:3b:00.0
    nobody uses them
    driver: 570.172.07
    next: 'virt-vgpu driver load NAME' changes the driver; 'virt-vgpu maintenance leave' lets VMs have the GPUs again
    ");
    insta::assert_snapshot!(place.works("maintenance enter"), @"
    in maintenance: 0000:3b:00.0, 0000:5e:00.0
    nobody uses them
    ");
    insta::assert_snapshot!(place.works(&format!("maintenance leave {B}")), @"
    VMs can have them again: 0000:5e:00.0
    still in maintenance: 0000:3b:00.0
    ");
    insta::assert_snapshot!(place.refused(&format!("maintenance leave {B}")), @"virt-vgpu: 0000:5e:00.0 is not in maintenance; 'virt-vgpu maintenance status' shows what is");
    let status = place.json("maintenance status");
    assert_eq!(status["gpus"], serde_json::json!([A]));
    assert_eq!(status["in_maintenance"], true);
    insta::assert_snapshot!(place.works("maintenance leave"), @"VMs can have them again: 0000:3b:00.0");
    assert_eq!(place.json("maintenance status")["in_maintenance"], false);
    assert!(!place.path("var/lib/virt-vgpu/maintenance.json").exists());
}

#[test]
fn what_is_no_gpu_is_refused() {
    let place = Place::new();
    insta::assert_snapshot!(place.refused("maintenance enter 0000:3b:00.1"), @"virt-vgpu: 0000:3b:00.1 is a virtual function: maintenance is of its GPU, 0000:3b:00.0");
    insta::assert_snapshot!(place.refused("maintenance enter 0000:af:00.0"), @"virt-vgpu: there is no GPU '0000:af:00.0': there are 0000:3b:00.0 and 0000:5e:00.0; 'virt-vgpu host show' lists all");
    insta::assert_snapshot!(place.refused("maintenance enter gpu0"), @"virt-vgpu: there is no GPU 'gpu0': there are 0000:3b:00.0 and 0000:5e:00.0; 'virt-vgpu host show' lists all");
    assert_eq!(place.read("var/lib/virt-vgpu/maintenance.json"), "");
}

#[test]
fn a_damaged_note_is_told() {
    let place = Place::new();
    place.write("var/lib/virt-vgpu/maintenance.json", "{");
    for command in [
        "maintenance status",
        "maintenance enter",
        "maintenance leave",
    ] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(place.refused(command), @"virt-vgpu: /var/lib/virt-vgpu/maintenance.json: EOF while parsing an object at line 1 column 1; remove the file if no GPU is in maintenance, else run 'virt-vgpu maintenance enter' again after that");
        }
    }
}

#[test]
fn a_gpu_that_is_not_there_any_more_is_in_nobodys_way() {
    let place = Place::new();
    place.works("maintenance enter");
    fs::remove_dir_all(place.path(&format!("sys/bus/pci/devices/{A}"))).unwrap();
    assert_eq!(
        place.json("maintenance status")["gpus"],
        serde_json::json!([A, B])
    );
    insta::assert_snapshot!(place.works(&format!("maintenance leave {A}")), @r"
    VMs can have them again: 0000:3b:00.0
    still in maintenance: 0000:5e:00.0
    ");
    place.works("maintenance leave");
}
