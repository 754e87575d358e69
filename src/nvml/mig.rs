//! MIG mode and GPU instances. Instances last until `sriov-manage` runs, the driver is loaded
//! again or the host reboots; the mode may last longer, depending on the GPU's generation.

use std::{thread::sleep, time::Duration};

use nvml_wrapper::{Device, Nvml};
use virt_vgpu_nvml_raw as raw;

use super::{
    failure::{Call, reading},
    find, scheduler,
};
use crate::{
    device::nvml::{
        Engines, Failure, FailureKind, GpuInstance, InstanceFacts, InstancePlace, InstanceProfile,
    },
    model::PciAddress,
};

/// `NVML_GPU_INSTANCE_PROFILE_CAPS_GFX`
const GRAPHICS: u32 = 2;

/// Whether the mode is on now, and whether it will be.
pub(super) fn mode(device: &Device<'_>, gpu: PciAddress) -> Result<(bool, bool), Failure> {
    let mode = device.mig_mode();
    let mode = mode.map_err(|error| reading(device, gpu, "MIG mode").failed(error))?;
    Ok((mode.current != 0, mode.pending != 0))
}

/// Profiles and instances of a GPU that has MIG.
pub(super) fn read(device: &Device<'_>, gpu: PciAddress) -> Result<InstanceFacts, Failure> {
    let (on, pending) = mode(device, gpu)?;
    let call = reading(device, gpu, "GPU instance profiles");
    let found = raw::instance_profiles(device).map_err(|error| call.failed(error))?;
    let mut profiles = Vec::new();
    let mut instances = Vec::new();
    for profile in found {
        profiles.push(with_places(device, gpu, &profile)?);
        if on {
            instances.extend(instances_of(device, gpu, &profile)?);
        }
    }
    profiles.sort_by_key(|profile| profile.id);
    instances.sort_by_key(|instance: &GpuInstance| instance.id);
    Ok(InstanceFacts {
        pending,
        profiles,
        instances,
    })
}

fn with_places(
    device: &Device<'_>,
    gpu: PciAddress,
    profile: &raw::InstanceProfile,
) -> Result<InstanceProfile, Failure> {
    let id = profile.id;
    let call = reading(device, gpu, &format!("places of GPU instance profile {id}"));
    let places = raw::instance_placements(device, id).map_err(|error| call.failed(error))?;
    let size = places.first().map_or(0, |(_, size)| *size);
    if places.iter().any(|(_, other)| *other != size) {
        let why = "the driver gives it places of several sizes";
        return Err(call.failure(FailureKind::Other, why));
    }
    let mut starts: Vec<u32> = places.iter().map(|(start, _)| *start).collect();
    starts.sort_unstable();
    starts.dedup();
    let name = profile.name.as_deref();
    Ok(InstanceProfile {
        id,
        name: name.map(|name| name.trim_start_matches("MIG ").to_owned()),
        compute_slices: profile.slices,
        most: profile.most,
        memory_mib: profile.memory_mib,
        size,
        starts,
        graphics: profile.capabilities.map(|known| known & GRAPHICS != 0),
        engines: Engines {
            decoders: profile.decoders,
            encoders: profile.encoders,
            jpeg: profile.jpeg,
            optical_flow: profile.optical_flow,
        },
    })
}

fn instances_of(
    device: &Device<'_>,
    gpu: PciAddress,
    profile: &raw::InstanceProfile,
) -> Result<Vec<GpuInstance>, Failure> {
    let call = reading(device, gpu, "GPU instances");
    let found = raw::instances(device, profile.id, profile.most);
    let found = found.map_err(|error| call.failed(error))?;
    let with_compute = |one: raw::Instance| {
        let compute = raw::compute_instances(device, one.id);
        Ok(GpuInstance {
            id: one.id,
            profile: one.profile,
            start: one.start,
            size: one.size,
            compute_instances: compute.map_err(|error| call.failed(error))?,
            // Most GPUs and older drivers have neither.
            heterogeneous: raw::instance_heterogeneous(device, one.id).ok(),
            scheduler: scheduler::of_instance(device, one.id),
        })
    };
    found.into_iter().map(with_compute).collect()
}

