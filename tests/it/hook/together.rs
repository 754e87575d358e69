//! A VM with several mediated devices that should be behind one PCIe bridge.

use nix::errno::Errno;
use virt_vgpu::{
    allocate::{Demand, Look, PlacedRequest},
    domain::{self, DomainDef},
    model::MdevUuid,
    plan::{Failed, Placeholder, Plan},
};

use crate::support::{
    domain::Domain,
    kernel::{Fault, Target},
    machine::{Bridge, Function, Machine, SMALL},
    scene::Scene,
};

const ALONE: &str = "0000:11:00.0";
/// Behind one switch.
const LEFT: &str = "0000:23:00.0";
const RIGHT: &str = "0000:24:00.0";

/// Three boards, of which the first two have room for one more.
fn scene() -> Scene {
    let mut machine = Machine::with([ALONE, LEFT, RIGHT].map(Function::board));
    machine.bridges = Bridge::of_a_port_and_a_switch();
    for (number, board) in [ALONE, ALONE, ALONE, LEFT, LEFT, LEFT].iter().enumerate() {
        let uuid = format!("ffffffff-0000-4000-8000-{number:012}");
        machine = machine.with_mdev(&uuid, board, SMALL);
    }
    let scene = Scene::new(machine);
    scene.pool("small", SMALL);
    scene
}

fn domain(together: &str) -> Domain {
    let attributes = format!("pool='small' {together}");
    let domain = Domain::new(1).request("gpu0", &attributes, true);
    domain.request("gpu1", &attributes, true)
}

const TOGETHER: &str = "together='pcie-root'";

#[test]
fn both_are_made_behind_the_switch() {
    for (together, expected) in [("", [ALONE, LEFT]), (TOGETHER, [LEFT, RIGHT])] {
        let scene = scene();
        let domain = domain(together);
        scene.prepare(&domain).ends_well();
        scene.is_settled();
        let claims = scene.claims();
        let devices = claims[0].devices.iter();
        let parents: Vec<String> = devices.map(|one| one.parent.to_string()).collect();
        assert_eq!(parents, expected, "{together}");
        scene.stop(&domain);
        scene.is_empty();
    }
}

/// The driver of a board behind the switch refuses: the VM gets two devices all the same.
#[test]
fn a_refusal_costs_the_preference_and_not_the_start() {
    let scene = scene();
    let refuses = Fault::errno(Target::Create, Errno::EIO);
    scene.kernel.inject(refuses.on(RIGHT).times(9));
    let domain = domain(TOGETHER);
    scene.prepare(&domain).ends_well();
    scene.is_settled();
    let claims = scene.claims();
    let devices = claims[0].devices.iter();
    let parents: Vec<String> = devices.map(|one| one.parent.to_string()).collect();
    assert_eq!(parents, [ALONE, LEFT]);
    scene.stop(&domain);
    scene.is_empty();
}

fn placed<'d>(def: &'d DomainDef, names: &[&str]) -> Vec<PlacedRequest<'d>> {
    let requests = def.requests.iter();
    let requests = requests.filter(|request| names.contains(&request.name.as_str()));
    let placed = |request| PlacedRequest {
        request,
        uuid: MdevUuid::for_device(def.uuid, &request.name),
        placeholder: Placeholder::Mdev,
    };
    requests.map(placed).collect()
}

fn parents(plan: &Plan) -> Vec<String> {
    let assignments = plan.assignments.iter();
    assignments.map(|one| one.parent.to_string()).collect()
}

#[test]
fn what_is_plugged_in_is_near_what_is_there() {
    let scene = scene();
    let host = scene.host();
    let planned = |together: &str| {
        let def = domain::parse(&domain(together).xml()).unwrap();
        let mut demand = Demand::load(&host, &def, placed(&def, &["gpu1"])).unwrap();
        demand.beside = Some(Vec::new());
        demand.present = vec![("gpu0".parse().unwrap(), RIGHT.parse().unwrap())];
        parents(&demand.plan(&host, &Failed::default()).unwrap())
    };
    assert_eq!(planned(""), [ALONE]);
    // Behind the switch it packs.
    assert_eq!(planned(TOGETHER), [LEFT]);
    assert_eq!(planned("together='numa'"), [ALONE]);
}

/// Under the host lock no driver is asked, and for a preference nobody looks again.
#[test]
fn an_unknown_answer_costs_the_preference_and_not_the_start() {
    let scene = scene();
    let host = scene.host();
    let look = Look::new(&host);
    let plan = |together: &str| {
        let def = domain::parse(&domain(together).xml()).unwrap();
        let demand = Demand::load(&host, &def, placed(&def, &["gpu0", "gpu1"])).unwrap();
        let seen = demand.see_claims(&look).unwrap();
        let plan = demand.plan_from(&look, &seen, &Failed::default());
        parents(&plan.unwrap())
    };
    assert_eq!(plan(""), [ALONE, LEFT]);
    look.ask_no_driver_any_more();
    // The driver of the third board was not asked.
    assert_eq!(plan(TOGETHER), [ALONE, LEFT]);
    assert!(!look.has_missed());
    look.look_further();
    assert_eq!(plan(TOGETHER), [LEFT, RIGHT]);
    look.ask_no_driver_any_more();
    assert_eq!(plan(TOGETHER), [LEFT, RIGHT]);
    assert!(!look.has_missed());
}
