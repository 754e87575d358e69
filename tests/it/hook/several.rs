//! A VM with several devices on boards whose functions share the board's capacity.

use lab_nvidia::model::Framework;
use nix::errno::Errno;

use crate::support::{
    domain::Domain,
    kernel::{Fault, Target},
    machine::{Function, Gpu, LARGE, Machine, SMALL},
    refused::on_host,
    scene::Scene,
    tree::OnWrite,
};

/// Two boards of virtual functions with mediated devices, `there` of them taken on
/// each.
fn boards(there: usize) -> Scene {
    Scene::new(Machine::of_sriov_boards(there))
}

fn two(number: usize) -> Domain {
    Domain::with_one(number, "small").device("gpu1", "small")
}

/// Creations that reached the driver, each with its parent and whether it succeeded.
fn creations(scene: &Scene) -> Vec<(String, bool)> {
    let writes = scene.kernel.writes().into_iter();
    let creations = writes.filter_map(|write| match write.what {
        OnWrite::Create { parent, .. } => Some((parent, write.result.is_ok())),
        _ => None,
    });
    creations.collect()
}

fn made_on(parents: &[&str]) -> Vec<(String, bool)> {
    parents
        .iter()
        .map(|&parent| (parent.to_owned(), true))
        .collect()
}

#[test]
fn one_left_on_each_board_is_two_for_one_vm() {
    for placement in ["pack", "spread"] {
        let scene = boards(3);
        scene.pool_with("small", SMALL, &format!("placement = \"{placement}\""));
        let domain = two(1);
        scene.prepare(&domain).ends_well();
        scene.is_settled();
        let expected = made_on(&["0000:41:00.7", "0000:61:00.7"]);
        assert_eq!(creations(&scene), expected, "{placement}");
        scene.stop(&domain);
        scene.is_empty();
    }
}

#[test]
fn a_vm_that_wants_more_than_there_is_costs_no_vgpu() {
    let scene = boards(3);
    scene.pool("small", SMALL);
    let domain = two(1).device("gpu2", "small");
    let outcome = scene.prepare(&domain);
    let line = on_host(&scene, outcome.refusal());
    let free = "0000:41:00.7, 0000:41:01.0, 0000:41:01.1";
    assert!(
        line.contains(&format!(
            "{free}: its board 0000:41:00.0 has 1 of {SMALL} left, 3 are wanted"
        )),
        "{line}"
    );
    assert_eq!(creations(&scene), []);
    scene.is_empty();
}

/// The space that the first device leaves on a board decides where the second can go.
#[test]
fn a_size_that_only_one_board_can_hold_gets_that_board() {
    let scene = boards(0);
    scene.pool_with("small", SMALL, "placement = \"spread\"");
    let only_first = format!(
        "kind = \"mdev\"\ntype = \"{LARGE}\"\n\n[[rule]]\n\
         where = [{{ field = \"address\", op = \"begins-with\", value = \"0000:41:\" }}]\n"
    );
    scene.file("etc/virt-vgpu/pools.d/large.toml", only_first);
    let domain = Domain::with_one(1, "small").device("gpu1", "large");
    scene.prepare(&domain).ends_well();
    let expected = made_on(&["0000:61:00.4", "0000:41:00.4"]);
    assert_eq!(creations(&scene), expected);
    scene.stop(&domain);
    scene.is_empty();
}

/// If the driver refuses one function, other functions of the board are tried.
#[test]
fn another_function_of_the_only_board_is_tried() {
    let scene = Scene::new(Machine::with([Function::sriov_board("41", 6)]));
    scene.pool("small", SMALL);
    let refuses = Fault::errno(Target::Create, Errno::EIO);
    scene.kernel.inject(refuses.on("0000:41:00.5").times(9));
    let domain = two(1);
    scene.prepare(&domain).ends_well();
    scene.is_settled();
    let claims = scene.claims();
    let parents: Vec<String> = claims[0]
        .devices
        .iter()
        .map(|device| device.parent.to_string())
        .collect();
    assert_eq!(parents, ["0000:41:00.4", "0000:41:00.6"]);
    scene.stop(&domain);
    scene.is_empty();
}

/// NVML, which knows how many fit on a board, does not answer. The driver's own refusal
/// comes late, but it counts only for what was refused.
#[test]
fn a_board_that_refused_is_asked_for_what_it_did_make() {
    let scene = Scene::new(Machine::of_l40s_with_one_left());
    scene.without_nvml();
    scene.vgpu_pool("cad", "L40S-12Q");
    let domain = Domain::new(1)
        .function("gpu0", "cad", "0000:41:00.7")
        .function("gpu1", "cad", "0000:41:01.0");
    let outcome = scene.hook(&domain, "migrate begin -").run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    scene.is_settled();
    let vgpus = scene.our_vgpus();
    let functions: Vec<&String> = vgpus.keys().collect();
    assert_eq!(functions, ["0000:41:00.7", "0000:61:00.7"]);
    scene.stop(&domain);
    scene.is_empty();
}