/// Switches the mode. That it has to wait is a failure, of its own kind.
pub(super) fn set(nvml: &Nvml, gpu: PciAddress, on: bool) -> Result<(), Failure> {
    /// The driver may detach the GPU from itself and attach it again.
    const TRIES: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(200);
    let word = if on { "on" } else { "off" };
    let call = Call::new(nvml, format!("switch MIG mode of {gpu} {word}"));
    let device = find(nvml, gpu)?;
    if mode(&device, gpu)? == (on, on) {
        return Ok(());
    }
    let status = raw::set_mig(&device, on).map_err(|error| call.failed(error))?;
    let mut tries = 0;
    let (is_on, will_be) = loop {
        match find(nvml, gpu).and_then(|device| mode(&device, gpu)) {
            Err(failure) if failure.kind == FailureKind::NoGpu && tries < TRIES => {
                tries += 1;
                sleep(PAUSE);
            }
            read => break read?,
        }
    };
    match (is_on == on, will_be == on) {
        (true, true) => Ok(()),
        (false, true) => {
            let why = match status {
                0 => "the driver does not say why".to_owned(),
                code => raw::describe(nvml, code).unwrap_or_else(|| format!("NVML's code {code}")),
            };
            let why = format!("it is pending: {why}");
            Err(call.failure(FailureKind::Pending, why))
        }
        _ => Err(call.failure(
            FailureKind::Other,
            "the driver says that it is done, but the mode has not changed",
        )),
    }
}

/// Creates a GPU instance at that place.
pub(super) fn create(
    device: &Device<'_>,
    gpu: PciAddress,
    place: InstancePlace,
) -> Result<(), Failure> {
    let call = Call::new(
        device.nvml(),
        format!("create a GPU instance of {gpu}: {place}"),
    );
    let slots = (place.start, place.size);
    let made = raw::create_instance(device, place.profile, slots);
    let made = made.map_err(|error| call.failed(error))?;
    if (made.profile, made.start, made.size) == (place.profile, place.start, place.size) {
        return Ok(());
    }
    let back = raw::destroy_instance(device, made.id);
    let back = match back {
        Ok(()) => "it was destroyed again".to_owned(),
        Err(error) => call.failed(error).message,
    };
    let (profile, start) = (made.profile, made.start);
    let why = format!("the driver made one of profile {profile} from slot {start}; {back}");
    Err(call.failure(FailureKind::Other, why))
}

/// Destroys the GPU instance that is at that place, with its compute instances. Its id could
/// be another one's by now. That there is none is no failure.
pub(super) fn destroy(
    device: &Device<'_>,
    gpu: PciAddress,
    place: InstancePlace,
) -> Result<(), Failure> {
    let call = Call::new(
        device.nvml(),
        format!("destroy the GPU instance of {gpu}: {place}"),
    );
    let Some(instance) = at(device, gpu, place)? else {
        return Ok(());
    };
    let done = raw::destroy_compute_instances(device, instance.id)
        .and_then(|()| raw::destroy_instance(device, instance.id));
    done.map_err(|error| call.failed(error))
}

/// The GPU instance at that place. Its settings need one.
pub(super) fn existing(
    device: &Device<'_>,
    gpu: PciAddress,
    place: InstancePlace,
    call: &Call<'_>,
) -> Result<GpuInstance, Failure> {
    at(device, gpu, place)?
        .ok_or_else(|| call.failure(FailureKind::Other, "there is no such GPU instance"))
}

fn at(
    device: &Device<'_>,
    gpu: PciAddress,
    place: InstancePlace,
) -> Result<Option<GpuInstance>, Failure> {
    let mut instances = read(device, gpu)?.instances.into_iter();
    Ok(instances.find(|one| one.profile == place.profile && one.start == place.start))
}
