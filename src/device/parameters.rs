//! The parameters that NVIDIA's driver accepts for a vGPU: one attribute,
//! `vgpu_params`, which takes all of them in one write before a VM opens the vGPU.

/// The parameters of one vGPU; what is None is left to the driver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Frames per second; 0 switches the limiter off. The driver accepts no other
    /// number than its type's.
    pub frame_rate_limit: Option<u32>,
    /// Whether the display is shown to VNC consoles.
    pub console_vnc: Option<bool>,
    /// Whether CUDA's unified memory is on.
    pub unified_memory: Option<bool>,
    /// Whether CUDA debuggers may be used.
    pub debuggers: Option<bool>,
    /// Whether CUDA profilers may be used.
    pub profilers: Option<bool>,
}

impl Parameters {
    /// The attribute's text, without its newline; None when no parameter is set.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let number = |name: &str, on: bool| format!("{name}={}", u8::from(on));
        let parts: Vec<String> = [
            self.frame_rate_limit
                .map(|limit| number("frame_rate_limiter", limit != 0)),
            self.console_vnc.map(|shown| number("disable_vnc", !shown)),
            self.unified_memory.map(|on| number("enable_uvm", on)),
            self.debuggers.map(|on| number("enable_debugging", on)),
            self.profilers.map(|on| number("enable_profiling", on)),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!parts.is_empty()).then(|| parts.join(","))
    }

    /// The parameters that make it impossible to save or migrate a VM, by their names
    /// in pools and requests.
    #[must_use]
    pub fn against_migration(&self) -> Vec<&'static str> {
        let all = [
            ("unified-memory", self.unified_memory),
            ("debuggers", self.debuggers),
            ("profilers", self.profilers),
        ];
        let on = all.into_iter().filter(|(_, value)| *value == Some(true));
        on.map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_written() {
        let none = Parameters::default();
        assert_eq!(none.text(), None);
        let some = Parameters {
            frame_rate_limit: Some(0),
            console_vnc: Some(false),
            ..none
        };
        let text = "frame_rate_limiter=0,disable_vnc=1";
        assert_eq!(some.text().as_deref(), Some(text));
        assert!(some.against_migration().is_empty());
        let all = Parameters {
            frame_rate_limit: Some(60),
            console_vnc: Some(true),
            unified_memory: Some(true),
            debuggers: Some(false),
            profilers: Some(true),
        };
        let text =
            "frame_rate_limiter=1,disable_vnc=0,enable_uvm=1,enable_debugging=0,enable_profiling=1";
        assert_eq!(all.text().as_deref(), Some(text));
        assert_eq!(all.against_migration(), ["unified-memory", "profilers"]);
    }
}