/// A device in a claim counts against `instances`, even if it has left the bus.
#[test]
fn a_device_that_is_leaving_counts() {
    let scene = boards(0);
    scene.pool_with("small", SMALL, "instances = 1");
    // Otherwise the first domain's start would count as over.
    scene.daemon_lives();
    let domain = Domain::with_one(1, "small");
    scene.prepare(&domain).ends_well();
    let uuid = &domain.mdevs()[0];
    let remove = scene.path(&format!("sys/bus/mdev/devices/{uuid}/remove"));
    std::fs::write(remove, "1").unwrap();
    assert_eq!(scene.kernel.mdevs().len(), 0);
    let outcome = scene.prepare(&Domain::with_one(2, "small"));
    let line = outcome.refusal();
    assert!(
        line.contains("1 of at most 1 instances are in use"),
        "{line}"
    );
    scene.stop(&domain);
    scene.is_empty();
}

/// A running VM gets more vGPUs only from boards of the same type.
#[test]
fn what_is_plugged_in_is_of_the_board_type_that_is_there() {
    use virt_vgpu::{
        allocate::{Demand, PlacedRequest},
        config, domain,
        model::MdevUuid,
        plan::{Failed, Placeholder},
    };
    let gpu = |address| Gpu::new("rtx-pro-6000", Framework::VendorVfio, address).functions(6);
    let other = Gpu {
        device: Some(0x2bb4),
        ..gpu("0000:61:00.0")
    };
    let machine = Machine::of_gpus([gpu("0000:41:00.0"), other]);
    let scene = Scene::new(machine.with_vgpu("0000:61:00.4", "DC-24Q"));
    scene.vgpu_pool("cad", "DC-24Q");
    let host = scene.host();
    let xml = Domain::new(1).function("gpu1", "cad", "0000:61:00.5").xml();
    let def = domain::parse(&xml).unwrap();
    let planned = |beside: Option<&str>| {
        let orders = def.requests.iter().map(|request| PlacedRequest {
            request,
            uuid: MdevUuid::for_device(def.uuid, &request.name),
            placeholder: Placeholder::Functions,
        });
        let mut demand = Demand::load(&host, &def, orders.collect()).unwrap();
        let pool = config::load_pool(&host, &"cad".parse().unwrap()).unwrap();
        demand.beside = beside.map(|parent| vec![(pool, parent.parse().unwrap())]);
        let plan = demand.plan(&host, &Failed::default()).unwrap();
        plan.assignments[0].parent.to_string()
    };
    // Alone it packs.
    assert_eq!(planned(None), "0000:61:00.5");
    assert_eq!(planned(Some("0000:61:00.4")), "0000:61:00.5");
    assert_eq!(planned(Some("0000:41:00.4")), "0000:41:00.4");
}

/// While sizes are mixed, the functions' files leave out types that can be created: as many
/// vGPUs are there as 24 GB would allow.
#[test]
fn a_size_that_functions_do_not_list_is_made_where_it_fits() {
    let gpu = Gpu::l40s("0000:41:00.0").functions(4).heterogeneous();
    let small = ["0000:41:00.4", "0000:41:00.5"];
    let machine = small
        .iter()
        .fold(Machine::of_gpus([gpu]), |machine, function| {
            machine.with_vgpu(function, "L40S-1Q")
        });
    let scene = Scene::new(machine);
    scene.vgpu_pool_with("cad", "L40S-24Q", "heterogeneous = true");
    let domain = Domain::new(1).function("gpu0", "cad", "0000:41:00.6");
    scene.prepare(&domain).ends_well();
    let made = &scene.kernel.vgpus()["0000:41:00.6"];
    assert_eq!(
        (made.profile.as_str(), made.placement),
        ("L40S-24Q", Some(24))
    );
}

#[test]
fn a_size_that_parents_do_not_count_is_made_where_it_fits() {
    let gpu = Gpu::new("l40s", Framework::SriovMdev, "0000:41:00.0");
    let mut machine = Machine::of_gpus([gpu.functions(4).heterogeneous()]);
    for number in [4, 5] {
        let uuid = format!("f0e1c000-0000-4000-8000-00000000000{number}");
        machine = machine.with_mdev(&uuid, &format!("0000:41:00.{number}"), "nvidia-1147");
    }
    let scene = Scene::new(machine);
    scene.vgpu_pool_with("cad", "L40S-24Q", "heterogeneous = true");
    scene.prepare(&Domain::with_one(1, "cad")).ends_well();
    assert_eq!(creations(&scene), made_on(&["0000:41:00.6"]));
}
