//! Valid files, files written by us, and random texts.

use proptest::prelude::*;

use super::*;
use crate::{
    kind::{GpuInstances, MigMode, MigSettings, NewDevice},
    model::TypeSelector,
    rule::Filter,
};

const CAD: &str = r#"
kind        = "mdev"
description = "CAD desktops"
class       = "vgpu"
type        = "nvidia-558"
instances   = 4
placement   = "spread"
guest-driver = "/srv/iso/nvidia 19.0.iso"

[defaults]
frame-rate-limit = 60
console-vnc = true
optional = false

[[rule]]
name  = "L40S in slot 3b"
where = [
  { field = "vendor-id", op = "equal",       value = "10de" },
  { field = "address",   op = "begins-with", value = "0000:3b:" },
]

[[rule]]
allow-critical = true
where = [{ field = "numa-node", op = "less-than", value = 2 },
         { field = "vendor-id", op = "equal", value = 0x10DE },
         { field = "usb-version", op = "less-than", value = 3.2 },
         { field = "virtual-function", op = "equal", value = false }]
"#;

#[test]
fn a_whole_file_is_read() {
    let pool = read(CAD).unwrap();
    assert_eq!(pool.name.as_str(), "cad");
    assert_eq!(pool.kind.name(), "mdev");
    assert_eq!(pool.description.as_deref(), Some("CAD desktops"));
    assert_eq!(pool.class, Some(Class::Vgpu));
    assert_eq!(pool.type_name(), "nvidia-558");
    assert_eq!(pool.instances, 4);
    assert_eq!(pool.placement, Placement::Spread);
    assert_eq!(
        pool.guest_driver,
        Some(GuestDriver::Image("/srv/iso/nvidia 19.0.iso".to_owned()))
    );
    assert_eq!(
        pool.defaults,
        Defaults {
            frame_rate_limit: Some(60),
            console_vnc: Some(true),
            optional: Some(false),
            ..Defaults::default()
        }
    );
    assert_eq!(pool.origin, Path::new(FILE));

    let [named, other] = pool.rules.as_slice() else {
        panic!("two rules are written");
    };
    assert_eq!(named.name.as_deref(), Some("L40S in slot 3b"));
    assert!(!named.allow_critical);
    assert!(other.allow_critical);
    let values: Vec<_> = other.filters.iter().map(Filter::value).collect();
    assert_eq!(values, ["2", "0x10DE", "3.2", "false"]);
}

#[test]
fn what_is_left_out_has_its_default() {
    let pool = read("kind = 'mdev'\ntype = 'NVIDIA L40S-12Q'").unwrap();
    assert_eq!(pool.instances, 0);
    assert_eq!(pool.placement, Placement::Pack);
    assert_eq!(pool.defaults, Defaults::default());
    assert_eq!((pool.class, pool.guest_driver), (None, None));
    assert!(pool.rules.is_empty());
}

#[test]
fn only_a_file_name_could_be_a_types_id() {
    for (text, could_be_id) in [
        ("nvidia-558", true),
        ("NVIDIA L40S-12Q", true),
        ("a/b", false),
    ] {
        let selector: TypeSelector = text.parse().unwrap();
        assert_eq!(selector.could_be_id(), could_be_id, "{text}");
    }
}

#[test]
fn what_is_surely_not_meant_is_warned_of() {
    let start = "kind = 'mdev'\ntype = 'a'\n";
    assert_eq!(
        read(start).unwrap().warnings(),
        ["the pool has no rules, so no device is in it"]
    );
    let rule = "[[rule]]\nwhere = [{ field = 'gpu-name', op = 'contains', value = 'L40S' }]";
    assert_eq!(
        read(&format!("{start}{rule}")).unwrap().warnings(),
        ["rule 1 never matches: this version reads no 'gpu-name' for kind 'mdev'"]
    );
    let rule = "[[rule]]\nwhere = [{ field = 'address', op = 'equal', value = 'mtty' }]";
    assert!(
        read(&format!("{start}{rule}"))
            .unwrap()
            .warnings()
            .is_empty()
    );
}

