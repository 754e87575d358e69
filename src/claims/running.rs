//! The claim of a domain that had no devices before it ran.

use super::{Claim, Origin, State};
use crate::{
    host::Host,
    model::{DomainName, DomainUuid},
};

impl Claim {
    /// A claim for a running domain that has no devices yet. It is not on disk. Its
    /// state is committed, because the domain's start has finished.
    #[must_use]
    pub fn of_running(host: &Host, domain: (DomainUuid, DomainName)) -> Self {
        Self {
            state: State::Committed,
            launched: true,
            daemon: None,
            ..Self::intent(host, domain, Origin::Prepare, Vec::new())
        }
    }

    /// Prepares the claim for devices of the current run. Devices of a failed start or
    /// of an earlier run are marked as leaving.
    pub fn take_into_run(&mut self) {
        if self.state == State::Committed {
            return;
        }
        self.state = State::Committed;
        self.launched = true;
        self.daemon = None;
        let devices = self.devices.iter();
        self.leaving = devices.map(|device| device.name.clone()).collect();
    }

    /// Whether the claim has nothing to give back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.media.is_none()
    }
}
