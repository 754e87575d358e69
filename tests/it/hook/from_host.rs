//! A device that the host needs itself: handed out only where a rule has `allow-critical`, and
//! then each start says so.

use crate::support::{
    domain::Domain,
    machine::{Machine, Plain},
    refused::on_host,
    scene::Scene,
};

const DISPLAY: &str = "0000:04:00.0";

/// The display on which the host has booted; a pool takes it, with these words in its rule.
fn scene(words: &str) -> Scene {
    let display = Plain {
        class: 0x03_00_00,
        boot_vga: Some(true),
        ..Plain::nic(DISPLAY, 4)
    };
    let scene = Scene::new(Machine::of_pci([display]));
    let text = format!(
        "kind = \"pci\"\n\n[[rule]]\n{words}\n\
         where = [{{ field = \"vendor-id\", op = \"equal\", value = \"8086\" }}]\n"
    );
    scene.file("etc/virt-vgpu/pools.d/cards.toml", text);
    scene
}

fn domain() -> Domain {
    Domain::new(1).function("dev0", "cards", DISPLAY)
}

#[test]
fn it_is_refused_without_that_word() {
    let scene = scene("");
    let outcome = scene.prepare(&domain());
    insta::assert_snapshot!(on_host(&scene, outcome.refusal()), @r"
    pool 'cards' has no free PCI device for domain 'vm1': its XML names 0000:04:00.0: the host needs it: 0000:04:00.0 → boot display; 'virt-vgpu start vm1' looks for another
    ");
    scene.is_empty();
}

#[test]
fn each_start_says_that_it_is_taken_from_the_host() {
    let scene = scene("allow-critical = true");
    for _ in 0..2 {
        let outcome = scene
            .hook(&domain(), "prepare begin -")
            .logging_at("warn")
            .run();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let (_, line) = outcome.stderr.trim_end().split_once("domain '").unwrap();
        insta::allow_duplicates! {
            insta::assert_snapshot!(line, @r#"
            vm1' gets 0000:04:00.0 as 'dev0': a rule of pool 'cards' has allow-critical: the host needs it: 0000:04:00.0 → boot display message_id="8a4f0c37d2be4cf19d5e6b70a1c3f82e" domain_uuid=aaaaaaaa-0000-4000-8000-000000000001 domain_name=vm1 pool=cards device_name=dev0 parent=0000:04:00.0
            "#);
        }
        scene.is_settled();
        scene.stop(&domain());
        scene.is_empty();
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_checks_of_its_pool_say_so_too() {
    let scene = scene("allow-critical = true");
    let said = |arguments: &str| {
        let outcome = crate::support::process::Program::command(scene.root(), arguments).run();
        on_host(&scene, &format!("{}{}", outcome.stdout, outcome.stderr))
    };
    insta::assert_snapshot!(said("pool check cards"), @r"
    warning: /etc/virt-vgpu/pools.d/cards.toml: a rule with allow-critical takes 0000:04:00.0: the host needs it: 0000:04:00.0 → boot display
    1 pool checked: 0 errors, 1 warning
    ");
    insta::assert_snapshot!(said("pool preview cards"), @r"
    pool 'cards' (type 'PCI device'), /etc/virt-vgpu/pools.d/cards.toml

    in the pool (1 of 1):
      DEVICE        TAKEN BY  AVAILABLE  ALSO IN POOL
      0000:04:00.0  rule 1    1          -

    warning: a rule with allow-critical takes 0000:04:00.0: the host needs it: 0000:04:00.0 → boot display
    ");
}

/// Two controllers with a keyboard each, of which one has to stay; the pool's first rule takes
/// both, and there may be more of them.
fn keyboards(more_rules: &str) -> (Scene, Domain) {
    const AT: [&str; 2] = ["0000:04:00.0", "0000:05:00.0"];
    let controllers = AT.iter().zip([4, 5]).map(|(at, group)| Plain {
        class: 0x0c_03_30,
        ..Plain::nic(at, group)
    });
    let scene = Scene::new(Machine::of_pci(controllers));
    let keyboard = |at: &str| {
        format!(
            "I: Bus=0003 Vendor=0001 Product=0001 Version=0001\nN: Name=\"K\"\n\
             S: Sysfs=/devices/pci0000:00/{at}/usb1/1-1/1-1:1.0/input/input1\n\
             B: KEY=402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe\n\n"
        )
    };
    scene.file("proc/bus/input/devices", AT.map(keyboard).concat());
    let text = format!(
        "kind = \"pci\"\n\n[[rule]]\n\
         where = [{{ field = \"vendor-id\", op = \"equal\", value = \"8086\" }}]\n{more_rules}"
    );
    scene.file("etc/virt-vgpu/pools.d/cards.toml", text);
    let domain = Domain::new(1);
    let domain = domain.function("dev0", "cards", AT[0]);
    (scene, domain.function("dev1", "cards", AT[1]))
}

#[test]
fn a_rule_allows_only_its_own_devices() {
    for more_rules in [
        "",
        "[[rule]]\nallow-critical = true\n\
         where = [{ field = \"address\", op = \"equal\", value = \"0000:09:00.0\" }]\n",
    ] {
        let (scene, domain) = keyboards(more_rules);
        let outcome = scene.prepare(&domain);
        insta::allow_duplicates! {
            insta::assert_snapshot!(on_host(&scene, outcome.refusal()), @r"
            pool 'cards' has no free PCI device for domain 'vm1': its XML names 0000:04:00.0: the host needs it: 0000:04:00.0 → usb1 → 1-1 → last keyboard (K); 'virt-vgpu start vm1' looks for another
            ");
        }
        scene.is_empty();
    }
}

#[cfg(feature = "cli")]
#[test]
fn explain_foretells_the_refusal() {
    let (scene, domain) = keyboards("");
    scene.file("vm1.xml", domain.xml());
    let arguments = format!("explain --xml {}", scene.root().join("vm1.xml").display());
    let outcome = crate::support::process::Program::command(scene.root(), &arguments).run();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let said = on_host(&scene, &outcome.stdout);
    let head: Vec<&str> = said.lines().take(2).collect();
    insta::assert_snapshot!(head.join("\n"), @r"
    domain 'vm1' would be refused
      virt-vgpu: pool 'cards' has no free PCI device for domain 'vm1': its XML names 0000:04:00.0: the host needs it: 0000:04:00.0 → usb1 → 1-1 → last keyboard (K); 'virt-vgpu start vm1' looks for another
    ");
}
