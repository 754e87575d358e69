//! The programs that the benchmark needs, and what to do if they are missing.

use std::path::Path;

/// A program, by name or path, and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("cc", "gcc"),
    ("mdevctl", "mdevctl"),
    ("mount", "mount"),
    ("umount", "mount"),
    ("sh", "dash"),
    ("unshare", "util-linux"),
    ("/usr/bin/python3", "python3"),
];

/// Says which programs are missing, and how to get them; `path` is the variable PATH.
pub(crate) fn missing_programs(path: &str) -> Result<(), String> {
    let is_there = |program: &str| match program.starts_with('/') {
        true => Path::new(program).is_file(),
        false => path
            .split(':')
            .any(|directory| Path::new(directory).join(program).is_file()),
    };
    let missing = PROGRAMS.iter().filter(|(program, _)| !is_there(program));
    let (names, mut packages): (Vec<String>, Vec<&str>) = missing
        .map(|(program, package)| (format!("{program} (package {package})"), *package))
        .unzip();
    if names.is_empty() {
        return Ok(());
    }
    packages.dedup();
    Err(format!(
        "missing: {}; run: apt-get install --no-install-recommends {}",
        names.join(", "),
        packages.join(" ")
    ))
}
