//! The exact message for each mistake that a pool file can have.

use super::*;

const KEYS: &str =
    "kind, description, class, type, instances, placement, guest-driver, defaults, rule";
const OPERATORS: &str = "equal, not-equal, less-than, less-or-equal, greater-than, \
     greater-or-equal, begins-with, ends-with, contains, contains-ignore-case, regex";
const FIELDS: &str = "host, address, slot-label, class, class-id, vendor, vendor-id, device, \
     device-id, subsystem-id, driver, serial, numa-node, iommu-group, virtual-function, \
     physical-function, gpu-name, gpu-uuid, gpu-memory-mib, profile-id, netdev, mac, \
     link-speed-mbps, bus, port-path, usb-version, speed-mbps, interface-driver";
const CLASSES: &str = "gpu, vgpu, storage, hid, usb, network, media, audio, fpga, pci, unknown";

/// The message without the file's name, which every message begins with.
fn message(text: &str) -> String {
    let error = read(text).unwrap_err();
    let shown = error.to_string();
    let rest = shown
        .strip_prefix(FILE)
        .and_then(|rest| rest.strip_prefix(':'));
    rest.unwrap_or_else(|| panic!("{shown}")).to_owned()
}

/// The message for `text` as line 3 and following of a file that is valid up to there.
fn after_start(text: &str) -> String {
    message(&format!("kind = \"mdev\"\ntype = \"nvidia-558\"\n{text}"))
}

/// The message for a `where` whose filters begin in line 5.
fn in_where(filters: &str) -> String {
    after_start(&format!("[[rule]]\nwhere = [\n{filters}\n]"))
}

#[test]
fn texts_that_are_no_toml() {
    for (text, wanted) in [
        (
            "kind = \"mdev",
            "1: not valid TOML: invalid basic string, expected `\"`",
        ),
        (
            "kind = \"mdev\"\n\nkind = \"mdev\"",
            "3: not valid TOML: duplicate key",
        ),
        (
            "kind = \"mdev\"\ntype nvidia-558",
            "2: not valid TOML: key with no value, expected `=`",
        ),
        (
            "kind = \"mdev\"\n[[rule]\n",
            "2: not valid TOML: unclosed array table, expected `]`",
        ),
    ] {
        assert_eq!(message(text), wanted);
    }
    let large = "#".repeat(MAX_FILE_BYTES + 1);
    assert_eq!(message(&large), "1: is larger than 1048576 bytes");
}

#[test]
fn the_kind() {
    for (text, wanted) in [
        (
            "",
            "1: key 'kind': is missing; accepted: nvidia-vgpu, mdev, pci",
        ),
        (
            "type = \"a\"",
            "1: key 'kind': is missing; accepted: nvidia-vgpu, mdev, pci",
        ),
        (
            "\nkind = \"usb\"\n[usb]\nguest-reset = true",
            "2: key 'kind': kind 'usb' is not supported by this version; accepted: nvidia-vgpu, mdev, pci",
        ),
        (
            "kind = \"mdve\"",
            "1: key 'kind': unknown kind 'mdve' (did you mean 'mdev'?); accepted: nvidia-vgpu, mdev, pci",
        ),
        (
            "kind = \"floppy\"",
            "1: key 'kind': unknown kind 'floppy'; accepted: nvidia-vgpu, mdev, pci",
        ),
        (
            "kind = 1",
            "1: key 'kind': wants a text in quotes, found the number 1",
        ),
    ] {
        assert_eq!(message(text), wanted);
    }
}

