//! What a real host, or a directory that looks like one, has for pools.

use std::{
    cell::{LazyCell, OnceCell, RefCell},
    collections::BTreeMap,
    io,
};

use super::{Announced, Candidate, Interface, Rejection, Source, Supply};
use crate::{
    capacity::{Fit, more_of, no_place},
    config::Pool,
    device::{
        Sysfs,
        gpu::{self, Framework, GpuState},
        gpu_fields::{GpuFields, GpuSource},
        mdev::{self, MdevHost, Offer, Parent},
        nvml::{Failure, FailureKind, GpuFacts, Nvml, Placements, Told},
        optional,
        pci::{DeviceFields, PciNames},
        vendor_vfio,
    },
    model::{DomainName, MdevTypeId, NumaNode, ParentName, PciAddress},
    rule::{Verdict, evaluate},
};

/// Where a device stands towards a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The device that the rules are about: a parent, or the GPU of a pool of
    /// NVIDIA's vGPUs.
    pub parent: Parent,
    /// The verdict of the pool's rules.
    pub verdict: Verdict,
}

/// What will be compared, so that no more than that is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Detail {
    /// NUMA nodes: the domain is bound to some.
    pub nodes: bool,
    /// The boards of unused virtual functions too: several devices are planned
    /// at once, or a person wants to see them.
    pub boards: bool,
    /// No mdev parents: all that is planned for are named virtual functions.
    pub functions_only: bool,
}

/// The supply of a host. It remembers what it has read, so it is made anew
/// under the lock for every plan.
pub struct HostSupply<'a> {
    mdev: MdevHost<'a>,
    names: &'a dyn PciNames,
    detail: Detail,
    usage: OnceCell<Usage>,
    functions: OnceCell<Vec<Candidate>>,
    /// Everything that makes vGPUs on NVIDIA's GPUs, by GPU; or why it cannot be listed.
    on_gpus: OnceCell<Result<BTreeMap<ParentName, Vec<Candidate>>, String>>,
    nvml: Option<&'a dyn Nvml>,
    facts: OnceCell<Result<Vec<GpuFacts>, Failure>>,
    quarantined: BTreeMap<PciAddress, String>,
    claimed: BTreeMap<PciAddress, DomainName>,
    announced: Vec<Announced>,
    beside: Option<ParentName>,
    /// GPUs as they were read, with what NVML says or without.
    gpus: RefCell<BTreeMap<(ParentName, bool), Option<GpuState>>>,
    /// GPUs that NVIDIA's driver does not have, each with what has it.
    pub(super) unbound: OnceCell<Vec<(PciAddress, String)>>,
}

/// Devices by board, and the boards of the parents that matter.
#[derive(Debug, Default)]
struct Usage {
    boards: BTreeMap<ParentName, ParentName>,
    in_use: BTreeMap<ParentName, u32>,
}

impl std::fmt::Debug for HostSupply<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostSupply")
            .field("mdev", &self.mdev)
            .finish_non_exhaustive()
    }
}