fn new_pool() -> NewPool {
    NewPool {
        kind: kind::named("mdev").unwrap(),
        device_type: "nvidia-558".parse().ok(),
        devices: vec![
            NewDevice::Itself("3B:00.0".to_owned()),
            NewDevice::Itself("mtty".to_owned()),
            NewDevice::VirtualFunctionsOf("00000000:5E:00.0".to_owned()),
        ],
        description: Some("CAD \"desktops\"".to_owned()),
        class: Some(Class::Vgpu),
        instances: 4,
        placement: Placement::Pack,
        guest_driver: Some("/srv/iso/nvidia.iso".to_owned()),
        gpu_instances: None,
    }
}

#[test]
fn a_new_pools_file_is_made_to_be_edited() {
    insta::assert_snapshot!(render(&new_pool()), @r#"
    # Written by 'virt-vgpu pool create'; made to be edited.

    kind         = "mdev"                   # mediated devices of any driver
    description  = 'CAD "desktops"'
    class        = "vgpu"                   # a label to sort by
    type         = "nvidia-558"             # id or name of the mdev type
    instances    = 4                        # most devices at once; 0 = as many as fit
    placement    = "pack"                   # pack | spread
    guest-driver = "/srv/iso/nvidia.iso"    # drivers for the guests: an ISO, or a driver set

    # A device is in the pool when any rule matches; a rule matches when all
    # its filters hold. 'virt-vgpu pool preview' shows the outcome.

    [[rule]]
    name  = "device 0000:3b:00.0"
    where = [
      { field = "address", op = "equal", value = "0000:3b:00.0" },
    ]

    [[rule]]
    name  = "device mtty"
    where = [
      { field = "address", op = "equal", value = "mtty" },
    ]

    [[rule]]
    name  = "virtual functions of 0000:5e:00.0"
    where = [
      { field = "physical-function", op = "equal", value = "0000:5e:00.0" },
    ]
    "#);
}

#[test]
fn a_new_pool_can_have_gpu_instances() {
    let new = NewPool {
        kind: kind::named("nvidia-vgpu").unwrap(),
        device_type: "DC-2-12Q".parse().ok().map(TypeSelector::Profile),
        devices: vec![NewDevice::Itself("3B:00.0".to_owned())],
        gpu_instances: Some(NewInstances {
            on_each_gpu: 2,
            vgpus: 3,
            mode: MigMode::OnDemand,
        }),
        ..new_pool()
    };
    let text = render(&new);
    let (_, mig) = text.split_once("\n\n[mig]\n").unwrap();
    let (mig, _) = mig.split_once("\n\n").unwrap();
    insta::assert_snapshot!(mig, @r#"
    gpu-instances      = 2                  # on each GPU of the pool
    vgpus-per-instance = 3                  # 0 = as many as fit
    mode               = "on-demand"        # at-boot | on-demand: starts of VMs make more
    "#);
    let pool = new.check("cad".parse().unwrap(), Path::new(FILE)).unwrap();
    let wanted = GpuInstances::Made(MigSettings {
        gpu_instances: 2,
        mode: MigMode::OnDemand,
        vgpus_per_instance: std::num::NonZeroU32::new(3),
    });
    let settings = pool.devices.gpu_settings().unwrap();
    assert_eq!(settings.gpu_instances, wanted);
    let time_sliced = NewPool {
        device_type: "L40S-12Q".parse().ok().map(TypeSelector::Profile),
        ..new
    };
    let error = time_sliced.check("cad".parse().unwrap(), Path::new(FILE));
    assert_eq!(error.unwrap_err().key.unwrap(), "mig");
}

#[test]
fn a_new_pool_that_no_file_can_have_is_refused_before_it_is_written() {
    let check = |pool: NewPool| pool.check("cad".parse().unwrap(), Path::new(FILE));
    assert!(check(new_pool()).is_ok());
    let error = check(NewPool {
        guest_driver: Some("nvidia.iso".to_owned()),
        ..new_pool()
    });
    assert_eq!(
        error.unwrap_err().to_string(),
        "/etc/virt-vgpu/pools.d/cad.toml:9: key 'guest-driver': 'nvidia.iso' is not the absolute \
         path of an .iso file"
    );
    let two_lines = NewPool {
        description: Some("a\nkind = \"pci\"".to_owned()),
        ..new_pool()
    };
    assert!(check(two_lines).is_err());
}

proptest! {
    #[test]
    fn what_is_rendered_reads_as_the_same_pool(
        description in proptest::option::of("[^\\p{Cc}]{0,20}"),
        device_type in "[!-~]([ -~]{0,18}[!-~])?",
        devices in proptest::collection::vec("[!-9;-~]([ -9;-~]{0,18}[!-9;-~])?", 0..4),
        instances: u32,
        path in proptest::option::of("/[^\\p{Cc}]{0,20}\\.iso"),
        class in 0..Class::ALL.len(),
        spread: bool,
    ) {
        let new = NewPool {
            kind: kind::named("mdev").unwrap(),
            device_type: device_type.parse().ok(),
            devices: devices.iter().cloned().map(NewDevice::Itself).collect(),
            description,
            class: Class::ALL.get(class).copied(),
            instances,
            placement: if spread { Placement::Spread } else { Placement::Pack },
            guest_driver: path,
            gpu_instances: None,
        };
        let pool = new.check("cad".parse().unwrap(), Path::new(FILE)).unwrap();
        prop_assert_eq!(pool.devices.selector(), new.device_type.as_ref());
        prop_assert_eq!(pool.description, new.description);
        prop_assert_eq!(pool.class, new.class);
        prop_assert_eq!(pool.instances, new.instances);
        prop_assert_eq!(pool.placement, new.placement);
        prop_assert_eq!(pool.guest_driver.map(|driver| driver.to_string()), new.guest_driver);
        prop_assert_eq!(pool.rules.len(), devices.len());
        for (rule, device) in pool.rules.iter().zip(&devices) {
            let wanted = Filter::new("address", "equal", device).unwrap();
            prop_assert_eq!(&rule.filters, &vec![wanted]);
        }
    }

    #[test]
    fn no_text_panics(text: String) {
        let _ = read(&text);
    }

    /// Lines of a valid file in random order, doubled or truncated: closer to TOML than
    /// random text, so the parser gets further.
    #[test]
    fn no_shuffled_file_panics_and_every_message_is_one_line(
        lines in proptest::collection::vec(0usize..26, 0..30),
        cut in 0usize..80,
    ) {
        let good: Vec<&str> = CAD.lines().collect();
        let mut text: String = lines.iter().map(|line| format!("{}\n", good[*line])).collect();
        text.truncate(text.len().saturating_sub(cut));
        if let Err(error) = read(&text) {
            prop_assert!(error.line <= text.lines().count().max(1) + 1);
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }
}

#[test]
fn host_settings_are_read() {
    let vgpu = |text: &str| {
        let start = "kind = 'nvidia-vgpu'\nprofile = 'L40S-12Q'\n";
        read(&format!("{start}{text}")).unwrap()
    };
    let scheduler = |pool: &Pool| pool.devices.gpu_settings().unwrap().scheduler.clone();
    let plain = vgpu("");
    assert_eq!(plain.devices.gpu_settings(), Some(&GpuSettings::default()));
    let mixed = vgpu(
        "heterogeneous = true\n[scheduler]\npolicy = 'equal-share'\nstrict-round-robin = \
         true\naveraging-factor = 33\nfrequency = 480",
    );
    assert!(mixed.mixes_sizes());
    let equal = SchedulerSettings {
        policy: SchedulerPolicy::EqualShare,
        strict_round_robin: Some(true),
        averaging_factor: Some(33),
        frequency: Some(480),
        time_slice_ns: None,
    };
    assert_eq!(scheduler(&mixed), Some(equal.clone()));
    for (written, nanoseconds) in [("2", 2_000_000), ("2.0", 2_000_000), ("1.25", 1_250_000)] {
        let sliced = vgpu(&format!(
            "[scheduler]\npolicy = 'equal-share'\nstrict-round-robin = false\ntime-slice-ms = \
             {written}"
        ));
        let wanted = SchedulerSettings {
            strict_round_robin: Some(false),
            averaging_factor: None,
            frequency: None,
            time_slice_ns: Some(nanoseconds),
            ..equal.clone()
        };
        assert_eq!(scheduler(&sliced), Some(wanted), "{written}");
    }
}
