//! The commands about a GPU.

use lab_nvidia_smi::raw::{
    self, ARR_ON, Code, Gi, NOT_SUPPORTED, Raw, SchedulerParameters, VgpuNumber, VgpuText,
};
use nvml_wrapper::Device;

use crate::answer::{Answer, Failure};

/// `NVML_INVALID_VGPU_PLACEMENT_ID`
const NO_PLACEMENT: u32 = 0xffff;
const NO_GI: u32 = u32::MAX;

/// The GPU during one command.
pub struct Gpu<'a> {
    pub raw: Raw<'a>,
    pub device: Device<'a>,
}

fn lines<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

fn switch(number: u32) -> Result<bool, Failure> {
    match number {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Failure::Words),
    }
}

fn parameters([arr, factor, frequency, slice]: [u32; 4]) -> Result<SchedulerParameters, Failure> {
    match (arr, factor, frequency, slice) {
        (ARR_ON, _, _, 0) => Ok(SchedulerParameters::Average { factor, frequency }),
        (0..ARR_ON, 0, 0, _) => Ok(SchedulerParameters::TimeSlice(slice)),
        _ => Err(Failure::Inexpressible),
    }
}

/// None if NVML reports that the feature does not exist.
fn supported<T>(answer: raw::Answer<T>) -> raw::Answer<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(Code(NOT_SUPPORTED)) => Ok(None),
        Err(code) => Err(code),
    }
}