#[test]
fn keys_that_do_not_belong_there() {
    for (text, wanted) in [
        (
            "instance = 4",
            format!("3: key 'instance': unknown key (did you mean 'instances'?); accepted: {KEYS}"),
        ),
        (
            "guest_driver = \"x\"",
            format!(
                "3: key 'guest_driver': unknown key (did you mean 'guest-driver'?); accepted: {KEYS}"
            ),
        ),
        (
            "zebra = 1\napple = 2",
            format!("3: key 'zebra': unknown key; accepted: {KEYS}"),
        ),
        (
            "profile = \"L40S-12Q\"",
            format!("3: key 'profile': not for kind 'mdev'; accepted: {KEYS}"),
        ),
        (
            "\n[scheduler]\npolicy = \"fixed-share\"",
            format!("4: key 'scheduler': not for kind 'mdev'; accepted: {KEYS}"),
        ),
        (
            "[mig]",
            format!("3: key 'mig': not for kind 'mdev'; accepted: {KEYS}"),
        ),
        (
            "usb.guest-reset = true",
            format!("3: key 'usb': not for kind 'mdev'; accepted: {KEYS}"),
        ),
        (
            "[defaults]\nframe-rate = 60",
            "4: key 'defaults.frame-rate': unknown key; accepted: frame-rate-limit, console-vnc, \
             unified-memory, debuggers, profilers, optional"
                .to_owned(),
        ),
        (
            "[[rule]]\nwere = []",
            "4: key 'rule.were': unknown key (did you mean 'where'?); accepted: name, where, \
             allow-critical"
                .to_owned(),
        ),
        (
            "\"a\\nb\" = 1",
            format!("3: key 'a\\nb': unknown key; accepted: {KEYS}"),
        ),
    ] {
        assert_eq!(after_start(text), wanted);
    }
}

#[test]
fn values_of_the_pool() {
    assert_eq!(
        message("# no type\nkind = \"mdev\""),
        "2: key 'type': is missing: kind 'mdev' wants a type's id (as in nvidia-558) or name"
    );
    assert_eq!(
        message("kind = \"mdev\"\ntype = \" \""),
        "2: key 'type': ' ' is not an mdev type (id as in nvidia-558, or its name)"
    );
    assert_eq!(
        message("kind = \"mdev\"\ntype = 558"),
        "2: key 'type': wants a text in quotes, found the number 558"
    );
    let limit = "wants a whole number from 0 to 4294967295";
    for (text, wanted) in [
        (
            "instances = \"4\"",
            format!("3: key 'instances': {limit}, found the text '4'"),
        ),
        (
            "instances = -1",
            format!("3: key 'instances': {limit}, found the number -1"),
        ),
        (
            "instances = 1.5",
            format!("3: key 'instances': {limit}, found the number 1.5"),
        ),
        (
            "instances = 4294967296",
            format!("3: key 'instances': {limit}, found the number 4294967296"),
        ),
        (
            "class = \"gpus\"",
            format!(
                "3: key 'class': unknown class 'gpus' (did you mean 'gpu'?); accepted: {CLASSES}"
            ),
        ),
        (
            "placement = \"stack\"",
            "3: key 'placement': unknown placement 'stack'; accepted: pack, spread".to_owned(),
        ),
        (
            "placement = \"spred\"",
            "3: key 'placement': unknown placement 'spred' (did you mean 'spread'?); accepted: \
             pack, spread"
                .to_owned(),
        ),
        (
            "guest-driver = \"nvidia 19.0\"",
            "3: key 'guest-driver': 'nvidia 19.0' is not the name of a driver set (letters, digits \
             and ._-, at most 64); accepted: the absolute path of an .iso file, the name of a \
             driver set"
                .to_owned(),
        ),
        (
            "description = \"\"\"a\nb\"\"\"",
            "3: key 'description': wants one line without control characters".to_owned(),
        ),
        (
            "[defaults]\n\nconsole-vnc = \"yes\"",
            "5: key 'defaults.console-vnc': wants true or false, found the text 'yes'".to_owned(),
        ),
        (
            "[defaults]\nframe-rate-limit = true",
            format!("4: key 'defaults.frame-rate-limit': {limit}, found true"),
        ),
        (
            "defaults = []",
            "3: key 'defaults': wants a table, [defaults], found a list".to_owned(),
        ),
    ] {
        assert_eq!(after_start(text), wanted);
    }
}

