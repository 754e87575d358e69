//! `virt-vgpu driver add`: takes a bundle apart and stores its drivers.

use std::{fmt, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::{alone, make_with_tokens, size};
use crate::{
    cli::output::{self, Table},
    driver_set::{Bundle, Given, Part, disc},
    host::{Deadline, Host, complain},
    model::DriverSetName,
};

/// Store a bundle's drivers as a driver set.
///
/// BUNDLE is the ZIP archive of vGPU software as NVIDIA's licensing portal has it (for
/// Linux KVM, Ubuntu or Red Hat), the folder that it was unpacked to, or the driver
/// files themselves. Which driver a file is, its name and its contents tell; other
/// files, such as documents, are left out. Drivers that NVIDIA does not support
/// together, and archives that are damaged or strange, are refused, and nothing stays.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu driver add NVIDIA-GRID-Linux-KVM-580.65.05-580.65.06-580.88.zip
  virt-vgpu driver add ./unpacked --name nvidia-19.0
  virt-vgpu driver add NVIDIA-Linux-x86_64-580.65.06-grid.run --dry-run

Exit code 0 when the set was stored, 1 when not.")]
pub(super) struct Add {
    /// The bundle: an archive, a folder, or files.
    #[arg(value_name = "BUNDLE", required = true)]
    bundle: Vec<PathBuf>,

    /// The set's name; without it, nvidia- and the host driver's version.
    #[arg(long)]
    name: Option<DriverSetName>,

    /// Only say what would be stored.
    #[arg(long)]
    dry_run: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    name: DriverSetName,
    stored: bool,
    directory: String,
    bytes: u64,
    drivers: Vec<Part>,
    /// The disc for guests.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// The discs with licence tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    token_images: Vec<String>,
    /// Files that are no drivers.
    left_out: Vec<String>,
    notes: Vec<String>,
}

impl Add {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let mut bundle = Bundle::open(host, Given(&self.bundle)).context("nothing was stored")?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => bundle.default_name()?,
        };
        let directory = name.directory();
        if host.path(&directory).exists() {
            bail!(
                "nothing was stored: there is a driver set '{name}' already; choose another name \
                 with --name, or remove it first ('virt-vgpu driver remove {name}')"
            );
        }
        let (mut image, mut token_images) = (None, Vec::new());
        if !self.dry_run {
            let mut progress = Progress::of(bundle.size());
            let mut told = |file: &str, bytes| progress.tell(file, bytes);
            let set = bundle
                .store(host, &name, &mut told)
                .context("nothing was stored")?;
            if set.guests().next().is_some() {
                // It takes seconds then.
                if bundle.size() > LARGE {
                    let image = name.disc();
                    complain(&format!("virt-vgpu: making the disc for guests, {image}"));
                }
                let purpose = format!("virt-vgpu driver add of driver set '{name}'");
                let discs = || {
                    let alone = alone(host, &purpose)?;
                    disc::make(host, &set)?;
                    anyhow::Ok(make_with_tokens(host, &set, &alone))
                };
                match discs() {
                    Ok(made) => {
                        image = Some(name.disc());
                        token_images = made.with_tokens;
                        bundle.notes.extend(made.problems);
                    }
                    Err(error) => bundle.notes.push(format!(
                        "there is no disc for guests: {error:#}; 'virt-vgpu driver iso {name}' \
                         makes it"
                    )),
                }
            }
        }
        let report = Report {
            stored: !self.dry_run,
            image,
            token_images,
            directory,
            bytes: bundle.size(),
            drivers: bundle.parts().cloned().collect(),
            left_out: bundle.left_out,
            notes: bundle.notes,
            name,
        };
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

const OFTEN: Duration = Duration::from_secs(2);

/// From this size on, a disc is not made at once.
const LARGE: u64 = 64 << 20;

/// Says on stderr how far it is, every two seconds.
struct Progress {
    all: u64,
    next: Deadline,
}

impl Progress {
    fn of(all: u64) -> Self {
        Self {
            all,
            next: Deadline::after(OFTEN),
        }
    }

    fn tell(&mut self, file: &str, bytes: u64) {
        if !self.next.has_passed() {
            return;
        }
        self.next = Deadline::after(OFTEN);
        let percent = bytes.saturating_mul(100) / self.all.max(1);
        complain(&format!("virt-vgpu: storing {file}: {percent} % of all"));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.stored { "stored" } else { "would store" };
        let (name, directory) = (&self.name, &self.directory);
        writeln!(
            f,
            "{verb} driver set '{name}' ({}) in {directory}\n",
            size(self.bytes)
        )?;
        let mut table = Table::new(&["FOR", "VERSION", "FILE"]);
        for driver in &self.drivers {
            table.row([
                driver.system.to_string(),
                driver.version.to_string(),
                driver.file.clone(),
            ]);
        }
        f.write_str(&table.indented())?;
        if let Some(image) = &self.image {
            writeln!(f, "\nmade {image}")?;
        }
        for image in &self.token_images {
            writeln!(f, "made {image}")?;
        }
        if !self.left_out.is_empty() {
            writeln!(
                f,
                "\nnote: no drivers, and left out: {}",
                output::one_line(self.left_out.join(", "))
            )?;
        }
        for note in &self.notes {
            writeln!(f, "note: {}", output::one_line(note))?;
        }
        Ok(())
    }
}
