//! A GPU instance that the start of a VM needs, for pools with `mode = "on-demand"`. It is made
//! under the locks of `host apply`, and noted like those that are made ahead. What the pools of
//! the GPU want ahead keeps its place, and so does what is in use.

use super::{
    instances::{self, MigState, Needs, NotTold},
    mig_plan::add_settings,
    sriov::{Alone, NotDone},
    state,
    steps::{NamedPlace, SetupPlan, SetupStep},
    survey::Survey,
    users,
    wanted::{MigPool, WantedMig},
    work::{change_for_start, write_note},
};
use crate::{
    capacity::mig::{Instance, InstanceNeed, Layout},
    device::{
        nvml::{InstancePlace, Question},
        our_instances,
    },
    host::{Deadline, DeviceLock, Host, LockError, boot_id},
    model::{PciAddress, PoolName, pools_in_words},
};

/// A GPU instance that a start needs.
#[derive(Debug, Clone, Copy)]
pub struct Demanded<'a> {
    /// The GPU.
    pub gpu: PciAddress,
    /// The pool whose vGPUs it is for.
    pub pool: &'a PoolName,
    /// For whom, in messages to those who wait meanwhile.
    pub purpose: &'a str,
    /// The end of the time for this.
    pub deadline: Deadline,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// It is there: `1g.24gb at memory slots 0-2`.
    Instance(String),
    /// Another start was faster, and has left room.
    NotNeeded,
}

/// Why there is no GPU instance.
#[derive(Debug)]
pub enum NotMade {
    /// Others have NVIDIA's driver for themselves.
    Busy(LockError),
    /// It does not fit, or the driver refuses it; a clause with the next step.
    Refused(String),
}

impl From<LockError> for NotMade {
    fn from(error: LockError) -> Self {
        Self::Busy(error)
    }
}

impl From<NotDone> for NotMade {
    fn from(why: NotDone) -> Self {
        Self::Refused(why.why())
    }
}

/// Makes a GPU instance. `is_needed` is asked under the locks: another start may have made one
/// meanwhile.
///
/// # Errors
/// Why there is none; everything is then as before, or noted for the next run of `host apply`.
pub fn make_instance<E>(
    host: &Host,
    wanted: Demanded<'_>,
    is_needed: impl FnOnce() -> Result<bool, E>,
) -> Result<Result<Made, NotMade>, E> {
    let Demanded {
        purpose, deadline, ..
    } = wanted;
    let alone = match Alone::for_start(host, purpose, deadline) {
        Ok(alone) => alone,
        Err(error) => return Ok(Err(error.into())),
    };
    if !is_needed()? {
        return Ok(Ok(Made::NotNeeded));
    }
    Ok(make(host, wanted, &alone).map(Made::Instance))
}

fn make(host: &Host, wanted: Demanded<'_>, alone: &Alone) -> Result<String, NotMade> {
    let Demanded { gpu, pool, .. } = wanted;
    let survey = Survey::read(host).map_err(refused)?;
    let pools = mig_pools(&survey, gpu)?;
    let mig = look(host, gpu)?;
    if !mig.on {
        return Err(NotMade::Refused(format!(
            "MIG mode is off; 'virt-vgpu host apply {gpu}' switches it on"
        )));
    }
    let needs = mig.needs(pools).map_err(NotMade::Refused)?;
    let room = room_for_one(&mig, &needs, pool)?;
    // No start plans a vGPU in what goes, between the look at its users and its end.
    let _gpu = match room.gone.is_empty() {
        true => None,
        false => {
            let Demanded {
                purpose, deadline, ..
            } = wanted;
            Some(DeviceLock::acquire(host, &gpu.into(), purpose, deadline)?)
        }
    };
    for gone in &room.gone {
        let step = SetupStep::DestroyInstance(gone.clone());
        let place = gone.place;
        change_for_start(
            host,
            gpu,
            &step,
            Some(&Question::CreateInstance { gpu, place }),
            alone,
        )?;
    }
    let place = room.new.place;
    let undo = Question::DestroyInstance { gpu, place };
    let step = SetupStep::CreateInstance(room.new.clone());
    let made = change_for_start(host, gpu, &step, Some(&undo), alone);
    made.map_err(|(NotDone::Refused(why) | NotDone::Failed(why))| {
        NotMade::Refused(format!("GPU instance {} was not made: {why}", room.new))
    })?;
    let done = set(host, gpu, (pools, pool), place, alone);
    if let Err(why) = done {
        // What stays is noted as ours, and the next run of 'host apply' destroys it.
        let _ = change_for_start(
            host,
            gpu,
            &SetupStep::DestroyInstance(room.new),
            None,
            alone,
        );
        return Err(why);
    }
    Ok(room.new.to_string())
}