#[test]
fn rules_that_are_no_rules() {
    let filters = "wants a list of filters, [{ field = …, op = …, value = … }]";
    for (text, wanted) in [
        (
            "[rule]\nwhere = []",
            "3: key 'rule': wants tables, each under its own [[rule]], found a table".to_owned(),
        ),
        (
            "\n[[rule]]\nname = \"x\"",
            "4: key 'rule.where': is missing".to_owned(),
        ),
        (
            "[[rule]]\nname = \"x\"\nwhere = []",
            "5: key 'rule.where': is empty, which would match every device".to_owned(),
        ),
        (
            "[[rule]]\nwhere = \"all\"",
            format!("4: key 'rule.where': {filters}, found the text 'all'"),
        ),
        (
            "[[rule]]\nwhere = [\n1]",
            format!("5: key 'rule.where': {filters}, found the number 1"),
        ),
        (
            "[[rule]]\nwhere = []\nallow-critical = 1",
            "5: key 'rule.allow-critical': wants true or false, found the number 1".to_owned(),
        ),
    ] {
        assert_eq!(after_start(text), wanted);
    }
    let filter = "{ field = 'address', op = 'equal', value = 'a' },";
    assert_eq!(
        in_where(&filter.repeat(65)),
        "4: key 'rule.where': has more than 64 filters"
    );
    let rule = format!("[[rule]]\nwhere = [{filter}]\n");
    assert_eq!(
        after_start(&rule.repeat(1025)),
        "2052: key 'rule.where': is in a pool of more than 1024 rules"
    );
    let rule = "[[rule]]\nwhere = [{ field = 'device', op = 'regex', value = 'a' }]\n";
    assert_eq!(
        after_start(&rule.repeat(65)),
        "132: key 'rule.where.op': is in a pool of more than 64 regex filters"
    );
}

/// Parents of mediated devices may have names of any form, and other devices are PCI functions.
#[test]
fn addresses_that_are_none() {
    let text = |kind: &str, op: &str, value: &str| {
        format!(
            "{kind}\n[[rule]]\nwhere = [\n{{ field = 'address',\nop = '{op}',\n\
             value = '{value}' }}]\n"
        )
    };
    for kind in ["kind = 'pci'", "kind = 'nvidia-vgpu'\nprofile = 'L40S-12Q'"] {
        let line = 5 + kind.lines().count();
        for op in ["equal", "not-equal"] {
            assert_eq!(
                message(&text(kind, op, "banana")),
                format!(
                    "{line}: key 'rule.where.value': 'banana' is not a PCI address (as in \
                     0000:3b:00.0)"
                )
            );
        }
        for (op, value) in [
            ("equal", "3b:00.0"),
            ("equal", "00000000:3B:00.0"),
            ("begins-with", "0000:3b:"),
            ("regex", "^banana"),
        ] {
            assert!(read(&text(kind, op, value)).is_ok(), "{op} {value}");
        }
    }
    let mdev = "kind = 'mdev'\ntype = 'mtty-1'";
    assert!(read(&text(mdev, "equal", "mtty")).is_ok());
}

