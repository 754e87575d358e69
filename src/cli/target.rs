//! The domain that a verb works on, and the libvirt daemon that has it.

use clap::Args;

use crate::{
    definition,
    host::{
        Host,
        libvirt::{Domain, Libvirt, uri_or_default},
    },
};

/// Which libvirt daemon to talk to.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// Connect to this libvirt URI [default: as virsh, else qemu:///system].
    #[arg(short = 'c', long = "connect", value_name = "URI")]
    uri: Option<String>,
}

/// Further options of verbs that edit a definition.
#[derive(Debug, Args)]
pub(super) struct Edit {
    /// Only say what would change.
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) connection: Connection,
}

impl Connection {
    /// The domain, from any daemon.
    pub(super) fn find(&self, name: &str) -> anyhow::Result<Domain> {
        let uri = uri_or_default(self.uri.as_deref());
        Ok(Libvirt::open(&uri)?.domain(name)?)
    }

    /// The domain, from a daemon whose domains this host's hook serves.
    pub(super) fn find_served(&self, name: &str) -> anyhow::Result<Domain> {
        Ok(self.open_served()?.domain(name)?)
    }

    /// The same for a host that is looked at. A host that is a directory has none, unless one is
    /// named.
    pub(super) fn open_for(&self, host: &Host) -> anyhow::Result<Option<Libvirt>> {
        match host.is_real() || self.uri.is_some() {
            true => self.open_served().map(Some),
            false => Ok(None),
        }
    }

    /// A daemon whose domains this host's hook serves.
    pub(super) fn open_served(&self) -> anyhow::Result<Libvirt> {
        definition::open_served(self.uri.as_deref())
    }
}
