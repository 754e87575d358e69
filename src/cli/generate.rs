//! Man pages and shell completions, made when the package is built. They come from the
//! definition of the command line, and from the tables of operators, fields, attributes
//! and messages that the programs use.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{
    config::{EFFECTS, KeyEffect},
    domain::{ATTRIBUTES, MAX_REQUESTS},
    events::MESSAGE_IDS,
    kind::KINDS,
    rule::{Field, Operator},
};

/// Pages written by hand, with markers for the tables.
const PAGES: [(&str, &str); 5] = [
    (
        "virt-vgpu-pools.5",
        include_str!("../../packaging/man/virt-vgpu-pools.5.in"),
    ),
    (
        "virt-vgpu-request.5",
        include_str!("../../packaging/man/virt-vgpu-request.5.in"),
    ),
    (
        "virt-vgpu-hook.8",
        include_str!("../../packaging/man/virt-vgpu-hook.8.in"),
    ),
    (
        "virt-vgpud.8",
        include_str!("../../packaging/man/virt-vgpud.8.in"),
    ),
    (
        "virt-vgpu-nvml.8",
        include_str!("../../packaging/man/virt-vgpu-nvml.8.in"),
    ),
];

/// Write man pages and shell completions into a directory.
#[derive(Debug, clap::Args)]
pub(super) struct Generate {
    /// The parent directory of `man/` and `completions/`.
    directory: PathBuf,
}

impl Generate {
    pub(super) fn run(&self, mut command: Command) -> anyhow::Result<ExitCode> {
        let man = self.directory.join("man");
        let completions = self.directory.join("completions");
        for directory in [&man, &completions] {
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        command.build();
        write_verbs(&command, &man)?;
        for (name, text) in PAGES {
            write(&man.join(name), fill(text).as_bytes())?;
        }
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut command, "virt-vgpu", &completions)
                .with_context(|| completions.display().to_string())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// One page for the command and one for each verb, as in git and virsh: `man
/// virt-vgpu-pool-create`. Section 8: commands for administrators.
fn write_verbs(command: &Command, directory: &Path) -> anyhow::Result<()> {
    if command.is_hide_set() || command.get_name() == "help" {
        return Ok(());
    }
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
        .to_owned();
    let mut page = Vec::new();
    let extra = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let version = concat!("virt-vgpu ", env!("CARGO_PKG_VERSION"));
    Man::new(command.clone().after_help(None::<&str>))
        .title(&name)
        .section("8")
        .source(version)
        .render(&mut page)?;
    page.extend(sections(&extra).as_bytes());
    write(&directory.join(format!("{name}.8")), &page)?;
    command
        .get_subcommands()
        .try_for_each(|verb| write_verbs(verb, directory))
}

/// The text that help shows after the options, as sections of a man page: its examples
/// keep their lines.
fn sections(after_help: &str) -> String {
    let mut text = String::new();
    for paragraph in after_help.split("\n\n") {
        let escaped = paragraph.replace('\\', "\\e").replace('-', "\\-");
        if let Some(examples) = escaped.strip_prefix("Examples:\n") {
            let _ = write!(text, ".SH EXAMPLES\n.nf\n{examples}\n.fi\n");
        } else if !escaped.trim().is_empty() {
            let heading = if escaped.starts_with("Exit code") {
                "EXIT STATUS"
            } else {
                "NOTES"
            };
            let _ = write!(text, ".SH {heading}\n{escaped}\n");
        }
    }
    text + ".SH SEE ALSO\n.BR virt-vgpu (8),\n.BR virt-vgpu-pools (5),\n.BR virt-vgpu-request (5),\n.BR virt-vgpu-hook (8),\n.BR virt-vgpud (8)\n"
}

fn write(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    fs::write(path, contents).with_context(|| path.display().to_string())
}

fn fill(text: &str) -> String {
    let operators = Operator::ALL
        .iter()
        .map(|op| (op.info().name, op.info().about.to_owned()));
    let fields = Field::ALL.iter().map(|field| {
        let info = field.info();
        let later = if info.is_read {
            ""
        } else {
            " Known, but not read by this version."
        };
        (
            info.name,
            format!("({}) {}{later}", info.value_type.noun(), info.about),
        )
    });
    let kinds = KINDS.iter().map(|kind| {
        let name = kind.name().replace('-', "\\-");
        format!("\\fB{name}\\fR: {}", kind.about())
    });
    let kinds: Vec<String> = kinds.collect();
    let attributes = ATTRIBUTES
        .iter()
        .map(|attribute| (attribute.name, attribute.help.to_owned()));
    let messages = MESSAGE_IDS
        .iter()
        .map(|(name, id)| (*name, format!("MESSAGE_ID={id}")));
    let effects = effects();
    let effects = effects
        .iter()
        .map(|(keys, text)| (keys.as_str(), text.clone()));
    text.replace("@EFFECTS@", &tagged(effects))
        .replace("@OPERATORS@", &tagged(operators))
        .replace("@FIELDS@", &tagged(fields))
        .replace("@KINDS@", &kinds.join("; and "))
        .replace("@ATTRIBUTES@", &tagged(attributes))
        .replace("@MESSAGES@", &tagged(messages))
        .replace("@MOST@", &MAX_REQUESTS.to_string())
}

/// When a change of each key takes effect; keys of which the same holds together.
fn effects() -> Vec<(String, String)> {
    let is_alike = |one: &KeyEffect, other: &KeyEffect| {
        let what = |row: &KeyEffect| (row.about, row.effect, row.in_instances);
        what(one) == what(other)
    };
    let together = EFFECTS.chunk_by(is_alike);
    let entry = |rows: &[KeyEffect]| {
        let names: Vec<&str> = rows.iter().map(|row| row.key).collect();
        let row = rows.first()?;
        let needs = capital(row.effect.in_words());
        let mut text = format!("{}. {needs}.", capital(row.about));
        if row.in_instances != row.effect {
            let needs = row.in_instances.in_words();
            let _ = write!(text, "\nIf the pool has [mig] already: {needs}.");
        }
        Some((names.join(", "), text))
    };
    together.filter_map(entry).collect()
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase());
    first.into_iter().flatten().chain(chars).collect()
}

/// A list of names with their meaning, in troff's man macros.
fn tagged<'a>(entries: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut list = String::new();
    for (name, meaning) in entries {
        let _ = write!(
            list,
            ".TP\n.B {}\n{}\n",
            name.replace('-', "\\-"),
            meaning.replace('-', "\\-")
        );
    }
    list.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_pools_tells_what_each_kind_is_and_what_its_pools_have() {
        let pages = PAGES.iter().find(|(name, _)| *name == "virt-vgpu-pools.5");
        let page = fill(pages.unwrap().1);
        for kind in KINDS {
            let name = kind.name();
            let bold = name.replace('-', "\\-");
            assert!(
                page.contains(&format!("\\fB{bold}\\fR: {}", kind.about())),
                "{name}"
            );
            // The page mentions each kind elsewhere than in the list too.
            assert!(page.contains(&format!("kind {name}")), "{name}");
            for row in EFFECTS {
                let key = row.key.replace('-', "\\-");
                assert!(page.contains(&key), "{key}");
            }
            if let Some(key) = kind.keys().type_key {
                assert!(page.contains(&format!(".B {}\n", key.name)), "{}", key.name);
            }
        }
    }
}
