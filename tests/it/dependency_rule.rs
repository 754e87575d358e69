//! Checks the dependency rule of `src/lib.rs` in the sources: which module may name
//! which, and that only `host` touches the system.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, ExprUnsafe, Item, ItemForeignMod, ItemImpl, ItemUse, Macro, Meta, Safety, Signature,
    UseTree,
    visit::{self, Visit},
};

use crate::support::sources::sources;

/// Each module with those that it may name. Others are refused, so a new module needs
/// an entry.
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
    // Effects; the traits that it implements belong to the modules that use them.
    ("host", &["model", "domain", "config", "device", "apply"]),
    (
        "claims",
        &[
            "model", "domain", "device", "capacity", "kind", "apply", "host",
        ],
    ),
    ("events", &["model", "plan", "claims"]),
    (
        "allocate",
        &[
            "model",
            "kind",
            "domain",
            "rule",
            "config",
            "device",
            "capacity",
            "plan",
            "apply",
            "claims",
            "events",
            "host",
            "gpu_setup",
        ],
    ),
    (
        "gpu_setup",
        &[
            "model", "kind", "rule", "config", "device", "capacity", "plan", "apply", "claims",
            "host",
        ],
    ),
    ("driver_set", &["model", "device", "host", "allocate"]),
    (
        "report",
        &[
            "model",
            "domain",
            "document",
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
            "driver_set",
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
        "maintenance",
        &[
            "model",
            "domain",
            "rule",
            "device",
            "claims",
            "host",
            "events",
            "gpu_setup",
            "driver_set",
        ],
    ),
    (
        "cli",
        &[
            "maintenance",
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
            "driver_set",
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
            "gpu_setup",
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

/// Names that access the system, and the modules and files that may use them.
const EFFECTS: &[(&str, &[&str])] = &[
    // Man pages and completions are written while the package is built.
    ("std::fs", &["host", "cli/generate.rs"]),
    ("std::process::Command", &["host"]),
    ("std::net", &[]),
    ("nix::", &["host"]),
    ("fs2::", &["host"]),
    ("virt::", &["host"]),
    ("virt_vgpu_libvirt_raw", &["host"]),
    ("libudev::", &["host"]),
    ("tracing_", &["host"]),
    ("File::open", &["host"]),
    ("std::env::", &["host", "bin", "cli"]),
    ("Instant::now", &["host"]),
    ("SystemTime", &["host"]),
    // A driver that hangs or crashes affects only virt-vgpu-nvml.
    ("sd_notify::", &["host"]),
    ("nvml_wrapper", &["nvml"]),
    ("nvml_wrapper_sys", &["nvml"]),
    ("virt_vgpu_nvml_raw", &["nvml"]),
    ("libloading", &["nvml"]),
];

/// The crates that may have unsafe code; the main crate forbids it.
const UNSAFE: &[&str] = &["host/libvirt/raw", "nvml/raw"];

/// The modules that only programs with libvirt have.
const LIBVIRT: &[&str] = &[
    "host",
    "definition",
    "hotplug",
    "maintenance",
    "daemon",
    "cli",
    "bin",
];

/// Names that the hook's modules must not use: the hook is built without libvirt.
const NOT_IN_THE_HOOK: &[&str] = &[
    "host::libvirt",
    "crate::definition",
    "crate::hotplug",
    "crate::maintenance",
    "crate::cli",
    "crate::daemon",
    "virt::",
    "libudev::",
    "crate::nvml",
];

/// The paths that a source names, with groups of a `use` expanded.
#[derive(Debug, Default)]
struct Named {
    paths: BTreeSet<Vec<String>>,
    has_unsafe: bool,
}

impl Named {
    /// Reads a source without its tests.
    fn read(text: &str) -> Self {
        let mut named = Self::default();
        named.visit_file(&syn::parse_file(text).unwrap());
        named
    }

    fn add(&mut self, mut path: Vec<String>) {
        // A program refers to the library by its name.
        if path.first().is_some_and(|first| first == "virt_vgpu") {
            "crate".clone_into(&mut path[0]);
        }
        self.paths.insert(path);
    }

    /// The paths of a `use`, each with the prefix of the groups around it.
    fn add_tree(&mut self, mut before: Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_tree(before, &path.tree);
            }
            UseTree::Group(group) => {
                for item in &group.items {
                    self.add_tree(before.clone(), item);
                }
            }
            UseTree::Name(name) => {
                // `a::{self}` is `a`.
                if name.ident != "self" {
                    before.push(name.ident.to_string());
                }
                self.add(before);
            }
            UseTree::Rename(rename) => {
                before.push(rename.ident.to_string());
                self.add(before);
            }
            UseTree::Glob(_) => self.add(before),
        }
    }

    /// The paths in the arguments of a macro, which are not parsed.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match &token {
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(ident) => {
                    self.has_unsafe |= ident == "unsafe";
                    if colons != 2 {
                        self.add(std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                }
                TokenTree::Group(group) => {
                    self.add(std::mem::take(&mut path));
                    self.add_tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.add(std::mem::take(&mut path));
                }
            }
            colons = 0;
        }
        self.add(path);
    }

    /// The modules of the crate.
    fn modules(&self) -> BTreeSet<&str> {
        let paths = self.paths.iter();
        let modules = paths.filter_map(|path| match path.as_slice() {
            [root, module, ..] if root == "crate" => Some(module.as_str()),
            _ => None,
        });
        modules.collect()
    }

    /// Whether a path contains this name; a name that ends in `_` is a prefix.
    fn names(&self, wanted: &str) -> bool {
        let wanted: Vec<&str> = wanted.split("::").filter(|word| !word.is_empty()).collect();
        let is = |word: &String, wanted: &&str| {
            word == wanted || (wanted.ends_with('_') && word.starts_with(wanted))
        };
        let has = |path: &[String]| {
            path.iter()
                .zip(&wanted)
                .all(|(word, wanted)| is(word, wanted))
        };
        let mut paths = self.paths.iter();
        paths.any(|path| path.windows(wanted.len()).any(has))
    }
}

