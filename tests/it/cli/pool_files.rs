//! `virt-vgpu pool create` and `delete`: what they write, and what they refuse.

use std::{os::unix::fs::PermissionsExt, process::Stdio};

use crate::support::plain_tree::Tree;

const FILE: &str = "/etc/virt-vgpu/pools.d/cad.toml";
const VENDOR: &str = "/usr/lib/virt-vgpu/pools.d/cad.toml";
const RUNTIME: &str = "/run/virt-vgpu/pools.d/cad.toml";
const GOOD: &str = "kind = 'mdev'\ntype = 'nvidia-558'\n";

fn create<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["pool", "create", "cad", "--type", "nvidia-558"], more].concat()
}

#[test]
fn create_writes_a_rule_for_each_device_and_shows_what_they_take() {
    let tree = Tree::with_devices()
        .pool(
            "all",
            "kind = 'mdev'\ntype = 'mtty-1'\n[[rule]]\nwhere = [{ field = 'host', op = 'equal', \
             value = 'node1' }]\n",
        )
        .with("/srv/nvidia.iso", "image");
    let arguments = create(&[
        "--device",
        "00000000:3B:00.4",
        "--device",
        "3b:00.4",
        "--device",
        "0000:3b:00.5",
        "--description",
        "CAD \"desktops\"",
        "--class",
        "vgpu",
        "--instances",
        "4",
        "--placement",
        "spread",
        "--guest-driver",
        "/srv/nvidia.iso",
    ]);
    insta::assert_snapshot!(tree.shown(&arguments), @r#"
    wrote /etc/virt-vgpu/pools.d/cad.toml

    DEVICE        TAKEN BY                    AVAILABLE  ALSO IN POOL
    0000:3b:00.4  rule 'device 0000:3b:00.4'  2          all
    0000:3b:00.5  rule 'device 0000:3b:00.5'  2          all
    "#);
    insta::assert_snapshot!(tree.read(FILE), @r#"
    # Written by 'virt-vgpu pool create'; made to be edited.

    kind         = "mdev"                   # mediated devices of any driver
    description  = 'CAD "desktops"'
    class        = "vgpu"                   # a label to sort by
    type         = "nvidia-558"             # id or name of the mdev type
    instances    = 4                        # most devices at once; 0 = as many as fit
    placement    = "spread"                 # pack | spread
    guest-driver = "/srv/nvidia.iso"        # drivers for the guests: an ISO, or a driver set

    # A device is in the pool when any rule matches; a rule matches when all
    # its filters hold. 'virt-vgpu pool preview' shows the outcome.

    [[rule]]
    name  = "device 0000:3b:00.4"
    where = [
      { field = "address", op = "equal", value = "0000:3b:00.4" },
    ]

    [[rule]]
    name  = "device 0000:3b:00.5"
    where = [
      { field = "address", op = "equal", value = "0000:3b:00.5" },
    ]
    "#);
    let mode = tree.path(FILE).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o700, 0o600);
    assert_eq!(
        tree.shown(&["pool", "check", "cad"]),
        "1 pool checked: 0 errors, 0 warnings\n"
    );
    let names: Vec<_> = tree
        .path("/etc/virt-vgpu/pools.d")
        .read_dir()
        .unwrap()
        .collect();
    assert_eq!(names.len(), 2, "no temporary file stays: {names:?}");
}

#[test]
fn a_card_stands_for_its_virtual_functions() {
    let tree = Tree::with_devices();
    insta::assert_snapshot!(tree.shown(&create(&["--device", "3B:00.0"])), @r#"
    wrote /etc/virt-vgpu/pools.d/cad.toml
    note: 0000:3b:00.0 is a physical function: its 2 virtual functions are in the pool, and those made later

    DEVICE        TAKEN BY                                  AVAILABLE  ALSO IN POOL
    0000:3b:00.4  rule 'virtual functions of 0000:3b:00.0'  2          -
    0000:3b:00.5  rule 'virtual functions of 0000:3b:00.0'  2          -
    "#);
    assert!(
        tree.read(FILE)
            .contains(r#"{ field = "physical-function", op = "equal", value = "0000:3b:00.0" }"#)
    );
    // A function that is created later is in the pool too.
    let tree = tree
        .virtual_function("0000:3b:00.6", "0000:3b:00.0")
        .parent("0000:3b:00.6", &[("nvidia-558", "NVIDIA L40S-12Q", 1)]);
    assert!(tree.shown(&["pool", "preview", "cad"]).contains("(3 of 4)"));
}

#[test]
fn a_type_may_be_given_by_name_and_a_device_may_be_software() {
    let tree = Tree::with_devices();
    let arguments = [
        "pool",
        "create",
        "tty",
        "--type",
        "Single port serial",
        "--device",
        "mtty",
    ];
    insta::assert_snapshot!(tree.shown(&arguments), @r#"
    wrote /etc/virt-vgpu/pools.d/tty.toml

    DEVICE  TAKEN BY            AVAILABLE  ALSO IN POOL
    mtty    rule 'device mtty'  24         -
    "#);
}

#[test]
fn dry_run_prints_the_file_and_writes_nothing() {
    let tree = Tree::with_devices();
    let outcome = tree.run(&create(&["--device", "3b:00.0", "--dry-run"]));
    assert_eq!(outcome.code, 0);
    assert_eq!(
        outcome.err,
        "virt-vgpu: note: 0000:3b:00.0 is a physical function: its 2 virtual functions are in \
         the pool, and those made later\n"
    );
    assert!(!tree.exists("/etc/virt-vgpu"));
    assert!(!tree.exists("/run/virt-vgpu"));
    assert_eq!(tree.run(&create(&["--device", "3b:00.0"])).code, 0);
    assert_eq!(tree.read(FILE), outcome.out);
}

#[test]
fn create_prints_json() {
    let tree = Tree::with_devices();
    let arguments = create(&["--device", "mtty", "--device", "3b:00.4", "--json"]);
    assert_eq!(tree.run(&arguments).code, 1);
    insta::assert_snapshot!(tree.shown(&create(&["--device", "3b:00.4", "--json"])), @r##"
    {
      "pool": "cad",
      "file": "/etc/virt-vgpu/pools.d/cad.toml",
      "written": true,
      "text": "# Written by 'virt-vgpu pool create'; made to be edited.\n\nkind         = \"mdev\"                   # mediated devices of any driver\ntype         = \"nvidia-558\"             # id or name of the mdev type\ninstances    = 0                        # most devices at once; 0 = as many as fit\nplacement    = \"pack\"                   # pack | spread\n\n# A device is in the pool when any rule matches; a rule matches when all\n# its filters hold. 'virt-vgpu pool preview' shows the outcome.\n\n[[rule]]\nname  = \"device 0000:3b:00.4\"\nwhere = [\n  { field = \"address\", op = \"equal\", value = \"0000:3b:00.4\" },\n]\n",
      "notes": [],
      "devices": [
        {
          "address": "0000:3b:00.4",
          "matches": true,
          "rule": "rule 'device 0000:3b:00.4'",
          "reasons": [],
          "type": "nvidia-558",
          "available": 2,
          "exact": true,
          "problem": null,
          "also_in": []
        }
      ]
    }
    "##);
}

#[test]
fn create_refuses_what_could_not_work_and_writes_nothing() {
    let tree = Tree::with_devices()
        .pci("0000:86:00.0", "10de", "26b9", "030200", Some("nvidia"))
        .with(
            "/sys/devices/pci0000:00/0000:86:00.0/sriov_totalvfs",
            "32\n",
        )
        .with("/sys/devices/pci0000:00/0000:86:00.0/sriov_numvfs", "0\n");
    let with_type = |name: &'static str| {
        [
            "pool", "create", "cad", "--type", name, "--device", "3b:00.4", "--device", "mtty",
        ]
    };
    let mut refusals: Vec<String> = [
        &[][..],
        &["--device", "mtty"],
        &["--device", "0000:3c:00.4"],
        &["--device", "3b:00.4", "--device", "04:00.0"],
        &["--device", "86:00.0"],
        &["--device", "3b:00.4", "--guest-driver", "nvidia.iso"],
        &["--device", "3b:00.4", "--guest-driver", "nvidia 19.0"],
        &["--device", "3b:00.4", "--description", "two\nlines"],
    ]
    .iter()
    .map(|more| tree.refused(&create(more)))
    .collect();
    refusals
        .extend(["L40S-12Q", "nvidia-557", "nvdia-558"].map(|name| tree.refused(&with_type(name))));
    insta::assert_snapshot!(refusals.join("\n"), @r"
    pool 'cad' was not created: no --device was given; name the devices ('virt-vgpu devices' lists them), or write /etc/virt-vgpu/pools.d/cad.toml with rules of your own
    pool 'cad' was not created: mtty has no type 'nvidia-558'; it has mtty-1 (Single port serial)
    pool 'cad' was not created: there is no mdev parent '0000:3c:00.4': there are 0000:3b:00.4, 0000:3b:00.5 and mtty; 'virt-vgpu devices --kind mdev' lists all
    pool 'cad' was not created: 0000:04:00.0 is not an mdev parent: its driver 'igb' offers no mdev types; 'virt-vgpu devices --kind mdev' lists those that are
    pool 'cad' was not created: 0000:86:00.0 is not an mdev parent: its virtual functions are not enabled; enable them (for NVIDIA: /usr/lib/nvidia/sriov-manage -e 0000:86:00.0)
    pool 'cad' was not created: guest-driver: 'nvidia.iso' is not the absolute path of an .iso file
    pool 'cad' was not created: guest-driver: 'nvidia 19.0' is not the name of a driver set (letters, digits and ._-, at most 64); accepted: the absolute path of an .iso file, the name of a driver set
    pool 'cad' was not created: description: wants one line without control characters
    pool 'cad' was not created: 0000:3b:00.4 has no type 'L40S-12Q' (did you mean 'NVIDIA L40S-12Q'?); it has nvidia-558 (NVIDIA L40S-12Q), nvidia-559 (NVIDIA L40S-24Q)
    pool 'cad' was not created: 0000:3b:00.4 has no type 'nvidia-557'; it has nvidia-558 (NVIDIA L40S-12Q), nvidia-559 (NVIDIA L40S-24Q)
    pool 'cad' was not created: 0000:3b:00.4 has no type 'nvdia-558' (did you mean 'nvidia-558'?); it has nvidia-558 (NVIDIA L40S-12Q), nvidia-559 (NVIDIA L40S-24Q)
    ");
    assert!(!tree.exists("/etc/virt-vgpu"));

    let usage = |arguments: &[&str]| assert_eq!(tree.run(arguments).code, 2, "{arguments:?}");
    usage(&["pool", "create", "cad", "--device", "mtty"]);
    usage(&["pool", "create", "CAD", "--type", "a", "--device", "mtty"]);
    usage(&[
        "pool", "create", "../cad", "--type", "a", "--device", "mtty",
    ]);
    usage(&create(&["--device", "mtty", "--class", "gpus"]));
    usage(&create(&["--device", "mtty", "--placement", "dense"]));
    usage(&create(&["--device", "mtty", "--instances", "-1"]));
}

#[test]
fn a_guest_driver_that_is_not_there_is_noted() {
    let tree = Tree::with_devices();
    let arguments = create(&["--device", "3b:00.4", "--guest-driver", "/srv/none.iso"]);
    insta::assert_snapshot!(tree.shown(&arguments), @r#"
    wrote /etc/virt-vgpu/pools.d/cad.toml
    note: guest-driver: /srv: No such file or directory (os error 2)

    DEVICE        TAKEN BY                    AVAILABLE  ALSO IN POOL
    0000:3b:00.4  rule 'device 0000:3b:00.4'  2          -
    "#);
}

#[test]
fn create_leaves_a_pool_of_that_name_alone() {
    let arguments = create(&["--device", "3b:00.4"]);
    let mut refusals = Vec::new();
    for place in [FILE, RUNTIME, VENDOR] {
        let tree = Tree::with_devices().with(place, "broken");
        refusals.push(tree.refused(&arguments));
        assert_eq!(tree.read(place), "broken");
        let dry = [&arguments[..], &["--dry-run"]].concat();
        assert_eq!(tree.refused(&dry), *refusals.last().unwrap());
    }
    let tree = Tree::with_devices()
        .with_link(FILE, "/dev/null")
        .with(VENDOR, GOOD);
    refusals.push(tree.refused(&arguments));
    insta::assert_snapshot!(refusals.join("\n"), @r#"
    pool 'cad' was not created: it exists already in /etc/virt-vgpu/pools.d/cad.toml; edit that file or choose another name
    pool 'cad' was not created: it exists already in /run/virt-vgpu/pools.d/cad.toml; copy that file to /etc/virt-vgpu/pools.d to change it, or choose another name
    pool 'cad' was not created: it exists already in /usr/lib/virt-vgpu/pools.d/cad.toml; copy that file to /etc/virt-vgpu/pools.d to change it, or choose another name
    pool 'cad' was not created: the name is masked by /etc/virt-vgpu/pools.d/cad.toml, a link to /dev/null; remove the link or choose another name
    "#);
}

#[test]
fn of_many_that_make_one_pool_at_once_one_does() {
    let tree = Tree::with_devices();
    let start = |instances: usize| {
        let instances = instances.to_string();
        let arguments = create(&["--device", "3b:00.4", "--instances", &instances]);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_virt-vgpu"));
        command.arg("--root").arg(tree.root()).args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let children: Vec<_> = (1..=8).map(start).collect();
    let won: Vec<usize> = (children.into_iter().zip(1..))
        .filter_map(|(mut child, instances)| child.wait().unwrap().success().then_some(instances))
        .collect();
    assert_eq!(won.len(), 1, "{won:?}");
    assert!(
        tree.read(FILE)
            .contains(&format!("instances    = {} ", won[0]))
    );
}

#[test]
fn delete_removes_the_administrators_files() {
    let tree = Tree::new()
        .with(FILE, "broken")
        .with(RUNTIME, GOOD)
        .pool("other", GOOD);
    insta::assert_snapshot!(tree.shown(&["pool", "delete", "cad", "--dry-run"]), @r#"
    would remove /etc/virt-vgpu/pools.d/cad.toml
    would remove /run/virt-vgpu/pools.d/cad.toml
    "#);
    assert!(tree.exists(FILE) && tree.exists(RUNTIME));
    insta::assert_snapshot!(tree.shown(&["pool", "delete", "cad", "--yes"]), @r#"
    removed /etc/virt-vgpu/pools.d/cad.toml
    removed /run/virt-vgpu/pools.d/cad.toml
    "#);
    assert!(!tree.exists(FILE) && !tree.exists(RUNTIME));
    assert!(tree.exists("/etc/virt-vgpu/pools.d/other.toml"));
    assert_eq!(
        tree.refused(&["pool", "delete", "cad", "--yes"]),
        "there is no pool 'cad'; 'virt-vgpu pool list' shows all pools"
    );
}

#[test]
fn delete_masks_what_a_package_owns() {
    let tree = Tree::new().with(VENDOR, GOOD);
    insta::assert_snapshot!(tree.shown(&["pool", "delete", "cad", "--dry-run"]), @r#"
    would make /etc/virt-vgpu/pools.d/cad.toml a link to /dev/null: it masks /usr/lib/virt-vgpu/pools.d/cad.toml, which belongs to a package
    "#);
    assert!(!tree.exists(FILE));
    insta::assert_snapshot!(tree.shown(&["pool", "delete", "cad", "--yes"]), @r#"
    made /etc/virt-vgpu/pools.d/cad.toml a link to /dev/null: it masks /usr/lib/virt-vgpu/pools.d/cad.toml, which belongs to a package
    "#);
    let target = tree.path(FILE).read_link().unwrap();
    assert_eq!(target.to_str(), Some("/dev/null"));
    assert_eq!(tree.read(VENDOR), GOOD);
    insta::assert_snapshot!(tree.refused(&["pool", "delete", "cad", "--yes"]), @r#"
    pool 'cad' is masked: /etc/virt-vgpu/pools.d/cad.toml is a link to /dev/null; remove the link to bring the pool back
    "#);

    // The administrator's file replaces it: the package's file must not take effect
    // again.
    let tree = Tree::new().with(VENDOR, GOOD).with(FILE, GOOD);
    insta::assert_snapshot!(tree.shown(&["pool", "delete", "cad", "--yes", "--json"]), @r#"
    {
      "pool": "cad",
      "deleted": true,
      "actions": [
        {
          "action": "remove",
          "file": "/etc/virt-vgpu/pools.d/cad.toml"
        },
        {
          "action": "mask",
          "file": "/etc/virt-vgpu/pools.d/cad.toml",
          "hides": "/usr/lib/virt-vgpu/pools.d/cad.toml"
        }
      ],
      "holders": [],
      "problems": []
    }
    "#);
    assert_eq!(
        tree.path(FILE).read_link().unwrap().to_str(),
        Some("/dev/null")
    );
}

#[test]
fn delete_tells_who_still_holds_devices() {
    let uuid = "614bc606-2078-5444-8c9c-4f8e98ae4dcc";
    let tree = Tree::with_devices()
        .pool("cad", GOOD)
        .pool("other", GOOD)
        .claim("ws7", "cad", uuid, "0000:3b:00.4", "nvidia-558");
    insta::assert_snapshot!(tree.shown(&["pool", "delete", "cad", "--yes"]), @r#"
    removed /etc/virt-vgpu/pools.d/cad.toml
    note: domain 'ws7' holds gpu0 of it until it stops
    "#);
    let other = tree.shown(&["pool", "delete", "other", "--yes"]);
    assert!(!other.contains("ws7"), "{other}");
}

#[test]
fn delete_without_a_terminal_wants_yes() {
    let tree = Tree::new().pool("cad", GOOD);
    assert_eq!(
        tree.refused(&["pool", "delete", "cad"]),
        "pool 'cad' was not deleted: there is no terminal to ask on; pass --yes"
    );
    // An answer from a pipe does not count.
    let asked = tree
        .command(&["pool", "delete", "cad"])
        .write_stdin("yes\n")
        .output()
        .unwrap();
    assert_eq!(asked.status.code(), Some(1));
    assert!(tree.exists(FILE));
    assert_eq!(
        tree.refused(&["pool", "delete", "cda", "--yes"]),
        "there is no pool 'cda' (did you mean 'cad'?); 'virt-vgpu pool list' shows all pools"
    );
}
