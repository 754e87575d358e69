//! One operation on a host, and its text: the lists use this text, and failures print
//! it.

use std::{fmt, str::FromStr};

use crate::model::{Attribute, Framework, Parent, VgpuHandle};

/// An operation. `N` is a vGPU: the virtual function with this number, or the
/// mediated device whose UUID ends with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// `vfs on|off`: `sriov-manage`; `EBUSY` is its "Cannot obtain unbindLock".
    Vfs(bool),
    /// `client on|off`: a process has `/dev/nvidiactl` open.
    Client(bool),
    /// `manager on|off`: `nvidia-vgpu-mgr`.
    Manager(bool),
    /// `rebind N`: the virtual function, by hand.
    Rebind(u32),
    /// `reload`: the driver is unloaded, and loaded again with its services.
    Reload,
    /// `create N TYPE`, in whichever way the framework has.
    Create(u32, u32),
    /// `release N`, in whichever way the framework has.
    Release(u32),
    /// `mdev-create pf|VF TYPE TEXT`.
    MdevCreate(Parent, u32, String),
    /// `mdev-remove UUID TEXT`.
    MdevRemove(String, String),
    /// `mdev-type pf|VF TYPE FILE`: a file under `mdev_supported_types`.
    MdevType(Parent, u32, String),
    /// `read N FILE`: a file in `nvidia/`.
    Read(u32, Attribute),
    /// `write N FILE TEXT`: a file in `nvidia/`.
    Write(u32, Attribute, String),
    /// `open N [NAME]`: a VM with this name; without one, a process without `-uuid`.
    Open(u32, Option<String>),
    /// `close N`: that process ends.
    Close(u32),
    /// `kill N`: that process gets SIGKILL.
    Kill(u32),
    /// `close-all`: all such processes end.
    CloseAll,
    /// `ctl COMMAND [WORD...]`: `/dev/nvidiactl`, the address put in.
    Control(String),
    /// `state`: the GPU's state; vGPUs by age, functions by number.
    State,
    /// `wedged`: numbers of wedged virtual functions.
    Wedged,
    /// `plugin-exit MS`.
    PluginExit(u32),
    /// `init MS`.
    Init(u32),
    /// `wait MS`.
    Wait(u32),
}

/// The UUID of the mediated device `N`.
pub fn uuid(number: u32) -> String {
    format!("c0417ac7-0000-4000-8000-{number:012x}")
}

/// The UUID of the VM that opens vGPU `N`.
pub fn vm_uuid(number: u32) -> String {
    format!("5a000000-0000-4000-8000-{number:012x}")
}

/// Where the attributes of vGPU `N` are.
pub fn vgpu_handle(framework: Framework, number: u32) -> VgpuHandle {
    match framework {
        Framework::VendorVfio => VgpuHandle::Vf(number),
        Framework::LegacyMdev | Framework::SriovMdev => VgpuHandle::Mdev(uuid(number)),
    }
}

impl Op {
    /// The operation with `create` and `release` as the framework has them.
    pub fn lowered(&self, framework: Framework) -> Self {
        match (self, framework) {
            (Self::Create(n, kind), Framework::VendorVfio) => {
                Self::Write(*n, Attribute::CurrentVgpuType, format!("{kind}\n"))
            }
            (Self::Create(n, kind), Framework::SriovMdev) => {
                Self::MdevCreate(Parent::Vf(*n), *kind, uuid(*n) + "\n")
            }
            (Self::Create(n, kind), Framework::LegacyMdev) => {
                Self::MdevCreate(Parent::Pf, *kind, uuid(*n) + "\n")
            }
            (Self::Release(n), Framework::VendorVfio) => {
                Self::Write(*n, Attribute::CurrentVgpuType, "0\n".to_owned())
            }
            (Self::Release(n), _) => Self::MdevRemove(uuid(*n), "1\n".to_owned()),
            _ => self.clone(),
        }
    }
}

