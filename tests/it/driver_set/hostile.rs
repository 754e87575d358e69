//! Archives and files that are not what they say.

use proptest::prelude::*;
use zip::{CompressionMethod, write::SimpleFileOptions};

use super::*;

fn refusal(archive: &[u8]) -> String {
    let place = Place::new();
    place.given("bad.zip", archive);
    place.refused("add @bad.zip")
}

#[test]
fn names_that_would_lie_elsewhere() {
    for name in [
        format!("../{LINUX}"),
        format!("a/../../{LINUX}"),
        format!("/{LINUX}"),
        format!("a//{LINUX}"),
        format!("./{LINUX}"),
        format!("..\\{LINUX}"),
        format!("C:{LINUX}"),
        format!("a\n{LINUX}"),
    ] {
        let said = refusal(&Archive::new().with(&name, driver(LINUX)).bytes());
        let told =
            said.contains("which would lie outside its folder or has a name that no bundle has");
        assert!(told, "{name:?}: {said}");
    }
    let evil = Archive::of_nvidia().with("../../etc/cron.d/evil", "* * * * *");
    insta::assert_snapshot!(refusal(&evil.bytes()), @"virt-vgpu: nothing was stored: bad.zip has the file '../../etc/cron.d/evil', which would lie outside its folder or has a name that no bundle has");
}

#[test]
fn archives_that_are_none_or_strange() {
    let good = Archive::of_nvidia().bytes();
    insta::assert_snapshot!(refusal(b"hello"), @"virt-vgpu: nothing was stored: bad.zip is no complete ZIP archive; see whether it was downloaded to its end");
    insta::assert_snapshot!(refusal(&good[..good.len() / 2]), @"virt-vgpu: nothing was stored: bad.zip is no complete ZIP archive; see whether it was downloaded to its end");
    insta::assert_snapshot!(refusal(&Archive::new().with("guide.pdf", "%PDF").bytes()), @"virt-vgpu: nothing was stored: bad.zip has no driver of NVIDIA's: none of its files has a name like NVIDIA-Linux-x86_64-580.65.06-grid.run; give the ZIP archive of vGPU software as NVIDIA's licensing portal has it, the unpacked folder, or the files");
    insta::assert_snapshot!(refusal(&Archive::of_nvidia().with_link("Guest_Drivers/link", "/etc/passwd").bytes()), @"virt-vgpu: nothing was stored: bad.zip has 'Guest_Drivers/link', which is a link or no file at all");
    let twice = Archive::of_nvidia().with(&format!("Again/{LINUX}"), driver(LINUX));
    insta::assert_snapshot!(refusal(&twice.bytes()), @"virt-vgpu: nothing was stored: bad.zip has NVIDIA-Linux-x86_64-580.65.06-grid.run twice; leave one out");
    // A byte of a driver, far behind its first ones.
    let mut damaged = Archive::new();
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    damaged = damaged.with_options(LINUX, driver(LINUX), stored);
    let mut damaged = damaged.bytes();
    damaged[3000] ^= 1;
    insta::assert_snapshot!(refusal(&damaged), @"virt-vgpu: nothing was stored: bad.zip has 'NVIDIA-Linux-x86_64-580.65.06-grid.run', which is damaged: Invalid checksum");
}

/// 64 MiB of nothing, which shrink to some kilobytes.
#[test]
fn what_was_made_to_fill_disks() {
    let mut bytes = driver(LINUX);
    bytes.resize(64 << 20, 0);
    insta::assert_snapshot!(refusal(&Archive::new().with(LINUX, &bytes).bytes()), @"virt-vgpu: nothing was stored: bad.zip has 'NVIDIA-Linux-x86_64-580.65.06-grid.run', which shrinks to less than a 50th: no driver does");
}