fn refused(error: anyhow::Error) -> NotMade {
    NotMade::Refused(format!("{error:#}"))
}

/// The pools of the GPU for which GPU instances are made.
fn mig_pools(survey: &Survey, gpu: PciAddress) -> Result<&[MigPool], NotMade> {
    let known = survey.gpus.iter().find(|known| known.gpu == gpu);
    match known.map(|known| &known.wanted) {
        Some(Ok(Some(wanted))) => match &wanted.mig {
            WantedMig::On(pools) => Ok(pools),
            WantedMig::Off | WantedMig::ByOthers => Err(NotMade::Refused(
                "its pools have changed a moment ago; start the VM again".to_owned(),
            )),
        },
        Some(Err(conflict)) => Err(NotMade::Refused(conflict.to_string())),
        Some(Ok(None)) | None => Err(NotMade::Refused(
            "no pool takes the GPU any more; start the VM again".to_owned(),
        )),
    }
}

fn look(host: &Host, gpu: PciAddress) -> Result<MigState, NotMade> {
    let users = users::users(host, gpu).map_err(refused)?;
    let told = instances::read(host, gpu, &state::facts(host, gpu), &users);
    told.map_err(|why| {
        NotMade::Refused(match why {
            NotTold::NoMig => "it has no MIG".to_owned(),
            NotTold::Note(why) => why,
            NotTold::Other(why) => format!("its GPU instances cannot be told: {why}"),
        })
    })
}

/// Sets the new GPU instance as its pools want it, and notes it.
fn set(
    host: &Host,
    gpu: PciAddress,
    (pools, pool): (&[MigPool], &PoolName),
    place: InstancePlace,
    alone: &Alone,
) -> Result<(), NotMade> {
    let mut mig = look(host, gpu)?;
    let needs = mig.needs(pools).map_err(NotMade::Refused)?;
    let its = needs
        .instances
        .iter()
        .find(|need| need.pools.contains(pool));
    if let Some(its) = its {
        mig.made_for(place, &its.pools);
    }
    let note = mig.note(&needs.instances, pools, boot_id(host));
    let its = note.used.iter().find(|used| used.place == place);
    let its = its.filter(|its| its.pools.contains(pool));
    let Some(its) = its else {
        return Err(NotMade::Refused(format!(
            "the driver has not made the GPU instance that was asked for; 'virt-vgpu host show \
             {gpu}' shows those that there are"
        )));
    };
    let need = needs.instances.iter().find(|need| need.pools == its.pools);
    let is = mig.told_at(place);
    let mut plan = SetupPlan::default();
    if let (Some(is), Some(need)) = (is, need) {
        add_settings(&mut plan, &mig, &is, need);
    }
    if let Some(why) = plan.obstacles.into_iter().chain(plan.pending).next() {
        return Err(NotMade::Refused(why));
    }
    for planned in &plan.steps {
        // It goes back by the GPU instance.
        change_for_start(host, gpu, &planned.step, None, alone)?;
    }
    write_note(host, gpu, &note).map_err(NotMade::from)
}

/// Where one more GPU instance is made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Room {
    new: NamedPlace,
    /// Idle ones that go for it.
    gone: Vec<NamedPlace>,
}

