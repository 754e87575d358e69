//! The dependency rule of `src/lib.rs`, read off the sources: which module may
//! name which, and that nothing but `host` touches the system.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each module with those it may name. What is not in a list is refused, so a
/// new module needs an entry.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("domain", &["model"]),
    ("rule", &["model"]),
    ("document", &["rule"]),
    ("device", &["model", "rule"]),
    ("capacity", &["model", "device"]),
    ("kind", &["model", "rule", "document", "device", "capacity"]),
    ("config", &["model", "rule", "document", "kind"]),
    (
        "plan",
        &["model", "rule", "config", "device", "capacity", "kind"],
    ),
    ("apply", &["device", "model"]),
    // Effects; the traits that it carries out belong to those who need them.
    ("host", &["model", "domain", "config", "device", "apply"]),
    (
        "claims",
        &["model", "domain", "device", "capacity", "apply", "host"],
    ),
    ("events", &["model", "claims"]),
    (
        "allocate",
        &[
            "model", "kind", "domain", "rule", "config", "device", "capacity", "plan", "apply",
            "claims", "events", "host",
        ],
    ),
    (
        "gpu_setup",
        &[
            "model", "kind", "rule", "config", "device", "plan", "claims", "host",
        ],
    ),
    (
        "report",
        &[
            "model",
            "kind",
            "rule",
            "config",
            "device",
            "capacity",
            "plan",
            "claims",
            "host",
            "allocate",
            "gpu_setup",
        ],
    ),
    (
        "hook",
        &[
            "model", "kind", "domain", "rule", "config", "device", "capacity", "plan", "apply",
            "claims", "host", "events", "allocate",
        ],
    ),
    (
        "definition",
        &[
            "model", "kind", "domain", "rule", "config", "device", "plan", "claims", "host",
            "allocate",
        ],
    ),
    (
        "hotplug",
        &[
            "model",
            "kind",
            "domain",
            "rule",
            "config",
            "device",
            "plan",
            "claims",
            "host",
            "allocate",
            "events",
            "hook",
            "definition",
        ],
    ),
    (
        "cli",
        &[
            "model",
            "document",
            "kind",
            "domain",
            "rule",
            "config",
            "device",
            "capacity",
            "plan",
            "apply",
            "claims",
            "host",
            "allocate",
            "events",
            "gpu_setup",
            "report",
            "hook",
            "definition",
            "hotplug",
            "daemon",
        ],
    ),
    (
        "daemon",
        &[
            "model",
            "domain",
            "config",
            "claims",
            "host",
            "allocate",
            "events",
            "report",
            "hook",
            "definition",
            "hotplug",
        ],
    ),
    (
        "udev",
        &["model", "kind", "rule", "config", "device", "plan", "host"],
    ),
    // With `nvml/raw`, a crate of its own.
    ("nvml", &["model", "device"]),
    ("bin", &["hook", "host", "udev", "cli", "daemon", "nvml"]),
];

/// Ways to the system, and the modules and files that may take them.
const EFFECTS: &[(&str, &[&str])] = &[
    // Man pages and completions are written while the package is built.
    ("std::fs", &["host", "cli/generate.rs"]),
    ("std::process::Command", &["host"]),
    ("std::net", &[]),
    ("nix::", &["host"]),
    ("fs2::", &["host"]),
    ("virt::", &["host"]),
    ("virt_vgpu_libvirt_raw", &["host"]),
    ("tracing_", &["host"]),
    ("File::open", &["host"]),
    ("std::env::", &["host", "bin", "cli"]),
    ("Instant::now", &["host"]),
    ("SystemTime", &["host"]),
    // A driver that hangs or crashes does so in virt-vgpu-nvml.
    ("sd_notify::", &["host"]),
    ("nvml_wrapper", &["nvml"]),
    ("nvml_wrapper_sys", &["nvml"]),
    ("virt_vgpu_nvml_raw", &["nvml"]),
    ("libloading", &["nvml"]),
];

/// The crates of their own that may have unsafe code; the main crate forbids it.
const UNSAFE: &[&str] = &["host/libvirt/raw", "nvml/raw"];

/// The modules that only programs with libvirt have.
const LIBVIRT: &[&str] = &["host", "definition", "hotplug", "daemon", "cli", "bin"];