impl FromStr for Op {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let bad = || format!("'{line}' is no operation");
        let line = line.trim();
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match (verb, words.as_slice()) {
            ("vfs", [word]) => on(word).map(Self::Vfs),
            ("client", [word]) => on(word).map(Self::Client),
            ("manager", [word]) => on(word).map(Self::Manager),
            ("reload", []) => Ok(Self::Reload),
            ("rebind", [n]) => number(n).map(Self::Rebind),
            ("create", [n, kind]) => Ok(Self::Create(number(n)?, number(kind)?)),
            ("release", [n]) => number(n).map(Self::Release),
            ("mdev-create", [at, kind, ..]) => {
                let text = text(after(rest, 2))?;
                Ok(Self::MdevCreate(parent(at)?, number(kind)?, text))
            }
            ("mdev-remove", [uuid, ..]) => {
                Ok(Self::MdevRemove((*uuid).to_owned(), text(after(rest, 1))?))
            }
            ("mdev-type", [at, kind, name]) => {
                let name = (*name).to_owned();
                Ok(Self::MdevType(parent(at)?, number(kind)?, name))
            }
            ("read", [n, name]) => Ok(Self::Read(number(n)?, attribute(name)?)),
            ("write", [n, name, ..]) => {
                let text = text(after(rest, 2))?;
                Ok(Self::Write(number(n)?, attribute(name)?, text))
            }
            ("open", [n]) => Ok(Self::Open(number(n)?, None)),
            ("open", [n, name]) => Ok(Self::Open(number(n)?, Some((*name).to_owned()))),
            ("close", [n]) => number(n).map(Self::Close),
            ("kill", [n]) => number(n).map(Self::Kill),
            ("close-all", []) => Ok(Self::CloseAll),
            ("ctl", [_, ..]) => Ok(Self::Control(words.join(" "))),
            ("state", []) => Ok(Self::State),
            ("wedged", []) => Ok(Self::Wedged),
            ("plugin-exit", [ms]) => number(ms).map(Self::PluginExit),
            ("init", [ms]) => number(ms).map(Self::Init),
            ("wait", [ms]) => number(ms).map(Self::Wait),
            _ => Err(bad()),
        }
    }
}

fn on(word: &str) -> Result<bool, String> {
    match word {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("'{word}' is neither on nor off")),
    }
}

fn number(word: &str) -> Result<u32, String> {
    word.parse()
        .map_err(|_| format!("'{word}' is not a number"))
}

fn parent(word: &str) -> Result<Parent, String> {
    if word == "pf" {
        Ok(Parent::Pf)
    } else {
        number(word).map(Parent::Vf)
    }
}

fn attribute(word: &str) -> Result<Attribute, String> {
    let mut all = Attribute::ALL.into_iter();
    let found = all.find(|attribute| attribute.name() == word);
    found.ok_or_else(|| format!("no file '{word}'"))
}

/// The rest of a line after its first words.
fn after(line: &str, words: usize) -> &str {
    let mut rest = line.trim_start();
    for _ in 0..words {
        let end = rest.find(' ').unwrap_or(rest.len());
        rest = rest.get(end..).unwrap_or_default().trim_start();
    }
    rest
}

/// `"TEXT"` with `\n` and `\t`, a word, which gets a newline, or `*COUNT`: that many
/// bytes.
fn text(source: &str) -> Result<String, String> {
    if let Some(count) = source.strip_prefix('*') {
        let count = count
            .parse()
            .map_err(|_| format!("'{count}' is no count"))?;
        return Ok("x".repeat(count));
    }
    let quoted = source
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    match quoted {
        Some(quoted) => Ok(quoted.replace("\\n", "\n").replace("\\t", "\t")),
        None if source.is_empty() => Err("a text is missing".to_owned()),
        None => Ok(format!("{source}\n")),
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on: &bool| if *on { "on" } else { "off" };
        let at = |parent: &Parent| match parent {
            Parent::Pf => "pf".to_owned(),
            Parent::Vf(number) => number.to_string(),
        };
        match self {
            Self::Vfs(switch) => write!(f, "vfs {}", on(switch)),
            Self::Client(switch) => write!(f, "client {}", on(switch)),
            Self::Manager(switch) => write!(f, "manager {}", on(switch)),
            Self::Reload => f.write_str("reload"),
            Self::Rebind(n) => write!(f, "rebind {n}"),
            Self::Create(n, kind) => write!(f, "create {n} {kind}"),
            Self::Release(n) => write!(f, "release {n}"),
            Self::MdevCreate(parent, kind, text) => {
                write!(f, "mdev-create {} {kind} {text:?}", at(parent))
            }
            Self::MdevRemove(uuid, text) => write!(f, "mdev-remove {uuid} {text:?}"),
            Self::MdevType(parent, kind, name) => {
                write!(f, "mdev-type {} {kind} {name}", at(parent))
            }
            Self::Read(n, attribute) => write!(f, "read {n} {}", attribute.name()),
            Self::Write(n, attribute, text) => {
                write!(f, "write {n} {} {text:?}", attribute.name())
            }
            Self::Open(n, None) => write!(f, "open {n}"),
            Self::Open(n, Some(name)) => write!(f, "open {n} {name}"),
            Self::Close(n) => write!(f, "close {n}"),
            Self::Kill(n) => write!(f, "kill {n}"),
            Self::CloseAll => f.write_str("close-all"),
            Self::Control(line) => write!(f, "ctl {line}"),
            Self::State => f.write_str("state"),
            Self::Wedged => f.write_str("wedged"),
            Self::PluginExit(ms) => write!(f, "plugin-exit {ms}"),
            Self::Init(ms) => write!(f, "init {ms}"),
            Self::Wait(ms) => write!(f, "wait {ms}"),
        }
    }
}

#[cfg(test)]
mod tests;