#[test]
fn filters_that_are_no_filters() {
    for (filters, wanted) in [
        (
            "{ field = \"adress\", op = \"equal\", value = \"a\" }",
            format!(
                "5: key 'rule.where.field': unknown field 'adress' (did you mean 'address'?); \
                 accepted: {FIELDS}"
            ),
        ),
        (
            "{ field = \"address\", op = \"equal\", value = \"a\" },\n\
             { field = \"address\", op = \"begin-with\", value = \"a\" }",
            format!(
                "6: key 'rule.where.op': unknown operator 'begin-with' (did you mean \
                 'begins-with'?); accepted: {OPERATORS}"
            ),
        ),
        (
            "{ field = \"address\",\n op = \"less-than\",\n value = 1 }",
            "6: key 'rule.where.op': 'less-than' does not work on the address field 'address'; \
             accepted: equal, not-equal, begins-with, ends-with, contains, contains-ignore-case, \
             regex"
                .to_owned(),
        ),
        (
            "{ field = \"numa-node\",\n op = \"equal\",\n value = \"two\" }",
            "7: key 'rule.where.value': 'two' is not a whole number".to_owned(),
        ),
        (
            "{ field = \"driver\", op = \"regex\", value = \"(\" }",
            "5: key 'rule.where.value': '(' is not a regular expression: unclosed group".to_owned(),
        ),
        (
            "{ field = \"driver\", op = \"equal\", value = [] }",
            "5: key 'rule.where.value': wants a text, a number, true or false, found a list"
                .to_owned(),
        ),
        (
            "{ field = \"driver\", value = \"a\" }",
            format!("5: key 'rule.where.op': is missing; accepted: {OPERATORS}"),
        ),
        (
            "{ op = \"equal\", value = \"a\" }",
            format!("5: key 'rule.where.field': is missing; accepted: {FIELDS}"),
        ),
        (
            "{ field = \"driver\", op = \"equal\" }",
            "5: key 'rule.where.value': is missing".to_owned(),
        ),
        (
            "{ field = \"driver\", operator = \"equal\", value = \"a\" }",
            "5: key 'rule.where.operator': unknown key; accepted: field, op, value".to_owned(),
        ),
    ] {
        assert_eq!(in_where(filters), wanted);
    }
}

/// The message for `text` as line 3 and following of a pool of vGPUs.
fn after_vgpu_start(text: &str) -> String {
    message(&format!(
        "kind = \"nvidia-vgpu\"\nprofile = \"L40S-12Q\"\n{text}"
    ))
}

#[test]
fn gpu_instances() {
    let after = |text: &str| {
        message(&format!(
            "kind = \"nvidia-vgpu\"\nprofile = \"DC-2-12Q\"\n{text}"
        ))
    };
    for (text, wanted) in [
        (
            "mig = 1",
            "3: key 'mig': wants a table, [mig], found the number 1",
        ),
        (
            "[mig]\ngpu-instance = 1",
            "4: key 'mig.gpu-instance': unknown key (did you mean 'gpu-instances'?); accepted: \
             gpu-instances, vgpus-per-instance, mode",
        ),
        ("[mig]", "3: key 'mig.gpu-instances': is missing"),
        (
            "[mig]\ngpu-instances = 0",
            "4: key 'mig.gpu-instances': wants 1 to 64: so many are made on each GPU; 0 goes with \
             mode = \"on-demand\", where starts of VMs make them",
        ),
        (
            "[mig]\ngpu-instances = 65",
            "4: key 'mig.gpu-instances': wants 1 to 64: so many are made on each GPU",
        ),
        (
            "[mig]\ngpu-instances = 65\nmode = 'on-demand'",
            "4: key 'mig.gpu-instances': wants 0 to 64: so many are made on each GPU ahead of VMs",
        ),
        (
            "[mig]\ngpu-instances = 1\nvgpus-per-instance = -1",
            "5: key 'mig.vgpus-per-instance': wants a whole number from 0 to 4294967295, found \
             the number -1",
        ),
        (
            "[mig]\ngpu-instances = 1\nmode = 'at-bot'",
            "5: key 'mig.mode': unknown mode 'at-bot' (did you mean 'at-boot'?); accepted: \
             at-boot, on-demand",
        ),
        (
            "heterogeneous = true\n[mig]\ngpu-instances = 1\nvgpus-per-instance = 1",
            "3: key 'heterogeneous': does not work with vgpus-per-instance: a GPU instance that mixes \
             sizes has as many vGPUs as fit; take one of the two out",
        ),
        (
            "heterogeneous = true",
            "3: key 'heterogeneous': is a setting of GPU instances, and without [mig] none is made \
             for the pool; add [mig], or take it out",
        ),
        (
            "[scheduler]\npolicy = 'best-effort'",
            "3: key 'scheduler': is a setting of GPU instances, and without [mig] none is made for \
             the pool; add [mig], or take it out",
        ),
    ] {
        assert_eq!(after(text), wanted, "{text}");
    }
}

