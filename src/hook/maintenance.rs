//! Keeps domains from GPUs in maintenance that their XML names itself. Devices of pools are
//! kept back where they are planned.

use anyhow::{Context, bail};

use super::{HookCall, decode};
use crate::{
    device::{
        Sysfs,
        maintenance::{self, Maintenance, NOTE},
    },
    domain::{self, ALIAS_PREFIX, Hostdev},
    host::Host,
};

/// Refuses a domain that names a device on a GPU in maintenance. Without maintenance that
/// costs one look for a file.
pub(super) fn check(host: &Host, call: &HookCall, xml: &[u8]) -> anyhow::Result<()> {
    if !host.exists(NOTE) || !domain::mentions_hostdevs(xml) {
        return Ok(());
    }
    let cannot = || {
        format!(
            "domain '{}' has devices of the host, and whether they are in maintenance cannot be told",
            call.domain
        )
    };
    let Some(noted) = maintenance::read(host).with_context(cannot)? else {
        return Ok(());
    };
    let domain = domain::parse(decode(xml)?).with_context(cannot)?;
    // Placeholders say nothing yet: the device may be planned elsewhere.
    let is_ours = |one: &&Hostdev| {
        let alias = one.alias.as_deref();
        alias.is_some_and(|alias| alias.starts_with(ALIAS_PREFIX)) && !domain.requests.is_empty()
    };
    let named = domain.hostdevs.iter().filter(|one| !is_ours(one));
    for hostdev in named {
        if let Some(gpu) = noted.gpu_with(host, hostdev.handle) {
            bail!(
                "domain '{}' names {}, and {}",
                call.domain,
                hostdev.handle,
                Maintenance::refusal(gpu, hostdev.handle)
            );
        }
    }
    Ok(())
}
