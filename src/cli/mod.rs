//! The administrator's command: one file per verb, each with its arguments and
//! what it does. What a verb tells is plain data first, for verbs that only look that of
//! `report`; it is then printed as JSON or for people, so both always say the same.

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    events,
    host::{Host, complain, directory_there, driver_child, start_logging, usage},
};

mod attach;
mod confirm;
mod create;
mod detach;
mod devices;
mod doctor;
mod domain_xml;
mod driver;
mod explain;
mod generate;
mod host;
mod maintenance;
mod output;
mod pool;
mod profiles;
mod reconcile;
mod start;
mod status;
mod sync;
mod target;

/// Share GPUs and other host devices among libvirt VMs.
///
/// Rules decide which devices are in a pool. A VM asks for a device from a pool,
/// gets one when any libvirt client starts it, and gives it back when it stops.
#[derive(Debug, Parser)]
#[command(
    name = "virt-vgpu",
    version,
    max_term_width = 80,
    infer_subcommands = false
)]
struct Arguments {
    /// Work on this directory as if it were the host's root.
    #[arg(long, global = true, env = Host::ROOT_VARIABLE, value_name = "DIR", default_value = "/", hide_env = true, hide_default_value = true, value_parser = directory_there())]
    root: PathBuf,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Devices(devices::Devices),
    Profiles(profiles::Profiles),
    Pool(pool::PoolVerb),
    Attach(attach::Attach),
    Detach(detach::Detach),
    Explain(explain::Explain),
    Start(start::Start),
    Sync(sync::Sync),
    Create(create::Create),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Reconcile(reconcile::Reconcile),
    Host(host::HostVerb),
    Driver(driver::DriverVerb),
    Maintenance(maintenance::MaintenanceVerb),
    #[command(hide = true)]
    Generate(generate::Generate),
}

/// Runs the command line and returns its exit code: 0 done, 1 failed or
/// refused, 2 usage.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = driver_child::act_if_asked() {
        return code;
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(error),
    };
    let host = Host::new(arguments.root).that_outlives_drivers();
    start_logging(&host, "virt-vgpu");
    let done = match &arguments.verb {
        Verb::Devices(verb) => verb.run(&host),
        Verb::Profiles(verb) => verb.run(&host),
        Verb::Pool(verb) => verb.run(&host),
        Verb::Attach(verb) => verb.run(&host),
        Verb::Detach(verb) => verb.run(&host),
        Verb::Explain(verb) => verb.run(&host),
        Verb::Start(verb) => verb.run(&host),
        Verb::Sync(verb) => verb.run(&host),
        Verb::Create(verb) => verb.run(&host),
        Verb::Status(verb) => verb.run(&host),
        Verb::Doctor(verb) => verb.run(&host),
        Verb::Reconcile(verb) => verb.run(&host),
        Verb::Host(verb) => verb.run(&host),
        Verb::Driver(verb) => verb.run(&host),
        Verb::Maintenance(verb) => verb.run(&host),
        Verb::Generate(verb) => verb.run(Arguments::command()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("virt-vgpu: {}", events::one_line(&error)));
            ExitCode::FAILURE
        }
    }
}
