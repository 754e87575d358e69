//! The settings of a vGPU of NVIDIA's driver in addition to its type: its place in the memory
//! of its GPU, and its parameters. They are the same for all frameworks of the driver.

use super::ToMake;
use crate::device::{
    parameters::Parameters,
    step::{Act, Attribute, Check, GOES_WITH_THE_DEVICE, Step},
};

/// The steps for both; `directory` is where the vGPU has its attributes.
pub(super) fn settings(directory: &str, made: &ToMake<'_>) -> Vec<Step> {
    let place = made.placement;
    let instance = place.and_then(|place| place.instance);
    let moving = instance.map(|instance| moving(directory, instance));
    let place = place.filter(|place| !place.is_counted);
    let placing = place.map(|place| placing(directory, place.id));
    let parameters = with_parameters(directory, made.parameters);
    let placed = moving.into_iter().chain(placing);
    placed.chain(parameters).collect()
}

/// The write that puts it at a place, where sizes are mixed. The driver has placed it
/// already, so this moves it.
fn placing(directory: &str, place: u32) -> Step {
    let value = place.to_string();
    set(
        directory,
        "placement_id",
        value,
        format!("place it at {place}"),
    )
}

/// The write that puts it into a GPU instance: the driver has chosen one already, which may be
/// for other vGPUs.
fn moving(directory: &str, instance: u32) -> Step {
    let what = format!("put it into GPU instance {instance}");
    set(directory, "gpu_instance_id", instance.to_string(), what)
}

/// The write that sets its parameters. The driver takes the last byte of a write for a
/// newline and drops it unseen, so there is one, and what it has understood is read back.
fn with_parameters(directory: &str, parameters: &Parameters) -> Option<Step> {
    let text = parameters.text()?;
    let what = format!("set {text}");
    Some(set(directory, "vgpu_params", text, what))
}

/// A write that reads back the same. It goes with the vGPU: there is nothing to undo.
fn set(directory: &str, attribute: &str, value: String, what: String) -> Step {
    let path = format!("{directory}/{attribute}");
    Step {
        what,
        act: Act::Write(Attribute {
            path: path.clone(),
            value: format!("{value}\n"),
        }),
        undo: None,
        needs_no_undo: Some(GOES_WITH_THE_DEVICE),
        checks: vec![Check::Reads { path, value }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_written() {
        let none = Parameters::default();
        assert_eq!(with_parameters("/x", &none), None);
        let some = Parameters {
            frame_rate_limit: Some(60),
            profilers: Some(true),
            ..none
        };
        let step = with_parameters("/sys/x/nvidia", &some).unwrap();
        let text = "frame_rate_limiter=1,enable_profiling=1";
        let path = "/sys/x/nvidia/vgpu_params".to_owned();
        assert_eq!(
            step.act,
            Act::Write(Attribute {
                path: path.clone(),
                value: format!("{text}\n")
            })
        );
        assert_eq!(
            step.checks,
            [Check::Reads {
                path,
                value: text.to_owned()
            }]
        );
    }
}
