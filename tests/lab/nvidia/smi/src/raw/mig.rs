//! GPU instances and compute instances.

use std::mem::zeroed;

use nvml_wrapper::Device;
use nvml_wrapper_sys::bindings::{
    nvmlComputeInstance_t, nvmlGpuInstance_t, nvmlGpuInstanceInfo_t, nvmlGpuInstancePlacement_t,
    nvmlGpuInstanceProfileInfo_v2_t,
};

use super::{
    Answer, Code, FUNCTION_NOT_FOUND, Gi, NOT_SUPPORTED, Raw, check, handle, text, version,
};

impl Raw<'_> {
    /// The profiles of a board.
    pub fn profiles(&self, device: &Device<'_>) -> Answer<Vec<nvmlGpuInstanceProfileInfo_v2_t>> {
        let mut profiles = Vec::new();
        for index in 0..=0x11 {
            // SAFETY: Numbers and characters.
            let mut info: nvmlGpuInstanceProfileInfo_v2_t = unsafe { zeroed() };
            info.version = version::<nvmlGpuInstanceProfileInfo_v2_t>(2);
            match call!(
                self,
                nvmlDeviceGetGpuInstanceProfileInfoV(handle(device), index, &mut info)
            ) {
                Ok(()) => profiles.push(info),
                Err(Code(NOT_SUPPORTED)) => {}
                Err(code) => return Err(code),
            }
        }
        Ok(profiles)
    }

    pub fn profile_name(profile: &nvmlGpuInstanceProfileInfo_v2_t) -> String {
        text(&profile.name)
    }

    pub fn remaining(&self, device: &Device<'_>, profile: u32) -> Answer<u32> {
        let mut number = 0;
        call!(
            self,
            nvmlDeviceGetGpuInstanceRemainingCapacity(handle(device), profile, &mut number)
        )?;
        Ok(number)
    }

    /// The GPU instances of a profile.
    pub fn gis(&self, device: &Device<'_>, profile: u32, most: u32) -> Answer<Vec<Gi>> {
        let mut handles = vec![std::ptr::null_mut(); most as usize];
        let mut count = most;
        call!(
            self,
            nvmlDeviceGetGpuInstances(handle(device), profile, handles.as_mut_ptr(), &mut count)
        )?;
        let found = handles.into_iter().take(count as usize);
        found.map(|handle| self.gi(handle)).collect()
    }

    pub fn gi_by_id(&self, device: &Device<'_>, id: u32) -> Answer<Gi> {
        let mut gi = std::ptr::null_mut();
        call!(
            self,
            nvmlDeviceGetGpuInstanceById(handle(device), id, &mut gi)
        )?;
        self.gi(gi)
    }

    fn gi(&self, handle: nvmlGpuInstance_t) -> Answer<Gi> {
        // SAFETY: Numbers and a pointer, which may be null.
        let mut info: nvmlGpuInstanceInfo_t = unsafe { zeroed() };
        call!(self, nvmlGpuInstanceGetInfo(handle, &mut info))?;
        Ok(Gi {
            handle,
            id: info.id,
            profile: info.profileId,
            start: info.placement.start,
            size: info.placement.size,
        })
    }

    /// Creates a GPU instance, at `start` if one is given.
    pub fn create_gi(&self, device: &Device<'_>, profile: u32, start: Option<u32>) -> Answer<Gi> {
        let mut gi = std::ptr::null_mut();
        let Some(start) = start else {
            call!(
                self,
                nvmlDeviceCreateGpuInstance(handle(device), profile, &mut gi)
            )?;
            return self.gi(gi);
        };
        let mut places = [nvmlGpuInstancePlacement_t { start: 0, size: 0 }; 32];
        let mut count = 0;
        call!(
            self,
            nvmlDeviceGetGpuInstancePossiblePlacements_v2(
                handle(device),
                profile,
                places.as_mut_ptr(),
                &mut count
            )
        )?;
        let size = places[0].size;
        let place = nvmlGpuInstancePlacement_t { start, size };
        call!(
            self,
            nvmlDeviceCreateGpuInstanceWithPlacement(handle(device), profile, &place, &mut gi)
        )?;
        self.gi(gi)
    }

    pub fn destroy_gi(&self, gi: Gi) -> Answer<()> {
        call!(self, nvmlGpuInstanceDestroy(gi.handle))
    }

    /// Indices of compute instance profiles that a GPU instance has, with their slices.
    pub fn compute_profiles(&self, gi: Gi) -> Answer<Vec<(u32, u32)>> {
        let mut profiles = Vec::new();
        for index in 0..=7 {
            // SAFETY: Numbers.
            let mut info = unsafe { zeroed() };
            match call!(
                self,
                nvmlGpuInstanceGetComputeInstanceProfileInfo(gi.handle, index, 0, &mut info)
            ) {
                Ok(()) => profiles.push((info.id, info.sliceCount)),
                Err(Code(NOT_SUPPORTED)) => {}
                Err(code) => return Err(code),
            }
        }
        Ok(profiles)
    }

    pub fn create_ci(&self, gi: Gi, profile: u32) -> Answer<u32> {
        let mut ci = std::ptr::null_mut();
        call!(
            self,
            nvmlGpuInstanceCreateComputeInstance(gi.handle, profile, &mut ci)
        )?;
        self.ci_id(ci)
    }

    pub fn cis(&self, gi: Gi, profile: u32) -> Answer<Vec<nvmlComputeInstance_t>> {
        let mut handles = vec![std::ptr::null_mut(); 8];
        let mut count = 8;
        call!(
            self,
            nvmlGpuInstanceGetComputeInstances(
                gi.handle,
                profile,
                handles.as_mut_ptr(),
                &mut count
            )
        )?;
        handles.truncate(count as usize);
        Ok(handles)
    }

    pub fn ci_id(&self, ci: nvmlComputeInstance_t) -> Answer<u32> {
        // SAFETY: Numbers and pointers, which may be null.
        let mut info = unsafe { zeroed() };
        call!(self, nvmlComputeInstanceGetInfo_v2(ci, &mut info))?;
        Ok(info.id)
    }

    pub fn ci_by_id(&self, gi: Gi, id: u32) -> Answer<nvmlComputeInstance_t> {
        let mut ci = std::ptr::null_mut();
        call!(
            self,
            nvmlGpuInstanceGetComputeInstanceById(gi.handle, id, &mut ci)
        )?;
        Ok(ci)
    }

    pub fn destroy_ci(&self, ci: nvmlComputeInstance_t) -> Answer<()> {
        call!(self, nvmlComputeInstanceDestroy(ci))
    }
}