impl<'a> HostSupply<'a> {
    /// Finds the parents.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn discover(
        sysfs: &'a dyn Sysfs,
        names: &'a dyn PciNames,
        detail: Detail,
    ) -> io::Result<Self> {
        let mdev = if detail.functions_only {
            MdevHost::without_parents(sysfs)
        } else {
            MdevHost::discover(sysfs)?
        };
        Ok(Self {
            mdev,
            names,
            detail,
            usage: OnceCell::new(),
            functions: OnceCell::new(),
            on_gpus: OnceCell::new(),
            nvml: None,
            facts: OnceCell::new(),
            quarantined: BTreeMap::new(),
            claimed: BTreeMap::new(),
            announced: Vec::new(),
            beside: None,
            gpus: RefCell::default(),
            unbound: OnceCell::new(),
        })
    }

    /// Virtual functions that claims name, with the domains: what a function is set
    /// to does not tell whose it is, and one that is claimed may be free for a
    /// moment yet.
    #[must_use]
    pub fn with_claimed(mut self, claimed: BTreeMap<PciAddress, DomainName>) -> Self {
        self.claimed = claimed;
        self
    }

    /// Devices of other domains that are being made and do not show yet.
    #[must_use]
    pub fn with_announced(mut self, announced: Vec<Announced>) -> Self {
        self.announced = announced;
        self
    }

    /// The parent of an NVIDIA vGPU that the domain has already.
    #[must_use]
    pub fn with_beside(mut self, parent: Option<ParentName>) -> Self {
        self.beside = parent;
        self
    }

    /// The way to NVML: asked once, and only where sysfs does not say enough.
    #[must_use]
    pub fn with_nvml(mut self, nvml: &'a dyn Nvml) -> Self {
        self.nvml = Some(nvml);
        self
    }

    /// Virtual functions that are not to be handed out, with the reason.
    #[must_use]
    pub fn with_quarantined(mut self, quarantined: BTreeMap<PciAddress, String>) -> Self {
        self.quarantined = quarantined;
        self
    }

    /// What NVML says of all GPUs.
    ///
    /// # Errors
    /// Why it says nothing.
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

    /// What NVML says of one GPU, in words where it says nothing.
    fn facts_of(&self, gpu: &ParentName) -> Result<&GpuFacts, String> {
        let facts = self.facts().map_err(|failure| failure.message.clone())?;
        let its = facts.iter().find(|one| *gpu == one.address);
        its.ok_or_else(|| format!("NVML does not answer for {gpu}"))
    }

    /// How many more of the pool's profile fit on one of its GPUs, and whether that
    /// is exact; None where only a plan can tell.
    fn fit(&self, pool: &Pool, gpu: &ParentName) -> Option<(MdevTypeId, Fit)> {
        let state = self.state(gpu, true)?;
        let wanted = state
            .types
            .iter()
            .find(|one| pool.device_type().means_name(&one.name))?;
        let id = match state.framework? {
            Framework::VendorVfio => wanted.id.to_string().parse().ok()?,
            Framework::LegacyMdev | Framework::SriovMdev => {
                format!("nvidia-{}", wanted.id).parse().ok()?
            }
        };
        Some((id, more_of(&state, wanted.id)))
    }

    fn model_of(&self, gpu: &ParentName) -> Option<String> {
        let read = |name: &str| {
            let path = format!("{}/{name}", mdev::pci_function(gpu.clone()).path());
            self.mdev.sysfs().read(&path).ok()
        };
        Some(format!("{}:{}", read("vendor")?, read("device")?))
    }

    /// A GPU as it stands; None for what is none, or cannot be read.
    fn state(&self, gpu: &ParentName, with_nvml: bool) -> Option<GpuState> {
        let key = (gpu.clone(), with_nvml);
        if let Some(state) = self.gpus.borrow().get(&key) {
            return state.clone();
        }
        let read = || {
            let withheld = self.claimed.keys().chain(self.quarantined.keys());
            let withheld = withheld.copied().collect();
            let facts = with_nvml.then(|| self.facts_of(gpu).ok()).flatten();
            gpu::read(self.mdev.sysfs(), gpu.pci()?, facts, &withheld).ok()
        };
        let state = read();
        self.gpus.borrow_mut().insert(key, state.clone());
        state
    }

    /// The mediated devices behind it.
    #[must_use]
    pub fn mdev(&self) -> &MdevHost<'a> {
        &self.mdev
    }

    /// Every device that the pool's rules could take, with their verdict.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn standings(&self, pool: &Pool) -> io::Result<Vec<Standing>> {
        let standing = |parent: &Parent| Standing {
            parent: parent.clone(),
            verdict: self.verdict(pool, parent),
        };
        Ok(self.subjects(pool)?.iter().map(standing).collect())
    }

    /// What the rules of such a pool are about.
    fn subjects(&self, pool: &Pool) -> io::Result<Vec<Parent>> {
        if !pool.is_of_gpus() {
            return Ok(self.mdev.parents().to_vec());
        }
        let gpus = gpu::all(self.mdev.sysfs())?;
        Ok(gpus.into_iter().map(mdev::pci_function).collect())
    }

    /// The GPU or other board that a device is or belongs to.
    #[must_use]
    pub fn board(&self, device: &Parent) -> ParentName {
        self.mdev.board(device)
    }

    /// What one of the pool's devices ([`Self::standings`]) has of its type, over
    /// all that makes vGPUs on it, and whether the number is exact: else there may
    /// be fewer.
    #[must_use]
    pub fn room(&self, pool: &Pool, device: &Parent) -> (Offer, bool) {
        if !pool.is_of_gpus() {
            return (self.mdev.offer(device, pool.device_type()), true);
        }
        let on_it = match self.on_gpus(pool) {
            Ok(gpus) => gpus.get(&device.name),
            Err(why) => return (Offer::Unreadable(why.clone()), true),
        };
        let fit = LazyCell::new(|| self.fit(pool, &device.name));
        let mut offers = Vec::new();
        for one in on_it.into_iter().flatten() {
            let offer = self.makes(pool, one);
            // One that says so is enough: the sums are about the GPU. That something can
            // be made says that one fits, whatever the sums say.
            if matches!(offer, Offer::Type { available: 1.., .. }) {
                if let Some((id, fit)) = &*fit {
                    let (id, available) = (id.clone(), fit.most().max(1));
                    return (Offer::Type { id, available }, fit.is_exact());
                }
            }
            offers.push(offer);
        }
        let unready = offers.is_empty().then(|| self.unready(&device.name));
        match unready.flatten().map_or_else(|| sum(offers), Offer::Taken) {
            offer @ Offer::Type { available: 1.., .. } => (offer, false),
            offer => (offer, true),
        }
    }

    /// How many more the pool's devices ([`Self::standings`] that match) make
    /// together, from what each has by itself ([`Self::room`]): functions of one GPU
    /// share what the GPU has, and the pool's `instances` bound them together with the
    /// `in_use` that it has handed out.
    pub fn free<'r>(
        &self,
        pool: &Pool,
        in_use: u32,
        rooms: impl IntoIterator<Item = (&'r Parent, Offer, bool)>,
    ) -> Fit {
        let mut boards: BTreeMap<ParentName, (Fit, Option<MdevTypeId>)> = BTreeMap::new();
        for (device, offer, exact) in rooms {
            let Offer::Type { id, available } = offer else {
                continue;
            };
            let more = match exact {
                true => Fit::Exactly(available),
                false => Fit::AtMost(available),
            };
            let board = match pool.is_of_gpus() {
                true => device.name.clone(),
                false => self.mdev.board(device),
            };
            let is_function = board != device.name;
            let (sum, of_board) = boards.entry(board).or_insert((Fit::Exactly(0), None));
            *sum = [*sum, more].into_iter().sum();
            if is_function {
                of_board.get_or_insert(id);
            }
        }
        let boards = boards.into_iter().map(|(board, (sum, shared))| {
            let shared = shared.filter(|_| sum.most() > 1);
            match shared.and_then(|id| self.left_on(&board, &id)) {
                Some(left) if left.most() <= sum.most() => left,
                _ => sum,
            }
        });
        let free: Fit = boards.sum();
        match pool.instances {
            0 => free,
            limit => free.within(limit.saturating_sub(in_use)),
        }
    }

    /// How many of a type of mediated devices a GPU of NVIDIA's takes over all its
    /// functions; None for other boards. One that says it makes any makes one.
    fn left_on(&self, board: &ParentName, id: &MdevTypeId) -> Option<Fit> {
        let number = gpu::number(id.as_str())?;
        let state = self.state(board, true)?;
        state.vgpu_type(number)?;
        Some(match more_of(&state, number) {
            Fit::Exactly(0) => Fit::Exactly(1),
            fit => fit,
        })
    }

    /// `pool` is any of NVIDIA's vGPUs: they all have the same.
    fn on_gpus(&self, pool: &Pool) -> Result<&BTreeMap<ParentName, Vec<Candidate>>, &String> {
        let sorted = self.on_gpus.get_or_init(|| {
            let mut gpus: BTreeMap<ParentName, Vec<Candidate>> = BTreeMap::new();
            for candidate in self.candidates(pool, &Source::Any)? {
                gpus.entry(self.gpu_of(&candidate))
                    .or_default()
                    .push(candidate);
            }
            Ok(gpus)
        });
        sorted.as_ref()
    }

    pub(super) fn verdict(&self, pool: &Pool, parent: &Parent) -> Verdict {
        let fields = DeviceFields {
            sysfs: self.mdev.sysfs(),
            names: self.names,
            name: &parent.name,
            path: &parent.path(),
            gpu: (pool.is_of_gpus()).then_some(GpuFields {
                nvml: Some(self),
                profile: Some(pool.device_type()),
            }),
        };
        evaluate(&pool.rules, &fields)
    }

    fn usage(&self) -> io::Result<&Usage> {
        if let Some(usage) = self.usage.get() {
            return Ok(usage);
        }
        let mut usage = Usage::default();
        for (_, name) in self.mdev.parents_in_use()? {
            let board = self.board_in_use(&mut usage, name);
            *usage.in_use.entry(board).or_insert(0) += 1;
        }
        // Their boards are compared with those of all others.
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

    /// The board of a parent that has a device. All virtual functions of that
    /// board are noted, so that they count as in use with it.
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

    fn node(&self, parent: &Parent) -> Option<NumaNode> {
        if !self.detail.nodes {
            return None;
        }
        let text = optional(
            self.mdev
                .sysfs()
                .read(&format!("{}/numa_node", parent.path())),
        );
        NumaNode::from_sysfs(&text.ok()??).ok()?
    }
}

