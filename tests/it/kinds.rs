//! Kinds of device: no file outside `src/kind` names one, and the interface of a kind
//! is enough for the planner.

use std::{fs, io, path::Path, sync::Arc};

use virt_vgpu::{
    config::{self, Pool},
    device::{
        PCI_DEVICES, Sysfs,
        mdev::{self, Offer, Parent},
        parameters::Parameters,
        pci,
        step::Step,
    },
    document::ConfigError,
    host::{Host, PciIds},
    kind::{
        Candidate, Devices, FieldSources, HostView, KINDS, Keys, Kind, MadeAs, Named, NewDevice,
        PCI_FIELDS, Part, Placeholder, Subject, ToMake, Words,
    },
    model::{DeviceName, DomainName, Handle, MdevUuid, ParentName},
    plan::{self, Detail, Failed, HostSupply, Nearness, Plan, PlanRequest, Refusal},
    rule::{Field, Rule, Verdict},
};

use crate::support::{plain_tree::Tree, sources::sources};

/// Names of kinds that stand for something else, in these files.
const OTHERWISE: &[(&str, &str, &str)] = &[
    ("domain/", "mdev", "the type of a hostdev in libvirt's XML"),
    ("domain/", "pci", "the type of a hostdev in libvirt's XML"),
    (
        "hotplug/plug.rs",
        "pci",
        "the type of a hostdev in libvirt's XML",
    ),
    (
        "device/driver_option.rs",
        "pci",
        "a key of the driver's options",
    ),
    ("device/topology.rs", "pci", "a directory in sysfs"),
    ("host/device_events.rs", "mdev", "the kernel's subsystem"),
    ("host/device_events.rs", "pci", "the kernel's subsystem"),
    ("host/udev_database.rs", "pci", "the kernel's subsystem"),
    ("rule/labels.rs", "pci", "a class of devices"),
];

