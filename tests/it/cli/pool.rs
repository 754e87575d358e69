//! `virt-vgpu pool list`, `show`, `preview` and `check` on a host of plain files.

use crate::support::plain_tree::Tree;

const UUID: &str = "614bc606-2078-5444-8c9c-4f8e98ae4dcc";

const CAD: &str = "kind = 'mdev'
description = 'CAD desktops'
class = 'vgpu'
type = 'nvidia-558'
instances = 3
placement = 'spread'
[defaults]
frame-rate-limit = 0
console-vnc = true
[[rule]]
name = 'first function'
where = [
  { field = 'vendor-id', op = 'equal', value = '0x10DE' },
  { field = 'address', op = 'ends-with', value = '.4' },
]
[[rule]]
where = [{ field = 'numa-node', op = 'greater-than', value = '1' }]
";

const SERIAL: &str = "kind = 'mdev'
type = 'Single port serial'
[[rule]]
where = [{ field = 'address', op = 'regex', value = '^(mtty|.*\\.4)$' }]
";

/// Two pools that share a parent, a broken one, a masked one and a misnamed file.
fn host() -> Tree {
    Tree::with_devices()
        .pool("cad", CAD)
        .with("/usr/lib/virt-vgpu/pools.d/serial.toml", SERIAL)
        .pool("bad", "kind = 'mdev'\ntype = 'a'\ninstanses = 3\n")
        .with("/usr/lib/virt-vgpu/pools.d/old.toml", SERIAL)
        .with_link("/etc/virt-vgpu/pools.d/old.toml", "/dev/null")
        .pool("My pool", CAD)
        .claim("ws7", "cad", UUID, "0000:3b:00.4", "nvidia-558")
        .mdev(UUID, "0000:3b:00.4", "nvidia-558")
}

