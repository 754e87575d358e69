//! `virt-vgpu pool create`: a pool file with a rule for each device.

use std::{fmt, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Error, anyhow, bail};
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde::Serialize;

use super::{
    candidates,
    made_as::{self, MadeAs},
};
use crate::{
    allocate::{self, Look},
    cli::output,
    config::{self, Class, ConfigFiles, NewInstances, NewPool, POOL_DIRS, Placement, Pool, render},
    device::Sysfs,
    gpu_setup::Survey,
    host::{Deadline, Host, HostLock, complain},
    kind::{self, GpuInstances, MigMode, Subject},
    model::PoolName,
    plan::{Detail, HostSupply},
    report::{self, pool::Candidate},
};

/// Make a pool of the given devices.
#[derive(Debug, Args)]
#[command(
    long_about = made_as::long_about(),
    override_usage = made_as::usage(),
    after_help = examples(),
)]
pub(super) struct Create {
    /// The pool's name: 1 to 64 of a-z, 0-9 and '-'.
    name: PoolName,

    #[command(flatten)]
    made_as: MadeAs,

    /// A GPU, or another device that makes them; with --kind the device itself. By PCI
    /// address, or by the name of another parent of mediated devices (mtty); repeatable.
    #[arg(long = "device", value_name = "ADDRESS")]
    devices: Vec<String>,

    /// A note for people.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// A label to sort by.
    #[arg(long, value_parser = class_parser())]
    class: Option<Class>,

    /// Most devices in use at once; 0 = as many as fit.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    instances: u32,

    /// Fill one device before the next, or use the emptiest.
    #[arg(long, default_value = Placement::Pack.as_str(), value_parser = placement_parser())]
    placement: Placement,

    /// Drivers for the guests: the name of a driver set ('virt-vgpu driver list'), or the
    /// absolute path of an ISO file.
    #[arg(long, value_name = "SET|ISO")]
    guest_driver: Option<String>,

    /// GPU instances (MIG) to make on each GPU; for profiles as DC-2-12Q.
    #[arg(long, value_name = "COUNT")]
    gpu_instances: Option<u32>,

    /// vGPUs in each GPU instance; 0 = as many as fit.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    vgpus_per_instance: u32,

    /// Let starts of VMs make GPU instances, which go again when they are not in use; without
    /// --gpu-instances all of them.
    #[arg(long)]
    on_demand: bool,

