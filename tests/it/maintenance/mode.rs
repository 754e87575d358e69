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

/// What only shows goes on.
#[test]
fn with_a_damaged_note_nothing_is_handed_out() {
    let place = Place::new();
    place.write("var/lib/virt-vgpu/maintenance.json", "{");
    place.write(
        "etc/virt-vgpu/pools.d/cad.toml",
        "kind = \"nvidia-vgpu\"\nprofile = \"L40S-12Q\"\n[[rule]]\nwhere = [{ field = \
         \"vendor-id\", op = \"equal\", value = \"10de\" }]",
    );
    let status = place.json("status");
    assert_eq!(status["pools"][0]["free"], 0);
    let problems = status["problems"].as_array().unwrap();
    let is_told = |one: &serde_json::Value| one.as_str().unwrap().contains("maintenance.json: EOF");
    assert!(problems.iter().any(is_told), "{problems:?}");
    place.works("devices");
}

/// A board that has failed, or was taken out.
#[test]
fn a_gpu_that_is_gone_is_in_nobodys_way() {
    let place = Place::new();
    place.works("maintenance enter");
    for function in [B, "0000:5e:00.1", "0000:5e:00.2"] {
        fs::remove_dir_all(place.path(&format!("sys/bus/pci/devices/{function}"))).unwrap();
    }
    insta::assert_snapshot!(place.works("maintenance status"), @"
    in maintenance since DATE: 0000:3b:00.0, 0000:5e:00.0
    nobody uses them
    driver: 570.172.07
    next: 'virt-vgpu driver load NAME' changes the driver; 'virt-vgpu maintenance leave' lets VMs have the GPUs again
    ");
    place.works("driver load nvidia-580.65.05 --yes");
    place.works(&format!("maintenance leave {B}"));
    insta::assert_snapshot!(place.works("maintenance leave"), @"VMs can have them again: 0000:3b:00.0");
}

/// GPUs can be kept from VMs all the same; their driver stays.
#[test]
fn a_damaged_claim_is_told() {
    let place = Place::new();
    let claim = "run/virt-vgpu/claims/aaaaaaaa-0000-4000-8000-000000000001.json";
    place.write(claim, "{");
    insta::assert_snapshot!(place.works("maintenance enter"), @"
    in maintenance: 0000:3b:00.0, 0000:5e:00.0
    in use:
      claim /run/virt-vgpu/claims/aaaaaaaa-0000-4000-8000-000000000001.json: EOF while parsing an object at line 2 column 0; when that domain no longer runs, remove the file
    ");
    insta::assert_snapshot!(place.refused("driver load nvidia-580.65.05 --yes"), @"virt-vgpu: the driver of set 'nvidia-580.65.05' was not loaded: the GPUs are in use: claim /run/virt-vgpu/claims/aaaaaaaa-0000-4000-8000-000000000001.json: EOF while parsing an object at line 2 column 0; when that domain no longer runs, remove the file; 'virt-vgpu maintenance enter --shutdown' shuts VMs down, '--migrate URI' moves them");
}

/// Nobody else remembers them.
#[test]
fn vms_that_were_shut_down_are_told_also_without_libvirt() {
    let place = Place::new();
    place.works("maintenance enter");
    const NOTE: &str = "var/lib/virt-vgpu/maintenance.json";
    let mut noted: serde_json::Value = serde_json::from_str(&place.read(NOTE)).unwrap();
    noted["shut_down"] = serde_json::json!([
        { "uuid": "aaaaaaaa-0000-4000-8000-000000000001", "name": "ws1" },
        { "uuid": "aaaaaaaa-0000-4000-8000-000000000002", "name": "ws2" },
    ]);
    place.write(NOTE, &noted.to_string());
    let left = place.command("maintenance leave");
    assert_eq!(left.code, Some(1), "{left:?}");
    insta::assert_snapshot!(left.stdout, @"
    VMs can have them again: 0000:3b:00.0, 0000:5e:00.0
    problem: VMs that were shut down for the maintenance were not looked at: ws1, ws2; 'virsh start NAME' starts one
    ");
}
