//! `virt-vgpu profiles` on a host of plain files, with and without a replacement for
//! NVML.

use virt_vgpu::{
    device::nvml::{
        Answer, Failure, FailureKind, GpuFacts, Heterogeneous, Placements, Told, TypeFacts,
    },
    model::VgpuTypeId,
};

use crate::support::plain_tree::Tree;

const GPU: &str = "0000:3b:00.0";
const DEVICES: &str = "/sys/devices/pci0000:00";
const PROGRAM: &str = "/usr/sbin/virt-vgpu-nvml";

fn function(number: u32) -> String {
    format!("0000:3b:00.{}", 4 + number)
}

/// An L40S with four virtual functions.
fn board() -> Tree {
    let mut tree = Tree::new().pci(GPU, "10de", "26b9", "030200", Some("nvidia"));
    tree = tree.with(&format!("{DEVICES}/{GPU}/sriov_totalvfs"), "32\n");
    for number in 0..4 {
        let name = function(number);
        tree = tree.virtual_function(&name, GPU).with_link(
            &format!("{DEVICES}/{GPU}/virtfn{number}"),
            &format!("../{name}"),
        );
    }
    tree
}

/// With vendor-specific VFIO: the first function is a 24C.
fn vendor_vfio() -> Tree {
    let mut tree = board();
    for number in 0..4 {
        let at = format!("{DEVICES}/{}/nvidia", function(number));
        let (current, creatable) = match number {
            0 => ("1172\n", ""),
            _ => ("0\n", "1172  : NVIDIA L40S-24C\n1155  : NVIDIA L40S-24Q\n"),
        };
        tree = tree.with(&format!("{at}/current_vgpu_type"), current).with(
            &format!("{at}/creatable_vgpu_types"),
            &format!("ID    : vGPU Name\n{creatable}"),
        );
    }
    tree
}

/// With mediated devices: id, name, description, and how many more can be created.
fn mdev_types(mut tree: Tree, parent: &str, types: &[(&str, &str, &str, u32)]) -> Tree {
    tree = tree.with_link(
        &format!("/sys/class/mdev_bus/{parent}"),
        &format!("../../devices/pci0000:00/{parent}"),
    );
    for (id, name, description, available) in types {
        let at = format!("{DEVICES}/{parent}/mdev_supported_types/{id}");
        tree = tree
            .with(&format!("{at}/name"), &format!("{name}\n"))
            .with(&format!("{at}/description"), &format!("{description}\n"))
            .with(&format!("{at}/device_api"), "vfio-pci\n")
            .with(
                &format!("{at}/available_instances"),
                &format!("{available}\n"),
            );
    }
    tree
}

const T4_4Q: &str = "num_heads=4, frl_config=60, framebuffer=4096M, max_resolution=7680x4320, \
                     max_instance=4";
const T4_8Q: &str = "num_heads=4, frl_config=60, framebuffer=8192M, max_resolution=7680x4320, \
                     max_instance=2";

/// A T4 with one 4Q.
fn t4() -> Tree {
    let tree = Tree::new().pci("0000:5e:00.0", "10de", "1eb8", "030200", Some("nvidia"));
    mdev_types(
        tree,
        "0000:5e:00.0",
        &[
            ("nvidia-233", "GRID T4-8Q", T4_8Q, 0),
            ("nvidia-232", "GRID T4-4Q", T4_4Q, 3),
        ],
    )
    .mdev(
        "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
        "0000:5e:00.0",
        "nvidia-232",
    )
}

fn untold<T>(kind: FailureKind) -> Told<T> {
    Told::Unavailable(Failure {
        kind,
        message: "nvmlDeviceGet…: not supported".to_owned(),
    })
}

fn type_facts(id: u32, name: &str, gigabytes: u64, max: u32, creatable: bool) -> TypeFacts {
    TypeFacts {
        id: VgpuTypeId::new(id).unwrap(),
        name: name.to_owned(),
        framebuffer_mib: gigabytes * 1024,
        heads: Some(4),
        max_resolution: Some((7680, 4320)),
        frame_rate_limit: Some(60),
        max_instances: max,
        max_per_vm: Some(16),
        gpu_instance_profile: None,
        most_per_instance: None,
        creatable,
        placements: None,
        instance_placements: Vec::new(),
    }
}

