//! The vGPU scheduler as an option of NVIDIA's kernel module, for drivers that accept
//! it only when they are loaded: the value of the registry key `RmPVMRL` (open GPU
//! kernel modules, `nvrm_registry.h`), and the modprobe file that gives each GPU its
//! own value (`NVreg_RegistryDwordsPerDevice`, `nv-reg.h`).

use std::{collections::BTreeMap, fmt::Write as _};

use super::nvml::{Scheduler, SchedulerPolicy};
use crate::model::PciAddress;

/// The path of the file.
pub const FILE: &str = "/etc/modprobe.d/virt-vgpu.conf";

/// The file in which the driver shows the options that it was loaded with.
pub const LOADED: &str = "/proc/driver/nvidia/params";

/// Its first line. A file with another first line is not ours and is not changed.
const MARK: &str = "# Written by 'virt-vgpu host apply', and only by it: edit pool files instead.";

const OPTION: &str = "options nvidia NVreg_RegistryDwordsPerDevice=";

/// The value of `RmPVMRL` for each GPU that needs one.
pub type Options = BTreeMap<PciAddress, u32>;

/// The value for a scheduler.
///
/// # Errors
/// A setting that the value has no bits for.
pub fn encode(scheduler: &Scheduler) -> Result<u32, String> {
    const PER_VM: u32 = 1;
    const NOT_STRICT: u32 = 1 << 1;
    const FIXED: u32 = 1 << 4;
    const FREQUENCY: u32 = 12;
    const TIME_SLICE: u32 = 16;
    const AVERAGING_FACTOR: u32 = 24;
    const NS_PER_MS: u32 = 1_000_000;
    let policy = match scheduler.policy {
        SchedulerPolicy::BestEffort => return Ok(0),
        SchedulerPolicy::EqualShare => PER_VM,
        SchedulerPolicy::FixedShare => PER_VM | FIXED,
    };
    let bits = |what: &str, value: u32, most: u32, shift: u32| {
        if value > most {
            return Err(format!("a {what} of {value} is more than {most}"));
        }
        Ok(value << shift)
    };
    if scheduler.strict_round_robin == Some(false) {
        let slice = scheduler.time_slice_ns.unwrap_or_default();
        if slice % NS_PER_MS != 0 {
            return Err(format!("{slice} ns is not a whole number of milliseconds"));
        }
        let slice = bits("time slice in ms", slice / NS_PER_MS, 0xff, TIME_SLICE)?;
        return Ok(policy | NOT_STRICT | slice);
    }
    let factor = scheduler.averaging_factor.unwrap_or_default();
    let frequency = scheduler.frequency.unwrap_or_default();
    Ok(policy
        | bits("frequency in Hz", frequency, 0x3ff, FREQUENCY)?
        | bits("averaging factor", factor, 0xff, AVERAGING_FACTOR)?)
}

/// The text of the file; None when no GPU needs the option.
#[must_use]
pub fn render(options: &Options) -> Option<String> {
    if options.is_empty() {
        return None;
    }
    let mut dwords = String::new();
    for (gpu, value) in options {
        let separator = if dwords.is_empty() { "" } else { ";" };
        let _ = write!(dwords, "{separator}pci={gpu};RmPVMRL={value:#04x}");
    }
    Some(format!("{MARK}\n{OPTION}\"{dwords}\"\n"))
}

/// The options in the file; None when the file is not ours.
#[must_use]
pub fn read(text: &str) -> Option<Options> {
    let rest = text.strip_prefix(MARK)?;
    let lines = rest.lines().filter_map(|line| line.strip_prefix(OPTION));
    Some(lines.flat_map(entries).collect())
}

/// The options that the running driver was loaded with, from its list of parameters.
#[must_use]
pub fn loaded(params: &str) -> Options {
    let lines = params.lines();
    let values = lines.filter_map(|line| line.strip_prefix("RegistryDwordsPerDevice:"));
    values.flat_map(entries).collect()
}

