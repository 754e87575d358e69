//! The GPU's state as text: the answer to `gpu ADDRESS` of `/dev/nvidiactl`.

use std::fmt::Write as _;

use super::{Gpu, Parent, Vgpu};

impl Gpu {
    /// The state, a line each.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        _ = self.describe_to(&mut text);
        text
    }

    fn describe_to(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "model {}", self.board.model)?;
        writeln!(text, "framework {}", self.framework())?;
        writeln!(text, "node {}", self.node)?;
        writeln!(text, "vfs {}", self.vfs.len())?;
        writeln!(text, "loaded {}", u8::from(self.loaded))?;
        let (current, pending) = (u8::from(self.mig.current), u8::from(self.mig.pending));
        writeln!(text, "mig {current} {pending}")?;
        writeln!(text, "hetero {}", u8::from(self.hetero))?;
        writeln!(text, "scheduler {}", self.scheduler)?;
        for (id, gi) in &self.gis {
            let profile = self.board.gi_profile(gi.profile);
            let size = profile.map_or(0, |profile| profile.memory_slots);
            let hetero = u8::from(gi.hetero);
            writeln!(text, "gi {id} {} {} {size} {hetero}", gi.profile, gi.start)?;
        }
        for (id, gi) in &self.gis {
            if self.board.features.mig_timeslicing {
                writeln!(text, "gi-scheduler {id} {}", gi.scheduler)?;
            }
        }
        for (id, gi) in &self.gis {
            for (ci, slices) in &gi.compute {
                writeln!(text, "ci {id} {ci} {slices}")?;
            }
        }
        for vgpu in &self.vgpus {
            writeln!(text, "{}", self.vgpu_line(vgpu))?;
            let guest = vgpu.opener.as_ref().and_then(|one| one.guest.as_ref());
            if let Some(guest) = guest {
                writeln!(text, "guest {} {guest}", vgpu.id)?;
            }
        }
        for one in &self.forgotten {
            let parent = self.parent_address(one.parent);
            let uuid = one.uuid.as_deref().unwrap_or("-");
            writeln!(text, "forgotten {} {parent} {uuid}", one.kind.id)?;
        }
        Ok(())
    }

    fn parent_address(&self, parent: Parent) -> String {
        match parent {
            Parent::Pf => self.address.clone(),
            Parent::Vf(number) => self.vf_address(number),
        }
    }

    fn vgpu_line(&self, vgpu: &Vgpu) -> String {
        fn or_none<T: ToString>(value: Option<T>) -> String {
            value.map_or("-".to_owned(), |value| value.to_string())
        }
        let vm = vgpu.opener.as_ref().map(|opener| &opener.vm);
        [
            "vgpu".to_owned(),
            vgpu.id.to_string(),
            vgpu.kind.id.to_string(),
            or_none(self.shown_placement(vgpu)),
            or_none(vgpu.gi),
            self.parent_address(vgpu.parent),
            or_none(vgpu.uuid.as_ref()),
            or_none(vm.map(|vm| vm.pid)),
            or_none(vm.and_then(|vm| vm.uuid.as_ref())),
            or_none(vm.and_then(|vm| vm.name.as_ref())),
        ]
        .join(" ")
    }
}