/// The place for one more GPU instance of the pool. As few as possible of those go that starts
/// have made and that nobody uses any more.
fn room_for_one(mig: &MigState, needs: &Needs, pool: &PoolName) -> Result<Room, NotMade> {
    let its = needs
        .instances
        .iter()
        .find(|need| need.pools.contains(pool));
    let its = its
        .ok_or_else(|| NotMade::Refused(format!("pool '{pool}' does not take the GPU any more")))?;
    let idle = mig.idle_and_demanded();
    let mut first_refusal = None;
    for going in 0..=idle.len() {
        let goes = |one: &Instance| idle.iter().take(going).any(|other| other.id == one.id);
        match with_one_more(mig, needs, its, goes) {
            Ok(room) => return Ok(room),
            Err(why) => {
                first_refusal.get_or_insert(why);
            }
        }
    }
    Err(NotMade::Refused(first_refusal.unwrap_or_default()))
}

fn with_one_more(
    mig: &MigState,
    needs: &Needs,
    its: &InstanceNeed,
    goes: impl Fn(&Instance) -> bool,
) -> Result<Room, String> {
    let (wanted, of_needs) = mig.with_those_there(needs, its, &goes);
    let stays = |one: &Instance| {
        let mut one = one.clone();
        if goes(&one) {
            return one;
        }
        if !of_needs.contains(&one.id.number()) {
            // It takes space, and is none of those that are needed: its vGPUs are of another size.
            (one.ours, one.has_vgpus) = (false, false);
        } else if one.is_idle_and_ours() {
            one.users.push(match mig.pools_at(one.id) {
                [] => "virt-vgpu".to_owned(),
                pools => pools_in_words(pools),
            });
        }
        one
    };
    let existing: Vec<Instance> = mig.instances.iter().map(stays).collect();
    let layout = Layout::plan(&mig.board, &existing, &wanted);
    let layout = layout.map_err(|refused| {
        let name = mig.board.name(its.profile);
        format!("one more GPU instance {name} does not fit: {refused}")
    })?;
    let mut new = layout
        .created
        .iter()
        .filter(|new| new.profile == its.profile);
    let new = new.next().ok_or("nothing is to be made")?;
    Ok(Room {
        new: NamedPlace::of(&mig.board, new.profile, new.slots),
        gone: layout
            .destroyed
            .iter()
            .map(|gone| NamedPlace::of(&mig.board, gone.instance.profile, gone.instance.slots))
            .collect(),
    })
}

/// Notes that the start has ended for which GPU instances were made on the GPU: they go as soon as
/// nobody uses them. What cannot be noted counts as being used for half a minute.
pub fn start_has_ended(host: &Host, gpu: PciAddress, purpose: &str, deadline: Deadline) {
    const AT_ONCE: u64 = 0;
    let Ok(_alone) = Alone::for_start(host, purpose, deadline) else {
        return;
    };
    let Ok(mut note) = our_instances::read(host, gpu) else {
        return;
    };
    let made = note
        .used
        .iter_mut()
        .filter_map(|used| used.demanded.as_mut());
    let mut has_changed = false;
    for made in made.filter(|made| **made != AT_ONCE) {
        *made = AT_ONCE;
        has_changed = true;
    }
    if has_changed {
        let _ = write_note(host, gpu, &note);
    }
}

/// Forgets noted GPU instances that are not there any more. Whether there were some: the driver
/// refuses vGPUs in them.
pub fn forget_lost_instances(
    host: &Host,
    gpu: PciAddress,
    purpose: &str,
    deadline: Deadline,
) -> bool {
    let Ok(_alone) = Alone::for_start(host, purpose, deadline) else {
        return false;
    };
    let (Ok(mut note), Ok(facts)) = (our_instances::read(host, gpu), state::facts(host, gpu))
    else {
        return false;
    };
    let Some(told) = facts.instances.value() else {
        return false;
    };
    let is_there = |place: InstancePlace| told.instances.iter().any(|one| one.place() == place);
    let before = note.used.len();
    note.used.retain(|used| is_there(used.place));
    note.made.retain(|place| is_there(*place));
    note.used.len() < before && write_note(host, gpu, &note).is_ok()
}