/// What the hook's modules must never name: it is built without libvirt.
const NOT_IN_THE_HOOK: &[&str] = &[
    "host::libvirt",
    "crate::definition",
    "crate::hotplug",
    "crate::cli",
    "crate::daemon",
    "virt::",
    "crate::nvml",
];

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The program's text without comments and without test modules, which stand at
/// the end of their files or in files of their own.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod tests {").next();
    let lines = body.unwrap_or_default().lines();
    let code = lines.map(|line| {
        let start = line.trim_start();
        if start.starts_with("//") { "" } else { line }
    });
    let mut code = code.collect::<Vec<_>>().join("\n");
    // A mention in braces, `use crate::{a::X, b}`, is one in full.
    code = code.replace("virt_vgpu::", "crate::");
    code
}

/// The modules of the crate that a text names.
fn named(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (place, _) in code.match_indices("crate::") {
        let rest = &code[place + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            names.extend(heads(group));
        } else {
            names.insert(word(rest));
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The first words of a brace group's items, inner groups passed over.
fn heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut at_start = true;
    for (place, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            _ if c.is_whitespace() => {}
            _ if at_start => {
                heads.push(word(&group[place..]));
                at_start = false;
            }
            _ => {}
        }
    }
    heads
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect()
}

fn is_test(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("/tests/") || text.ends_with("tests.rs")
}

/// Each source with its module's name.
fn modules() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for path in sources(&root).into_iter().filter(|path| !is_test(path)) {
        let below = path.strip_prefix(&root).unwrap();
        let module = below.components().next().unwrap().as_os_str();
        let module = module.to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module != "lib" {
            let text = fs::read_to_string(&path).unwrap();
            found.push((module, below.to_owned(), code(&text)));
        }
    }
    found
}

#[test]
fn modules_name_only_those_below_them() {
    let mut wrong = Vec::new();
    for (module, path, code) in modules() {
        let entry = MAY_NAME.iter().find(|(name, _)| *name == module);
        let (_, allowed) = entry.unwrap_or_else(|| panic!("no entry for module '{module}'"));
        // Macros at the crate's root have no module.
        for name in named(&code) {
            let known = MAY_NAME.iter().any(|(known, _)| *known == name);
            if known && name != module && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}: names {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn only_host_touches_the_system() {
    let mut wrong = Vec::new();
    for (module, path, code) in modules() {
        for (effect, allowed) in EFFECTS {
            let found = names(&code, effect) || in_braces(&code, effect);
            let place = path.to_string_lossy();
            let here = |entry: &&str| **entry == module || **entry == place;
            if found && !allowed.iter().any(here) {
                wrong.push(format!("{}: {effect}", path.display()));
            }
        }
        if !LIBVIRT.contains(&module.as_str()) {
            for name in NOT_IN_THE_HOOK {
                if names(&code, name) {
                    wrong.push(format!("{}: {name}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_the_raw_crates_alone() {
    let mut with: BTreeSet<&str> = BTreeSet::new();
    for (_, path, code) in modules() {
        if ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
            .iter()
            .any(|start| names(&code, start))
        {
            let place = UNSAFE.iter().find(|place| path.starts_with(place));
            with.insert(place.unwrap_or_else(|| panic!("{}: unsafe", path.display())));
        }
    }
    assert_eq!(with, BTreeSet::from_iter(UNSAFE.iter().copied()));
}

/// Whether the path is in the text, and not only as the end of another word.
fn names(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(place, _)| {
        let before = code[..place].chars().next_back();
        !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// `use std::{fs, …}` for `std::fs`.
fn in_braces(code: &str, effect: &str) -> bool {
    let Some((root, rest)) = effect.split_once("::") else {
        return false;
    };
    let rest = rest.split("::").next().unwrap_or_default();
    // `std::process` has more than processes: only the whole path counts.
    if rest.is_empty() || matches!(rest, "process" | "env") {
        return false;
    }
    let start = format!("{root}::{{");
    code.match_indices(&start).any(|(place, _)| {
        let group = &code[place + start.len()..];
        heads(group).iter().any(|head| head == rest)
    })
}

/// The check sees what it is there to see.
#[test]
fn a_breach_would_be_seen() {
    let text = "use crate::{\n    host::{Host, fault},\n    plan,\n};\n// crate::hook\nuse std::{\n    fs,\n};\n";
    let code = code(text);
    assert_eq!(
        named(&code),
        BTreeSet::from(["host".to_owned(), "plan".to_owned()])
    );
    assert!(names("use nix::a;", "nix::") && !names("std::os::unix::fs", "nix::"));
    assert!(in_braces(&code, "std::fs"));
    assert!(!in_braces(&code, "std::net"));
    assert!(
        !self::code("fn a() {}\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n")
            .contains("std::fs")
    );
}