    /// Print the file and write nothing.
    #[arg(long)]
    dry_run: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn class_parser() -> impl TypedValueParser<Value = Class> {
    PossibleValuesParser::new(Class::NAMES).try_map(|text| text.parse::<Class>())
}

fn placement_parser() -> impl TypedValueParser<Value = Placement> {
    PossibleValuesParser::new(Placement::NAMES).try_map(|text| text.parse::<Placement>())
}

#[derive(Debug, Serialize)]
struct Report {
    pool: PoolName,
    file: String,
    written: bool,
    text: String,
    notes: Vec<String>,
    devices: Vec<Candidate>,
}

/// How long to wait for a hook that is at work.
const PATIENCE: Duration = Duration::from_secs(25);

fn examples() -> String {
    let functions = kind::names_about(Subject::Function);
    let parents = kind::names_about(Subject::Parent);
    format!(
        "Examples:
  virt-vgpu devices                 which devices there are
  virt-vgpu devices --kind {parents}     those that make mediated devices, and their types
  virt-vgpu pool create cad --type nvidia-558 --device 0000:3b:00.0
  virt-vgpu pool create cad --type 'NVIDIA L40S-12Q' --device 3b:00.0 \\
      --device 5e:00.0 --instances 4 --placement spread
  virt-vgpu pool create cad --profile L40S-12Q --device 3b:00.0
  virt-vgpu pool create cad --profile L40S-12Q --device 3b:00.0 --dry-run
  virt-vgpu pool create half --profile DC-2-12Q --gpu-instances 1 --device 3b:00.0
  virt-vgpu pool create some --profile DC-1-24Q --on-demand --device 3b:00.0
  virt-vgpu pool create disks --kind {functions} --device 01:00.0 --device 02:00.0

udev knows the new pools of a GPU or of another device that makes mediated devices
(ID_VIRT_VGPU_POOLS) after its next event, or after 'udevadm trigger'.

Exit code 0 when the pool was made, 1 when not."
    )
}

impl Create {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let report = self
            .create(host)
            .with_context(|| format!("pool '{}' was not created", self.name))?;
        if self.json {
            output::json(&report)?;
        } else if self.dry_run {
            // Nothing but the file, so that it can be put into one.
            output::document(&report.text)?;
            for note in &report.notes {
                complain(&format!("virt-vgpu: note: {note}"));
            }
        } else {
            output::text(&report.to_string())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn create(&self, host: &Host) -> anyhow::Result<Report> {
        let file = format!("{}/{}.toml", POOL_DIRS[0], self.name);
        if self.devices.is_empty() {
            bail!(
                "no --device was given; name the devices ('virt-vgpu devices' lists them), or \
                 write {file} with rules of your own"
            );
        }
        refuse_existing(host, &self.name)?;
        let look = Look::new(host);
        let supply = look
            .free_supply(Detail::default(), None)
            .context("cannot look for devices")?;
        let mut notes = Vec::new();
        let new = self.new_pool(&supply, &file, &mut notes)?;
        let pool = self.check(&new, &file)?;
        notes.extend(media_note(host, &pool));
        notes.extend(instances_note(&pool).map(ToOwned::to_owned));
        let text = render(&new);
        if !self.dry_run {
            self.write(host, &file, &text)?;
        }
        let others = report::pool::other_pools(config::load_all(host), &self.name);
        let mut devices =
            report::pool::candidates(&supply, &pool, &others).context("cannot look for devices")?;
        devices.retain(|candidate| candidate.matches);
        if !self.dry_run {
            notes.extend(Survey::read(host)?.conflicts());
        }
        Ok(Report {
            pool: self.name.clone(),
            file,
            written: !self.dry_run,
            text,
            notes,
            devices,
        })
    }

    /// Of two that make the same pool at once, the second finds it made.
    fn write(&self, host: &Host, file: &str, text: &str) -> anyhow::Result<()> {
        let deadline = Deadline::after(PATIENCE);
        let _lock = HostLock::acquire(host, "virt-vgpu pool create", deadline)?;
        refuse_existing(host, &self.name)?;
        host.make_directory(POOL_DIRS[0], 0o755)
            .with_context(|| format!("cannot make {}", POOL_DIRS[0]))?;
        host.replace_file(file, text.as_bytes(), 0o644)
            .with_context(|| format!("cannot write {file}"))
    }

    fn new_pool(
        &self,
        supply: &HostSupply<'_>,
        file: &str,
        notes: &mut Vec<String>,
    ) -> anyhow::Result<NewPool> {
        let MadeAs { kind, device_type } = &self.made_as;
        let on_each_gpu = self.gpu_instances.or(self.on_demand.then_some(0));
        if on_each_gpu.is_none() && self.vgpus_per_instance > 0 {
            bail!("--vgpus-per-instance needs --gpu-instances or --on-demand");
        }
        // Mistakes in a text are told after those in the devices, so texts come last.
        let mut new = NewPool {
            kind: *kind,
            device_type: device_type.clone(),
            devices: Vec::new(),
            description: None,
            class: self.class,
            instances: self.instances,
            placement: self.placement,
            guest_driver: None,
            gpu_instances: on_each_gpu.map(|on_each_gpu| NewInstances {
                on_each_gpu,
                vgpus: self.vgpus_per_instance,
                mode: match self.on_demand {
                    true => MigMode::OnDemand,
                    false => MigMode::AtBoot,
                },
            }),
        };
        let made = self.check(&new, file)?.devices;
        for text in &self.devices {
            let named = made.named(supply.view(), text).map_err(Error::msg)?;
            // One address in two notations is one device.
            if !new.devices.contains(&named.device) {
                notes.extend(named.note);
                new.devices.push(named.device);
            }
        }
        new.description.clone_from(&self.description);
        new.guest_driver.clone_from(&self.guest_driver);
        Ok(new)
    }

    /// The pool that this would be. No file has the line of a mistake yet, so only the key
    /// is told.
    fn check(&self, new: &NewPool, file: &str) -> anyhow::Result<Pool> {
        new.check(self.name.clone(), Path::new(file))
            .map_err(|error| anyhow!("{}: {}", error.key.unwrap_or_default(), error.message))
    }
}

/// Whose GPU instances the pool uses, unless they are made for it.
fn instances_note(pool: &Pool) -> Option<&'static str> {
    let settings = pool.devices.gpu_settings()?;
    (settings.gpu_instances == GpuInstances::MadeByOthers).then_some(
        "without --gpu-instances no GPU instances are made for the pool: it uses those that \
         others make, and MIG mode is left as it is",
    )
}

/// A pool of the name anywhere is in the way: a file in `/etc` would silently
/// override it.
fn refuse_existing(host: &Host, name: &PoolName) -> anyhow::Result<()> {
    for dir in POOL_DIRS {
        let path = format!("{dir}/{name}.toml");
        if !host.exists(&path) {
            continue;
        }
        if host.is_mask(Path::new(&path))? {
            bail!(
                "the name is masked by {path}, a link to /dev/null; remove the link or choose \
                 another name"
            );
        }
        if dir == POOL_DIRS[0] {
            bail!("it exists already in {path}; edit that file or choose another name");
        }
        bail!(
            "it exists already in {path}; copy that file to {} to change it, or choose another \
             name",
            POOL_DIRS[0]
        );
    }
    Ok(())
}

fn media_note(host: &Host, pool: &Pool) -> Option<String> {
    let problem = allocate::check_guest_driver(host, pool).err()?;
    Some(format!("guest-driver: {problem}"))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "wrote {}", self.file)?;
        for note in &self.notes {
            writeln!(f, "note: {}", output::one_line(note))?;
        }
        write!(f, "\n{}", candidates::members(&self.devices))
    }
}