#[test]
fn list_shows_every_pool_and_what_is_wrong() {
    insta::assert_snapshot!(host().shown(&["pool", "list"]), @r#"
    POOL    TYPE                PLACEMENT  LIMIT  RULES  DEVICES  FILE
    cad     nvidia-558          spread     3      2      1        /etc/virt-vgpu/pools.d/cad.toml
    serial  Single port serial  pack       -      1      2        /usr/lib/virt-vgpu/pools.d/serial.toml

    pool 'bad' cannot be used: /etc/virt-vgpu/pools.d/bad.toml:3: key 'instanses': unknown key (did you mean 'instances'?); accepted: kind, description, class, type, instances, placement, guest-driver, defaults, rule
    pool 'old' is masked by /etc/virt-vgpu/pools.d/old.toml
    ignored: /etc/virt-vgpu/pools.d/My pool.toml: 'My pool' is not a pool name (1 to 64 of a-z, 0-9 and '-'); rename the file
    "#);
    insta::assert_snapshot!(host().shown(&["pool", "list", "--json"]), @r#"
    {
      "pools": [
        {
          "name": "cad",
          "kind": "mdev",
          "type": "nvidia-558",
          "placement": "spread",
          "instances": 3,
          "rules": 2,
          "devices": 1,
          "file": "/etc/virt-vgpu/pools.d/cad.toml"
        },
        {
          "name": "serial",
          "kind": "mdev",
          "type": "Single port serial",
          "placement": "pack",
          "instances": 0,
          "rules": 1,
          "devices": 2,
          "file": "/usr/lib/virt-vgpu/pools.d/serial.toml"
        }
      ],
      "broken": [
        {
          "name": "bad",
          "error": "/etc/virt-vgpu/pools.d/bad.toml:3: key 'instanses': unknown key (did you mean 'instances'?); accepted: kind, description, class, type, instances, placement, guest-driver, defaults, rule"
        }
      ],
      "masked": [
        {
          "name": "old",
          "file": "/etc/virt-vgpu/pools.d/old.toml"
        }
      ],
      "ignored": [
        {
          "file": "/etc/virt-vgpu/pools.d/My pool.toml",
          "reason": "'My pool' is not a pool name (1 to 64 of a-z, 0-9 and '-'); rename the file"
        }
      ]
    }
    "#);
}

#[test]
fn a_host_without_pools_says_how_to_make_one() {
    assert_eq!(
        Tree::new().shown(&["pool", "list"]),
        "no pools; make one with 'virt-vgpu pool create'\n"
    );
    assert_eq!(
        Tree::new().shown(&["pool", "check"]),
        "0 pools checked: 0 errors, 0 warnings\n"
    );
}

#[test]
fn show_has_all_values_rules_and_devices() {
    let tree = host();
    insta::assert_snapshot!(tree.shown(&["pool", "show", "cad"]), @r#"
    pool 'cad'
      file              /etc/virt-vgpu/pools.d/cad.toml
      kind              mdev
      description       CAD desktops
      class             vgpu
      type              nvidia-558
      instances         at most 3
      placement         spread
      guest-driver      none

    for requests that do not say otherwise:
      console-vnc       yes
      debuggers         as the driver has it
      frame-rate-limit  0
      optional          no
      profilers         as the driver has it
      unified-memory    as the driver has it

    rules (a device is in the pool when any of them takes it):
      rule 'first function' takes devices whose
        vendor-id is '0x10DE'
        and address ends with '.4'
      rule 2 takes devices whose
        numa-node is greater than '1'

    devices (1 in use, 2 free):
      DEVICE        TAKEN BY               AVAILABLE  ALSO IN POOL
      0000:3b:00.4  rule 'first function'  2          serial
    "#);
    insta::assert_snapshot!(tree.shown(&["pool", "show", "cad", "--json"]), @r#"
    {
      "name": "cad",
      "file": "/etc/virt-vgpu/pools.d/cad.toml",
      "kind": "mdev",
      "description": "CAD desktops",
      "class": "vgpu",
      "type": "nvidia-558",
      "instances": 3,
      "placement": "spread",
      "guest_driver": null,
      "settings": {},
      "defaults": {
        "console-vnc": true,
        "debuggers": null,
        "frame-rate-limit": 0,
        "optional": false,
        "profilers": null,
        "unified-memory": null
      },
      "rules": [
        {
          "label": "rule 'first function'",
          "name": "first function",
          "allow_critical": false,
          "where": [
            {
              "field": "vendor-id",
              "op": "equal",
              "value": "0x10DE"
            },
            {
              "field": "address",
              "op": "ends-with",
              "value": ".4"
            }
          ]
        },
        {
          "label": "rule 2",
          "name": null,
          "allow_critical": false,
          "where": [
            {
              "field": "numa-node",
              "op": "greater-than",
              "value": "1"
            }
          ]
        }
      ],
      "devices": [
        {
          "address": "0000:3b:00.4",
          "matches": true,
          "rule": "rule 'first function'",
          "reasons": [],
          "type": "nvidia-558",
          "available": 2,
          "exact": true,
          "problem": null,
          "also_in": [
            "serial"
          ]
        }
      ],
      "in_use": 1,
      "free": 2,
      "exact": true,
      "warnings": []
    }
    "#);
    insta::assert_snapshot!(tree.shown(&["pool", "show", "serial"]), @r#"
    pool 'serial'
      file              /usr/lib/virt-vgpu/pools.d/serial.toml
      kind              mdev
      description       none
      class             none
      type              Single port serial
      instances         as many as fit
      placement         pack
      guest-driver      none

    for requests that do not say otherwise:
      console-vnc       as the driver has it
      debuggers         as the driver has it
      frame-rate-limit  as the driver has it
      optional          no
      profilers         as the driver has it
      unified-memory    as the driver has it

    rules (a device is in the pool when any of them takes it):
      rule 1 takes devices whose
        address matches '^(mtty|.*\.4)$'

    devices (0 in use, 24 free):
      DEVICE        TAKEN BY  AVAILABLE                         ALSO IN POOL
      0000:3b:00.4  rule 1    has no type 'Single port serial'  cad
      mtty          rule 1    24                                -
    "#);
}

#[test]
fn pools_that_cannot_be_used_are_refused_with_the_next_step() {
    let tree = host();
    let refusals: Vec<String> = ["show", "preview"]
        .iter()
        .flat_map(|verb| ["cda", "xyzzy", "old", "bad"].map(|name| (verb, name)))
        .map(|(verb, name)| tree.refused(&["pool", verb, name]))
        .collect();
    assert_eq!(refusals[..4], refusals[4..]);
    insta::assert_snapshot!(refusals[..4].join("\n"), @r#"
    there is no pool 'cda' (did you mean 'cad'?); 'virt-vgpu pool list' shows all pools
    there is no pool 'xyzzy'; 'virt-vgpu pool list' shows all pools
    pool 'old' is masked: /etc/virt-vgpu/pools.d/old.toml is a link to /dev/null; remove the link to bring the pool back
    /etc/virt-vgpu/pools.d/bad.toml:3: key 'instanses': unknown key (did you mean 'instances'?); accepted: kind, description, class, type, instances, placement, guest-driver, defaults, rule
    "#);
    let outcome = tree.run(&["pool", "show", "CAD"]);
    assert_eq!(outcome.code, 2);
    assert!(
        outcome
            .err
            .contains("'CAD' is not a pool name (1 to 64 of a-z, 0-9 and '-')")
    );
}

#[test]
fn preview_has_each_device_with_the_reason() {
    let tree = host();
    insta::assert_snapshot!(tree.shown(&["pool", "preview", "cad"]), @r#"
    pool 'cad' (type 'nvidia-558'), /etc/virt-vgpu/pools.d/cad.toml

    in the pool (1 of 3):
      DEVICE        TAKEN BY               AVAILABLE  ALSO IN POOL
      0000:3b:00.4  rule 'first function'  2          serial

    not in the pool (2 of 3):
      0000:3b:00.5
        rule 'first function': address is 0000:3b:00.5, wanted ends-with .4
        rule 2: numa-node is 0, wanted greater-than 1
      mtty
        rule 'first function': vendor-id: no such field on this device
        rule 2: numa-node: no such field on this device
    "#);
    insta::assert_snapshot!(tree.shown(&["pool", "preview", "serial"]), @r#"
    pool 'serial' (type 'Single port serial'), /usr/lib/virt-vgpu/pools.d/serial.toml

    in the pool (2 of 3):
      DEVICE        TAKEN BY  AVAILABLE                         ALSO IN POOL
      0000:3b:00.4  rule 1    has no type 'Single port serial'  cad
      mtty          rule 1    24                                -

    not in the pool (1 of 3):
      0000:3b:00.5
        rule 1: address is 0000:3b:00.5, wanted regex ^(mtty|.*\.4)$
    "#);
    insta::assert_snapshot!(tree.shown(&["pool", "preview", "serial", "--json"]), @r#"
    {
      "pool": "serial",
      "file": "/usr/lib/virt-vgpu/pools.d/serial.toml",
      "type": "Single port serial",
      "devices": [
        {
          "address": "0000:3b:00.4",
          "matches": true,
          "rule": "rule 1",
          "reasons": [],
          "type": null,
          "available": 0,
          "exact": true,
          "problem": "has no type 'Single port serial'",
          "also_in": [
            "cad"
          ]
        },
        {
          "address": "0000:3b:00.5",
          "matches": false,
          "rule": null,
          "reasons": [
            "rule 1: address is 0000:3b:00.5, wanted regex ^(mtty|.*\\.4)$"
          ],
          "type": null,
          "available": 0,
          "exact": true,
          "problem": "has no type 'Single port serial'",
          "also_in": []
        },
        {
          "address": "mtty",
          "matches": true,
          "rule": "rule 1",
          "reasons": [],
          "type": "mtty-1",
          "available": 24,
          "exact": true,
          "problem": null,
          "also_in": []
        }
      ],
      "warnings": []
    }
    "#);
}

#[test]
fn preview_tries_a_file_that_is_not_installed() {
    let tree = host().with("/root/none.toml", "kind = 'mdev'\ntype = 'mtty-1'\n");
    let file = |name: &str| tree.path(&format!("/root/{name}")).display().to_string();
    let shown = tree
        .run(&["pool", "preview", "--file", &file("none.toml")])
        .out;
    insta::assert_snapshot!(shown, @r#"
    pool 'none' (type 'mtty-1'), ROOT/root/none.toml

    not in the pool (3 of 3):
      0000:3b:00.4
        the pool has no rules
      0000:3b:00.5
        the pool has no rules
      mtty
        the pool has no rules

    warning: the pool has no rules, so no device is in it
    "#);
    // The installed pool of that name is the same pool.
    tree.write("/root/cad.toml", CAD);
    let shown = tree
        .run(&["pool", "preview", "--file", &file("cad.toml")])
        .out;
    assert!(
        shown.contains("rule 'first function'  2          serial\n"),
        "{shown}"
    );

    tree.write("/root/Bad name.toml", CAD);
    tree.write("/root/bad.toml", "kind = 'mdev'\n");
    let refusals: Vec<String> = ["Bad name.toml", "bad.toml", "gone.toml", ""]
        .iter()
        .map(|name| tree.refused(&["pool", "preview", "--file", &file(name)]))
        .collect();
    insta::assert_snapshot!(refusals.join("\n").replace(tree.root().to_str().unwrap(), "ROOT"), @r#"
    cannot use ROOT/root/Bad name.toml: 'Bad name' is not a pool name (1 to 64 of a-z, 0-9 and '-'); rename the file
    ROOT/root/bad.toml:1: key 'type': is missing: kind 'mdev' wants a type's id (as in nvidia-558) or name
    cannot use ROOT/root/gone.toml: No such file or directory (os error 2)
    cannot use ROOT/root/: not a regular file
    "#);
    for arguments in [
        &["pool", "preview"][..],
        &["pool", "preview", "a", "--file", "b"],
    ] {
        assert_eq!(tree.run(arguments).code, 2);
    }
}

#[test]
fn preview_of_a_host_without_parents_says_so() {
    let tree = Tree::new().pool("cad", CAD);
    assert_eq!(
        tree.shown(&["pool", "preview", "cad"]),
        "pool 'cad' (type 'nvidia-558'), /etc/virt-vgpu/pools.d/cad.toml\n\n\
         this host has no mdev parents\n"
    );
}

#[test]
fn check_tells_every_mistake_and_fails() {
    let tree = host().pool(
        "early",
        "kind = 'mdev'\ntype = 'a'\n[[rule]]\nwhere = [{ field = 'gpu-name', op = 'equal', value \
         = 'L40S' }]\n",
    );
    let outcome = tree.run(&["pool", "check"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (1, ""));
    insta::assert_snapshot!(outcome.out, @r#"
    error: /etc/virt-vgpu/pools.d/bad.toml:3: key 'instanses': unknown key (did you mean 'instances'?); accepted: kind, description, class, type, instances, placement, guest-driver, defaults, rule
    warning: /etc/virt-vgpu/pools.d/early.toml: rule 1 never matches: this version reads no 'gpu-name' for kind 'mdev'
    note: /etc/virt-vgpu/pools.d/old.toml: masks pool 'old'
    warning: /etc/virt-vgpu/pools.d/My pool.toml: is left out: 'My pool' is not a pool name (1 to 64 of a-z, 0-9 and '-'); rename the file
    4 pools checked: 1 error, 2 warnings
    "#);
    let outcome = tree.run(&["pool", "check", "--json"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (1, ""));
    insta::assert_snapshot!(outcome.out, @r#"
    {
      "checked": 4,
      "problems": [
        {
          "level": "error",
          "file": "/etc/virt-vgpu/pools.d/bad.toml",
          "line": 3,
          "key": "instanses",
          "message": "unknown key (did you mean 'instances'?); accepted: kind, description, class, type, instances, placement, guest-driver, defaults, rule"
        },
        {
          "level": "warning",
          "file": "/etc/virt-vgpu/pools.d/early.toml",
          "message": "rule 1 never matches: this version reads no 'gpu-name' for kind 'mdev'"
        },
        {
          "level": "note",
          "file": "/etc/virt-vgpu/pools.d/old.toml",
          "message": "masks pool 'old'"
        },
        {
          "level": "warning",
          "file": "/etc/virt-vgpu/pools.d/My pool.toml",
          "message": "is left out: 'My pool' is not a pool name (1 to 64 of a-z, 0-9 and '-'); rename the file"
        }
      ]
    }
    "#);
}

#[test]
fn check_of_some_looks_at_those_only() {
    let tree = host().with("/root/new.toml", "kind = 'mdev'\ntype = 1\n");
    let new = tree.path("/root/new.toml").display().to_string();
    assert_eq!(
        tree.shown(&["pool", "check", "cad", "serial"]),
        "2 pools checked: 0 errors, 0 warnings\n"
    );
    assert_eq!(
        tree.shown(&["pool", "check", "old"]),
        "note: /etc/virt-vgpu/pools.d/old.toml: masks pool 'old'\n\
         1 pool checked: 0 errors, 0 warnings\n"
    );
    let outcome = tree.run(&["pool", "check", "bad", "cda", "My pool", &new, "/gone.toml"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (1, ""));
    insta::assert_snapshot!(outcome.out, @r#"
    error: /etc/virt-vgpu/pools.d/bad.toml:3: key 'instanses': unknown key (did you mean 'instances'?); accepted: kind, description, class, type, instances, placement, guest-driver, defaults, rule
    error: there is no pool 'cda' (did you mean 'cad'?); 'virt-vgpu pool list' shows all pools
    error: 'My pool' is not a pool name (1 to 64 of a-z, 0-9 and '-')
    error: ROOT/root/new.toml:2: key 'type': wants a text in quotes, found the number 1
    error: cannot use /gone.toml: No such file or directory (os error 2)
    5 pools checked: 5 errors, 0 warnings
    "#);
}

#[test]
fn show_says_every_operator_in_words() {
    let filters = [
        ("vendor-id", "equal", "10de"),
        ("vendor-id", "not-equal", "8086"),
        ("numa-node", "less-than", "2"),
        ("numa-node", "less-or-equal", "2"),
        ("numa-node", "greater-than", "0"),
        ("numa-node", "greater-or-equal", "0"),
        ("address", "begins-with", "0000:3b:"),
        ("address", "ends-with", ".4"),
        ("vendor", "contains", "NVIDIA"),
        ("vendor", "contains-ignore-case", "nvidia"),
        ("driver", "regex", "^nv"),
    ]
    .map(|(field, op, value)| {
        format!("  {{ field = '{field}', op = '{op}', value = '{value}' }},\n")
    });
    let text = format!(
        "kind = 'mdev'\ntype = 'a'\n[[rule]]\nallow-critical = true\nwhere = [\n{}]\n",
        filters.concat()
    );
    let shown = Tree::new()
        .pool("cad", &text)
        .shown(&["pool", "show", "cad"]);
    let rules = shown
        .split("\n\n")
        .find(|part| part.starts_with("rules"))
        .unwrap();
    insta::assert_snapshot!(rules, @r#"
    rules (a device is in the pool when any of them takes it):
      rule 1 takes devices whose
        vendor-id is '10de'
        and vendor-id is not '8086'
        and numa-node is less than '2'
        and numa-node is at most '2'
        and numa-node is greater than '0'
        and numa-node is at least '0'
        and address begins with '0000:3b:'
        and address ends with '.4'
        and vendor contains 'NVIDIA'
        and vendor contains, in any case, 'nvidia'
        and driver matches '^nv'
        even if the host stands on them
    "#);
}

#[test]
fn broken_files_alone_are_not_no_pools() {
    let tree = Tree::new().pool("bad", "kind = 'mdev'\ntype = 'a'\ninstanses = 3\n");
    for verb in [&["pool", "list"][..], &["status"]] {
        let shown = tree.shown(verb);
        assert!(shown.starts_with("no pool that can be used\n"), "{shown}");
        assert!(shown.contains("bad.toml:3: key 'instanses'"), "{shown}");
        let none = Tree::new().shown(verb);
        let make = "no pools; make one with 'virt-vgpu pool create'\n";
        assert!(none.starts_with(make), "{none}");
    }
}

#[test]
fn a_function_whose_gpu_has_another_driver_is_told_so() {
    let tree = Tree::new()
        .pci("0000:3b:00.0", "10de", "26b9", "030200", Some("vfio-pci"))
        .virtual_function("0000:3b:00.4", "0000:3b:00.0")
        .pci("0000:5e:00.0", "10de", "26b9", "030200", None)
        .virtual_function("0000:5e:00.4", "0000:5e:00.0");
    for (device, why) in [
        (
            "0000:3b:00.4",
            "the driver of its GPU, 0000:3b:00.0, is 'vfio-pci', not 'nvidia'",
        ),
        ("0000:3b:00.0", "its driver is 'vfio-pci', not 'nvidia'"),
        (
            "0000:5e:00.4",
            "no driver is bound to its GPU, 0000:5e:00.0",
        ),
        ("0000:5e:00.0", "no driver is bound to it"),
    ] {
        let profile = ["pool", "create", "cad", "--profile", "L40S-12Q"];
        let arguments = [&profile[..], &["--device", device]].concat();
        assert_eq!(
            tree.refused(&arguments),
            format!("pool 'cad' was not created: {device} is not a GPU that makes vGPUs: {why}")
        );
    }
}

#[test]
fn a_profile_of_no_known_form_is_worth_a_warning() {
    let with = |profile: &str| {
        let text = format!(
            "kind = 'nvidia-vgpu'\nprofile = '{profile}'\n[[rule]]\n\
             where = [{{ field = 'vendor-id', op = 'equal', value = '10de' }}]\n"
        );
        let types = &[
            ("nvidia-1", "NVIDIA Next-8E", 1),
            ("nvidia-2", "NVIDIA Next-4E", 1),
        ];
        Tree::new()
            .pci("0000:3b:00.0", "10de", "26b9", "030200", Some("nvidia"))
            .parent("0000:3b:00.0", types)
            .pool("cad", &text)
            .shown(&["pool", "check"])
    };
    let warning = |profile: &str, meant: &str| {
        format!(
            "warning: /etc/virt-vgpu/pools.d/cad.toml: key 'profile': no GPU of this host has a \
             profile '{profile}', and it is not built as NVIDIA's are: the board, a hyphen, the size \
             in GB, and A, B, C or Q for the series{meant}\n1 pool checked: 0 errors, 1 warning\n"
        )
    };
    for (profile, meant) in [
        ("A16-4q", "; did you mean 'A16-4Q'?"),
        ("A16-8E", ""),
        ("A100 -5C", "; did you mean 'A100-5C'?"),
        ("A100-1-5Cme", "; did you mean 'A100-1-5CME'?"),
        ("Next-9E", "; did you mean 'Next-4E'?"),
    ] {
        assert_eq!(with(profile), warning(profile, meant));
    }
    // A profile that a GPU here has, under any of its names, and profiles of other
    // boards.
    for profile in [
        "Next-8E",
        "NVIDIA Next-8E",
        "A16-4Q",
        "A100-1-5CME",
        "NVIDIA A16-4Q",
    ] {
        assert_eq!(
            with(profile),
            "1 pool checked: 0 errors, 0 warnings\n",
            "{profile}"
        );
    }
}
