//! Man pages and shell completions, made from the command line's own
//! definition when the package is built.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;

/// Write man pages and shell completions into a directory.
#[derive(Debug, clap::Args)]
pub(super) struct Generate {
    /// Where `man/` and `completions/` are made.
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
        clap_mangen::generate_to(command.clone(), &man)
            .with_context(|| man.display().to_string())?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut command, "virt-vgpu", &completions)
                .with_context(|| completions.display().to_string())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
