//! The options of `pool create` that say what the new pool hands out: one for each kind
//! that makes its devices as something, and `--kind` for those that make nothing.

use clap::{
    Arg, ArgGroup, ArgMatches, Args, Command, FromArgMatches,
    builder::{PossibleValue, PossibleValuesParser},
    error::ErrorKind,
};

use crate::{
    kind::{KINDS, Kind, TypeKey},
    model::TypeSelector,
};

/// The devices of the new pool.
#[derive(Debug, Clone)]
pub(super) struct MadeAs {
    /// The kind of its devices.
    pub(super) kind: &'static dyn Kind,
    /// The type of its devices, if they are made.
    pub(super) device_type: Option<TypeSelector>,
}

/// The option for kinds whose devices are there already.
const KIND: &str = "kind";

/// The long help, with a sentence for each way to say what the pool hands out.
pub(super) fn long_about() -> String {
    let mut text = "Make a pool of the given devices.\n\nWrites \
                    /etc/virt-vgpu/pools.d/NAME.toml with one rule per device and shows what the \
                    rules take."
        .to_owned();
    for (_, key) in type_keys(KINDS) {
        text.push(' ');
        text.push_str(key.option.creates);
    }
    for kind in without_key(KINDS) {
        let about = kind.about();
        let sentence =
            format!(" With --{KIND} {kind} it is a pool of {about}, handed out as they are.");
        text.push_str(&sentence);
    }
    text
}

/// A line for each of these ways.
pub(super) fn usage() -> String {
    let keys = type_keys(KINDS).map(|(_, key)| (key.name, key.option.value_name));
    let kinds = (!without_key(KINDS).is_empty()).then_some((KIND, "KIND"));
    let lines = keys
        .chain(kinds)
        .map(|(name, value)| format!("virt-vgpu pool create [OPTIONS] --{name} <{value}> <NAME>"));
    lines.collect::<Vec<_>>().join("\n       ")
}

fn type_keys(
    kinds: &'static [&'static dyn Kind],
) -> impl DoubleEndedIterator<Item = (&'static dyn Kind, TypeKey)> {
    let with_key = |kind: &&'static dyn Kind| Some((*kind, kind.keys().type_key?));
    kinds.iter().filter_map(with_key)
}

fn without_key(kinds: &'static [&'static dyn Kind]) -> Vec<&'static dyn Kind> {
    let kinds = kinds.iter().copied();
    let without = kinds.filter(|kind| kind.keys().type_key.is_none());
    without.collect()
}

/// The options for these kinds, of which one has to be there.
fn options(command: Command, kinds: &'static [&'static dyn Kind]) -> Command {
    let mut options = Vec::new();
    // The most general first.
    for (_, key) in type_keys(kinds).rev() {
        let option = key.option;
        let arg = Arg::new(key.name)
            .long(key.name)
            .value_name(option.value_name);
        options.push(arg.help(option.help).value_parser(option.parse));
    }
    let others = without_key(kinds).into_iter();
    let others: Vec<PossibleValue> = others
        .map(|kind| PossibleValue::new(kind.name()).help(kind.about()))
        .collect();
    if !others.is_empty() {
        let arg = Arg::new(KIND).long(KIND).value_name("KIND");
        let arg = arg.help("What the pool hands out whole: nothing has to be made");
        options.push(arg.value_parser(PossibleValuesParser::new(others)));
    }
    let what = ArgGroup::new("what").required(true);
    let what = what.args(options.iter().map(Arg::get_id));
    command.args(options).group(what)
}

fn chosen(matches: &ArgMatches, kinds: &'static [&'static dyn Kind]) -> Option<MadeAs> {
    for (kind, key) in type_keys(kinds) {
        if let Some(made_as) = matches.get_one::<TypeSelector>(key.name) {
            return Some(MadeAs {
                kind,
                device_type: Some(made_as.clone()),
            });
        }
    }
    let name = matches.try_get_one::<String>(KIND).ok()??;
    let mut kinds = kinds.iter().copied();
    Some(MadeAs {
        kind: kinds.find(|kind| kind.name() == name)?,
        device_type: None,
    })
}

impl FromArgMatches for MadeAs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        // The group is required.
        chosen(matches, KINDS).ok_or_else(|| clap::Error::new(ErrorKind::MissingRequiredArgument))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for MadeAs {
    fn augment_args(command: Command) -> Command {
        options(command, KINDS)
    }

    fn augment_args_for_update(command: Command) -> Command {
        options(command, KINDS)
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;
    use crate::{
        device::{Sysfs, mdev::Parent},
        document::ConfigError,
        kind::{Devices, HostView, Keys, Part, Subject, Words},
        model::ParentName,
        rule::Field,
    };

    /// A kind whose devices are there already.
    #[derive(Debug)]
    struct Whole;

    impl Kind for Whole {
        fn name(&self) -> &'static str {
            "whole"
        }

        fn about(&self) -> &'static str {
            "whole functions"
        }

        fn subject(&self) -> Subject {
            Subject::Parent
        }

        fn words(&self) -> Words {
            KINDS[0].words()
        }

        fn keys(&self) -> Keys {
            Keys::default()
        }

        fn fields(&self) -> Vec<Field> {
            Vec::new()
        }

        fn parse(&self, part: &Part<'_>) -> Result<Arc<dyn Devices>, ConfigError> {
            KINDS[0].parse(part)
        }

        fn subjects(&self, _: &HostView<'_>) -> io::Result<Vec<Parent>> {
            Ok(Vec::new())
        }

        fn subject_named(&self, _: &dyn Sysfs, _: &ParentName) -> Option<Parent> {
            None
        }
    }

    const WITH_WHOLE: &[&dyn Kind] = &[KINDS[0], &Whole];

    fn parsed(
        kinds: &'static [&'static dyn Kind],
        arguments: &[&str],
    ) -> Result<Option<MadeAs>, String> {
        let command = options(Command::new("create").no_binary_name(true), kinds);
        let matches = command.try_get_matches_from(arguments);
        let matches = matches.map_err(|error| error.to_string())?;
        Ok(chosen(&matches, kinds))
    }

    #[test]
    fn a_kind_whose_devices_are_there_already_is_named() {
        let made_as = parsed(WITH_WHOLE, &["--kind", "whole"]).unwrap().unwrap();
        assert_eq!(made_as.kind.name(), "whole");
        assert_eq!(made_as.device_type, None);
        let key = KINDS[0].keys().type_key.unwrap();
        let option = format!("--{}", key.name);
        let made_as = parsed(WITH_WHOLE, &[&option, "L40S-12Q"]).unwrap().unwrap();
        assert_eq!(made_as.kind, KINDS[0]);
        assert_eq!(made_as.device_type.unwrap().as_str(), "L40S-12Q");
        let error = parsed(WITH_WHOLE, &["--kind", "other"]).unwrap_err();
        let wanted = "error: invalid value 'other' for '--kind <KIND>'\n  [possible values: whole]";
        assert!(error.starts_with(wanted), "{error}");
        let error = parsed(WITH_WHOLE, &[]).unwrap_err();
        let wanted = format!("  <{option} <{}>|--kind <KIND>>\n", key.option.value_name);
        assert!(error.contains(&wanted), "{error}");
    }

    #[test]
    fn without_such_a_kind_there_is_no_such_option() {
        const MADE: &[&dyn Kind] = &[KINDS[0]];
        let error = parsed(MADE, &["--kind", "whole"]).unwrap_err();
        assert!(
            error.starts_with("error: unexpected argument '--kind'"),
            "{error}"
        );
    }
}