#[test]
fn files_that_are_not_what_their_names_say() {
    let with = |name: &str, bytes: Vec<u8>| refusal(&Archive::new().with(name, bytes).bytes());
    insta::assert_snapshot!(with(LINUX, b"MZ and no script".to_vec()), @"virt-vgpu: nothing was stored: bad.zip has 'NVIDIA-Linux-x86_64-580.65.06-grid.run', which is no installer: it is no script");
    insta::assert_snapshot!(with(WINDOWS, driver(LINUX)), @"virt-vgpu: nothing was stored: bad.zip has '580.88_grid_win10_win11_server2022_dch_64bit_international.exe', which is no program of Windows");
    insta::assert_snapshot!(with(LINUX_DEB, driver(LINUX_RPM)), @"virt-vgpu: nothing was stored: bad.zip has 'nvidia-linux-grid-580_580.65.06_amd64.deb', which is no Debian package");
    insta::assert_snapshot!(with(LINUX, driver(HOST)), @"virt-vgpu: nothing was stored: bad.zip has 'NVIDIA-Linux-x86_64-580.65.06-grid.run', which is not the driver 580.65.06 that its name says: it has another version inside");
    let other = "nvidia-linux-grid-570-570.172.08-1.x86_64.rpm";
    insta::assert_snapshot!(with(LINUX_RPM, driver(other)), @"virt-vgpu: nothing was stored: bad.zip has 'nvidia-linux-grid-580-580.65.06-1.x86_64.rpm', which is not the driver 580.65.06 that its name says: it has another version inside");
}

#[test]
fn drivers_that_do_not_belong_together() {
    let with = |files: &[&str]| {
        let archive = files.iter().fold(Archive::new(), |archive, file| {
            archive.with(file, driver(file))
        });
        refusal(&archive.bytes())
    };
    let older = "NVIDIA-Linux-x86_64-550.54.10-grid.run";
    insta::assert_snapshot!(with(&[LINUX, older]), @"virt-vgpu: nothing was stored: bad.zip has NVIDIA-Linux-x86_64-580.65.06-grid.run and NVIDIA-Linux-x86_64-550.54.10-grid.run, which are of two versions; add each version as a set of its own");
    insta::assert_snapshot!(with(&[HOST, older]), @"virt-vgpu: nothing was stored: bad.zip has the host's driver 580.65.05 and NVIDIA-Linux-x86_64-550.54.10-grid.run, which NVIDIA does not support together: the guest's driver is more than one release older");
    let newer = "NVIDIA-Linux-x86_64-595.10.01-grid.run";
    insta::assert_snapshot!(with(&[HOST, newer]), @"virt-vgpu: nothing was stored: bad.zip has the host's driver 580.65.05 and NVIDIA-Linux-x86_64-595.10.01-grid.run, which NVIDIA does not support together: the guest's driver is of a newer release than the host's");
}

#[test]
fn what_is_no_bundle_at_all() {
    let place = Place::new();
    place.given("notes.txt", "hello");
    insta::assert_snapshot!(place.refused("add @notes.txt"), @"virt-vgpu: nothing was stored: notes.txt has no driver of NVIDIA's: none of its files has a name like NVIDIA-Linux-x86_64-580.65.06-grid.run; give the ZIP archive of vGPU software as NVIDIA's licensing portal has it, the unpacked folder, or the files");
    insta::assert_snapshot!(place.refused("add @not-there.zip"), @"virt-vgpu: nothing was stored: not-there.zip: No such file or directory (os error 2)");
    fs::create_dir(place.path("given/empty")).unwrap();
    insta::assert_snapshot!(place.refused("add @empty"), @"virt-vgpu: nothing was stored: empty has no driver of NVIDIA's: none of its files has a name like NVIDIA-Linux-x86_64-580.65.06-grid.run; give the ZIP archive of vGPU software as NVIDIA's licensing portal has it, the unpacked folder, or the files");
    insta::assert_snapshot!(place.run("add @notes.txt --name ../x").stderr, @"
    error: invalid value '../x' for '--name <NAME>': '../x' is not the name of a driver set (letters, digits and ._-, at most 64)

    For more information, try '--help'.
    ");
    // A pipe would make it wait.
    let pipe = place.path("given/pipe.zip");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    insta::assert_snapshot!(place.refused("add @pipe.zip"), @"virt-vgpu: nothing was stored: pipe.zip: it is no regular file");
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let archive = Archive::of_nvidia().with("../../../tmp/evil", "x").bytes();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..24);
    let cut = any::<prop::sample::Index>();
    (edits, cut, any::<bool>()).prop_map(move |(edits, cut, is_cut)| {
        let mut bytes = archive.clone();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the archive is: nothing is written but a set, and nobody panics.
    #[test]
    fn no_archive_writes_outside_its_folder(bytes in mutated()) {
        let place = Place::new();
        place.given("any.zip", &bytes);
        let outcome = place.run("add @any.zip");
        prop_assert!(matches!(outcome.code, Some(0 | 1)), "{:?}", outcome);
        for (path, _) in place.everything() {
            let is_meant = path.starts_with("given") || path.starts_with("var/lib/virt-vgpu/drivers/nvidia-");
            prop_assert!(is_meant, "{}", path);
        }
    }
}
