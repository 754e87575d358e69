//! libvirt's qemu hook: what it does at each operation, and what a failure means there.
//! It never calls libvirt, writes to stdout only where libvirt expects XML, and never
//! touches a device without a claim of ours.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Context;

use crate::{
    allocate::PATIENCE,
    domain,
    events::{self, one_line},
    host::{Deadline, Host, complain, start_logging},
    model::InvalidName,
};

mod allocate;
mod call;
mod give_back;
mod maintenance;
mod restore;

pub use call::{HookCall, Invocation, Operation};

/// The name under which the hook logs.
const NAME: &str = "virt-vgpu-hook";

/// The longest XML that the parser accepts.
const LONGEST_XML: u64 = domain::MAX_BYTES as u64;

/// Runs the hook: arguments without the program's name, domain XML from `input`.
/// Returns the exit code; an error is one line on stderr.
pub fn main(host: &Host, arguments: &[OsString], input: impl std::io::Read) -> ExitCode {
    let call = match Invocation::parse(arguments) {
        Invocation::Call(call) => call,
        Invocation::Misnamed { operation, cause } => {
            return misnamed(host, operation, &cause, input);
        }
        Invocation::Nothing => return ExitCode::SUCCESS,
        Invocation::Usage(complaint) => {
            complain(&format!(
                "virt-vgpu-hook: {complaint}; libvirt calls this program, people use 'virt-vgpu'"
            ));
            return ExitCode::from(2);
        }
    };
    match run(host, &call, input) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(host, &call, &error),
    }
}

/// Handles a domain whose name we do not support: it may run, unless it asks for
/// devices of ours, which it cannot get.
fn misnamed(
    host: &Host,
    operation: Operation,
    cause: &InvalidName,
    input: impl std::io::Read,
) -> ExitCode {
    use std::io::Read;
    if !operation.allocates() {
        return ExitCode::SUCCESS;
    }
    let mut xml = Vec::new();
    // Unreadable XML asks for nothing: libvirt goes on without us.
    let _ = input.take(LONGEST_XML).read_to_end(&mut xml);
    if !domain::mentions_requests(&xml) {
        return ExitCode::SUCCESS;
    }
    let line = format!("{cause} that can have devices of a pool; rename it with 'virsh domrename'");
    start_logging(host, NAME);
    tracing::error!("{line}");
    complain(&format!("virt-vgpu: {line}"));
    ExitCode::FAILURE
}

/// Reports the error, and fails only if that refuses a start: a failing `reconnect`
/// would kill a running VM, a failing `release` helps nobody.
fn fail(host: &Host, call: &HookCall, error: &anyhow::Error) -> ExitCode {
    // Errors before the real work happen before the log is open.
    start_logging(host, NAME);
    // libvirt shows stderr to the user unchanged.
    let line = one_line(error);
    events::log_failure(
        &call.domain,
        &call.operation.words(),
        call.operation.allocates(),
        &line,
    );
    if call.operation.allocates() {
        complain(&format!("virt-vgpu: {line}"));
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn run(host: &Host, call: &HookCall, input: impl std::io::Read) -> anyhow::Result<()> {
    let xml = read_all(input, call.operation)?;
    // The common case, a domain that asks for nothing, ends here, before any
    // configuration, lock or log is opened.
    let asks = domain::mentions_requests(&xml);
    if call.operation.allocates() {
        maintenance::check(host, call, &xml)?;
    }
    let starts = call.operation.allocates() || call.operation == Operation::Restore;
    if !asks && (starts || crate::claims::domains(host)?.is_empty()) {
        return Ok(());
    }
    if call.operation.allocates() {
        host.get_ready_to_write();
    }
    start_logging(host, NAME);
    let deadline = Deadline::after(PATIENCE);
    host.be_done_by(deadline);
    match call.operation {
        operation if operation.allocates() => {
            let changed = allocate::allocate(host, call, decode(&xml)?, deadline)?;
            // At `prepare` libvirt would not read it.
            if call.operation == Operation::Migrate {
                hand_on(changed)?;
            }
            Ok(())
        }
        Operation::Restore => hand_on(restore::replan(host, call, decode(&xml)?)?),
        operation if operation.gives_back() => give_back::give_back(host, call, &xml, deadline),
        Operation::Start | Operation::Started => {
            give_back::note_progress(host, call, &xml, deadline)
        }
        _ => give_back::check(host, call, &xml),
    }
}

/// Prints the XML with which libvirt goes on; None: with its own.
fn hand_on(changed: Option<String>) -> anyhow::Result<()> {
    use std::io::Write;
    let Some(xml) = changed else { return Ok(()) };
    std::io::stdout()
        .lock()
        .write_all(xml.as_bytes())
        .context("cannot hand the changed XML to libvirt")
}

/// Reads the domain XML. If devices are given back, a partial text is enough: the
/// domain's UUID is at its beginning.
fn read_all(input: impl std::io::Read, operation: Operation) -> anyhow::Result<Vec<u8>> {
    use std::io::Read;
    let mut xml = Vec::with_capacity(8 << 10);
    let read = input.take(LONGEST_XML + 1).read_to_end(&mut xml);
    if !operation.allocates() {
        return Ok(xml);
    }
    read.map_err(|error| anyhow::anyhow!("cannot read the domain XML from libvirt: {error}"))?;
    if u64::try_from(xml.len()).unwrap_or(u64::MAX) > LONGEST_XML {
        anyhow::bail!("the domain XML is longer than {} MiB", LONGEST_XML >> 20);
    }
    Ok(xml)
}

fn decode(xml: &[u8]) -> anyhow::Result<&str> {
    std::str::from_utf8(xml)
        .map_err(|error| anyhow::anyhow!("the domain XML is not UTF-8: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocate::AllocateError;

    #[test]
    fn a_cause_is_named_once() {
        let pool = crate::config::PoolError::NotFound {
            pool: "cad".parse().unwrap(),
        };
        let error = anyhow::Error::from(AllocateError::Pool {
            domain: "d".to_owned(),
            pool: "cad".parse().unwrap(),
            cause: Box::new(pool),
        });
        let line = "domain 'd' asks for a device of pool 'cad': there is no pool 'cad'; \
                    see 'virt-vgpu pool list'";
        assert_eq!(one_line(&error), line);
        let io = std::io::Error::other("disk\nfull");
        let outer = Err::<(), _>(io).context("cannot write").unwrap_err();
        assert_eq!(one_line(&outer), "cannot write: disk full");
    }
}