impl Gpu<'_> {
    /// A command, and the words after the address.
    pub fn perform(&self, command: &str, words: &[u32]) -> Answer {
        let (raw, device) = (&self.raw, &self.device);
        let done = |()| Vec::new();
        match (command, words) {
            ("creatable", []) => {
                let types = device.vgpu_creatable_types()?;
                Ok(lines(types.iter().map(|vgpu_type| vgpu_type.id())))
            }
            ("placements", &[kind]) => Ok(lines(raw.creatable_placements(device, kind)?.ids)),
            ("gi-placements", &[gi, kind]) => {
                let gi = self.gi(gi)?;
                Ok(lines(raw.gi_creatable_placements(gi, kind)?.ids))
            }
            ("hetero", &[on]) => Ok(raw.set_heterogeneous(device, switch(on)?).map(done)?),
            ("gi-hetero", &[gi, on]) => {
                let gi = self.gi(gi)?;
                Ok(raw.set_gi_heterogeneous(gi, switch(on)?).map(done)?)
            }
            ("mig", &[on]) => Ok(lines([device.set_mig_mode(switch(on)?)?])),
            ("gi-create", &[profile]) => Ok(lines([raw.create_gi(device, profile, None)?.id])),
            ("gi-create", &[profile, start]) => {
                Ok(lines([raw.create_gi(device, profile, Some(start))?.id]))
            }
            ("gi-destroy", &[gi]) => Ok(raw.destroy_gi(self.gi(gi)?).map(done)?),
            ("ci-create", &[gi, slices]) => {
                let gi = self.gi(gi)?;
                let mut profiles = raw.compute_profiles(gi)?.into_iter();
                let profile = profiles.find(|(_, count)| *count == slices);
                let (profile, _) = profile.ok_or(Failure::Words)?;
                Ok(lines([raw.create_ci(gi, profile)?]))
            }
            ("ci-destroy", &[gi, ci]) => {
                let ci = raw.ci_by_id(self.gi(gi)?, ci)?;
                Ok(raw.destroy_ci(ci).map(done)?)
            }
            ("scheduler", &[policy, arr, factor, frequency, slice]) => {
                let parameters = parameters([arr, factor, frequency, slice])?;
                let set = raw.set_scheduler(device, policy, arr, parameters);
                Ok(set.map(done)?)
            }
            ("gi-scheduler", &[gi, policy, arr, factor, frequency, slice]) => {
                let gi = self.gi(gi)?;
                let parameters = parameters([arr, factor, frequency, slice])?;
                let set = raw.set_gi_scheduler(gi, policy, arr, parameters);
                Ok(set.map(done)?)
            }
            ("state", []) => Ok(self.state()?),
            _ => Err(Failure::Words),
        }
    }

    fn gi(&self, id: u32) -> raw::Answer<Gi> {
        self.raw.gi_by_id(&self.device, id)
    }

    fn state(&self) -> raw::Answer<Vec<String>> {
        let raw = &self.raw;
        let mut lines = Vec::new();
        let mig = supported(raw.mig_mode(&self.device))?;
        if let Some((current, pending)) = mig {
            lines.push(format!("mig {} {}", u8::from(current), u8::from(pending)));
        }
        if let Some(on) = supported(raw.heterogeneous(&self.device))? {
            lines.push(format!("hetero {}", u8::from(on)));
        }
        if let Some([policy, arr, factor, slice]) = supported(raw.scheduler(&self.device))? {
            lines.push(format!("scheduler {policy} {arr} {factor} - {slice}"));
        }
        if mig.is_some_and(|(current, _)| current) {
            let gis = self.gis()?;
            for gi in &gis {
                if let Some([policy, arr, factor, slice]) = supported(raw.gi_scheduler(*gi))? {
                    let id = gi.id;
                    lines.push(format!(
                        "gi-scheduler {id} {policy} {arr} {factor} - {slice}"
                    ));
                }
            }
            for gi in &gis {
                lines.push(self.gi_line(*gi)?);
            }
            for gi in &gis {
                lines.extend(self.ci_lines(*gi)?);
            }
        }
        for id in self.device.active_vgpus()? {
            lines.push(self.vgpu_line(id)?);
        }
        Ok(lines)
    }

    /// By id.
    fn gis(&self) -> raw::Answer<Vec<Gi>> {
        let mut gis = Vec::new();
        for profile in self.raw.profiles(&self.device)? {
            let most = profile.instanceCount;
            gis.extend(self.raw.gis(&self.device, profile.id, most)?);
        }
        gis.sort_by_key(|gi| gi.id);
        Ok(gis)
    }

    fn gi_line(&self, gi: Gi) -> raw::Answer<String> {
        let hetero = supported(self.raw.gi_heterogeneous(gi))?;
        let hetero = hetero.map_or("-", |on| if on { "1" } else { "0" });
        let Gi {
            id,
            profile,
            start,
            size,
            ..
        } = gi;
        Ok(format!("gi {id} {profile} {start} {size} {hetero}"))
    }

    /// By id.
    fn ci_lines(&self, gi: Gi) -> raw::Answer<Vec<String>> {
        let mut cis = Vec::new();
        for (profile, slices) in self.raw.compute_profiles(gi)? {
            for ci in self.raw.cis(gi, profile)? {
                cis.push((self.raw.ci_id(ci)?, slices));
            }
        }
        cis.sort_unstable();
        let line = |(id, slices): &(u32, u32)| format!("ci {} {id} {slices}", gi.id);
        Ok(cis.iter().map(line).collect())
    }

    fn vgpu_line(&self, id: u32) -> raw::Answer<String> {
        let raw = &self.raw;
        let or_none = |number: u32, none: u32| {
            if number == none {
                "-".to_owned()
            } else {
                number.to_string()
            }
        };
        let mdev = supported(raw.vgpu_text(VgpuText::Mdev, id))?;
        let vm = raw.vgpu_text(VgpuText::Vm, id)?;
        Ok([
            "vgpu".to_owned(),
            id.to_string(),
            raw.vgpu_number(VgpuNumber::Type, id)?.to_string(),
            or_none(raw.vgpu_placement(id)?, NO_PLACEMENT),
            or_none(raw.vgpu_number(VgpuNumber::Gi, id)?, NO_GI),
            // Its bus id is the guest's.
            "-".to_owned(),
            mdev.unwrap_or("-".to_owned()),
            "open".to_owned(),
            if vm.is_empty() { "-".to_owned() } else { vm },
            "-".to_owned(),
        ]
        .join(" "))
    }
}