impl HostSupply<'_> {
    /// The mdev parents. Those of a pool of NVIDIA's vGPUs are the driver's alone.
    fn parents(&self, pool: &Pool) -> Result<Vec<Candidate>, String> {
        let usage = self
            .usage()
            .map_err(|e| format!("cannot list mediated devices: {e}"))?;
        let candidate = |parent: &Parent| {
            let board = usage.boards.get(&parent.name).unwrap_or(&parent.name);
            Candidate {
                parent: parent.clone(),
                interface: Interface::Mdev,
                board: board.clone(),
                node: self.node(parent),
                in_use: usage.in_use.get(board).copied().unwrap_or(0),
            }
        };
        let parents = self.mdev.parents().iter();
        if !pool.is_of_gpus() {
            return Ok(parents.map(candidate).collect());
        }
        let bound = gpu::bound(self.mdev.sysfs()).map_err(|e| format!("cannot list GPUs: {e}"))?;
        let is_nvidias =
            |parent: &&Parent| parent.name.pci().is_some_and(|name| bound.contains(&name));
        Ok(parents.filter(is_nvidias).map(candidate).collect())
    }

    /// Every function that can become a vGPU.
    fn functions(&self) -> Result<Vec<Candidate>, String> {
        if let Some(functions) = self.functions.get() {
            return Ok(functions.clone());
        }
        let functions = self.find_functions()?;
        Ok(self.functions.get_or_init(|| functions).clone())
    }

    fn find_functions(&self) -> Result<Vec<Candidate>, String> {
        let sysfs = self.mdev.sysfs();
        let cannot = |e: io::Error| format!("cannot list virtual functions: {e}");
        let functions = vendor_vfio::all_functions(sysfs).map_err(cannot)?;
        let mut in_use: BTreeMap<PciAddress, u32> = BTreeMap::new();
        for &(function, gpu) in &functions {
            // One that cannot be read is no argument for or against its GPU.
            if let Ok(Some(_)) = vendor_vfio::current(sysfs, function) {
                *in_use.entry(gpu).or_default() += 1;
            }
        }
        let candidate = |(function, gpu): (PciAddress, PciAddress)| {
            let in_use = in_use.get(&gpu).copied().unwrap_or_default();
            self.function_of(function, gpu, in_use)
        };
        Ok(functions.into_iter().map(candidate).collect())
    }

    fn function_of(&self, function: PciAddress, gpu: PciAddress, in_use: u32) -> Candidate {
        let parent = mdev::pci_function(function);
        Candidate {
            node: self.node(&parent),
            parent,
            interface: Interface::VendorVfio(function),
            board: gpu.into(),
            in_use,
        }
    }

    /// The one function that the XML names, looked at without any other.
    fn function(&self, function: PciAddress) -> Result<Vec<Candidate>, String> {
        let gpu = vendor_vfio::gpu(self.mdev.sysfs(), function);
        let gpu = gpu.map_err(|e| format!("{function}: {e}"))?;
        let candidate = gpu.map(|gpu| self.function_of(function, gpu, 0));
        Ok(candidate.into_iter().collect())
    }

    /// What a candidate has of the pool's type, whether or not the rules take it.
    fn makes(&self, pool: &Pool, candidate: &Candidate) -> Offer {
        let offer = match candidate.interface {
            Interface::Mdev => self.mdev.offer(&candidate.parent, pool.device_type()),
            Interface::VendorVfio(function) => self.becomes(pool, function),
        };
        if pool.mixes_sizes() && !matches!(offer, Offer::Unreadable(_)) {
            return self.among_mixed(pool, candidate, offer);
        }
        offer
    }

    /// The offer of a GPU on which sizes are to be mixed: there has to be a place,
    /// and only NVML knows the places.
    fn among_mixed(&self, pool: &Pool, candidate: &Candidate, offer: Offer) -> Offer {
        let gpu = &self.gpu_of(candidate);
        let facts = match self.facts_of(gpu) {
            Ok(facts) => facts,
            Err(why) => return Offer::Unreadable(format!("sizes are mixed on {gpu}, but {why}")),
        };
        match &facts.heterogeneous {
            Told::Value(mode) if mode.enabled => {}
            Told::Value(_) => {
                return Offer::Taken(format!(
                    "{gpu} is not set to mix sizes yet; run 'virt-vgpu host apply {gpu}'"
                ));
            }
            Told::Unavailable(failure) => return Offer::Unreadable(failure.message.clone()),
        }
        let types = facts.types.value().map(Vec::as_slice).unwrap_or_default();
        let wanted = types
            .iter()
            .find(|one| pool.device_type().means_name(&one.name));
        let placements = wanted.and_then(|one| Some((&one.name, one.placements.as_ref()?)));
        let full = !matches!(offer, Offer::NoSuchType) && !self.is_spoken_for(candidate);
        match placements {
            Some((name, placements)) if full && placements.creatable.is_empty() => {
                Offer::NoRoom(no_place(name, placements))
            }
            _ => offer,
        }
    }

    /// The candidate's GPU, also where its board was not worth a look.
    fn gpu_of(&self, candidate: &Candidate) -> ParentName {
        match candidate.interface {
            Interface::Mdev => self.mdev.board(&candidate.parent),
            Interface::VendorVfio(_) => candidate.board.clone(),
        }
    }

    /// Whether the candidate itself is why it has nothing to offer.
    fn is_spoken_for(&self, candidate: &Candidate) -> bool {
        let Interface::VendorVfio(function) = candidate.interface else {
            return false;
        };
        self.claimed.contains_key(&function)
            || self.quarantined.contains_key(&function)
            || !matches!(vendor_vfio::current(self.mdev.sysfs(), function), Ok(None))
    }

    /// What a virtual function can become.
    fn becomes(&self, pool: &Pool, function: PciAddress) -> Offer {
        let sysfs = self.mdev.sysfs();
        let read = || -> io::Result<Offer> {
            if !vendor_vfio::is_function(sysfs, function) {
                return Ok(Offer::Taken("its driver makes no vGPUs of it".to_owned()));
            }
            if let Some(why) = self.quarantined.get(&function) {
                return Ok(Offer::Taken(why.clone()));
            }
            if let Some(domain) = self.claimed.get(&function) {
                return Ok(Offer::Taken(format!("domain '{domain}' has it")));
            }
            if let Some(id) = vendor_vfio::current(sysfs, function)? {
                let what = format!("has the type {id} already, and no domain of ours");
                return Ok(Offer::Taken(what));
            }
            let creatable = vendor_vfio::creatable(sysfs, function)?;
            let nothing = creatable.is_empty();
            let meant = creatable
                .into_iter()
                .find(|one| pool.device_type().means_name(&one.name));
            Ok(
                match meant.and_then(|one| one.id.to_string().parse().ok()) {
                    Some(id) => Offer::Type { id, available: 1 },
                    None if nothing => {
                        Offer::NoRoom(format!("its GPU has no room for a {}", pool.device_type()))
                    }
                    // The driver lists what can be made, not what there is.
                    None => Offer::NoRoom(format!(
                        "its GPU makes no {} now, only vGPUs of other sizes or profiles",
                        pool.device_type()
                    )),
                },
            )
        };
        read().unwrap_or_else(|error| Offer::Unreadable(error.to_string()))
    }
}