#[test]
fn host_settings() {
    for (text, wanted) in [
        (
            "heterogeneous = 1",
            "3: key 'heterogeneous': wants true or false, found the number 1",
        ),
        (
            "[mig]\ngpu-instances = 1",
            "3: key 'mig': is for profiles in GPU instances (as in DC-2-12Q), and 'L40S-12Q' is \
             none: its vGPUs share the whole GPU; take [mig] out, or choose another profile",
        ),
        (
            "scheduler = 1",
            "3: key 'scheduler': wants a table, [scheduler], found the number 1",
        ),
        (
            "[scheduler]",
            "3: key 'scheduler.policy': is missing; accepted: best-effort, equal-share, fixed-share",
        ),
        (
            "[scheduler]\npolicy = 'equal'",
            "4: key 'scheduler.policy': unknown policy 'equal'; accepted: best-effort, \
             equal-share, fixed-share",
        ),
        (
            "[scheduler]\npolicy = 'equal-share'\ntime-slice = 2",
            "5: key 'scheduler.time-slice': unknown key (did you mean 'time-slice-ms'?); \
             accepted: policy, strict-round-robin, averaging-factor, frequency, time-slice-ms",
        ),
        (
            "heterogeneous = true\n[scheduler]\npolicy = 'fixed-share'",
            "5: key 'scheduler.policy': 'fixed-share' does not work with heterogeneous = true: all \
             shares have one size; accepted: best-effort, equal-share",
        ),
    ] {
        assert_eq!(after_vgpu_start(text), wanted);
    }
    assert_eq!(
        after_start("heterogeneous = true"),
        format!("3: key 'heterogeneous': not for kind 'mdev'; accepted: {KEYS}")
    );
}

#[test]
fn schedulers_whose_parameters_do_not_go_together() {
    for (policy, parameters, wanted) in [
        (
            "best-effort",
            "strict-round-robin = false",
            "strict-round-robin': has no effect with policy 'best-effort'; leave it out",
        ),
        (
            "best-effort",
            "time-slice-ms = 2",
            "time-slice-ms': has no effect with policy 'best-effort'; leave it out",
        ),
        (
            "equal-share",
            "averaging-factor = 33",
            "averaging-factor': wants strict-round-robin = true",
        ),
        (
            "fixed-share",
            "strict-round-robin = false\nfrequency = 480",
            "frequency': wants strict-round-robin = true",
        ),
        (
            "equal-share",
            "strict-round-robin = true\ntime-slice-ms = 2.0",
            "time-slice-ms': wants strict-round-robin = false",
        ),
        (
            "equal-share",
            "strict-round-robin = true\naveraging-factor = 61",
            "averaging-factor': wants 1 to 60",
        ),
        (
            "equal-share",
            "strict-round-robin = true\nfrequency = 0",
            "frequency': wants more than 0",
        ),
        (
            "equal-share",
            "strict-round-robin = false\ntime-slice-ms = 1e3",
            "time-slice-ms': wants a number of milliseconds, as in 2.0, below 4294, found the \
             number 1e3",
        ),
        (
            "equal-share",
            "strict-round-robin = false\ntime-slice-ms = '2'",
            "time-slice-ms': wants a number of milliseconds, as in 2.0, below 4294, found the \
             text '2'",
        ),
        (
            "equal-share",
            "strict-round-robin = false\ntime-slice-ms = 4295",
            "time-slice-ms': wants a number of milliseconds, as in 2.0, below 4294, found the \
             number 4295",
        ),
    ] {
        let text = format!("[scheduler]\npolicy = '{policy}'\n{parameters}");
        let line = 4 + parameters.lines().count();
        assert_eq!(
            after_vgpu_start(&text),
            format!("{line}: key 'scheduler.{wanted}")
        );
    }
}