impl<'ast> Visit<'ast> for Named {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(one) => &one.attrs,
            Item::Impl(one) => &one.attrs,
            Item::Mod(one) => &one.attrs,
            Item::Use(one) => &one.attrs,
            _ => &Vec::new(),
        };
        let is_test = |attribute: &Attribute| match &attribute.meta {
            Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
            Meta::Path(_) | Meta::NameValue(_) => false,
        };
        if !attributes.iter().any(is_test) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words = path.segments.iter().map(|one| one.ident.to_string());
        self.add(words.collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.add_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.add_tokens(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast ExprUnsafe) {
        self.has_unsafe = true;
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_signature(&mut self, signature: &'ast Signature) {
        self.has_unsafe |= matches!(signature.safety, Safety::Unsafe(_));
        visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        self.has_unsafe |= item.unsafety.is_some();
        visit::visit_item_impl(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast ItemForeignMod) {
        self.has_unsafe |= item.unsafety.is_some();
        visit::visit_item_foreign_mod(self, item);
    }
}

fn is_test(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("/tests/") || text.ends_with("tests.rs")
}

/// Each source with its module's name.
fn modules() -> Vec<(String, PathBuf, Named)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for path in sources(&root).into_iter().filter(|path| !is_test(path)) {
        let below = path.strip_prefix(&root).unwrap();
        let module = below.components().next().unwrap().as_os_str();
        let module = module.to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module != "lib" {
            let text = fs::read_to_string(&path).unwrap();
            found.push((module, below.to_owned(), Named::read(&text)));
        }
    }
    found
}

#[test]
fn modules_name_only_those_below_them() {
    let mut wrong = Vec::new();
    for (module, path, named) in modules() {
        let entry = MAY_NAME.iter().find(|(name, _)| *name == module);
        let (_, allowed) = entry.unwrap_or_else(|| panic!("no entry for module '{module}'"));
        // Macros at the crate's root have no module.
        for name in named.modules() {
            let known = MAY_NAME.iter().any(|(known, _)| *known == name);
            if known && name != module && !allowed.contains(&name) {
                wrong.push(format!("{}: names {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn only_host_touches_the_system() {
    let mut wrong = Vec::new();
    for (module, path, named) in modules() {
        for (effect, allowed) in EFFECTS {
            let found = named.names(effect);
            let place = path.to_string_lossy();
            let here = |entry: &&str| **entry == module || **entry == place;
            if found && !allowed.iter().any(here) {
                wrong.push(format!("{}: {effect}", path.display()));
            }
        }
        if !LIBVIRT.contains(&module.as_str()) {
            for name in NOT_IN_THE_HOOK {
                if named.names(name) {
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
    for (_, path, named) in modules() {
        if named.has_unsafe {
            let place = UNSAFE.iter().find(|place| path.starts_with(place));
            with.insert(place.unwrap_or_else(|| panic!("{}: unsafe", path.display())));
        }
    }
    assert_eq!(with, BTreeSet::from_iter(UNSAFE.iter().copied()));
}

/// What is built without the feature `cli` (the hook, virt-vgpu-udev, virt-vgpu-nvml) has no
/// crate that links libvirt or libudev. packaging/build looks at the programs themselves.
#[test]
fn only_the_command_and_the_daemon_link_libvirt_and_libudev() {
    const LINK: [&str; 4] = ["libudev-sys", "udev", "virt", "virt-sys"];
    let linked = |features: &str| {
        let tree = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--offline", "--package", "virt-vgpu"])
            .args(["--edges", "normal", "--prefix", "none", "--no-dedupe"])
            .args(["--no-default-features", "--features", features])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&tree.stderr);
        assert!(tree.status.success(), "{error}");
        let text = String::from_utf8(tree.stdout).unwrap();
        let crates: BTreeSet<&str> = text.lines().filter_map(|l| l.split(' ').next()).collect();
        LINK.map(|name| crates.contains(name))
    };
    assert_eq!(linked(""), [false; 4]);
    assert_eq!(linked("nvml"), [false; 4]);
    assert_eq!(linked("cli"), [true; 4]);
}

/// The check finds a violation.
#[test]
fn a_breach_would_be_seen() {
    let text = "
        //! crate::daemon
        use crate::{host::{Host, fault}, plan};
        // crate::hook
        use std::{fs, os::unix::fs::symlink};
        use nix::a;
        fn f() -> virt_vgpu::udev::X {
            info!(at = %crate::rule::X, \"{}\", std::env::args());
            tracing_journald::layer()
        }
        #[cfg(test)]
        mod tests { use crate::cli; fn f() { unsafe {} } }
        #[cfg(feature = \"x\")]
        fn g() { claims::f(crate::events::X) }
    ";
    let named = Named::read(text);
    assert_eq!(
        named.modules(),
        BTreeSet::from(["events", "host", "plan", "rule", "udev"])
    );
    for seen in ["nix::", "std::fs", "std::env::", "tracing_", "host::Host"] {
        assert!(named.names(seen), "{seen}");
    }
    for unseen in ["std::net", "x::", "unix::symlink", "tracing", "crate::cli"] {
        assert!(!named.names(unseen), "{unseen}");
    }
    assert!(!named.has_unsafe);
    for with in [
        "fn f() { unsafe {} }",
        "unsafe fn f() {}",
        "unsafe impl Send for X {}",
        "unsafe extern \"C\" {}",
        "x!(unsafe {});",
    ] {
        assert!(Named::read(with).has_unsafe, "{with}");
    }
}
