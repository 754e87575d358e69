//! Any sequence of starts, stops and crashes, on any machine of functions, groups and
//! drivers, leaves the machine as it was when all VMs have stopped.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::support::{
    domain::Domain,
    kernel::{Fault, Meanwhile, Target},
    machine::{Machine, Plain},
    scene::Scene,
};
use nix::errno::Errno;

/// As many functions as a machine has.
const FUNCTIONS: usize = 6;
const DOMAINS: usize = 3;

fn address(function: usize) -> String {
    format!("0000:0{}:00.{}", 4 + function / 2, function % 2)
}

/// A function: its group, driver and override, by number.
type Shape = (u32, usize, usize);

/// `e1000e`
const OF_ANOTHER_DRIVER: usize = 1;

fn machine(shapes: &[Shape]) -> Machine {
    const DRIVERS: [Option<&str>; 4] = [Some("igb"), Some("e1000e"), None, Some("vfio-pci")];
    const RESERVED: [Option<&str>; 4] = [None, Some("igb"), Some("nvme"), Some("vfio-pci")];
    let functions = shapes.iter().enumerate();
    Machine::of_pci(functions.map(|(number, &(group, driver, reserved))| Plain {
        driver_override: RESERVED[reserved].map(str::to_owned),
        ..Plain::nic(&address(number), group).with_driver(DRIVERS[driver])
    }))
}

/// What happens to a domain.
#[derive(Debug, Clone)]
enum Event {
    /// It starts with these functions; its QEMU runs afterwards.
    Starts(usize, Vec<usize>),
    /// The hook of its start dies after that effect, or that effect fails.
    StartDies(usize, usize, String),
    /// Its QEMU ends, and the hook gives back.
    Stops(usize),
    /// The same, but the hook dies after that effect, or that effect fails.
    StopDies(usize, String),
    /// The next driver that is asked to take the function refuses.
    Refuses(usize),
    /// Others make the kernel look for a driver as soon as the function has none. It finds
    /// `igb`: whether that was the kernel or a person cannot be told if the hook dies then.
    IsProbed(usize),
    /// The administrator cleans up.
    Reconcile,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let domain = 0..DOMAINS;
    let function = 0..FUNCTIONS;
    let fault = prop_oneof![
        (1..14_u32).prop_map(|number| format!("kill:{number}")),
        (1..14_u32).prop_map(|number| format!("5:{number}")),
    ];
    let several = prop::collection::btree_set(0..FUNCTIONS, 1..3);
    let several = several.prop_map(|set: BTreeSet<usize>| set.into_iter().collect());
    let event = prop_oneof![
        4 => (domain.clone(), several).prop_map(|(domain, its)| Event::Starts(domain, its)),
        3 => (domain.clone(), function.clone(), fault.clone())
            .prop_map(|(domain, its, fault)| Event::StartDies(domain, its, fault)),
        3 => domain.clone().prop_map(Event::Stops),
        3 => (domain, fault).prop_map(|(domain, fault)| Event::StopDies(domain, fault)),
        1 => function.clone().prop_map(Event::Refuses),
        1 => function.prop_map(Event::IsProbed),
        1 => Just(Event::Reconcile),
    ];
    prop::collection::vec(event, 1..8)
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    prop::collection::vec((0..4_u32, 0..4_usize, 0..4_usize), FUNCTIONS)
}

fn domain(number: usize, functions: &[usize]) -> Domain {
    let functions = functions.iter().enumerate();
    functions.fold(Domain::new(number + 1), |domain, (device, &function)| {
        domain.function(&format!("dev{device}"), "cards", &address(function))
    })
}

fn pid(domain: usize) -> u32 {
    u32::try_from(4711 + domain).unwrap()
}

/// The domain's QEMU ends, if it runs.
fn ends(scene: &Scene, domain: usize) {
    if scene.path(&format!("proc/{}", pid(domain))).exists() {
        scene.ends(pid(domain));
    }
}

fn happens(scene: &Scene, shapes: &[Shape], event: &Event) {
    match event {
        Event::Starts(number, functions) => {
            ends(scene, *number);
            let domain = domain(*number, functions);
            let outcome = scene.prepare(&domain);
            if outcome.succeeded() {
                let its: Vec<String> = functions.iter().map(|one| address(*one)).collect();
                let its: Vec<&str> = its.iter().map(String::as_str).collect();
                // QEMU gets all that the hook has promised.
                scene.runs_on(pid(*number), &domain, &its);
            } else {
                outcome.refusal();
            }
        }
        Event::StartDies(number, function, fault) => {
            ends(scene, *number);
            let domain = domain(*number, &[*function]);
            scene.hook(&domain, "prepare begin -").fault(fault).run();
        }
        Event::Stops(number) => {
            ends(scene, *number);
            let domain = domain(*number, &[]);
            scene.hook(&domain, "release end shutdown").run();
        }
        Event::StopDies(number, fault) => {
            ends(scene, *number);
            let domain = domain(*number, &[]);
            scene
                .hook(&domain, "release end shutdown")
                .fault(fault)
                .run();
        }
        Event::Refuses(function) => {
            let refuses = Fault::errno(Target::Probe, Errno::EIO).on(&address(*function));
            scene.kernel.inject(refuses.times(1));
        }
        Event::IsProbed(function) if shapes[*function].1 == OF_ANOTHER_DRIVER => {}
        Event::IsProbed(function) => {
            let probed = Fault::then(Target::Unbind, Meanwhile::IsProbed);
            scene.kernel.inject(probed.on(&address(*function)));
        }
        Event::Reconcile => {
            #[cfg(feature = "cli")]
            scene.reconcile();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_machine_is_as_it_was_when_all_vms_have_stopped(
        shapes in shapes(),
        events in events(),
    ) {
        let scene = Scene::new(machine(&shapes));
        scene.pci_pool("cards");
        scene.daemon_lives();
        for event in &events {
            happens(&scene, &shapes, event);
        }
        scene.kernel.heal();
        scene.daemon_dies();
        for number in 0..DOMAINS {
            ends(&scene, number);
            scene.stop(&domain(number, &[]));
        }
        // What a driver had refused is in quarantine until somebody tries again.
        #[cfg(feature = "cli")]
        {
            scene.reconcile();
            let left = virt_vgpu::claims::quarantine_reasons(&scene.host()).unwrap();
            assert!(left.is_empty(), "{left:?}");
        }
        // A killed hook may have left a file that was not complete.
        scene.is_sound();
        assert_eq!(scene.claims(), []);
    }
}