/// The `RmPVMRL` of each GPU in `"pci=…;KEY=VALUE;…"`: the keys after a `pci` belong to
/// that GPU.
fn entries(text: &str) -> Vec<(PciAddress, u32)> {
    let mut gpu = None;
    let mut found = Vec::new();
    for pair in text.trim().trim_matches('"').split(';') {
        match pair.split_once('=') {
            Some(("pci", address)) => gpu = address.parse().ok(),
            Some(("RmPVMRL", value)) => {
                let digits = value.trim_start_matches("0x");
                let value = u32::from_str_radix(digits, 16).ok();
                found.extend(gpu.zip(value));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scheduler(policy: SchedulerPolicy, strict: Option<bool>) -> Scheduler {
        Scheduler {
            policy,
            strict_round_robin: strict,
            averaging_factor: None,
            frequency: None,
            time_slice_ns: None,
        }
    }

    #[test]
    fn the_documented_values() {
        use SchedulerPolicy::{BestEffort, EqualShare, FixedShare};
        for (policy, strict, value) in [
            (BestEffort, None, 0x00),
            (EqualShare, None, 0x01),
            (EqualShare, Some(true), 0x01),
            (EqualShare, Some(false), 0x03),
            (FixedShare, Some(true), 0x11),
            (FixedShare, Some(false), 0x13),
        ] {
            assert_eq!(encode(&scheduler(policy, strict)), Ok(value));
        }
        let sliced = |policy, ms: u32| Scheduler {
            time_slice_ns: Some(ms * 1_000_000),
            ..scheduler(policy, Some(false))
        };
        assert_eq!(encode(&sliced(EqualShare, 3)), Ok(0x0003_0003));
        assert_eq!(encode(&sliced(FixedShare, 0x1e)), Ok(0x001e_0013));
        let averaged = |policy| Scheduler {
            averaging_factor: Some(60),
            frequency: Some(960),
            ..scheduler(policy, Some(true))
        };
        assert_eq!(encode(&averaged(EqualShare)), Ok(0x3c3c_0001));
        assert_eq!(encode(&averaged(FixedShare)), Ok(0x3c3c_0011));
    }

    #[test]
    fn what_has_no_bits_is_refused() {
        let part = Scheduler {
            time_slice_ns: Some(2_500_000),
            ..scheduler(SchedulerPolicy::EqualShare, Some(false))
        };
        assert_eq!(
            encode(&part),
            Err("2500000 ns is not a whole number of milliseconds".to_owned())
        );
        let fast = Scheduler {
            frequency: Some(1024),
            ..scheduler(SchedulerPolicy::EqualShare, Some(true))
        };
        assert_eq!(
            encode(&fast),
            Err("a frequency in Hz of 1024 is more than 1023".to_owned())
        );
    }

    #[test]
    fn the_file() {
        let options = Options::from([
            ("0000:3b:00.0".parse().unwrap(), 0x11),
            ("0000:5e:00.0".parse().unwrap(), 0x3c3c_0001),
        ]);
        let text = render(&options).unwrap();
        insta::assert_snapshot!(text, @r#"
        # Written by 'virt-vgpu host apply', and only by it: edit pool files instead.
        options nvidia NVreg_RegistryDwordsPerDevice="pci=0000:3b:00.0;RmPVMRL=0x11;pci=0000:5e:00.0;RmPVMRL=0x3c3c0001"
        "#);
        assert_eq!(read(&text), Some(options.clone()));
        assert_eq!(render(&Options::new()), None);
        assert_eq!(read("options nvidia NVreg_Foo=1\n"), None);
        let params = "ResmanDebugLevel: 4294967295\nRegistryDwords: \"\"\n\
                      RegistryDwordsPerDevice: \"pci=0000:3b:00.0;RmPVMRL=0x11;Other=0x1\"\n";
        let first = options.into_iter().next().unwrap();
        assert_eq!(loaded(params), Options::from([first]));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(
            options in proptest::collection::btree_map((0u8.., 0u8..32), 0u32.., 1..5)
        ) {
            let options: Options = options
                .into_iter()
                .map(|((bus, slot), value)| (PciAddress::new(0, bus, slot, 0).unwrap(), value))
                .collect();
            prop_assert_eq!(read(&render(&options).unwrap()), Some(options));
        }
    }
}
