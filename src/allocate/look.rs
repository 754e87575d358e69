//! One look at the host, for a plan. Drivers are asked before the host lock is taken. Under
//! the host lock a plan may be made again from these answers, without asking a driver.

use std::{
    cell::{Cell, OnceCell},
    collections::BTreeMap,
    io,
    time::Duration,
};

use crate::{
    claims,
    config::{self, Pool},
    device::{
        Remembered, maintenance,
        nvml::{Failure, FailureKind, GpuFacts, Nvml},
    },
    host::{Host, NvmlChild, PciIds},
    kind::HostView,
    model::{DomainName, DomainUuid, PciAddress},
    plan::{AllPools, Answers, Detail, HostSupply},
};

/// The facts that were read from a host since one moment, and access to further facts.
#[derive(Debug)]
pub struct Look<'a> {
    /// The host.
    pub host: &'a Host,
    /// Its sysfs.
    pub sysfs: Remembered<'a>,
    /// Names of vendors and devices.
    pub names: PciIds<'a>,
    /// NVML's answers.
    pub nvml: RememberedNvml<'a>,
    /// The drivers' answers to the plans of this look.
    pub answers: Answers,
    /// The time of its beginning since boot.
    pub began: Duration,
    pools: OnceCell<Vec<Pool>>,
    ahead: Cell<usize>,
}

impl AllPools for Look<'_> {
    fn all_pools(&self) -> &[Pool] {
        self.pools.get_or_init(|| {
            let loaded = config::load_all(self.host).pools.into_values();
            loaded.flatten().collect()
        })
    }
}

impl<'a> Look<'a> {
    /// A new look, which has not read anything yet.
    #[must_use]
    pub fn new(host: &'a Host) -> Self {
        Self {
            host,
            sysfs: Remembered::new(host),
            names: PciIds::new(host),
            nvml: RememberedNvml {
                nvml: host.nvml(),
                facts: OnceCell::new(),
                is_over: Cell::new(false),
                has_missed: Cell::new(false),
            },
            answers: Answers::default(),
            began: claims::begin_look(),
            pools: OnceCell::new(),
            ahead: Cell::new(0),
        }
    }

    /// How many candidates a plan asks in addition to the chosen one.
    #[must_use]
    pub fn ahead(&self) -> usize {
        self.ahead.get()
    }

    /// To be called when another start was faster. Drivers may be asked again, and the next
    /// plan asks more of them than it needs: it can then continue when another start is
    /// faster again.
    pub fn look_further(&self) {
        /// More boards than a host usually has. Each question costs some 50 µs.
        const AHEAD: usize = 16;
        self.ahead.set(AHEAD);
        self.sysfs.ask_drivers_again();
        self.nvml.is_over.set(false);
        self.nvml.has_missed.set(false);
    }

    /// The host, without regard to claims.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn view(&self, detail: Detail) -> io::Result<HostView<'_>> {
        let view = HostView::open(&self.sysfs, &self.names, detail)?;
        let maintenance = maintenance::read(self.host);
        Ok(view.with_nvml(&self.nvml).with_maintenance(maintenance))
    }

    /// The supply of the host in that view.
    #[must_use]
    pub fn supply_of<'s>(&'s self, view: HostView<'s>) -> HostSupply<'s> {
        HostSupply::of(view)
            .with_answers(&self.answers)
            .beside(self)
    }

    /// The host's supply for pools, without regard to claims.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub fn supply(&self, detail: Detail) -> io::Result<HostSupply<'_>> {
        Ok(self.supply_of(self.view(detail)?))
    }

    /// The host's supply for pools without quarantined functions and without the functions of
    /// claims, except one domain's. It is for commands that only show.
    ///
    /// # Errors
    /// When sysfs cannot be read, or either cannot be listed.
    pub fn free_supply(
        &self,
        detail: Detail,
        except: Option<DomainUuid>,
    ) -> io::Result<HostSupply<'_>> {
        let held = claims::known_functions(self.host, except)?;
        let claim = except.and_then(|domain| claims::load(self.host, domain).ok().flatten());
        let own = claim.iter().flat_map(|claim| claim.functions());
        let own = own.map(|(_, function)| function).collect();
        let view = self.view(detail)?.with_own(own);
        Ok(self.supply_of(self.without(view, held)?))
    }

    /// The host without the functions that are held, and without quarantined functions.
    ///
    /// # Errors
    /// When the quarantine cannot be listed.
    pub fn without<'s>(
        &self,
        view: HostView<'s>,
        held: BTreeMap<PciAddress, DomainName>,
    ) -> io::Result<HostView<'s>> {
        let quarantined = claims::quarantine_reasons(self.host)?;
        Ok(view.with_claimed(held).with_quarantined(quarantined))
    }

    /// From now on no driver and no NVML is asked. Must be called before the host lock is
    /// taken.
    pub fn ask_no_driver_any_more(&self) {
        self.sysfs.ask_no_driver_any_more();
        self.nvml.is_over.set(true);
    }

    /// Whether [`Self::ask_no_driver_any_more`] holds.
    #[must_use]
    pub fn asks_no_driver(&self) -> bool {
        self.nvml.is_over.get()
    }

    /// Forgets what [`Self::has_missed`] says: the answer can be done without.
    pub fn forget_missed(&self) {
        self.sysfs.forget_missed();
        self.nvml.has_missed.set(false);
    }

    /// Whether a plan has needed an answer since then that no driver had given.
    #[must_use]
    pub fn has_missed(&self) -> bool {
        self.sysfs.has_missed() || self.nvml.has_missed.get()
    }
}

/// NVML, which is asked only once.
#[derive(Debug)]
pub struct RememberedNvml<'a> {
    nvml: NvmlChild<'a>,
    facts: OnceCell<Result<Vec<GpuFacts>, Failure>>,
    is_over: Cell<bool>,
    has_missed: Cell<bool>,
}

impl Nvml for RememberedNvml<'_> {
    fn gpus(&self) -> Result<Vec<GpuFacts>, Failure> {
        if self.is_over.get() && self.facts.get().is_none() {
            self.has_missed.set(true);
            return Err(Failure {
                kind: FailureKind::Other,
                message: "NVML was not asked".to_owned(),
            });
        }
        self.facts.get_or_init(|| self.nvml.gpus()).clone()
    }

    fn gpu(&self, gpu: PciAddress) -> Result<GpuFacts, Failure> {
        let facts = self.gpus()?;
        let its = facts.into_iter().find(|one| one.address == gpu);
        its.ok_or_else(|| Failure {
            kind: FailureKind::Other,
            message: format!("NVML does not answer for {gpu}"),
        })
    }
}
