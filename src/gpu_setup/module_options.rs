//! The modprobe file for drivers that take a scheduler only when they are loaded.

use std::{collections::BTreeSet, io};

use anyhow::{Context, bail};

use super::survey::Survey;
use crate::{
    device::driver_option::{self, FILE, Options},
    host::Host,
    model::PciAddress,
};

/// The contents of the file.
#[derive(Debug)]
pub struct ModuleOptions {
    pub(super) options: Options,
    /// Whether it is ours to change; one that is not there is.
    is_ours: bool,
}

impl ModuleOptions {
    /// Reads it.
    ///
    /// # Errors
    /// When it is there but cannot be read.
    pub fn read(host: &Host) -> anyhow::Result<Self> {
        let text = match host.read_file(FILE) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    options: Options::new(),
                    is_ours: true,
                });
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {FILE}")),
        };
        let options = driver_option::read(&text);
        Ok(Self {
            is_ours: options.is_some(),
            options: options.unwrap_or_default(),
        })
    }

    /// What it should have: `needing` GPUs get an entry, those that took theirs
    /// through NVML lose it, and so do those of which no pool wants one. The
    /// entry of a board that is not there stays: it may come back.
    fn wanted(
        &self,
        survey: &Survey,
        needing: &BTreeSet<PciAddress>,
        took: &BTreeSet<PciAddress>,
    ) -> Options {
        let mut wanted = Options::new();
        for gpu in self.options.keys().chain(needing) {
            let is_there = survey.gpus.iter().any(|known| known.gpu == *gpu);
            let value = if is_there {
                let scheduler = survey
                    .wanted(*gpu)
                    .and_then(|wanted| wanted.scheduler.as_ref());
                scheduler
                    .filter(|_| !took.contains(gpu))
                    .and_then(|(scheduler, _)| driver_option::encode(scheduler).ok())
            } else {
                self.options.get(gpu).copied()
            };
            wanted.extend(value.map(|value| (*gpu, value)));
        }
        wanted
    }

    /// Brings the file up to date; whether it was changed.
    pub(super) fn settle(
        &self,
        host: &Host,
        survey: &Survey,
        needing: &BTreeSet<PciAddress>,
        took: &BTreeSet<PciAddress>,
    ) -> anyhow::Result<bool> {
        const MODE: u32 = 0o644;
        let wanted = self.wanted(survey, needing, took);
        if wanted == self.options {
            return Ok(false);
        }
        if !self.is_ours {
            bail!(
                "{FILE} is not ours (its first line says whose it is) and was left alone; move it \
                 to another name"
            );
        }
        match driver_option::render(&wanted) {
            Some(text) => {
                host.make_directory("/etc/modprobe.d", 0o755)
                    .and_then(|()| host.replace_file(FILE, text.as_bytes(), MODE))
                    .with_context(|| format!("cannot write {FILE}"))?;
            }
            None => host
                .remove_file(FILE)
                .with_context(|| format!("cannot remove {FILE}"))?,
        }
        Ok(true)
    }
}