/// The program's text, without comments and without tests.
fn code(text: &str) -> String {
    let body = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let lines = body
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Ways to name the kind: its name as a text, in a message or on a command line, its
/// module, its row.
fn ways_to_name(kind: &str) -> Vec<String> {
    let module = kind.replace('-', "_");
    let words = kind.split('-').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    let row: String = words.collect();
    vec![
        format!("\"{kind}\""),
        format!("'{kind}'"),
        format!("kind {kind}"),
        format!("kind={kind}"),
        format!("kind::{module}"),
        format!("Kind::{row}"),
        format!("{row}Pool"),
    ]
}

fn named_in(code: &str, kind: &str) -> Option<String> {
    let mut ways = ways_to_name(kind).into_iter();
    ways.find(|way| {
        code.match_indices(way.as_str()).any(|(place, _)| {
            let after = code[place + way.len()..].chars().next();
            !after.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        })
    })
}

#[test]
fn no_file_outside_their_own_room_names_a_kind() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for path in sources(&root) {
        let below = path
            .strip_prefix(&root)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let is_test = below.contains("tests/") || below.ends_with("tests.rs");
        if is_test || below.starts_with("kind/") {
            continue;
        }
        let code = code(&fs::read_to_string(&path).unwrap());
        for kind in KINDS {
            let may = OTHERWISE
                .iter()
                .any(|(place, name, _)| below.starts_with(place) && *name == kind.name());
            match named_in(&code, kind.name()) {
                Some(way) if !may => wrong.push(format!("{below}: {way}")),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The check finds a violation.
/// Every kind is proven on a host with the real kernel and libvirt.
#[test]
fn each_kind_has_a_scenario_in_the_lab() {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/scenarios");
    let texts: Vec<String> = fs::read_dir(scenarios)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    for kind in KINDS {
        let name = kind.name();
        let option = kind.keys().type_key.map(|key| format!("--{} ", key.name));
        let mut ways = vec![
            format!("kind = \"{name}\""),
            format!("kind = '{name}'"),
            format!("--kind {name}"),
        ];
        ways.extend(option);
        let makes_a_pool = |text: &String| {
            let of_it = |line: &str| ways.iter().any(|way| line.contains(way.as_str()));
            text.lines().any(of_it)
        };
        assert!(texts.iter().any(makes_a_pool), "{kind}");
    }
}

#[test]
fn a_breach_would_be_seen() {
    for text in [
        "if pool.kind.name() == \"nvidia-vgpu\" {",
        "pool.kind == Kind::NvidiaVgpu",
        "use crate::kind::nvidia_vgpu::functions;",
        "\"--kind nvidia-vgpu\"",
    ] {
        assert!(named_in(&code(text), "nvidia-vgpu").is_some(), "{text}");
    }
    for text in [
        "// kind nvidia-vgpu",
        "\"nvidia-vgpud\"",
        "kind::NvidiaVgpud",
    ] {
        assert_eq!(named_in(&code(text), "nvidia-vgpu"), None, "{text}");
    }
}

/// The card that the host needs itself.
const LAST: &str = "0000:5e:00.0";

/// A kind that the program does not have: whole PCI functions, of which nothing has to be
/// made.
#[derive(Debug)]
struct Whole;

impl Kind for Whole {
    fn name(&self) -> &'static str {
        "whole"
    }

    fn about(&self) -> &'static str {
        "whole functions"
    }

    fn subject(&self) -> Subject {
        Subject::Parent
    }

    fn words(&self) -> Words {
        KINDS[0].words()
    }

    fn keys(&self) -> Keys {
        Keys::default()
    }

    fn fields(&self) -> Vec<Field> {
        PCI_FIELDS.to_vec()
    }

    fn parse(&self, _: &Part<'_>) -> Result<Arc<dyn Devices>, ConfigError> {
        Ok(Arc::new(WholePool::default()))
    }

    fn subjects(&self, view: &HostView<'_>) -> io::Result<Vec<Parent>> {
        let functions = pci::functions(view.sysfs())?.into_iter();
        let mut addresses: Vec<_> = functions.map(|(address, _)| address).collect();
        addresses.sort_unstable();
        Ok(addresses.into_iter().map(mdev::pci_function).collect())
    }

    fn subject_named(&self, _: &dyn Sysfs, name: &ParentName) -> Option<Parent> {
        name.pci().map(mdev::pci_function)
    }
}

#[derive(Debug, Default)]
struct WholePool {
    /// Rules are about the first of the last two cards, and mean both.
    is_paired: bool,
}

impl Devices for WholePool {
    fn type_name(&self) -> &str {
        "function"
    }

    fn type_in_words(&self) -> String {
        "whole functions".to_owned()
    }

    fn verdict(&self, sources: FieldSources<'_>, rules: &[Rule], subject: &Parent) -> Verdict {
        sources.verdict(rules, subject, None)
    }

    fn named(&self, _: &HostView<'_>, text: &str) -> Result<Named, String> {
        Ok(Named {
            device: NewDevice::Itself(text.to_owned()),
            note: None,
        })
    }

    fn candidates(&self, view: &HostView<'_>, _: &Placeholder) -> Result<Vec<Candidate>, String> {
        let functions = Whole.subjects(view).map_err(|error| error.to_string())?;
        let candidate = |parent: Parent| Candidate {
            device: parent.name.pci().map(Handle::Pci),
            board: parent.name.clone(),
            node: None,
            in_use: 0,
            has_device: false,
            parent,
        };
        Ok(functions.into_iter().map(candidate).collect())
    }

    fn subject_of(&self, _: &HostView<'_>, candidate: &Candidate) -> Parent {
        if self.is_paired && candidate.parent.name.to_string() == LAST {
            let first: ParentName = "0000:05:00.0".parse().unwrap();
            return mdev::pci_function(first);
        }
        candidate.parent.clone()
    }

    fn offer(&self, _: &HostView<'_>, _: &Candidate) -> Offer {
        Offer::Type {
            id: "function".parse().unwrap(),
            available: 1,
        }
    }

    fn steps(&self, _: &HostView<'_>, _: &Candidate, _: &ToMake<'_>) -> Result<Vec<Step>, String> {
        Ok(Vec::new())
    }

    fn made_as(&self, candidate: &Candidate) -> MadeAs {
        MadeAs {
            word: "whole",
            rests_on: format!("{PCI_DEVICES}/{}/driver", candidate.parent.name),
            can_wedge: false,
        }
    }

    fn room(&self, _: &HostView<'_>, _: &Parent) -> (Offer, bool) {
        let id = "function".parse().unwrap();
        (Offer::Type { id, available: 1 }, true)
    }

    fn critical(&self, _: &HostView<'_>, candidate: &Candidate) -> Option<String> {
        let is_last = candidate.parent.name.to_string() == LAST;
        is_last.then(|| "the host's last keyboard is on it".to_owned())
    }
}

/// A pool of that kind, which takes Intel's cards; with or without `allow-critical`.
fn whole(allow: bool) -> Pool {
    let text = format!(
        "kind = 'mdev'\ntype = 'x'\n[[rule]]\nallow-critical = {allow}\nwhere = [{{ field = \
         'vendor-id', op = 'equal', value = '8086' }}]\n"
    );
    let pool = config::parse("cards".parse().unwrap(), Path::new("/x.toml"), &text).unwrap();
    Pool {
        kind: &Whole,
        devices: Arc::new(WholePool::default()),
        ..pool
    }
}

/// A host with three of those cards, the last of which it needs itself.
fn cards() -> Tree {
    Tree::with_devices()
        .pci("0000:05:00.0", "8086", "1533", "020000", None)
        .pci(LAST, "8086", "1533", "020000", None)
}

/// The plan for so many devices of the pool.
fn planned(pool: &Pool, number: usize) -> Result<Plan, Refusal> {
    let tree = cards();
    let host = Host::new(tree.path("/"));
    let names = PciIds::new(&host);
    let view = HostView::open(&host, &names, Detail::default()).unwrap();
    let supply = HostSupply::of(view);
    let domain: DomainName = "vm1".parse().unwrap();
    let devices: Vec<DeviceName> = (0..number)
        .map(|number| format!("card{number}").parse().unwrap())
        .collect();
    let uuid: MdevUuid = "614bc606-2078-5444-8c9c-4f8e98ae4dcc".parse().unwrap();
    let wanted = |device| PlanRequest {
        device,
        uuid,
        placeholder: Placeholder::Any,
        pool,
        pool_in_use: 0,
        parameters: Parameters::default(),
        together: None,
    };
    let wanted: Vec<PlanRequest<'_>> = devices.iter().map(wanted).collect();
    let nearness = Nearness::default();
    plan::plan(&domain, &wanted, &supply, &nearness, &Failed::default())
}

#[test]
fn the_planner_serves_a_kind_that_it_has_never_heard_of() {
    let plan = planned(&whole(false), 2).unwrap();
    let handles: Vec<String> = plan
        .assignments
        .iter()
        .map(|one| one.handle.to_string())
        .collect();
    assert_eq!(handles, ["0000:04:00.0", "0000:05:00.0"]);
    assert_eq!(plan.steps, []);
}

#[test]
fn what_the_host_needs_is_handed_out_only_where_a_rule_says_so() {
    assert_eq!(
        planned(&whole(false), 3).unwrap_err().to_string(),
        "pool 'cards' has no free function for domain 'vm1': 0000:04:00.0: its last function \
         goes to 'card0' of this domain; 0000:05:00.0: its last function goes to 'card1' of this \
         domain; 0000:5e:00.0: the host's last keyboard is on it; see 'virt-vgpu explain vm1'"
    );
    let plan = planned(&whole(true), 3).unwrap();
    let last = plan.assignments.last().map(|one| one.handle.to_string());
    assert_eq!(last.as_deref(), Some(LAST));
    let from_host = plan.assignments.iter().map(|one| one.from_host.as_deref());
    let why = "the host's last keyboard is on it";
    assert_eq!(from_host.collect::<Vec<_>>(), [None, None, Some(why)]);
}

/// What 'pool preview' and 'pool show' print of the pool's devices.
#[cfg(feature = "cli")]
fn shown(pool: &Pool) -> [String; 2] {
    use virt_vgpu::report;
    let tree = cards();
    let host = Host::new(tree.path("/"));
    let paragraph = |text: String, heading: &str| {
        let mut all = text.split("\n\n");
        let found = all.find(|one| one.starts_with(heading));
        found.unwrap().trim_end().to_owned()
    };
    let preview = report::pool::preview(&host, pool.clone()).unwrap();
    let show = report::pool::show(&host, pool.clone()).unwrap();
    [
        paragraph(preview.to_string(), "in the pool"),
        paragraph(show.to_string(), "devices"),
    ]
}

#[cfg(feature = "cli")]
#[test]
fn what_the_host_needs_is_shown_as_not_to_be_had() {
    let [preview, show] = shown(&whole(false));
    insta::assert_snapshot!(preview, @r"
    in the pool (3 of 6):
      DEVICE        TAKEN BY  AVAILABLE                          ALSO IN POOL
      0000:04:00.0  rule 1    1                                  -
      0000:05:00.0  rule 1    1                                  -
      0000:5e:00.0  rule 1    the host's last keyboard is on it  -
    ");
    insta::assert_snapshot!(show, @r"
    devices (0 in use, 2 free):
      DEVICE        TAKEN BY  AVAILABLE                          ALSO IN POOL
      0000:04:00.0  rule 1    1                                  -
      0000:05:00.0  rule 1    1                                  -
      0000:5e:00.0  rule 1    the host's last keyboard is on it  -
    ");
    let [_, show] = shown(&whole(true));
    insta::assert_snapshot!(show, @r"
    devices (0 in use, 3 free):
      DEVICE        TAKEN BY  AVAILABLE  ALSO IN POOL
      0000:04:00.0  rule 1    1          -
      0000:05:00.0  rule 1    1          -
      0000:5e:00.0  rule 1    1          -
    ");
}

/// Of what rules are about the host may need a part only.
#[cfg(feature = "cli")]
#[test]
fn what_the_host_needs_in_part_has_no_exact_room() {
    let pool = Pool {
        devices: Arc::new(WholePool { is_paired: true }),
        ..whole(false)
    };
    let [_, show] = shown(&pool);
    let row = show.lines().find(|line| line.contains("0000:05:00.0"));
    assert_eq!(row, Some("  0000:05:00.0  rule 1    at most 1  -"));
}
