//! `virt-vgpu pool check`: mistakes in pool files, each with its place.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde::Serialize;

use super::{new_gpu, not_found, preview};
use crate::{
    cli::output,
    config::{self, POOL_DIRS, Pool, PoolError},
    device::gpu,
    document::ConfigError,
    host::Host,
    model::{PoolName, TypeSelector, short_name},
    rule::spelling::nearest,
};

/// Check pool files.
///
/// Tells every mistake with file, line and key, and what is accepted but surely
/// not meant. Without arguments all pools are checked.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu pool check
  virt-vgpu pool check cad
  virt-vgpu pool check ./cad.toml              before the file is installed
  virt-vgpu pool check --json | jq '.problems[] | select(.level == \"error\")'

Exit code 0 when there are no errors (warnings do not count), else 1.")]
pub(super) struct Check {
    /// Names of pools, or files: what has a '/' or ends in '.toml'.
    #[arg(value_name = "NAME|FILE")]
    pools: Vec<String>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    /// Pools that were looked at.
    checked: usize,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct Problem {
    level: Level,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "output::some_path"
    )]
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Level {
    /// The pool cannot be used.
    Error,
    /// It can, but surely not as meant.
    Warning,
    /// Nothing is wrong.
    Note,
}

impl Check {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let mut report = Report::default();
        if self.pools.is_empty() {
            report.check_all(host);
        }
        for pool in &self.pools {
            report.check_one(host, pool);
        }
        output::report(self.json, &report)?;
        Ok(if report.count(Level::Error) > 0 {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
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
        .filter_map(|gpu| new_gpu::known_profiles(host, gpu).ok())
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

impl Report {
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
            match preview::read_file(Path::new(text)) {
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

    fn count(&self, level: Level) -> usize {
        let problems = self.problems.iter();
        problems.filter(|problem| problem.level == level).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{}", output::one_line(problem))?;
        }
        let counted = |count: usize, noun: &str| match count {
            1 => format!("1 {noun}"),
            count => format!("{count} {noun}s"),
        };
        writeln!(
            f,
            "{} checked: {}, {}",
            counted(self.checked, "pool"),
            counted(self.count(Level::Error), "error"),
            counted(self.count(Level::Warning), "warning")
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        write!(f, "{level}: ")?;
        if let Some(file) = &self.file {
            match self.line {
                Some(line) => write!(f, "{}:{line}: ", file.display())?,
                None => write!(f, "{}: ", file.display())?,
            }
        }
        if let Some(key) = &self.key {
            write!(f, "key '{key}': ")?;
        }
        f.write_str(&self.message)
    }
}
