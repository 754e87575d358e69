//! The host at one moment, shared by all kinds: sysfs with everything that was read so
//! far, NVML's answer, and what claims and the quarantine withhold.

use std::{
    any::{Any, TypeId},
    cell::{OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
};

use super::{Announced, Candidate, Detail};
use crate::{
    device::{
        Sysfs,
        gpu::{self, GpuState},
        gpu_fields::{GpuFields, GpuSource},
        maintenance::Maintenance,
        mdev::{self, MdevHost, Parent},
        nvml::{Failure, FailureKind, GpuFacts, Nvml},
        optional,
        pci::{DeviceFields, PciNames},
    },
    model::{DomainName, NumaNode, ParentName, PciAddress},
    rule::{Rule, Verdict, evaluate},
};

/// The host at one moment. It remembers what it has read, so a new view is made for
/// each plan.
pub struct HostView<'a> {
    mdev: MdevHost<'a>,
    names: &'a dyn PciNames,
    detail: Detail,
    nvml: Option<&'a dyn Nvml>,
    facts: OnceCell<Result<Vec<GpuFacts>, Failure>>,
    usage: OnceCell<Usage>,
    gpus: RefCell<Gpus>,
    /// Facts that kinds have found and keep for later.
    found: RefCell<BTreeMap<TypeId, Rc<dyn Any>>>,
    quarantined: BTreeMap<PciAddress, String>,
    maintenance: Result<Option<Maintenance>, String>,
    claimed: BTreeMap<PciAddress, DomainName>,
    announced: Vec<Announced>,
    beside: Option<ParentName>,
    own: BTreeSet<PciAddress>,
}

/// GPUs that were read, with or without NVML's facts; None for a device that is not a
/// GPU.
type Gpus = BTreeMap<(ParentName, bool), Option<Rc<GpuState>>>;

/// Mediated devices by board, and the boards of the parents that matter.
#[derive(Debug, Default)]
struct Usage {
    boards: BTreeMap<ParentName, ParentName>,
    in_use: BTreeMap<ParentName, u32>,
    parents: BTreeSet<ParentName>,
}

/// The sources of the fields that rules ask for.
#[derive(Clone, Copy)]
pub struct FieldSources<'a> {
    /// Reading access to the host.
    pub sysfs: &'a dyn Sysfs,
    /// Reading access to names.
    pub names: &'a dyn PciNames,
    /// Access to NVML's facts; None if NVML must not be asked.
    pub nvml: Option<&'a dyn GpuSource>,
}

impl std::fmt::Debug for FieldSources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FieldSources").finish_non_exhaustive()
    }
}

impl<'a> FieldSources<'a> {
    /// The verdict of rules on a device. For a GPU, `gpu` gives access to its further
    /// fields.
    #[must_use]
    pub fn verdict(&self, rules: &[Rule], device: &Parent, gpu: Option<GpuFields<'_>>) -> Verdict {
        let fields = DeviceFields {
            sysfs: self.sysfs,
            names: self.names,
            name: &device.name,
            path: &device.path(),
            gpu,
        };
        evaluate(rules, &fields)
    }
}

impl std::fmt::Debug for HostView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostView")
            .field("mdev", &self.mdev)
            .finish_non_exhaustive()
    }
}

impl<'a> HostView<'a> {
    /// The facts that a plan compares.
    #[must_use]
    pub fn detail(&self) -> Detail {
        self.detail
    }

