//! NVIDIA's bundles, small ones with true layout and names, and hostile ones, through the
//! command.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::support::process::{Outcome, Program};

mod bundle;
mod discs;
mod fuzz;
mod hostile;
mod lent;
mod running;
mod stored;
mod tokens;

use bundle::{Archive, HOST, LINUX, LINUX_DEB, LINUX_RPM, WINDOWS};

pub(crate) use bundle::driver;

/// A machine's root, with a folder for bundles beside it.
struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        for directory in ["given", "run/virt-vgpu"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        Self { root }
    }

    /// With the program that makes discs.
    fn with_xorriso() -> Self {
        let place = Self::new();
        fs::create_dir_all(place.path("usr/bin")).unwrap();
        for program in ["env", "xorriso"] {
            let program = format!("/usr/bin/{program}");
            std::os::unix::fs::symlink(&program, place.path(&program)).unwrap();
        }
        place
    }

    /// Writes a file to be added.
    fn given(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.root.path().join("given").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    fn program(&self, arguments: &str) -> Program {
        let given = self.root.path().join("given");
        let arguments = arguments.replace("@", &format!("{}/", given.display()));
        Program::command(self.root.path(), &format!("driver {arguments}"))
    }

    fn run(&self, arguments: &str) -> Outcome {
        self.program(arguments).run()
    }

    #[track_caller]
    fn works(&self, arguments: &str) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(outcome.stderr, "", "{outcome:?}");
        self.plain(&outcome.stdout)
    }

    /// What it says when it is refused; nothing may be left then.
    #[track_caller]
    fn refused(&self, arguments: &str) -> String {
        let before = self.everything();
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert_eq!(outcome.stdout, "", "{outcome:?}");
        assert_eq!(self.everything(), before, "{outcome:?}");
        self.plain(&outcome.stderr)
    }

    fn plain(&self, text: &str) -> String {
        text.replace(&format!("{}/given/", self.root.path().display()), "")
            .replace(&format!("{}", self.root.path().display()), "")
    }

    /// All files below the root, with their sizes.
    fn everything(&self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        walk(self.root.path(), self.root.path(), &mut found);
        // An empty directory for sets is no leftover, nor is a lock.
        found.retain(|(path, _)| {
            ![
                "run",
                "run/virt-vgpu",
                "run/virt-vgpu/discs.lock",
                "var",
                "var/lib",
                "var/lib/virt-vgpu",
                "var/lib/virt-vgpu/drivers",
            ]
            .contains(&path.as_str())
        });
        found.sort();
        found
    }
}

fn walk(root: &Path, directory: &Path, found: &mut Vec<(String, u64)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let size = if metadata.is_file() {
            metadata.len()
        } else {
            0
        };
        found.push((name, size));
        if metadata.is_dir() {
            walk(root, &path, found);
        }
    }
}
