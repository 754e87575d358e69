//! Machines as text: each file in `tests/fixtures/machines` becomes a directory that stands
//! in for a host's root. The form, by lines; what is indented lies in the line above it:
//!
//! | line | is |
//! |---|---|
//! | `pci ADDRESS CLASS VENDOR:DEVICE KEY=VALUE…` | a PCI function; the keys `group`, `driver`, `numa` and `pf` (its physical function), others are attributes |
//! | `at PATH` | a directory in `/sys/devices` |
//! | `dir PATH` | a directory in the device above |
//! | `block NAME MAJOR:MINOR on=NAME,…` | a disk or partition, and the devices that it is built on |
//! | `net NAME under=NAME,…` | a network interface, and those that stand on it |
//! | `class CLASS NAME` | a device of another class |
//! | `NAME = TEXT` | an attribute |
//! | `file PATH` | a file; its text is indented |
//! | `link PATH TARGET`, `folder PATH` | a link, an empty directory |
//! | `# …` | a comment |

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::Path,
};

use tempfile::TempDir;

/// All machines.
pub const MACHINES: &[&str] = &[
    "desktop",
    "server",
    "laptop",
    "nvme-root",
    "zfs-root",
    "no-acs",
];

/// A machine as a new directory.
pub fn machine(name: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    write(&unfolded(&text(name)), root.path());
    root
}

/// A machine's text.
pub fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/machines");
    fs::read_to_string(path.join(name)).unwrap()
}

/// One entry of a machine's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Folder,
    File(String),
    Link(String),
}

/// All entries of a machine by their paths. Folders above others need no entry.
pub fn unfolded(text: &str) -> BTreeMap<String, Entry> {
    let mut machine = Unfolding::default();
    machine.read(text);
    machine.connect();
    machine.entries
}

