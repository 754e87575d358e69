//! The files of `/sys` for one state of the machine: directories, links and
//! attributes with the modes and texts that the kernel gives them.

use std::collections::{BTreeMap, BTreeSet};

use lab_nvidia::model;
use nix::errno::Errno;

/// What a write to an attribute does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnWrite {
    Create {
        parent: String,
        type_id: String,
    },
    Remove {
        uuid: String,
    },
    /// NVIDIA's `vgpu_params` of a mediated device.
    Parameters {
        uuid: String,
    },
    /// Any file in `nvidia/` of the virtual function at that address, and the other
    /// files of the mediated device with that UUID.
    Vgpu {
        at: String,
        attribute: model::Attribute,
    },
    /// `unbind` of a PCI driver.
    Unbind {
        driver: String,
    },
    /// `bind` of a PCI driver.
    Bind {
        driver: String,
    },
    /// `drivers_probe` of the PCI bus.
    Probe,
    /// `driver_override` of a PCI function.
    Override {
        at: String,
    },
}

/// An attribute: readable, writable, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// The answer to a read; None: it cannot be opened for reading.
    pub text: Option<Result<String, Errno>>,
    pub on_write: Option<OnWrite>,
}

impl Attribute {
    /// Permission bits as sysfs shows them.
    pub fn mode(&self) -> u16 {
        let read = if self.text.is_some() { 0o444 } else { 0 };
        let write = if self.on_write.is_some() { 0o200 } else { 0 };
        read | write
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Directory(BTreeSet<String>),
    Link(String),
    Attribute(Attribute),
    /// A binary attribute, for reading only.
    Binary(Vec<u8>),
}

/// All entries by absolute path below `/sys` (whose own path is `""`).
#[derive(Debug, Default)]
pub struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// As many links as the kernel follows (`MAXSYMLINKS`).
    const MOST_LINKS: usize = 40;

    fn add(&mut self, path: &str, entry: Entry) {
        if let Some((directory, name)) = path.rsplit_once('/') {
            self.directory(directory);
            if let Some(Entry::Directory(names)) = self.0.get_mut(directory) {
                names.insert(name.to_owned());
            }
        }
        self.0.insert(path.to_owned(), entry);
    }

    /// Makes a directory and those above it.
    pub fn directory(&mut self, path: &str) {
        if !self.0.contains_key(path) {
            self.add(path, Entry::Directory(BTreeSet::new()));
        }
    }

    pub fn link(&mut self, path: &str, target: &str) {
        self.add(path, Entry::Link(target.to_owned()));
    }

    /// An attribute for reading; the kernel ends each in a newline.
    pub fn text(&mut self, path: &str, text: impl std::fmt::Display) {
        self.attribute(path, Ok(format!("{text}\n")), None);
    }

    /// An attribute with that answer of its driver, which may accept writes.
    pub fn attribute(
        &mut self,
        path: &str,
        text: Result<String, Errno>,
        on_write: Option<OnWrite>,
    ) {
        let text = Some(text);
        self.add(path, Entry::Attribute(Attribute { text, on_write }));
    }

    /// An attribute for writing only.
    pub fn order(&mut self, path: &str, on_write: OnWrite) {
        let attribute = Attribute {
            text: None,
            on_write: Some(on_write),
        };
        self.add(path, Entry::Attribute(attribute));
    }

    /// An attribute for reading and writing.
    pub fn setting(&mut self, path: &str, text: impl std::fmt::Display, on_write: OnWrite) {
        self.attribute(path, Ok(format!("{text}\n")), Some(on_write));
    }

    /// A binary attribute.
    pub fn binary(&mut self, path: &str, bytes: Vec<u8>) {
        self.add(path, Entry::Binary(bytes));
    }

    /// The same tree with other paths. Links go on leading to the same entries.
    pub fn with_paths(self, moved: impl Fn(&str) -> String) -> Self {
        let mut tree = Self::default();
        for (path, entry) in self.0 {
            let to = moved(&path);
            match entry {
                // Those that have entries come with them.
                Entry::Directory(names) if names.is_empty() => tree.directory(&to),
                Entry::Directory(_) => {}
                Entry::Link(target) => {
                    let target = moved(&absolute(&path, &target));
                    tree.link(&to, &relative(&to, &target));
                }
                entry => tree.add(&to, entry),
            }
        }
        tree
    }

    /// The entry at exactly that path, links not followed.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.0.get(path)
    }

    /// Follows links as the kernel does: all, or all but the last component.
    pub fn resolve(&self, path: &str, follow_last: bool) -> Result<String, Errno> {
        let mut rest: Vec<String> = components(path);
        let mut at = String::new();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match name.as_str() {
                ".." => at.truncate(at.rfind('/').unwrap_or(0)),
                _ => {
                    if !matches!(self.0.get(&at), Some(Entry::Directory(_))) {
                        return Err(Errno::ENOTDIR);
                    }
                    let next = format!("{at}/{name}");
                    match self.0.get(&next) {
                        None => return Err(Errno::ENOENT),
                        Some(Entry::Link(target)) if follow_last || !rest.is_empty() => {
                            links += 1;
                            if links > Self::MOST_LINKS {
                                return Err(Errno::ELOOP);
                            }
                            rest.extend(components(target));
                        }
                        Some(_) => at = next,
                    }
                }
            }
        }
        Ok(at)
    }
}

/// Where a link at that path leads to.
fn absolute(path: &str, target: &str) -> String {
    let mut names: Vec<&str> = path.split('/').collect();
    names.pop();
    for name in target.split('/') {
        match name {
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.join("/")
}

/// The text of a link at that path.
fn relative(path: &str, target: &str) -> String {
    let up = "../".repeat(path.split('/').count() - 2);
    format!("{up}{}", target.trim_start_matches('/'))
}

/// Components in reverse, so that the next one is popped.
fn components(path: &str) -> Vec<String> {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    let mut parts: Vec<String> = parts.map(str::to_owned).collect();
    parts.reverse();
    parts
}