    /// Finds the parents of mediated devices.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn open(sysfs: &'a dyn Sysfs, names: &'a dyn PciNames, detail: Detail) -> io::Result<Self> {
        let mdev = if detail.functions_only {
            MdevHost::without_parents(sysfs)
        } else {
            MdevHost::discover(sysfs)?
        };
        Ok(Self {
            mdev,
            names,
            detail,
            nvml: None,
            facts: OnceCell::new(),
            usage: OnceCell::new(),
            gpus: RefCell::default(),
            found: RefCell::default(),
            quarantined: BTreeMap::new(),
            maintenance: Ok(None),
            claimed: BTreeMap::new(),
            announced: Vec::new(),
            beside: None,
            own: BTreeSet::new(),
        })
    }

    /// PCI functions in claims, with their domains. A function's type does not tell who
    /// owns it, and a claimed function may be free for a moment.
    #[must_use]
    pub fn with_claimed(mut self, claimed: BTreeMap<PciAddress, DomainName>) -> Self {
        self.claimed = claimed;
        self
    }

    /// PCI functions that the domain of the plan itself names or has. It does not get them a
    /// second time, but what shares an IOMMU group with them is not kept from it.
    #[must_use]
    pub fn with_own(mut self, own: BTreeSet<PciAddress>) -> Self {
        self.own = own;
        self
    }

    /// Devices that are being made for other domains and do not exist yet.
    #[must_use]
    pub fn with_announced(mut self, announced: Vec<Announced>) -> Self {
        self.announced = announced;
        self
    }

    /// The parent of a device that the domain already has, if all devices of its kind
    /// must be on the same type of board.
    #[must_use]
    pub fn with_beside(mut self, parent: Option<ParentName>) -> Self {
        self.beside = parent;
        self
    }

    /// Access to NVML, which is asked once, and only if sysfs does not say enough.
    #[must_use]
    pub fn with_nvml(mut self, nvml: &'a dyn Nvml) -> Self {
        self.nvml = Some(nvml);
        self
    }

    /// Quarantined PCI functions, with the reason.
    #[must_use]
    pub fn with_quarantined(mut self, quarantined: BTreeMap<PciAddress, String>) -> Self {
        self.quarantined = quarantined;
        self
    }

    /// The GPUs that are in maintenance; where that cannot be told, any may be.
    #[must_use]
    pub fn with_maintenance(mut self, maintenance: io::Result<Option<Maintenance>>) -> Self {
        self.maintenance = maintenance.map_err(|error| error.to_string());
        self
    }

    /// Why nothing of a device can be handed out now: its GPU is in maintenance.
    #[must_use]
    pub fn under_maintenance(&self, device: &ParentName) -> Option<String> {
        let function = device.pci()?;
        let maintenance = match &self.maintenance {
            Ok(maintenance) => maintenance.as_ref()?,
            Err(why) => {
                return Some(format!(
                    "whether it is in maintenance cannot be told: {why}"
                ));
            }
        };
        let gpu = maintenance.gpu_of(self.sysfs(), function)?;
        Some(Maintenance::refusal(gpu, function.into()))
    }

    /// The access to sysfs.
    #[must_use]
    pub fn sysfs(&self) -> &'a dyn Sysfs {
        self.mdev.sysfs()
    }

    /// The mediated devices.
    #[must_use]
    pub fn mdev(&self) -> &MdevHost<'a> {
        &self.mdev
    }

    /// The sources of the fields that rules ask for.
    #[must_use]
    pub fn field_sources(&self) -> FieldSources<'_> {
        FieldSources {
            sysfs: self.mdev.sysfs(),
            names: self.names,
            nvml: Some(self),
        }
    }

    /// Devices that are being made for other domains and do not exist yet.
    #[must_use]
    pub fn announced(&self) -> &[Announced] {
        &self.announced
    }

    /// Why a PCI function must not be handed out, whatever its driver says.
    #[must_use]
    pub fn withheld(&self, function: PciAddress) -> Option<String> {
        if let Some(why) = self.quarantined.get(&function) {
            return Some(why.clone());
        }
        let domain = self.claimed.get(&function)?;
        Some(format!("domain '{domain}' has it"))
    }

    /// Whether the domain of the plan itself has the PCI function, or names it.
    pub(super) fn is_own(&self, function: PciAddress) -> bool {
        self.own.contains(&function)
    }

    /// The same for a function that would go with the planned one: the domain may have it
    /// already.
    #[must_use]
    pub fn withheld_beside(&self, function: PciAddress) -> Option<String> {
        let is_own = self.own.contains(&function) && !self.quarantined.contains_key(&function);
        (!is_own).then(|| self.withheld(function)).flatten()
    }

    /// A place where a kind stores what it has found on this host.
    pub fn found<T: Default + 'static>(&self) -> Rc<T> {
        let mut found = self.found.borrow_mut();
        let it = found.entry(TypeId::of::<T>());
        let it = Rc::clone(it.or_insert_with(|| Rc::new(T::default())));
        // The key is the type's id, so the entry has that type.
        it.downcast().unwrap_or_default()
    }

    /// NVML's facts about all GPUs.
    ///
    /// # Errors
    /// Why NVML has no answer.
    pub fn facts(&self) -> Result<&[GpuFacts], &Failure> {
        let facts = self.facts.get_or_init(|| match self.nvml {
            Some(nvml) => nvml.gpus(),
            None => Err(Failure {
                kind: FailureKind::NoLibrary,
                message: "NVML is not asked here".to_owned(),
            }),
        });
        facts.as_deref()
    }

    /// NVML's facts about one GPU, or a text why there are none.
    pub(super) fn facts_of(&self, gpu: &ParentName) -> Result<&GpuFacts, String> {
        let facts = self.facts().map_err(|failure| failure.message.clone())?;
        let its = facts.iter().find(|one| *gpu == one.address);
        its.ok_or_else(|| format!("NVML does not answer for {gpu}"))
    }

    /// Whether NVML has been asked.
    pub(super) fn has_facts(&self) -> bool {
        self.facts.get().is_some()
    }

    /// The GPU as it is now; None for a device that is not a GPU or cannot be read.
    pub(super) fn gpu(&self, gpu: &ParentName, with_nvml: bool) -> Option<Rc<GpuState>> {
        let key = (gpu.clone(), with_nvml);
        if let Some(state) = self.gpus.borrow().get(&key) {
            return state.clone();
        }
        let read = || {
            let withheld = self.claimed.keys().chain(self.quarantined.keys());
            let withheld = withheld.copied().collect();
            let facts = with_nvml.then(|| self.facts_of(gpu).ok()).flatten();
            let state = gpu::read(self.sysfs(), gpu.pci()?, facts, &withheld);
            state.ok().map(Rc::new)
        };
        let state = read();
        self.gpus.borrow_mut().insert(key, state.clone());
        state
    }

    /// The GPU or other board that a device is or belongs to.
    #[must_use]
    pub fn board(&self, device: &Parent) -> ParentName {
        self.mdev.board(device)
    }

    /// The board of a candidate, also if the view has not looked for its board.
    #[must_use]
    pub fn board_of(&self, candidate: &Candidate) -> ParentName {
        match candidate.device {
            None => self.mdev.board(&candidate.parent),
            Some(_) => candidate.board.clone(),
        }
    }

    /// The type of the candidate's board: its PCI ids. Names of vGPU types are not
    /// enough, because two boards can have the same one (`DC`). None if the ids cannot
    /// be read.
    #[must_use]
    pub fn board_type(&self, candidate: &Candidate) -> Option<String> {
        self.ids(&self.board_of(candidate))
    }

    /// The type of the board of the device that the domain already has.
    #[must_use]
    pub fn board_type_beside(&self) -> Option<String> {
        let parent = mdev::pci_function(self.beside.clone()?);
        self.ids(&self.mdev.board(&parent))
    }

    fn ids(&self, board: &ParentName) -> Option<String> {
        let read = |name: &str| {
            let path = format!("{}/{name}", mdev::pci_function(board.clone()).path());
            self.sysfs().read(&path).ok()
        };
        Some(format!("{}:{}", read("vendor")?, read("device")?))
    }

    /// The parents of mediated devices, as candidates.
    ///
    /// # Errors
    /// A text, when the devices in use cannot be listed.
    pub(super) fn parents(&self) -> Result<Vec<Candidate>, String> {
        let usage = self
            .usage()
            .map_err(|e| format!("cannot list mediated devices: {e}"))?;
        let candidate = |parent: &Parent| {
            let board = usage.boards.get(&parent.name).unwrap_or(&parent.name);
            Candidate {
                parent: parent.clone(),
                device: None,
                board: board.clone(),
                node: self.node(parent),
                in_use: usage.in_use.get(board).copied().unwrap_or(0),
                has_device: usage.parents.contains(&parent.name),
            }
        };
        Ok(self.mdev.parents().iter().map(candidate).collect())
    }

    fn usage(&self) -> io::Result<&Usage> {
        if let Some(usage) = self.usage.get() {
            return Ok(usage);
        }
        let mut usage = Usage::default();
        for (_, name) in self.mdev.parents_in_use()? {
            usage.parents.insert(name.clone());
            let board = self.board_in_use(&mut usage, name);
            *usage.in_use.entry(board).or_insert(0) += 1;
        }
        // The boards of announced devices are compared with all other boards.
        for one in &self.announced {
            self.board_in_use(&mut usage, one.parent.clone());
        }
        if self.detail.boards {
            for parent in self.mdev.parents() {
                if !usage.boards.contains_key(&parent.name) {
                    usage
                        .boards
                        .insert(parent.name.clone(), self.mdev.board(parent));
                }
            }
        }
        Ok(self.usage.get_or_init(|| usage))
    }

    /// The board of a parent that has a device. All virtual functions of that board are
    /// recorded, so that they count as in use together.
    fn board_in_use(&self, usage: &mut Usage, name: ParentName) -> ParentName {
        if let Some(board) = usage.boards.get(&name) {
            return board.clone();
        }
        let parents = self.mdev.parents();
        let Ok(position) = parents.binary_search_by(|parent| parent.name.cmp(&name)) else {
            return name;
        };
        let parent = &parents[position];
        let board = self.mdev.board(parent);
        for function in self.mdev.virtual_functions(parent) {
            usage.boards.insert(function, board.clone());
        }
        usage.boards.insert(name, board.clone());
        board
    }

    /// The NUMA node of a device, if it is needed.
    pub(super) fn node(&self, parent: &Parent) -> Option<NumaNode> {
        if !self.detail.nodes {
            return None;
        }
        let text = optional(self.sysfs().read(&format!("{}/numa_node", parent.path())));
        NumaNode::from_sysfs(&text.ok()??).ok()?
    }
}

impl GpuSource for HostView<'_> {
    fn facts_of(&self, gpu: PciAddress) -> Option<&GpuFacts> {
        let facts = self.facts().unwrap_or_default();
        facts.iter().find(|one| one.address == gpu)
    }
}