/// NVML's facts about the L40S.
fn facts(types: Told<Vec<TypeFacts>>, mixed: bool) -> GpuFacts {
    GpuFacts {
        address: GPU.parse().unwrap(),
        name: Told::Value("NVIDIA L40S".to_owned()),
        uuid: Told::Value("GPU-1".to_owned()),
        memory_mib: Told::Value(46068),
        hosts_vgpus: Told::Value(true),
        mig: untold(FailureKind::NotSupported),
        instances: untold(FailureKind::NotSupported),
        heterogeneous: Told::Value(Heterogeneous {
            supported: true,
            enabled: mixed,
        }),
        heterogeneous_multi_vgpu: Told::Value(true),
        scheduler: untold(FailureKind::NotSupported),
        scheduler_limits: untold(FailureKind::NotSupported),
        types,
        vgpus: Told::Value(Vec::new()),
    }
}

fn one_size() -> GpuFacts {
    let types = vec![
        type_facts(1150, "NVIDIA L40S-4Q", 4, 12, false),
        type_facts(1155, "NVIDIA L40S-24Q", 24, 2, true),
        type_facts(1172, "NVIDIA L40S-24C", 24, 2, true),
    ];
    facts(Told::Value(types), false)
}

fn mixed_sizes() -> GpuFacts {
    let placed = |mut one: TypeFacts, size, supported: &[u32], creatable: &[u32]| {
        one.placements = Some(Placements {
            size,
            supported: supported.to_vec(),
            creatable: creatable.to_vec(),
        });
        one
    };
    let types = vec![
        placed(
            type_facts(1150, "NVIDIA L40S-4Q", 4, 12, true),
            4,
            &[0, 8, 12, 20, 24, 32, 36, 44],
            &[24, 32, 36, 44],
        ),
        placed(
            type_facts(1155, "NVIDIA L40S-24Q", 24, 2, true),
            24,
            &[0, 24],
            &[24],
        ),
    ];
    facts(Told::Value(types), true)
}

/// With a program that gives this answer.
fn asked(tree: Tree, answer: &Answer) -> Tree {
    let stand_in = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/nvml-answer");
    let answer = serde_json::to_string(answer).unwrap();
    tree.with_link(PROGRAM, stand_in)
        .with(&format!("{PROGRAM}.json"), &answer)
}

fn gpus(facts: GpuFacts) -> Answer {
    Answer::Gpus(vec![facts])
}

/// With pools of mdev types, by name and by id.
fn with_pools(tree: Tree) -> Tree {
    let pool = |wanted: &str, at: &str| {
        format!(
            "kind = 'mdev'\ntype = '{wanted}'\n[[rule]]\nwhere = [{{ field = 'address', op = \
             'begins-with', value = '{at}' }}]\n"
        )
    };
    tree.pool("by-name", &pool("GRID T4-4Q", "0000:5e:00.0"))
        .pool("by-id", &pool("nvidia-232", "0000:5e:00.0"))
        .pool("elsewhere", &pool("nvidia-232", "0000:5f:00.0"))
        .pool("on-functions", &pool("nvidia-1155", "0000:3b:00."))
        .pool("of-the-gpu", &pool("nvidia-1155", "0000:3b:00.0"))
}