impl GpuSource for HostSupply<'_> {
    fn facts_of(&self, gpu: PciAddress) -> Option<&GpuFacts> {
        let facts = self.facts().unwrap_or_default();
        facts.iter().find(|one| one.address == gpu)
    }
}

impl Supply for HostSupply<'_> {
    fn candidates(&self, pool: &Pool, source: &Source) -> Result<Vec<Candidate>, String> {
        match (source, pool.is_of_gpus()) {
            (Source::Function(function), true) => self.function(*function),
            (Source::Functions, true) => self.functions(),
            (Source::Function(_) | Source::Functions, false) => Err(format!(
                "its placeholder is a PCI function, which a pool of kind '{}' never hands out",
                pool.kind
            )),
            (Source::Any, true) => {
                let mut candidates = self.parents(pool)?;
                candidates.extend(self.functions()?);
                Ok(candidates)
            }
            (Source::Any | Source::Mdev, _) => self.parents(pool),
        }
    }

    fn announced(&self) -> &[Announced] {
        &self.announced
    }

    fn idle(&self, pool: &Pool, source: &Source) -> Vec<Rejection> {
        let idle = self.idle_gpus(pool, source).into_iter();
        idle.map(|one| one.rejection).collect()
    }

    fn places(&self, candidate: &Candidate) -> Vec<(String, Placements)> {
        let facts = self.facts_of(&self.gpu_of(candidate)).ok();
        let types = facts.and_then(|facts| facts.types.value());
        let places = types
            .into_iter()
            .flatten()
            .filter_map(|one| Some((one.name.clone(), one.placements.clone()?)));
        places.collect()
    }

    fn gpu(&self, candidate: &Candidate) -> Option<GpuState> {
        // Types of mediated devices say how many of them a GPU holds; those of
        // functions are names only.
        let is_needed = matches!(candidate.interface, Interface::VendorVfio(_));
        let was_asked = self.facts.get().is_some();
        self.state(&self.gpu_of(candidate), is_needed || was_asked)
    }

    fn model(&self, candidate: &Candidate) -> Option<String> {
        self.model_of(&self.gpu_of(candidate))
    }

    fn model_beside(&self) -> Option<String> {
        let parent = mdev::pci_function(self.beside.clone()?);
        self.model_of(&self.mdev.board(&parent))
    }

    fn offer(&self, pool: &Pool, candidate: &Candidate) -> Option<Offer> {
        // The rules of a pool of vGPUs are about GPUs, whichever of its functions
        // makes them.
        let of_gpu;
        let subject = match pool.is_of_gpus() {
            true => {
                of_gpu = mdev::pci_function(self.mdev.board(&candidate.parent));
                &of_gpu
            }
            false => &candidate.parent,
        };
        match self.verdict(pool, subject) {
            Verdict::Match { .. } => Some(self.makes(pool, candidate)),
            Verdict::NoMatch { .. } => None,
        }
    }
}

/// The offers of all that makes vGPUs on one GPU as one.
fn sum(offers: Vec<Offer>) -> Offer {
    let mut total: Option<(MdevTypeId, u32)> = None;
    let mut no_room = None;
    for offer in offers {
        match offer {
            Offer::Type { id, available } => {
                let (_, sum) = total.get_or_insert((id, 0));
                *sum = sum.saturating_add(available);
            }
            // The word of one that could not be asked counts more than another's no.
            Offer::Unreadable(_) => no_room = Some(offer),
            Offer::NoSuchType | Offer::Taken(_) | Offer::NoRoom(_) => {
                no_room = no_room.or(Some(offer));
            }
        }
    }
    match (total, no_room) {
        (Some((id, available)), _) => Offer::Type { id, available },
        (None, Some(offer)) => offer,
        (None, None) => Offer::Taken("its driver makes no vGPUs on it".to_owned()),
    }
}
