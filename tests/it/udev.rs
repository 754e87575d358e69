//! The output of `virt-vgpu-udev` for a device, and the rule that calls it.

use std::process::Command;

use crate::support::plain_tree::Tree;

const GPU: &str = "0000:3b:00.0";
const FUNCTION: &str = "0000:3b:00.4";

fn rule(field: &str, value: &str) -> String {
    format!("[[rule]]\nwhere = [{{ field = '{field}', op = 'equal', value = '{value}' }}]\n")
}

fn vgpus(field: &str, value: &str) -> String {
    let rule = rule(field, value);
    format!("kind = 'nvidia-vgpu'\nprofile = 'L40S-12Q'\n{rule}")
}

fn mdevs(field: &str, value: &str) -> String {
    format!("kind = 'mdev'\ntype = 'x-1'\n{}", rule(field, value))
}

/// It always succeeds, and prints only on stdout.
#[track_caller]
fn said(tree: &Tree, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_virt-vgpu-udev"))
        .args(arguments)
        .env("VIRT_VGPU_ROOT", tree.root())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_gpu_has_the_pools_of_its_vgpus_and_its_functions_have_them_too() {
    let tree = Tree::new()
        .pci(GPU, "10de", "26b9", "030200", Some("nvidia"))
        .virtual_function(FUNCTION, GPU)
        .virtual_function("0000:3b:00.5", GPU)
        .with_link(
            &format!("/sys/bus/pci/devices/{GPU}/virtfn0"),
            &format!("../{FUNCTION}"),
        )
        .with_link(
            &format!("/sys/bus/pci/devices/{GPU}/virtfn1"),
            "../0000:3b:00.5",
        )
        .pci("0000:5e:00.0", "10de", "26b9", "030200", Some("nvidia"))
        .pci("0000:04:00.0", "8086", "1533", "020000", Some("igb"))
        .pool("web", &vgpus("address", GPU))
        .pool("cad", &vgpus("address", GPU))
        .pool("nic", &vgpus("address", "0000:04:00.0"))
        .pool("bad", "kind = 1");
    let pools = "ID_VIRT_VGPU_POOLS=cad web\n";
    assert_eq!(said(&tree, &[GPU]), format!("{pools}ID_VIRT_VGPU_GPU=1\n"));
    let first = format!("{pools}ID_VIRT_VGPU_FIRST_OF={GPU}\n");
    assert_eq!(said(&tree, &[FUNCTION]), first);
    assert_eq!(said(&tree, &["0000:3b:00.5"]), pools);
    let others = ["0000:5e:00.0", "0000:04:00.0", "0000:99:00.0", "card0", ""];
    for other in others {
        assert_eq!(said(&tree, &[other]), "", "{other}");
    }
    assert_eq!(said(&tree, &[]), "");
}

#[test]
fn parents_have_the_pools_of_mediated_devices_that_take_them() {
    let types = &[("x-1", "X", 2)];
    let tree = Tree::with_devices()
        .pci("0000:00:02.0", "8086", "9bc5", "030000", Some("i915"))
        .parent("0000:00:02.0", types)
        .pool("igd", &mdevs("vendor-id", "8086"))
        .pool("serial", &mdevs("address", "mtty"))
        .pool("parts", &mdevs("address", FUNCTION))
        .pool("cad", &vgpus("address", GPU));
    for (name, wanted) in [
        ("0000:00:02.0", "ID_VIRT_VGPU_POOLS=igd\n"),
        ("mtty", "ID_VIRT_VGPU_POOLS=serial\n"),
        // The pools of its own rules and of its GPU's.
        (FUNCTION, "ID_VIRT_VGPU_POOLS=cad parts\n"),
        ("0000:3b:00.5", "ID_VIRT_VGPU_POOLS=cad\n"),
        // It is Intel's but makes no mediated devices.
        ("0000:04:00.0", ""),
        ("mtty1", ""),
    ] {
        assert_eq!(said(&tree, &[name]), wanted, "{name}");
    }
}

/// Only a vGPU pool has settings for its GPU.
#[test]
fn a_gpu_of_a_pool_of_mediated_devices_is_not_set_up() {
    let tree = Tree::new()
        .pci(GPU, "10de", "1eb8", "030200", Some("nvidia"))
        .parent(GPU, &[("nvidia-232", "GRID T4-4Q", 4)])
        .pool("any", &mdevs("address", GPU));
    assert_eq!(said(&tree, &[GPU]), "ID_VIRT_VGPU_POOLS=any\n");
}

#[test]
fn without_pools_nothing_is_said() {
    let tree = Tree::with_devices();
    assert_eq!(said(&tree, &[FUNCTION]), "");
    let tree = tree.with("/etc/virt-vgpu/pools.d/README", "-");
    assert_eq!(said(&tree, &["mtty"]), "");
}

/// The rules' requests to systemd, each with its conditions.
#[test]
fn a_gpu_is_set_up_when_its_driver_or_the_types_of_its_first_function_come() {
    let text = include_str!("../../udev-rules/60-virt-vgpu.rules");
    let (_, end) = text.split_once("IMPORT{program}=").unwrap();
    let rules = end.lines().skip(1);
    let rules: Vec<&str> = rules
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let want = |when: &str, unit: &str| {
        format!("{when}, TAG+=\"systemd\", ENV{{SYSTEMD_WANTS}}+=\"virt-vgpu-host@{unit}.service\"")
    };
    assert_eq!(
        rules,
        [
            "DRIVER!=\"nvidia\", GOTO=\"virt_vgpu_end\"",
            "ACTION==\"change\", ENV{MDEV_STATE}!=\"registered\", GOTO=\"virt_vgpu_end\"",
            &want("ENV{ID_VIRT_VGPU_GPU}==\"1\"", "$kernel"),
            &want(
                "ACTION==\"change\", ENV{ID_VIRT_VGPU_FIRST_OF}==\"?*\"",
                "$env{ID_VIRT_VGPU_FIRST_OF}"
            ),
            "LABEL=\"virt_vgpu_end\"",
        ]
    );
}

/// The keys of the rule file according to udev(7), each line complete, and every jump
/// with its target; newer udev checks this itself (`udevadm verify`, in the lab).
#[test]
fn the_rule_file_is_sound() {
    let text = include_str!("../../udev-rules/60-virt-vgpu.rules");
    let lines = text.lines().filter(|line| !line.is_empty());
    let rules: Vec<&str> = lines.filter(|line| !line.starts_with('#')).collect();
    let value = |item: &str| item.split('"').nth(1).unwrap().to_owned();
    let (mut labels, mut gotos) = (Vec::new(), Vec::new());
    for item in rules.iter().flat_map(|rule| rule.split(", ")) {
        let key: String = item.chars().take_while(char::is_ascii_alphabetic).collect();
        let known = [
            "ACTION",
            "ATTR",
            "DRIVER",
            "ENV",
            "GOTO",
            "IMPORT",
            "LABEL",
            "SUBSYSTEM",
            "TAG",
            "TEST",
        ];
        assert!(known.contains(&&*key), "{item}");
        assert!(
            item.ends_with('"') && item.matches('"').count() == 2,
            "{item}"
        );
        match &*key {
            "LABEL" => labels.push(value(item)),
            "GOTO" => gotos.push(value(item)),
            _ => {}
        }
    }
    gotos.sort();
    gotos.dedup();
    labels.sort();
    assert_eq!(gotos, labels);
}
