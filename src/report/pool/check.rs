//! Mistakes in pool files, each with its place.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    changes::{Both, Change, installed},
    not_found, read_file,
};
use crate::{
    allocate::{self, Look},
    config::{self, POOL_DIRS, Pool, PoolError},
    document::ConfigError,
    gpu_setup::{Due, PATIENCE_FOR_DUE, Survey, When, due},
    host::{Deadline, Host},
    model::PoolName,
    plan::{Detail, Rivals},
    report::in_json,
};

/// The problems in pool files.
#[derive(Debug, Default, Serialize)]
pub struct Checked {
    /// Pools that were looked at.
    pub checked: usize,
    /// In the order in which they were found.
    pub problems: Vec<Problem>,
    /// What the files that were named change of the installed pools of their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
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
    /// The problem.
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

/// The doubts of the pool's kind about this host.
fn doubt(look: &Look<'_>, pool: &Pool) -> Option<(&'static str, String)> {
    let detail = Detail {
        functions_only: true,
        ..Detail::default()
    };
    pool.devices.doubt(&look.view(detail).ok()?)
}

/// Why the file with the option ROM for its devices cannot be used, if it cannot.
fn rom_warning(host: &Host, pool: &Pool) -> Option<String> {
    let file = pool.devices.rom().file?;
    let why = match host.file_state(&file) {
        Ok(state) if state.is_file => return None,
        Ok(_) => "is no regular file".to_owned(),
        Err(error) => format!("cannot be found: {error}"),
    };
    Some(format!(
        "the file of 'rom-file', {file}, {why}; VMs that are given it with a device do not start"
    ))
}

/// The devices of the pool that another pool hands out whole or in parts, while this one does
/// the opposite; one sentence for each of those pools.
fn rivalries(look: &Look<'_>, pool: &Pool) -> Vec<String> {
    let Ok(supply) = look.supply(Detail::default()) else {
        return Vec::new();
    };
    let sentence = |(name, (rival, devices)): (&PoolName, Rivals<'_>)| {
        let devices: Vec<String> = devices.iter().map(ToString::to_string).collect();
        let (devices, kind) = (devices.join(", "), rival.kind);
        let (whole, parts) = match pool.kind.is_of_whole_functions() {
            true => (&pool.name, name),
            false => (name, &pool.name),
        };
        format!(
            "takes {devices}, and so does pool '{name}' of kind '{kind}': '{whole}' hands out \
             whole devices and '{parts}' parts of them; change the rules of one of the two"
        )
    };
    let rivals = supply.rivals(pool).unwrap_or_default();
    rivals.into_iter().map(sentence).collect()
}

/// The GPUs that cannot be divided into GPU instances as their pools want it, or as that pool
/// does.
fn cannot_be_divided(host: &Host, survey: &Survey, pool: Option<&PoolName>) -> Vec<String> {
    let Ok(found) = due(host, survey, Deadline::after(PATIENCE_FOR_DUE)) else {
        return Vec::new();
    };
    let is_of_pool = |gpu| {
        let mut known = survey.gpus.iter().filter(|known| known.gpu == gpu);
        pool.is_none_or(|pool| {
            known.any(
                |known| matches!(&known.wanted, Ok(Some(wanted)) if wanted.pools.contains(pool)),
            )
        })
    };
    let meant = found.into_iter().filter(|one| is_of_pool(one.gpu));
    let never = meant.filter_map(|Due { gpu, when }| match when {
        When::Never(why) => Some(format!("{gpu}: {why}")),
        When::Now | When::Idle(_) | When::Later(_) => None,
    });
    never.collect()
}

impl Checked {
    fn check_all(&mut self, host: &Host) {
        let loaded = config::load_all(host);
        for (_, pool) in loaded.pools {
            self.add(host, pool);
        }
        self.check_gpus(host, None);
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
                Ok(pool) => {
                    self.compare(host, &pool);
                    self.add(host, Ok(pool));
                }
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
            loaded => {
                self.add(host, loaded);
                self.check_gpus(host, Some(&name));
            }
        }
    }

    /// Tells the file from the installed pool of its name.
    fn compare(&mut self, host: &Host, after: &Pool) {
        let not_compared = |why: String| format!("is not compared with the installed pool: {why}");
        let before = match installed(host, &after.name) {
            Ok(Some(before)) => before,
            Ok(None) => return,
            Err(error) => {
                let message = not_compared(error.to_string());
                return self.say(Level::Note, Some(after.origin.clone()), message);
            }
        };
        let both = Both {
            before: &before,
            after,
        };
        match both.changes(host) {
            Some(changes) => self.changes.extend(changes),
            None => {
                let message = not_compared("one of the two files is just changing".to_owned());
                self.say(Level::Note, Some(after.origin.clone()), message);
            }
        }
    }

    /// What pools together want of GPUs and cannot get: all of them, or as far as that pool has
    /// to do with it.
    fn check_gpus(&mut self, host: &Host, pool: Option<&PoolName>) {
        let survey = match Survey::read(host) {
            Ok(survey) => survey,
            Err(error) => return self.say(Level::Error, None, format!("{error:#}")),
        };
        let conflicts = match pool {
            None => survey.conflicts(),
            Some(pool) => survey.conflicts_of(pool),
        };
        for error in conflicts
            .into_iter()
            .chain(cannot_be_divided(host, &survey, pool))
        {
            self.say(Level::Error, None, error);
        }
    }

    fn add(&mut self, host: &Host, pool: Result<Pool, PoolError>) {
        self.checked += 1;
        match pool {
            Ok(pool) => {
                let look = Look::new(host);
                for rivalry in rivalries(&look, &pool) {
                    self.say(Level::Error, Some(pool.origin.clone()), rivalry);
                }
                let driver = allocate::check_guest_driver(host, &pool).err();
                let driver = driver.map(|problem| ("guest-driver", problem));
                for (key, message) in doubt(&look, &pool).into_iter().chain(driver) {
                    self.problems.push(Problem {
                        level: Level::Warning,
                        file: Some(pool.origin.clone()),
                        line: None,
                        key: Some(key.to_owned()),
                        message,
                    });
                }
                let supply = look.supply(Detail::default()).ok();
                let taken = supply.map(|supply| supply.all_taken_from_host(&pool));
                let warnings = pool.warnings().into_iter().chain(rom_warning(host, &pool));
                for warning in warnings.chain(taken.unwrap_or_default()) {
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