/// Writes the entries below a root.
pub fn write(entries: &BTreeMap<String, Entry>, root: &Path) {
    for (path, entry) in entries {
        let path = root.join(path.trim_start_matches('/'));
        if *entry == Entry::Folder {
            fs::create_dir_all(path).unwrap();
            continue;
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match entry {
            Entry::File(text) => fs::write(path, text).unwrap(),
            Entry::Link(target) => symlink(target, path).unwrap(),
            Entry::Folder => {}
        }
    }
}

#[derive(Default)]
struct Unfolding {
    entries: BTreeMap<String, Entry>,
    /// The directory of each PCI function, disk and interface.
    functions: BTreeMap<String, String>,
    blocks: BTreeMap<String, String>,
    interfaces: BTreeMap<String, String>,
    groups: BTreeMap<String, BTreeSet<String>>,
    /// Device above, device below.
    stacked: Vec<(String, String)>,
    /// Interface below, interface above.
    under: Vec<(String, String)>,
    virtual_functions: Vec<(String, String)>,
}

/// The path from a directory to another one.
fn relative(from: &str, to: &str) -> String {
    let parts = |path: &str| {
        path.split('/')
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (from, to) = (parts(from), parts(to));
    let same = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n("..", from.len() - same);
    let down = to[same..].iter().map(String::as_str);
    up.chain(down).collect::<Vec<_>>().join("/")
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn list(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(str::to_owned)
}

impl Unfolding {
    fn folder(&mut self, path: &str) {
        self.entries.entry(path.to_owned()).or_insert(Entry::Folder);
    }

    fn file(&mut self, path: &str, text: &str) {
        let entry = Entry::File(text.to_owned());
        self.entries.insert(path.to_owned(), entry);
    }

    /// A link as the kernel makes them, relative to its directory.
    fn link(&mut self, link: &str, to: &str) {
        let (directory, _) = link.rsplit_once('/').unwrap();
        let entry = Entry::Link(relative(directory, to));
        self.entries.insert(link.to_owned(), entry);
    }

    fn read(&mut self, text: &str) {
        // The indentation and the directory of each line above.
        let mut above: Vec<(usize, String)> = Vec::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            if let Some(path) = line.strip_prefix("file ") {
                let mut text = String::new();
                while let Some(next) = lines.next_if(|next| next.is_empty() || indent(next) > 0) {
                    text.push_str(next.strip_prefix("  ").unwrap_or(next));
                    text.push('\n');
                }
                // Empty lines at the end separate it from the next entry.
                self.file(path, &format!("{}\n", text.trim_end_matches('\n')));
                continue;
            }
            let depth = indent(line);
            above.retain(|(outer, _)| *outer < depth);
            let parent = above.last().map(|(_, path)| path.as_str());
            if let Some(path) = self.entry(content, parent) {
                above.push((depth, path));
            }
        }
    }

    /// Makes what a line says; returns its directory.
    fn entry(&mut self, line: &str, parent: Option<&str>) -> Option<String> {
        let known = [
            "pci", "at", "dir", "block", "net", "class", "link", "folder",
        ];
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if !known.contains(&word) {
            let (name, text) = line.split_once(" =").unwrap_or_else(|| panic!("{line}"));
            let text = text.trim_start();
            self.file(&format!("{}/{name}", parent.unwrap()), &format!("{text}\n"));
            return None;
        }
        let mut words = rest.split_ascii_whitespace();
        let first = words.next().unwrap_or_else(|| panic!("{line}"));
        let rest: Vec<&str> = words.collect();
        let below = |name: &str| format!("{}/{name}", parent.unwrap_or_else(|| panic!("{line}")));
        let path = match word {
            "at" => format!("/sys/devices/{first}"),
            "dir" => below(first),
            "pci" => {
                let bus = format!("/sys/devices/pci{}", &first[..first.len() - 5]);
                let path = format!("{}/{first}", parent.unwrap_or(&bus));
                self.pci(first, &path, &rest);
                path
            }
            "block" => {
                let path = below(first);
                self.block(first, &path, &rest);
                path
            }
            "net" => {
                let path = below(&format!("net/{first}"));
                self.link(&format!("/sys/class/net/{first}"), &path);
                self.interfaces.insert(first.to_owned(), path.clone());
                let under = rest.iter().filter_map(|word| word.strip_prefix("under="));
                for name in under.flat_map(list) {
                    self.under.push((first.to_owned(), name));
                }
                path
            }
            "class" => {
                let name = rest[0];
                let path = below(name);
                self.link(&format!("/sys/class/{first}/{name}"), &path);
                path
            }
            "link" => {
                let entry = Entry::Link(rest[0].to_owned());
                self.entries.insert(first.to_owned(), entry);
                return None;
            }
            _ => first.to_owned(),
        };
        self.folder(&path);
        Some(path)
    }

    fn pci(&mut self, address: &str, path: &str, rest: &[&str]) {
        let (vendor, device) = rest[1].split_once(':').unwrap();
        for (name, text) in [("class", rest[0]), ("vendor", vendor), ("device", device)] {
            self.file(&format!("{path}/{name}"), &format!("0x{text}\n"));
        }
        self.link(&format!("/sys/bus/pci/devices/{address}"), path);
        self.functions.insert(address.to_owned(), path.to_owned());
        let mut node = "-1";
        for word in &rest[2..] {
            match word.split_once('=').unwrap_or_else(|| panic!("{word}")) {
                ("group", group) => {
                    let group = self.groups.entry(group.to_owned()).or_default();
                    group.insert(address.to_owned());
                }
                ("driver", driver) => {
                    let driver = format!("/sys/bus/pci/drivers/{driver}");
                    self.link(&format!("{path}/driver"), &driver);
                    self.link(&format!("{driver}/{address}"), path);
                }
                ("numa", number) => node = number,
                ("pf", board) => {
                    let pair = (board.to_owned(), address.to_owned());
                    self.virtual_functions.push(pair);
                }
                (name, text) => self.file(&format!("{path}/{name}"), &format!("{text}\n")),
            }
        }
        self.file(&format!("{path}/numa_node"), &format!("{node}\n"));
    }

    fn block(&mut self, name: &str, path: &str, rest: &[&str]) {
        let number = rest[0];
        self.file(&format!("{path}/dev"), &format!("{number}\n"));
        self.link(&format!("/sys/class/block/{name}"), path);
        self.link(&format!("/sys/dev/block/{number}"), path);
        self.folder(&format!("{path}/holders"));
        let (directory, _) = path.rsplit_once('/').unwrap();
        let is_partition = self.blocks.values().any(|disk| disk == directory);
        if !is_partition {
            self.folder(&format!("{path}/slaves"));
        }
        self.blocks.insert(name.to_owned(), path.to_owned());
        let below = rest.iter().filter_map(|word| word.strip_prefix("on="));
        for other in below.flat_map(list) {
            self.stacked.push((name.to_owned(), other));
        }
    }

    /// The links between devices.
    fn connect(&mut self) {
        let mut links = Vec::new();
        for (above, below) in &self.stacked {
            let (top, bottom) = (&self.blocks[above], &self.blocks[below]);
            links.push((format!("{top}/slaves/{below}"), bottom.clone()));
            links.push((format!("{bottom}/holders/{above}"), top.clone()));
        }
        for (below, above) in &self.under {
            let (bottom, top) = (&self.interfaces[below], &self.interfaces[above]);
            links.push((format!("{bottom}/upper_{above}"), top.clone()));
            links.push((format!("{top}/lower_{below}"), bottom.clone()));
        }
        for (group, members) in &self.groups {
            let directory = format!("/sys/kernel/iommu_groups/{group}");
            for member in members {
                let path = &self.functions[member];
                links.push((format!("{path}/iommu_group"), directory.clone()));
                links.push((format!("{directory}/devices/{member}"), path.clone()));
            }
        }
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        for (board, function) in &self.virtual_functions {
            let number = numbers.entry(board).or_default();
            let (physical, path) = (&self.functions[board], &self.functions[function]);
            links.push((format!("{physical}/virtfn{number}"), path.clone()));
            links.push((format!("{path}/physfn"), physical.clone()));
            *number += 1;
        }
        for (link, to) in links {
            self.link(&link, &to);
        }
    }
}
