//! The claim of a domain that has asked for nothing before it ran.

use super::{Claim, Origin, State};
use crate::{
    host::Host,
    model::{DomainName, DomainUuid},
};

impl Claim {
    /// A claim for a domain that runs and has nothing yet. Not on disk; it is
    /// committed, because of the domain's start nothing is left to wait for.
    #[must_use]
    pub fn of_running(host: &Host, domain: (DomainUuid, DomainName)) -> Self {
        Self {
            state: State::Committed,
            launched: true,
            daemon: None,
            ..Self::intent(host, domain, Origin::Prepare, Vec::new())
        }
    }

    /// Notes that it is about to have devices of the run. What it names of a start that
    /// failed, or of a run that is over, is leaving.
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

    /// Whether there is nothing in it that would have to be given back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.media.is_none()
    }
}