#[test]
fn profiles_are_shown_with_what_nvml_says() {
    let tree = asked(vendor_vfio(), &gpus(one_size()));
    insta::assert_snapshot!(tree.shown(&["profiles"]), @r#"
    0000:3b:00.0 NVIDIA L40S: vendor-specific VFIO, 1 vGPU, 3 of 4 virtual functions free, one size at a time
      PROFILE   ID    MEMORY     DISPLAYS  RESOLUTION  FPS  MAX  FITS  POOLS  NAME
      L40S-24C  1172  24576 MiB  4         7680x4320   60   2    1     -      NVIDIA L40S-24C
      L40S-4Q   1150  4096 MiB   4         7680x4320   60   12   0     -      NVIDIA L40S-4Q
      L40S-24Q  1155  24576 MiB  4         7680x4320   60   2    1     -      NVIDIA L40S-24Q
    "#);
    assert_eq!(
        tree.read(&format!("{PROGRAM}.question")),
        "{\"do\":\"gpus\"}\n"
    );
}

#[test]
fn one_gpu_is_named_in_any_notation() {
    let tree = asked(vendor_vfio(), &gpus(one_size()));
    let shown = tree.shown(&["profiles"]);
    for name in [GPU, "00000000:3B:00.0", "3b:00.0"] {
        assert_eq!(tree.shown(&["profiles", name]), shown);
    }
    assert_eq!(
        tree.read(&format!("{PROGRAM}.question")),
        "{\"do\":\"gpu\",\"gpu\":\"0000:3b:00.0\"}\n"
    );
    let refusals = ["3c:00.0", "3b:00.4", "l40s\n"].map(|gpu| tree.refused(&["profiles", gpu]));
    insta::assert_snapshot!(refusals.join("\n"), @r#"
    there is no GPU '3c:00.0' of the driver 'nvidia': the only one is 0000:3b:00.0; 'virt-vgpu profiles' shows all
    0000:3b:00.4 is a virtual function: profiles are those of its GPU; ask for 0000:3b:00.0
    there is no GPU 'l40s\n' of the driver 'nvidia': the only one is 0000:3b:00.0; 'virt-vgpu profiles' shows all
    "#);
    assert_eq!(tree.run(&["profiles", "a", "b"]).code, 2);
}

#[test]
fn functions_that_claims_name_are_not_free() {
    let uuid = "614bc606-2078-5444-8c9c-4f8e98ae4dcc";
    let tree = vendor_vfio().claim("ws7", "ai", uuid, &function(1), "1155");
    let shown = asked(tree, &gpus(one_size())).shown(&["profiles"]);
    assert!(shown.contains("2 of 4 virtual functions free"), "{shown}");
}

#[test]
fn functions_in_quarantine_are_not_free() {
    let note = format!(
        r#"{{"function": "{}", "domain": null, "reason": "-", "made": null}}"#,
        function(1)
    );
    let path = format!("/run/virt-vgpu/quarantine/{}.json", function(1));
    let tree = vendor_vfio().with(&path, &note);
    let shown = asked(tree, &gpus(one_size())).shown(&["profiles"]);
    assert!(shown.contains("2 of 4 virtual functions free"), "{shown}");
}

#[test]
fn with_mixed_sizes_what_fits_is_what_has_a_place() {
    let tree = asked(vendor_vfio(), &gpus(mixed_sizes()));
    insta::assert_snapshot!(tree.shown(&["profiles"]), @r#"
    0000:3b:00.0 NVIDIA L40S: vendor-specific VFIO, 1 vGPU, 3 of 4 virtual functions free, mixed sizes
      PROFILE   ID    MEMORY     DISPLAYS  RESOLUTION  FPS  MAX  FITS  POOLS  NAME
      L40S-4Q   1150  4096 MiB   4         7680x4320   60   12   3     -      NVIDIA L40S-4Q
      L40S-24Q  1155  24576 MiB  4         7680x4320   60   2    1     -      NVIDIA L40S-24Q
    "#);
}

#[test]
fn only_what_can_be_created() {
    let tree = asked(vendor_vfio(), &gpus(one_size()));
    let shown = tree.shown(&["profiles", "--creatable"]);
    assert!(!shown.contains("L40S-4Q"), "{shown}");
    assert!(shown.contains("L40S-24Q"), "{shown}");
    let mut full = one_size();
    if let Told::Value(types) = &mut full.types {
        types.iter_mut().for_each(|one| one.creatable = false);
    }
    let tree = asked(vendor_vfio(), &gpus(full));
    insta::assert_snapshot!(tree.shown(&["profiles", "--creatable"]), @r#"
    0000:3b:00.0 NVIDIA L40S: vendor-specific VFIO, 1 vGPU, 3 of 4 virtual functions free, one size at a time
      no profile can be created now
    "#);
}

#[test]
fn without_nvml_sysfs_says_what_it_can() {
    insta::assert_snapshot!(vendor_vfio().shown(&["profiles"]), @r#"
    0000:3b:00.0: vendor-specific VFIO, 1 vGPU, 3 of 4 virtual functions free
      PROFILE   ID    MEMORY  DISPLAYS  RESOLUTION  FPS  MAX  FITS       POOLS  NAME
      L40S-24C  1172  -       -         -           -    -    at most 3  -      NVIDIA L40S-24C
      L40S-24Q  1155  -       -         -           -    -    at most 3  -      NVIDIA L40S-24Q
      note: without NVML only profiles that can be created now are known, by name alone

    problem: cannot ask NVML through /usr/sbin/virt-vgpu-nvml: No such file or directory (os error 2); shown is what sysfs tells
    "#);
    insta::assert_snapshot!(with_pools(t4()).shown(&["profiles"]), @r#"
    0000:5e:00.0: mediated devices, 1 vGPU
      PROFILE  ID   MEMORY    DISPLAYS  RESOLUTION  FPS  MAX  FITS  POOLS          NAME
      T4-4Q    232  4096 MiB  4         7680x4320   60   4    3     by-id,by-name  GRID T4-4Q
      T4-8Q    233  8192 MiB  4         7680x4320   60   2    0     -              GRID T4-8Q

    problem: cannot ask NVML through /usr/sbin/virt-vgpu-nvml: No such file or directory (os error 2); shown is what sysfs tells
    "#);
    let tree = mdev_types(
        board(),
        &function(2),
        &[("nvidia-1155", "NVIDIA L40S-24Q", "max_instance=2", 1)],
    );
    insta::assert_snapshot!(with_pools(tree).shown(&["profiles"]), @r#"
    0000:3b:00.0: mediated devices on virtual functions, 0 vGPUs, 1 of 4 virtual functions free
      PROFILE   ID    MEMORY  DISPLAYS  RESOLUTION  FPS  MAX  FITS  POOLS         NAME
      L40S-24Q  1155  -       -         -           -    2    1     on-functions  NVIDIA L40S-24Q

    problem: cannot ask NVML through /usr/sbin/virt-vgpu-nvml: No such file or directory (os error 2); shown is what sysfs tells
    "#);
}

#[test]
fn what_nvml_does_not_say_is_a_note() {
    let failed = Answer::Failed(Failure {
        kind: FailureKind::NoLibrary,
        message: "cannot load libnvidia-ml.so.1: no such file".to_owned(),
    });
    let problem = |tree: &Tree| tree.shown(&["profiles"]).lines().last().unwrap().to_owned();
    assert_eq!(
        problem(&asked(t4(), &failed)),
        "problem: cannot load libnvidia-ml.so.1: no such file; shown is what sysfs tells"
    );
    let tree = asked(
        vendor_vfio(),
        &gpus(facts(untold(FailureKind::NotSupported), false)),
    );
    assert_eq!(
        problem(&tree),
        "  note: NVML does not tell its types: nvmlDeviceGet…: not supported"
    );
}

#[test]
fn gpus_that_make_no_vgpus_say_why() {
    let off = Tree::new()
        .pci(GPU, "10de", "26b9", "030200", Some("nvidia"))
        .with(&format!("{DEVICES}/{GPU}/sriov_totalvfs"), "32\n");
    insta::assert_snapshot!(asked(off, &gpus(one_size())).shown(&["profiles"]), @r#"
    0000:3b:00.0 NVIDIA L40S: one size at a time
      PROFILE   ID    MEMORY     DISPLAYS  RESOLUTION  FPS  MAX  FITS  POOLS  NAME
      L40S-24C  1172  24576 MiB  4         7680x4320   60   2    0     -      NVIDIA L40S-24C
      L40S-4Q   1150  4096 MiB   4         7680x4320   60   12   0     -      NVIDIA L40S-4Q
      L40S-24Q  1155  24576 MiB  4         7680x4320   60   2    0     -      NVIDIA L40S-24Q
      note: its virtual functions are not enabled; enable them with '/usr/lib/nvidia/sriov-manage -e 0000:3b:00.0'
    "#);
    let plain = Tree::new().pci(GPU, "10de", "26b9", "030200", Some("nvidia"));
    insta::assert_snapshot!(plain.shown(&["profiles"]), @r#"
    0000:3b:00.0
      note: its driver makes no vGPUs of it now; is NVIDIA's vGPU manager installed, and has nvidia-vgpud run?

    problem: cannot ask NVML through /usr/sbin/virt-vgpu-nvml: No such file or directory (os error 2); shown is what sysfs tells
    "#);
    assert_eq!(
        Tree::new().shown(&["profiles"]),
        "no GPUs of the driver 'nvidia'; 'virt-vgpu devices' lists PCI functions\n"
    );
}

#[test]
fn what_cannot_be_read_is_a_note_and_no_end() {
    let at = format!("{DEVICES}/{}/nvidia/current_vgpu_type", function(1));
    let tree = vendor_vfio()
        .with(&at, "?\n")
        .pool("bad", "kind = 'mdev'\n");
    insta::assert_snapshot!(asked(tree, &gpus(one_size())).shown(&["profiles"]), @r#"
    0000:3b:00.0 NVIDIA L40S
      note: cannot be read: /sys/bus/pci/devices/0000:3b:00.5/nvidia/current_vgpu_type: '?' is not a number

    problem: pool 'bad' cannot be used: /etc/virt-vgpu/pools.d/bad.toml:1: key 'type': is missing: kind 'mdev' wants a type's id (as in nvidia-558) or name
    "#);
}

#[test]
fn json_has_the_same() {
    let tree = asked(vendor_vfio(), &gpus(one_size()));
    insta::assert_snapshot!(tree.shown(&["profiles", "--json", "--creatable"]), @r#"
    {
      "gpus": [
        {
          "address": "0000:3b:00.0",
          "name": "NVIDIA L40S",
          "framework": "vendor-vfio",
          "functions": {
            "total": 4,
            "free": 3
          },
          "vgpus": 1,
          "heterogeneous": false,
          "mig": false,
          "profiles": [
            {
              "id": "1172",
              "profile": "L40S-24C",
              "name": "NVIDIA L40S-24C",
              "framebuffer_mib": 24576,
              "displays": 4,
              "max_resolution": "7680x4320",
              "frame_rate_limit": 60,
              "maximum": 2,
              "fits": 1,
              "fits_exactly": true,
              "pools": []
            },
            {
              "id": "1155",
              "profile": "L40S-24Q",
              "name": "NVIDIA L40S-24Q",
              "framebuffer_mib": 24576,
              "displays": 4,
              "max_resolution": "7680x4320",
              "frame_rate_limit": 60,
              "maximum": 2,
              "fits": 1,
              "fits_exactly": true,
              "pools": []
            }
          ],
          "notes": []
        }
      ],
      "problems": []
    }
    "#);
    insta::assert_snapshot!(with_pools(t4()).shown(&["profiles", "--json"]), @r#"
    {
      "gpus": [
        {
          "address": "0000:5e:00.0",
          "name": null,
          "framework": "legacy-mdev",
          "functions": null,
          "vgpus": 1,
          "heterogeneous": null,
          "mig": null,
          "profiles": [
            {
              "id": "232",
              "profile": "T4-4Q",
              "name": "GRID T4-4Q",
              "framebuffer_mib": 4096,
              "displays": 4,
              "max_resolution": "7680x4320",
              "frame_rate_limit": 60,
              "maximum": 4,
              "fits": 3,
              "fits_exactly": true,
              "pools": [
                "by-id",
                "by-name"
              ]
            },
            {
              "id": "233",
              "profile": "T4-8Q",
              "name": "GRID T4-8Q",
              "framebuffer_mib": 8192,
              "displays": 4,
              "max_resolution": "7680x4320",
              "frame_rate_limit": 60,
              "maximum": 2,
              "fits": 0,
              "fits_exactly": true,
              "pools": []
            }
          ],
          "notes": []
        }
      ],
      "problems": [
        "cannot ask NVML through /usr/sbin/virt-vgpu-nvml: No such file or directory (os error 2); shown is what sysfs tells"
      ]
    }
    "#);
}

#[test]
fn vgpus_that_cannot_be_counted_are_not_none() {
    let count = |tree: &Tree| {
        let shown = tree.shown(&["profiles", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
        report["gpus"][0]["vgpus"].clone()
    };
    let tree = vendor_vfio();
    assert_eq!(count(&tree), 1);
    let current = format!("{DEVICES}/{}/nvidia/current_vgpu_type", function(1));
    assert_eq!(count(&tree.with(&current, "?\n")), serde_json::Value::Null);
    // A GPU that has no types now may still have vGPUs.
    let uuids = [1, 2, 3].map(|number| format!("f0e1c000-0000-4000-8000-{number:012}"));
    let tree = uuids.iter().fold(board(), |tree, uuid| {
        tree.mdev(uuid, &function(0), "nvidia-1")
    });
    assert_eq!(count(&tree), 3);
}
