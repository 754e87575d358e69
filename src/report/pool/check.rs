//! Mistakes in pool files, each with its place.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Serialize;

use super::{not_found, read_file};
use crate::{
    config::{self, POOL_DIRS, Pool, PoolError},
    device::{gpu, nvml::Nvml},
    document::ConfigError,
    host::Host,
    model::{PciAddress, PoolName, TypeSelector, short_name},
    report::in_json,
    rule::spelling::nearest,
};

/// What is wrong with pool files.
#[derive(Debug, Default, Serialize)]
pub struct Checked {
    /// Pools that were looked at.
    pub checked: usize,
    /// In the order in which they were found.
    pub problems: Vec<Problem>,
}

/// A mistake, or what looks like one.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub level: Level,
    /// The file that has it.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "in_json::some_path"
    )]
    pub file: Option<PathBuf>,
    /// The line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What it is.
    pub message: String,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The pool cannot be used.
    Error,
    /// It can, but surely not as meant.
    Warning,
    /// Nothing is wrong.
    Note,
}

/// Checks pools by name and files by path, or all pools where none are named.
pub fn check(host: &Host, named: &[String]) -> Checked {
    let mut checked = Checked::default();
    if named.is_empty() {
        checked.check_all(host);
    }
    for pool in named {
        checked.check_one(host, pool);
    }
    checked
}

/// The full names of the profiles that the GPU is known to have: all of them where
/// its driver or NVML tell, else those that can be made now.
pub fn known_profiles(host: &Host, gpu: PciAddress) -> anyhow::Result<BTreeSet<String>> {
    let facts = host.nvml().gpu(gpu).ok();
    let state = gpu::read(host, gpu, facts.as_ref(), &BTreeSet::new());
    let state = state.context("cannot read its types")?;
    Ok(state.types.into_iter().map(|one| one.name).collect())
}

/// What is wrong with a profile of no known form, unless a GPU of the host has it all
/// the same. A profile of a board that is not here is none of that: the file may be for
/// many hosts.
fn unknown_profile(host: &Host, pool: &Pool) -> Option<String> {
    let Some(TypeSelector::Profile(profile)) = pool.devices.selector() else {
        return None;
    };
    if profile.parts().is_some() {
        return None;
    }
    let gpus = gpu::all(host).unwrap_or_default().into_iter();
    let known: BTreeSet<String> = gpus
        .filter_map(|gpu| known_profiles(host, gpu).ok())
        .flatten()
        .collect();
    if known.iter().any(|name| profile.means(name)) {
        return None;
    }
    // A word is compared in small letters.
    let short: BTreeMap<String, &str> = known
        .iter()
        .map(|name| short_name(name))
        .map(|name| (name.to_lowercase(), name))
        .collect();
    let small: Vec<&str> = short.keys().map(String::as_str).collect();
    let nearest = || nearest(profile.as_str(), &small).map(|name| short[name].to_owned());
    let meant = profile.meant().map(|meant| meant.to_string());
    let meant = meant.or_else(nearest);
    let meant = meant.map_or(String::new(), |name| format!("; did you mean '{name}'?"));
    Some(format!(
        "no GPU of this host has a profile '{profile}', and it is not built as NVIDIA's are: the \
         board, a hyphen, the size in GB, and A, B, C or Q for the series{meant}"
    ))
}

impl Checked {
    fn check_all(&mut self, host: &Host) {
        let loaded = config::load_all(host);
        for (_, pool) in loaded.pools {
            self.add(host, pool);
        }
        for (name, link) in loaded.masked {
            self.say(Level::Note, Some(link), format!("masks pool '{name}'"));
        }
        for ignored in loaded.ignored {
            // A directory that cannot be listed hides pools; a file does not.
            let is_directory = POOL_DIRS.iter().any(|dir| ignored.path == Path::new(dir));
            let level = if is_directory {
                Level::Error
            } else {
                Level::Warning
            };
            let message = format!("is left out: {}", ignored.reason);
            self.say(level, Some(ignored.path), message);
        }
    }

    fn check_one(&mut self, host: &Host, text: &str) {
        if text.contains('/') || text.ends_with(".toml") {
            match read_file(Path::new(text)) {
                Ok(pool) => self.add(host, Ok(pool)),
                Err(error) => match error.downcast::<ConfigError>() {
                    Ok(error) => self.add(host, Err(error.into())),
                    Err(error) => self.fail(format!("{error:#}")),
                },
            }
            return;
        }
        let name: PoolName = match text.parse() {
            Ok(name) => name,
            Err(invalid) => return self.fail(invalid.to_string()),
        };
        match config::load_pool(host, &name) {
            Err(PoolError::NotFound { .. }) => {
                self.fail(not_found(&name, &config::load_all(host)).to_string());
            }
            Err(PoolError::Masked { pool, path }) => {
                self.checked += 1;
                self.say(Level::Note, Some(path), format!("masks pool '{pool}'"));
            }
            loaded => self.add(host, loaded),
        }
    }

    fn add(&mut self, host: &Host, pool: Result<Pool, PoolError>) {
        self.checked += 1;
        match pool {
            Ok(pool) => {
                if let Some(message) = unknown_profile(host, &pool) {
                    self.problems.push(Problem {
                        level: Level::Warning,
                        file: Some(pool.origin.clone()),
                        line: None,
                        key: Some("profile".to_owned()),
                        message,
                    });
                }
                for warning in pool.warnings() {
                    self.say(Level::Warning, Some(pool.origin.clone()), warning);
                }
            }
            Err(PoolError::Config(error)) => self.problems.push(Problem {
                level: Level::Error,
                file: Some(error.file),
                line: Some(error.line),
                key: error.key,
                message: error.message,
            }),
            Err(PoolError::Io { path, cause }) => {
                self.say(Level::Error, Some(path), format!("cannot be read: {cause}"));
            }
            Err(other) => self.say(Level::Error, None, other.to_string()),
        }
    }

    /// Something that was named and cannot be checked.
    fn fail(&mut self, message: String) {
        self.checked += 1;
        self.say(Level::Error, None, message);
    }

    fn say(&mut self, level: Level, file: Option<PathBuf>, message: String) {
        self.problems.push(Problem {
            level,
            file,
            line: None,
            key: None,
            message,
        });
    }

    /// How many problems of that level there are.
    pub fn count(&self, level: Level) -> usize {
        let problems = self.problems.iter();
        problems.filter(|problem| problem.level == level).count()
    }
}
