//! Discs, made by the real xorriso and read back by it, and their installer for Linux.

use std::{os::unix::fs::PermissionsExt, process::Command};

use super::*;

const DISC: &str = "/var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest.iso";

fn ready() -> Place {
    let place = Place::with_xorriso();
    place.given("bundle.zip", Archive::of_nvidia().bytes());
    place
}

/// What xorriso reads from an image, by Rock Ridge or by Joliet.
pub(super) fn read_back(image: &Path, tree: &str, arguments: &[&str]) -> String {
    let output = Command::new("xorriso")
        .args(["-abort_on", "FATAL", "-read_fs", tree, "-indev"])
        // Below /dev it would be taken for a drive.
        .arg(format!("stdio:{}", image.display()))
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_disc_has_what_guests_need() {
    let place = ready();
    let said = place.works("add @bundle.zip");
    assert!(said.contains(&format!("\nmade {DISC}\n")), "{said}");
    let image = place.path(DISC);
    assert_eq!(
        image.metadata().unwrap().permissions().mode() & 0o777,
        0o644
    );
    let listed = read_back(&image, "any", &["-find", "/", "-exec", "lsdl"]);
    let of = |file: &str| {
        let line = listed
            .lines()
            .find(|line| line.contains(&format!("'/{file}'")));
        let line = line.unwrap_or_else(|| panic!("{file}: {listed}"));
        let fields: Vec<&str> = line.split_whitespace().collect();
        format!("{} {} {}", fields[0], fields[2], fields[3])
    };
    for program in [LINUX, "install.sh"] {
        assert_eq!(of(program), "-r-xr-xr-x 0 0", "{program}");
    }
    for file in [
        LINUX_DEB,
        LINUX_RPM,
        WINDOWS,
        "install.cmd",
        "README.txt",
        "SHA256SUMS",
    ] {
        assert_eq!(of(file), "-r--r--r-- 0 0", "{file}");
    }
    assert!(
        !listed.contains(HOST),
        "the host's driver is not for guests"
    );
    // As Windows reads it, names of more than 64 characters too.
    let joliet = read_back(&image, "joliet", &["-find", "/", "-type", "f"]);
    for file in [WINDOWS, "install.cmd", "README.txt"] {
        assert!(joliet.contains(&format!("'/{file}'")), "{joliet}");
    }
    let out = place.path("out");
    read_back(
        &image,
        "any",
        &["-osirrox", "on", "-extract", "/", out.to_str().unwrap()],
    );
    let sums = Command::new("sha256sum")
        .args(["-c", "--quiet", "SHA256SUMS"])
        .current_dir(&out)
        .status();
    assert!(sums.unwrap().success());
    insta::assert_snapshot!(fs::read_to_string(out.join("README.txt")).unwrap().replace('\r', ""), @"
    NVIDIA guest drivers nvidia-580.65.05

    Linux:    sh install.sh        (as root)
    Windows:  install.cmd          (as administrator)

    Both install the driver of this disc and, where there is one, put the licence
    token into place. They may be run again at any time.

    NVIDIA-Linux-x86_64-580.65.06-grid.run
      for Linux guests (.run)
    nvidia-linux-grid-580_580.65.06_amd64.deb
      for Linux guests (.deb)
    nvidia-linux-grid-580-580.65.06-1.x86_64.rpm
      for Linux guests (.rpm)
    580.88_grid_win10_win11_server2022_dch_64bit_international.exe
      for Windows guests

    SHA256SUMS has the checksums: 'sha256sum -c SHA256SUMS' checks this disc.
    The drivers are NVIDIA's, under NVIDIA's licence, and must not be passed on.
    ");
}

/// Another machine and another day.
#[test]
fn the_same_set_gives_the_same_bytes() {
    let one = ready();
    one.works("add @bundle.zip");
    let two = ready();
    let later = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000);
    two.works("add @bundle.zip");
    let set = two.path("var/lib/virt-vgpu/drivers/nvidia-580.65.05");
    for file in [LINUX, WINDOWS] {
        let file = fs::File::options()
            .write(true)
            .open(set.join("guest").join(file))
            .unwrap();
        file.set_modified(later).unwrap();
    }
    insta::assert_snapshot!(two.works("iso nvidia-580.65.05"), @"made /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest.iso");
    let (one, two) = (
        fs::read(one.path(DISC)).unwrap(),
        fs::read(two.path(DISC)).unwrap(),
    );
    assert!(one == two, "{} and {} bytes", one.len(), two.len());
}

#[test]
fn without_xorriso_the_set_is_there_without_a_disc() {
    let place = Place::new();
    place.given("bundle.zip", Archive::of_nvidia().bytes());
    let said = place.works("add @bundle.zip");
    insta::assert_snapshot!(said.lines().last().unwrap(), @"note: there is no disc for guests: /usr/bin/xorriso is not installed, which makes discs; install xorriso ('apt-get install xorriso'); 'virt-vgpu driver iso nvidia-580.65.05' makes it");
    insta::assert_snapshot!(place.refused("iso nvidia-580.65.05"), @"virt-vgpu: no disc was made of driver set 'nvidia-580.65.05': /usr/bin/xorriso is not installed, which makes discs; install xorriso ('apt-get install xorriso')");
    insta::assert_snapshot!(place.refused("iso other"), @"virt-vgpu: there is no driver set 'other'; 'virt-vgpu driver list' lists them");
    place.given(HOST, driver(HOST));
    place.works(&format!("add @{HOST} --name host-only"));
    insta::assert_snapshot!(place.refused("iso host-only"), @"virt-vgpu: no disc was made of driver set 'host-only': it has no drivers for guests");
}

/// The disk is full, or the power goes, at any effect: no half disc, and none of what it was made
/// of.
#[cfg(feature = "faults")]
#[test]
fn a_disc_is_there_whole_or_not_at_all() {
    let place = ready();
    place.works("add @bundle.zip");
    let whole = fs::read(place.path(DISC)).unwrap();
    fs::remove_file(place.path(DISC)).unwrap();
    let trace = place.path("trace");
    place
        .program("iso nvidia-580.65.05")
        .trace(&trace)
        .run()
        .succeeds();
    let effects = fs::read_to_string(&trace).unwrap();
    fs::remove_file(&trace).unwrap();
    let with_disc = place.everything();
    for number in 1..=effects.lines().count() {
        for fault in [format!("kill:{number}"), format!("28:{number}")] {
            let _ = fs::remove_file(place.path(DISC));
            place.program("iso nvidia-580.65.05").fault(&fault).run();
            if let Ok(bytes) = fs::read(place.path(DISC)) {
                assert!(bytes == whole, "{fault}: {effects}");
            }
            place.works("iso nvidia-580.65.05");
            assert_eq!(place.everything(), with_disc, "{fault}: {effects}");
        }
    }
}

/// A guest: its root directory, and programs that only say what they are asked for.
struct Guest {
    root: TempDir,
    disc: std::path::PathBuf,
}

impl Guest {
    fn new(place: &Place, programs: &[&str]) -> Self {
        let root = TempDir::new().unwrap();
        let disc = root.path().join("disc");
        let disc_of = disc.to_str().unwrap();
        read_back(
            &place.path(DISC),
            "any",
            &["-osirrox", "on", "-extract", "/", disc_of],
        );
        let release = Command::new("uname").arg("-r").output().unwrap().stdout;
        let release = String::from_utf8(release).unwrap();
        let headers = root
            .path()
            .join("lib/modules")
            .join(release.trim())
            .join("build");
        fs::create_dir_all(headers).unwrap();
        fs::create_dir_all(root.path().join("bin")).unwrap();
        fs::create_dir_all(root.path().join("tools")).unwrap();
        for tool in [
            "id", "dirname", "basename", "cat", "uname", "grep", "mkdir", "cmp", "cp", "chmod",
            "sh",
        ] {
            let place = ["/usr/bin", "/bin"].map(|bin| Path::new(bin).join(tool));
            let place = place.into_iter().find(|place| place.exists()).unwrap();
            std::os::unix::fs::symlink(place, root.path().join("tools").join(tool)).unwrap();
        }
        // A program that was just written could not be run while another test starts one.
        let stub = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/asked");
        for program in programs {
            std::os::unix::fs::symlink(&stub, root.path().join("bin").join(program)).unwrap();
        }
        Self { root, disc }
    }

    fn install(&self) -> (Option<i32>, String) {
        let root = self.root.path();
        let output = Command::new("sh")
            .arg(self.disc.join("install.sh"))
            .env_clear()
            .env("INSTALL_ROOT", root)
            // Without the host's own package managers.
            .env(
                "PATH",
                format!(
                    "{}:{}",
                    root.join("bin").display(),
                    root.join("tools").display()
                ),
            )
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        (
            output.status.code(),
            said.replace(&root.display().to_string(), ""),
        )
    }
}

/// With each package manager, and again when it is done.
#[test]
fn the_installer_for_linux_takes_what_fits() {
    let place = ready();
    place.works("add @bundle.zip");
    let installed = |programs: &[&str]| {
        let guest = Guest::new(&place, programs);
        let (code, said) = guest.install();
        assert_eq!(code, Some(0), "{said}");
        said
    };
    insta::assert_snapshot!(installed(&["dpkg", "apt-get"]), @"
    install.sh: installing nvidia-linux-grid-580_580.65.06_amd64.deb
    asked: apt-get install -y /disc/nvidia-linux-grid-580_580.65.06_amd64.deb
    install.sh: done; 'nvidia-smi' shows the GPU, 'nvidia-smi -q | grep License' the licence
    ");
    insta::assert_snapshot!(installed(&["dpkg"]), @"
    install.sh: installing nvidia-linux-grid-580_580.65.06_amd64.deb
    asked: dpkg -i /disc/nvidia-linux-grid-580_580.65.06_amd64.deb
    install.sh: done; 'nvidia-smi' shows the GPU, 'nvidia-smi -q | grep License' the licence
    ");
    insta::assert_snapshot!(installed(&["rpm", "dnf"]), @"
    install.sh: installing nvidia-linux-grid-580-580.65.06-1.x86_64.rpm
    asked: dnf install -y /disc/nvidia-linux-grid-580-580.65.06-1.x86_64.rpm
    install.sh: done; 'nvidia-smi' shows the GPU, 'nvidia-smi -q | grep License' the licence
    ");
    let guest = Guest::new(&place, &["dpkg"]);
    fs::create_dir_all(guest.root.path().join("sys/module/nvidia")).unwrap();
    fs::write(
        guest.root.path().join("sys/module/nvidia/version"),
        "580.65.06\n",
    )
    .unwrap();
    fs::create_dir(guest.disc.join("token")).unwrap();
    fs::write(guest.disc.join("token/client.tok"), "secret").unwrap();
    insta::assert_snapshot!(guest.install().1, @"
    install.sh: driver 580.65.06 is installed already
    install.sh: put the licence token into /etc/nvidia/ClientConfigToken
    install.sh: done; 'nvidia-smi' shows the GPU, 'nvidia-smi -q | grep License' the licence
    ");
    insta::assert_snapshot!(guest.install().1, @"
    install.sh: driver 580.65.06 is installed already
    install.sh: the licence token is in place already
    install.sh: done; 'nvidia-smi' shows the GPU, 'nvidia-smi -q | grep License' the licence
    ");
    let token = guest
        .root
        .path()
        .join("etc/nvidia/ClientConfigToken/client.tok");
    assert_eq!(fs::read(&token).unwrap(), b"secret");
    assert_eq!(
        token.metadata().unwrap().permissions().mode() & 0o777,
        0o744
    );
    let config = guest.root.path().join("etc/nvidia/gridd.conf");
    assert_eq!(fs::read_to_string(&config).unwrap(), "FeatureType=1\n");
    // The administrator's setting stays; the template's, by which a guest takes no licence, does not.
    fs::write(&config, "FeatureType=2\n").unwrap();
    guest.install();
    assert_eq!(fs::read_to_string(&config).unwrap(), "FeatureType=2\n");
    fs::remove_file(&config).unwrap();
    fs::write(
        config.with_extension("conf.template"),
        "# NVIDIA\nFeatureType=0\n",
    )
    .unwrap();
    guest.install();
    assert_eq!(
        fs::read_to_string(&config).unwrap(),
        "# NVIDIA\nFeatureType=1\n"
    );
    let guest = Guest::new(&place, &["dpkg"]);
    fs::remove_dir_all(guest.root.path().join("lib")).unwrap();
    let (code, said) = guest.install();
    assert_eq!(code, Some(1));
    assert!(
        said.contains("the headers of this kernel are missing"),
        "{said}"
    );
}

/// QEMU has to read it, whatever umask the administrator has.
#[test]
fn a_disc_is_readable_for_others() {
    let place = ready();
    let program = env!("CARGO_BIN_EXE_virt-vgpu");
    let root = place.root.path().display();
    let added =
        format!("umask 077; exec {program} --root {root} driver add {root}/given/bundle.zip");
    let outcome = Command::new("sh").args(["-c", &added]).output().unwrap();
    assert!(outcome.status.success(), "{outcome:?}");
    let mode = |path: &str| place.path(path).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(DISC), 0o644);
    assert_eq!(mode("/var/lib/virt-vgpu/drivers"), 0o755);
    assert_eq!(mode("/var/lib/virt-vgpu/drivers/nvidia-580.65.05"), 0o755);
    assert_eq!(
        mode("/var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest"),
        0o755
    );
}
