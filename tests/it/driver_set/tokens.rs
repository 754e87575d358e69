//! Licence tokens, and the discs with them: who gets which, and who can read it.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    process::Command,
};

use super::*;
use crate::support::{
    domain::Domain,
    machine::{Machine, SMALL},
    scene::Scene,
};

const SET: &str = "/var/lib/virt-vgpu/drivers/nvidia-580.65.05";

/// What must be seen nowhere: the payload has it too, so that no part of a token is told.
const SECRET: &str = "sesame";

/// A token with that payload, and something of a secret in each part of it.
fn token(payload: &str) -> String {
    format!("{SECRET}00.{}.{SECRET}00\n", base64url(payload))
}

fn base64url(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for group in text.as_bytes().chunks(3) {
        let mut bits = [0; 4];
        bits[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(bits);
        for digit in 0..=group.len() {
            out.push(char::from(
                ALPHABET[(bits >> (18 - 6 * digit)) as usize & 63],
            ));
        }
    }
    out
}

/// A host whose pools 'cad' and 'viz' lend a set, and 'bare' nothing.
struct Lab {
    scene: Scene,
}

/// A user of QEMU's that this test may give files to.
fn qemu_user() -> u32 {
    match nix::unistd::geteuid() {
        root if root.is_root() => 64055,
        other => other.as_raw(),
    }
}

impl Lab {
    fn new() -> Self {
        let scene = Scene::new(Machine::of_boards(2));
        scene.daemon_lives();
        for pool in ["cad", "viz"] {
            scene.pool_with(pool, SMALL, "guest-driver = 'nvidia-580.65.05'");
        }
        scene.pool("bare", SMALL);
        scene.file(
            "etc/libvirt/qemu.conf",
            format!("user = \"+{}\"\n", qemu_user()),
        );
        let lab = Self { scene };
        fs::create_dir_all(lab.scene.path("usr/bin")).unwrap();
        symlink("/usr/bin/env", lab.scene.path("usr/bin/env")).unwrap();
        lab.makes_discs_with(Path::new("/usr/bin/xorriso"));
        lab.scene.file("bundle.zip", Archive::of_nvidia().bytes());
        lab
    }

    fn with_set() -> Self {
        let lab = Self::new();
        let bundle = lab.scene.path("bundle.zip");
        lab.driver(&format!("add {}", bundle.display())).succeeds();
        lab
    }

    fn makes_discs_with(&self, program: &Path) {
        let place = self.scene.path("usr/bin/xorriso");
        let _ = fs::remove_file(&place);
        symlink(program, place).unwrap();
    }

    fn program(&self, arguments: &str) -> Program {
        let given = format!("{}/", self.scene.root().display());
        Program::command(self.scene.root(), &arguments.replace('@', &given))
    }

    fn run(&self, arguments: &str) -> Outcome {
        let outcome = self.program(arguments).run();
        shows_no_secret(&outcome);
        outcome
    }

    fn driver(&self, arguments: &str) -> Outcome {
        self.run(&format!("driver {arguments}"))
    }

    /// What the verb says when it works.
    #[track_caller]
    fn token(&self, arguments: &str) -> String {
        let outcome = self.driver(&format!("token {arguments}"));
        assert_eq!(
            (outcome.code, &*outcome.stderr),
            (Some(0), ""),
            "{outcome:?}"
        );
        self.plain(&outcome.stdout)
    }

    /// What it says when it is refused; all files are as before.
    #[track_caller]
    fn refused(&self, arguments: &str) -> String {
        let before = self.everything();
        let outcome = self.driver(&format!("token {arguments}"));
        assert_eq!(
            (outcome.code, &*outcome.stdout),
            (Some(1), ""),
            "{outcome:?}"
        );
        assert_eq!(self.everything(), before);
        self.plain(&outcome.stderr)
    }

    fn plain(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.scene.root().display()), "/")
    }

    fn everything(&self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        let state = self.scene.path("var/lib/virt-vgpu");
        walk(&state, &state, &mut found);
        found.retain(|(path, _)| path != "media");
        found.sort();
        found
    }

    /// The names of the set's discs.
    fn discs(&self) -> Vec<String> {
        let names = fs::read_dir(self.scene.path(SET)).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".iso")).collect();
        names.sort();
        names
    }

    fn problems(&self) -> String {
        let outcome = self.run("status --json");
        let status: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        let problems = status["problems"].as_array().unwrap().iter();
        let problems: Vec<&str> = problems.map(|one| one.as_str().unwrap()).collect();
        let user = format!("'+{}'", qemu_user());
        problems.join("\n").replace(&user, "'+64055'")
    }

    /// The disc that a VM gets: the name of its image, or nothing.
    fn lent(&self, vm: &Domain) -> String {
        let outcome = self.scene.prepare(vm);
        outcome.succeeds();
        let link = fs::read_link(self.scene.path(&vm.media())).ok();
        self.scene.stop(vm);
        let name = link.map(|path| path.file_name().unwrap().to_owned());
        name.map_or_else(String::new, |name| name.into_string().unwrap())
    }
}

#[track_caller]
fn shows_no_secret(outcome: &Outcome) {
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(
            !text.contains(SECRET) && !text.contains("eyJ"),
            "{outcome:?}"
        );
        assert!(!text.contains(&base64url(SECRET)), "{outcome:?}");
    }
}

fn vm(number: usize, pool: &str) -> Domain {
    Domain::new(number).request("gpu0", &format!("pool='{pool}' guest-drivers='yes'"), true)
}

const UUID: &str = "aaaaaaaa-0000-4000-8000-000000000002";

#[test]
fn each_vm_gets_its_own_token_and_no_other() {
    let lab = Lab::with_set();
    lab.scene.file("all.tok", token(r#"{"iat":1}"#));
    lab.scene.file("cad.tok", token(r#"{"exp":4102444800}"#));
    lab.scene
        .file("vm2.tok", "sesame, in no form that is known");
    insta::assert_snapshot!(lab.token("list"), @"no licence tokens; 'virt-vgpu driver token add FILE.tok' stores one");
    insta::assert_snapshot!(lab.token("add @cad.tok --pool cad --dry-run"), @"
    would store cad.tok as the licence token of pool 'cad'; it expires on 2100-01-01
    would make /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-cad.iso
    ");
    assert_eq!(lab.discs(), ["guest.iso"]);
    insta::assert_snapshot!(lab.token("add @cad.tok --pool cad"), @"
    stored cad.tok as the licence token of pool 'cad'; it expires on 2100-01-01
    made /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-cad.iso
    ");
    assert_eq!(lab.discs(), ["guest-pool-cad.iso", "guest.iso"]);
    assert_eq!(lab.lent(&vm(1, "cad")), "guest-pool-cad.iso");
    assert_eq!(lab.lent(&vm(1, "viz")), "guest.iso");
    insta::assert_snapshot!(lab.token("add @all.tok"), @"
    stored all.tok as the licence token of all VMs; it does not say when it expires
    made /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-all.iso
    ");
    insta::assert_snapshot!(lab.token(&format!("add @vm2.tok --domain {UUID}")), @"
    stored vm2.tok as the licence token of domain aaaaaaaa-0000-4000-8000-000000000002; it does not say when it expires
    made /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-domain-aaaaaaaa-0000-4000-8000-000000000002.iso
    ");
    for (number, pool, disc) in [
        (1, "cad", "guest-pool-cad.iso"),
        (1, "viz", "guest-all.iso"),
        (
            2,
            "cad",
            "guest-domain-aaaaaaaa-0000-4000-8000-000000000002.iso",
        ),
        (
            2,
            "viz",
            "guest-domain-aaaaaaaa-0000-4000-8000-000000000002.iso",
        ),
    ] {
        assert_eq!(lab.lent(&vm(number, pool)), disc, "{number} {pool}");
    }
    insta::assert_snapshot!(lab.token("list"), @"
    SCOPE                                        EXPIRES     FILE     SETS
    all VMs                                      not known   all.tok  nvidia-580.65.05
    pool 'cad'                                   2100-01-01  cad.tok  nvidia-580.65.05
    domain aaaaaaaa-0000-4000-8000-000000000002  not known   vm2.tok  nvidia-580.65.05
    ");
    assert_eq!(lab.problems(), "");
    insta::assert_snapshot!(lab.token("list --json").replace("\n    ", "\n"), @r#"
    {
      "tokens": [
    {
      "scope": "all",
      "file": "all.tok",
      "expires": null,
      "sets": [
        "nvidia-580.65.05"
      ]
    },
    {
      "scope": "pool",
      "pool": "cad",
      "file": "cad.tok",
      "expires": "2100-01-01",
      "sets": [
        "nvidia-580.65.05"
      ]
    },
    {
      "scope": "domain",
      "domain_uuid": "aaaaaaaa-0000-4000-8000-000000000002",
      "file": "vm2.tok",
      "expires": null,
      "sets": [
        "nvidia-580.65.05"
      ]
    }
      ],
      "warnings": [],
      "problems": []
    }
    "#);

    // Only root can read what is stored, and only QEMU's user the discs.
    let of = |path: &str| {
        let found = lab.scene.path(path).metadata().unwrap();
        format!("{:o} {}", found.permissions().mode() & 0o7777, found.uid())
    };
    let root = nix::unistd::geteuid();
    assert_eq!(of("/var/lib/virt-vgpu/tokens"), format!("700 {root}"));
    for file in ["all", "pool-cad", &format!("domain-{UUID}")] {
        let token = format!("/var/lib/virt-vgpu/tokens/{file}.json");
        assert_eq!(of(&token), format!("600 {root}"));
        let disc = format!("{SET}/guest-{file}.iso");
        assert_eq!(of(&disc), format!("400 {}", qemu_user()));
    }
    assert_eq!(of(&format!("{SET}/guest.iso")), format!("644 {root}"));

    // Each disc has its token, byte by byte, and the plain one has none.
    let on = |disc: &str| {
        // xorriso writes to nothing below /dev.
        let out = TempDir::new().unwrap();
        let out = out.path().join("disc");
        let image = lab.scene.path(&format!("{SET}/{disc}"));
        let to = out.to_str().unwrap();
        let extract = ["-osirrox", "on", "-extract", "/", to];
        discs::read_back(&image, "any", &extract);
        let sums = Command::new("sha256sum")
            .args(["-c", "--quiet", "SHA256SUMS"])
            .current_dir(&out)
            .status();
        assert!(sums.unwrap().success());
        let files = fs::read_dir(out.join("token")).into_iter().flatten();
        let files = files.map(|entry| entry.unwrap());
        let files = files.map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        });
        files.collect::<Vec<_>>()
    };
    let cad = token(r#"{"exp":4102444800}"#);
    assert_eq!(on("guest-pool-cad.iso"), [("cad.tok".to_owned(), cad)]);
    let all = token(r#"{"iat":1}"#);
    assert_eq!(on("guest-all.iso"), [("all.tok".to_owned(), all)]);
    assert_eq!(on("guest.iso"), []);

    // A disc goes with its token, and the set with all of them.
    let running = vm(1, "cad");
    lab.scene.prepare(&running).succeeds();
    let status = lab.run("status").stdout;
    let disc = status.lines().find(|line| line.starts_with("disc: "));
    insta::assert_snapshot!(disc.unwrap(), @"disc: vm1 has that of driver set 'nvidia-580.65.05', with the licence token of pool 'cad'");
    let status: serde_json::Value = serde_json::from_str(&lab.run("status --json").stdout).unwrap();
    let disc = serde_json::json!({
        "set": "nvidia-580.65.05", "token": { "scope": "pool", "pool": "cad" },
    });
    assert_eq!(status["claims"][0]["guest_disc"], disc);
    insta::assert_snapshot!(lab.token("remove --pool cad --dry-run"), @"
    would remove the licence token of pool 'cad' (cad.tok)
    would remove /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-cad.iso
    note: domain 'vm1' runs with such a disc, and has it until it stops
    ");
    insta::assert_snapshot!(lab.refused("remove --pool cad"), @"virt-vgpu: no licence token was removed: there is no terminal to ask on; pass --yes");
    insta::assert_snapshot!(lab.token("remove --pool cad --yes"), @"
    removed the licence token of pool 'cad' (cad.tok)
    removed /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-cad.iso
    note: domain 'vm1' runs with such a disc, and has it until it stops
    ");
    insta::assert_snapshot!(lab.refused("remove --pool cad --yes"), @"virt-vgpu: there is no licence token of pool 'cad'; 'virt-vgpu driver token list' lists those that there are");
    lab.scene.stop(&running);
    assert_eq!(lab.lent(&vm(1, "cad")), "guest-all.iso");
    for pool in ["cad", "viz"] {
        fs::remove_file(
            lab.scene
                .path(&format!("etc/virt-vgpu/pools.d/{pool}.toml")),
        )
        .unwrap();
    }
    lab.driver("remove nvidia-580.65.05 --yes").succeeds();
    assert!(!lab.scene.path(SET).exists());
}

/// Tokens that come before their sets, and sets before their pools.
#[test]
fn discs_are_made_when_they_are_needed() {
    let lab = Lab::new();
    lab.scene.file("a.tok", token("{}"));
    insta::assert_snapshot!(lab.token("add @a.tok"), @"
    stored a.tok as the licence token of all VMs; it does not say when it expires
    note: no driver set needs a disc with it now; when one does, 'virt-vgpu driver add' or 'virt-vgpu driver iso' makes it
    ");
    insta::assert_snapshot!(lab.token("add @a.tok --pool bare"), @"
    stored a.tok as the licence token of pool 'bare'; it does not say when it expires
    note: pool 'bare' has no guest-driver; its VMs get the token when it is a driver set
    note: no driver set needs a disc with it now; when one does, 'virt-vgpu driver add' or 'virt-vgpu driver iso' makes it
    ");
    let bundle = lab.scene.path("bundle.zip");
    let added = lab.driver(&format!("add {}", bundle.display()));
    added.succeeds();
    assert!(
        added.stdout.ends_with(&format!("\nmade {SET}/guest.iso\nmade {SET}/guest-all.iso\n\nnote: no drivers, and left out: Signing_Keys/readme.txt, 580.65.05-580.65.06-580.88-grid-vgpu-user-guide.pdf\n")),
        "{}", added.stdout
    );
    // The pool is given the set later: its VMs get no other disc in place of theirs.
    lab.scene
        .pool_with("bare", SMALL, "guest-driver = 'nvidia-580.65.05'");
    insta::assert_snapshot!(lab.problems(), @"pool 'bare': guest-driver: driver set 'nvidia-580.65.05' has no disc with the licence token of pool 'bare'; 'virt-vgpu driver iso nvidia-580.65.05' makes it");
    let checked = lab.run("pool check bare");
    insta::assert_snapshot!(lab.plain(&checked.stdout), @"
    warning: /etc/virt-vgpu/pools.d/bare.toml: key 'guest-driver': driver set 'nvidia-580.65.05' has no disc with the licence token of pool 'bare'; 'virt-vgpu driver iso nvidia-580.65.05' makes it
    1 pool checked: 0 errors, 1 warning
    ");
    assert_eq!(lab.lent(&vm(1, "bare")), "");
    let made = lab.driver("iso nvidia-580.65.05");
    made.succeeds();
    insta::assert_snapshot!(made.stdout, @"
    made /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest.iso
    made /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-all.iso
    made /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-bare.iso
    ");
    assert_eq!(lab.problems(), "");
    assert_eq!(lab.lent(&vm(1, "bare")), "guest-pool-bare.iso");

    // Another token: a disc with the former one is not lent while there is no new one.
    lab.scene.file("b.tok", token(r#"{"exp":4102444800}"#));
    insta::assert_snapshot!(lab.refused("add @b.tok --pool bare"), @"virt-vgpu: nothing was stored: there is no terminal to ask on; pass --yes");
    lab.makes_discs_with(Path::new("/nowhere"));
    fs::remove_file(lab.scene.path("usr/bin/xorriso")).unwrap();
    let outcome = lab.driver(&format!(
        "token add {} --pool bare --yes",
        lab.scene.path("b.tok").display()
    ));
    assert_eq!(outcome.code, Some(1));
    insta::assert_snapshot!(outcome.stdout, @"
    stored b.tok as the licence token of pool 'bare' in place of a.tok; it expires on 2100-01-01

    problem: there is no disc of driver set 'nvidia-580.65.05' with the licence token of pool 'bare': /usr/bin/xorriso is not installed, which makes discs; install xorriso ('apt-get install xorriso'); 'virt-vgpu driver iso nvidia-580.65.05' makes it
    ");
    assert_eq!(lab.discs(), ["guest-all.iso", "guest.iso"]);
    assert_eq!(lab.lent(&vm(1, "bare")), "");
    lab.makes_discs_with(Path::new("/usr/bin/xorriso"));
    lab.driver("iso nvidia-580.65.05").succeeds();
    assert_eq!(lab.lent(&vm(1, "bare")), "guest-pool-bare.iso");
}

/// What keeps a disc from its VM is told beforehand, and never is another one lent.
#[test]
fn discs_that_are_not_as_they_should_be() {
    let lab = Lab::with_set();
    lab.scene.file("a.tok", token("{}"));
    lab.token("add @a.tok --pool cad");
    let disc = lab.scene.path(&format!("{SET}/guest-pool-cad.iso"));
    let mode = |mode| fs::set_permissions(&disc, fs::Permissions::from_mode(mode)).unwrap();
    for bad in [0o444, 0o440, 0o000] {
        mode(bad);
        insta::allow_duplicates! {
            insta::assert_snapshot!(lab.problems(), @"pool 'cad': guest-driver: /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-cad.iso, which has a licence token, is not readable for QEMU's user '+64055' alone; 'virt-vgpu driver iso nvidia-580.65.05' makes it again");
        }
        assert_eq!(lab.lent(&vm(1, "cad")), "", "{bad:o}");
    }
    mode(0o400);
    assert_eq!(lab.lent(&vm(1, "cad")), "guest-pool-cad.iso");
    // QEMU runs as another user now.
    lab.scene
        .file("etc/libvirt/qemu.conf", "user = \"+4711\"\n");
    insta::assert_snapshot!(lab.problems(), @"pool 'cad': guest-driver: /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-cad.iso, which has a licence token, is not readable for QEMU's user '+4711' alone; 'virt-vgpu driver iso nvidia-580.65.05' makes it again");
    assert_eq!(lab.lent(&vm(1, "cad")), "");
    lab.scene.file("etc/libvirt/qemu.conf", "user = \"who\"\n");
    insta::assert_snapshot!(lab.problems(), @r#"pool 'cad': guest-driver: user 'who' of /etc/libvirt/qemu.conf, which QEMU runs as, is not in /etc/passwd; write its number there, as in user = "+64055""#);
    assert_eq!(lab.lent(&vm(1, "cad")), "");
    let refused = lab.driver("iso nvidia-580.65.05");
    assert_eq!(refused.code, Some(1));
    insta::assert_snapshot!(refused.stdout, @r#"
    made /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest.iso

    problem: there is no disc of driver set 'nvidia-580.65.05' with the licence token of pool 'cad': user 'who' of /etc/libvirt/qemu.conf, which QEMU runs as, is not in /etc/passwd; write its number there, as in user = "+64055"; 'virt-vgpu driver iso nvidia-580.65.05' makes it
    "#);
    lab.scene.file(
        "etc/libvirt/qemu.conf",
        format!("user = \"+{}\"\n", qemu_user()),
    );
    // A disc with an earlier token.
    let file = fs::File::options()
        .write(true)
        .open(lab.scene.path("var/lib/virt-vgpu/tokens/pool-cad.json"));
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    file.unwrap().set_modified(later).unwrap();
    insta::assert_snapshot!(lab.problems(), @"pool 'cad': guest-driver: the disc of driver set 'nvidia-580.65.05' has an earlier licence token of pool 'cad'; 'virt-vgpu driver iso nvidia-580.65.05' makes it again");
    assert_eq!(lab.lent(&vm(1, "cad")), "");
    // Nobody can tell whether there is a token.
    fs::remove_dir_all(lab.scene.path("var/lib/virt-vgpu/tokens")).unwrap();
    lab.scene.file("var/lib/virt-vgpu/tokens", "");
    insta::assert_snapshot!(lab.problems(), @"
    /var/lib/virt-vgpu/tokens: Not a directory (os error 20)
    pool 'cad': guest-driver: /var/lib/virt-vgpu/tokens/pool-cad.json: Not a directory (os error 20)
    pool 'viz': guest-driver: /var/lib/virt-vgpu/tokens/pool-viz.json: Not a directory (os error 20)
    ");
    assert_eq!(lab.lent(&vm(1, "cad")), "");
}

/// A host whose battery is empty, or whose clock was wrong until today.
#[test]
fn the_clock_does_not_say_which_disc_is_of_a_token() {
    let lab = Lab::with_set();
    lab.scene.file("a.tok", token("{}"));
    lab.token("add @a.tok --pool cad");
    let disc = lab.scene.path(&format!("{SET}/guest-pool-cad.iso"));
    let year = std::time::Duration::from_secs(365 * 24 * 60 * 60);
    for (path, date) in [
        (
            lab.scene.path("var/lib/virt-vgpu/tokens/pool-cad.json"),
            std::time::SystemTime::now() + 10 * year,
        ),
        (disc, std::time::SystemTime::now() + 20 * year),
    ] {
        let file = fs::File::open(path).unwrap();
        file.set_modified(date).unwrap();
        assert_eq!(lab.lent(&vm(1, "cad")), "");
        lab.driver("iso nvidia-580.65.05").succeeds();
        assert_eq!(lab.problems(), "");
        assert_eq!(lab.lent(&vm(1, "cad")), "guest-pool-cad.iso");
    }
}

/// By its path, also that of a link, another pool would lend it.
#[test]
fn a_disc_with_a_token_is_no_image_of_a_pools_own() {
    let lab = Lab::with_set();
    lab.scene.file("a.tok", token("{}"));
    lab.token("add @a.tok --pool cad");
    let disc = format!("{SET}/guest-pool-cad.iso");
    let readable = fs::Permissions::from_mode(0o444);
    fs::set_permissions(lab.scene.path(&disc), readable).unwrap();
    symlink(
        lab.scene.path(&disc),
        lab.scene.path("var/lib/virt-vgpu/link.iso"),
    )
    .unwrap();
    for image in [&*disc, "/var/lib/virt-vgpu/link.iso"] {
        lab.scene
            .pool_with("viz", SMALL, &format!("guest-driver = '{image}'"));
        assert_eq!(lab.lent(&vm(1, "viz")), "", "{image}");
    }
    let checked = lab.run("pool check viz");
    insta::assert_snapshot!(lab.plain(&checked.stdout), @r#"
    warning: /etc/virt-vgpu/pools.d/viz.toml: key 'guest-driver': /var/lib/virt-vgpu/link.iso has the licence token of pool 'cad', and is lent by virt-vgpu to its VMs alone; write guest-driver = "nvidia-580.65.05" instead
    1 pool checked: 0 errors, 1 warning
    "#);
}

#[test]
fn what_is_no_token_is_refused() {
    let lab = Lab::with_set();
    let given = |name: &str, bytes: &[u8]| lab.scene.file(name, bytes);
    given("good.tok", token("{}").as_bytes());
    given("good.txt", token("{}").as_bytes());
    given("-x.tok", token("{}").as_bytes());
    given("empty.tok", b"\n");
    given("large.tok", &vec![b'x'; (64 << 10) + 1]);
    given("nul.tok", b"sesame\0");
    given("bytes.tok", b"sesame\xff");
    given("old.tok", token(r#"{"exp":1577836800}"#).as_bytes());
    fs::create_dir(lab.scene.path("directory.tok")).unwrap();
    nix::unistd::mkfifo(&lab.scene.path("pipe.tok"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (arguments, says) in [
        (
            "@good.txt",
            "virt-vgpu: nothing was stored: /good.txt is not the name of a token: it has to end with .tok, and may have letters, digits and ._-, at most 100; rename it\n",
        ),
        (
            "@-x.tok",
            "virt-vgpu: nothing was stored: /-x.tok is not the name of a token: it has to end with .tok, and may have letters, digits and ._-, at most 100; rename it\n",
        ),
        (
            "@none.tok",
            "virt-vgpu: nothing was stored: /none.tok: No such file or directory (os error 2)\n",
        ),
        (
            "@empty.tok",
            "virt-vgpu: nothing was stored: /empty.tok is empty: it is no licence token; download the client configuration token from NVIDIA's licensing portal or from your licence server\n",
        ),
        (
            "@large.tok",
            "virt-vgpu: nothing was stored: /large.tok has more than 64 KiB: it is no licence token; download the client configuration token from NVIDIA's licensing portal or from your licence server\n",
        ),
        (
            "@nul.tok",
            "virt-vgpu: nothing was stored: /nul.tok is no text: it is no licence token; download the client configuration token from NVIDIA's licensing portal or from your licence server\n",
        ),
        (
            "@bytes.tok",
            "virt-vgpu: nothing was stored: /bytes.tok is no text: it is no licence token; download the client configuration token from NVIDIA's licensing portal or from your licence server\n",
        ),
        (
            "@directory.tok",
            "virt-vgpu: nothing was stored: /directory.tok: it is no regular file\n",
        ),
        (
            "@pipe.tok",
            "virt-vgpu: nothing was stored: /pipe.tok: it is no regular file\n",
        ),
        (
            "@old.tok",
            "virt-vgpu: nothing was stored: the token has expired on 2020-01-01 (UTC) by this host's clock; get a new one from NVIDIA's licensing portal\n",
        ),
        (
            "@good.tok --pool other",
            "virt-vgpu: nothing was stored: there is no pool 'other'; see 'virt-vgpu pool list'\n",
        ),
    ] {
        assert_eq!(lab.refused(&format!("add {arguments}")), says);
    }
    insta::assert_snapshot!(lab.refused("remove --yes"), @"virt-vgpu: there is no licence token of all VMs; 'virt-vgpu driver token list' lists those that there are");
    assert!(!lab.scene.path("var/lib/virt-vgpu/tokens").exists());
    let both = lab.driver(&format!("token remove --pool cad --domain {UUID}"));
    assert_eq!(both.code, Some(2));
}

/// Files that were changed by hand: told without what is in them, and they can be removed.
#[test]
fn damaged_tokens_are_told_without_their_contents() {
    let lab = Lab::with_set();
    let tokens = "var/lib/virt-vgpu/tokens";
    lab.scene.file(
        &format!("{tokens}/all.json"),
        r#"{"file": "a.tok", "text": ["sesame"]}"#,
    );
    lab.scene
        .file(&format!("{tokens}/pool-cad.json"), r#""sesame""#);
    lab.scene.file(
        &format!("{tokens}/pool-viz.json"),
        r#"{"file": "../a", "text": "sesame"}"#,
    );
    lab.scene.file(&format!("{tokens}/sesam.json"), "");
    let outcome = lab.driver("token list");
    assert_eq!(outcome.code, Some(1));
    insta::assert_snapshot!(outcome.stdout, @"
    no licence tokens; 'virt-vgpu driver token add FILE.tok' stores one

    problem: /var/lib/virt-vgpu/tokens/all.json is damaged; run 'virt-vgpu driver token remove', then add the token again

    problem: /var/lib/virt-vgpu/tokens/pool-cad.json is damaged; run 'virt-vgpu driver token remove --pool=cad', then add the token again

    problem: /var/lib/virt-vgpu/tokens/pool-viz.json is damaged; run 'virt-vgpu driver token remove --pool=viz', then add the token again

    problem: /var/lib/virt-vgpu/tokens/sesam.json is no token
    ");
    insta::assert_snapshot!(lab.problems(), @"
    /var/lib/virt-vgpu/tokens/all.json is damaged; run 'virt-vgpu driver token remove', then add the token again
    /var/lib/virt-vgpu/tokens/pool-cad.json is damaged; run 'virt-vgpu driver token remove --pool=cad', then add the token again
    /var/lib/virt-vgpu/tokens/pool-viz.json is damaged; run 'virt-vgpu driver token remove --pool=viz', then add the token again
    /var/lib/virt-vgpu/tokens/sesam.json is no token
    pool 'cad': guest-driver: driver set 'nvidia-580.65.05' has no disc with the licence token of pool 'cad'; 'virt-vgpu driver iso nvidia-580.65.05' makes it
    pool 'viz': guest-driver: driver set 'nvidia-580.65.05' has no disc with the licence token of pool 'viz'; 'virt-vgpu driver iso nvidia-580.65.05' makes it
    ");
    insta::assert_snapshot!(lab.token("remove --pool cad --yes"), @"removed the licence token of pool 'cad'");
    lab.scene.file("a.tok", token("{}"));
    insta::assert_snapshot!(lab.token("add @a.tok --yes"), @"
    stored a.tok as the licence token of all VMs in place of a damaged one; it does not say when it expires
    made /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-all.iso
    ");
}

/// Ten days before the end of one, and long after that of another.
#[test]
fn tokens_that_end_are_warned_of() {
    let lab = Lab::with_set();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let soon = now.unwrap().as_secs() + 10 * 24 * 60 * 60;
    lab.scene
        .file("soon.tok", token(&format!(r#"{{"exp":{soon}}}"#)));
    let day = Command::new("date")
        .args(["-u", "-d", &format!("@{soon}"), "+%Y-%m-%d"])
        .output();
    let day = String::from_utf8(day.unwrap().stdout).unwrap();
    let plain = |text: &str| text.replace(day.trim(), "THAT-DAY");
    insta::assert_snapshot!(plain(&lab.token("add @soon.tok --pool cad")), @"
    stored soon.tok as the licence token of pool 'cad'; it expires on THAT-DAY
    made /var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-cad.iso
    note: the licence token of pool 'cad' expires on THAT-DAY (UTC), and guests get no licence with it after that; get a new one from NVIDIA's licensing portal, then run 'virt-vgpu driver token add FILE.tok --pool=cad'
    ");
    // It was good when it was added.
    let text = token(r#"{"exp":1577836800}"#);
    let stored = serde_json::json!({ "file": "old.tok", "domain-name": "ws7", "text": text });
    let path = format!("var/lib/virt-vgpu/tokens/domain-{UUID}.json");
    lab.scene.file(&path, stored.to_string());
    lab.driver("iso nvidia-580.65.05").succeeds();
    insta::assert_snapshot!(plain(&lab.problems()), @"
    the licence token of pool 'cad' expires on THAT-DAY (UTC), and guests get no licence with it after that; get a new one from NVIDIA's licensing portal, then run 'virt-vgpu driver token add FILE.tok --pool=cad'
    the licence token of domain 'ws7' (aaaaaaaa-0000-4000-8000-000000000002) has expired on 2020-01-01 (UTC), and guests get no licence with it after that; get a new one from NVIDIA's licensing portal, then run 'virt-vgpu driver token add FILE.tok --domain=aaaaaaaa-0000-4000-8000-000000000002'
    ");
    insta::assert_snapshot!(plain(&lab.token("list")), @"
    SCOPE                                                EXPIRES     FILE      SETS
    pool 'cad'                                           THAT-DAY  soon.tok  nvidia-580.65.05
    domain 'ws7' (aaaaaaaa-0000-4000-8000-000000000002)  2020-01-01  old.tok   nvidia-580.65.05

    warning: the licence token of pool 'cad' expires on THAT-DAY (UTC), and guests get no licence with it after that; get a new one from NVIDIA's licensing portal, then run 'virt-vgpu driver token add FILE.tok --pool=cad'

    warning: the licence token of domain 'ws7' (aaaaaaaa-0000-4000-8000-000000000002) has expired on 2020-01-01 (UTC), and guests get no licence with it after that; get a new one from NVIDIA's licensing portal, then run 'virt-vgpu driver token add FILE.tok --domain=aaaaaaaa-0000-4000-8000-000000000002'
    ");
    let found = lab.run("doctor --json");
    let found: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
    let found = found["findings"].as_array().unwrap().iter();
    let ends: Vec<_> = found
        .filter(|one| one["check"] == "licence-token-ends")
        .collect();
    insta::assert_snapshot!(plain(&serde_json::to_string_pretty(&ends).unwrap()), @r#"
    [
      {
        "advice": "get a new one from NVIDIA's licensing portal, and put it in its place",
        "check": "licence-token-ends",
        "commands": [
          "virt-vgpu driver token add FILE.tok --pool=cad"
        ],
        "evidence": [
          "/var/lib/virt-vgpu/tokens/pool-cad.json: expires on THAT-DAY"
        ],
        "severity": "warning",
        "what": "the licence token of pool 'cad' expires on THAT-DAY (UTC)"
      },
      {
        "advice": "get a new one from NVIDIA's licensing portal, and put it in its place",
        "check": "licence-token-ends",
        "commands": [
          "virt-vgpu driver token add FILE.tok --domain=aaaaaaaa-0000-4000-8000-000000000002"
        ],
        "evidence": [
          "/var/lib/virt-vgpu/tokens/domain-aaaaaaaa-0000-4000-8000-000000000002.json: has expired on 2020-01-01"
        ],
        "severity": "warning",
        "what": "the licence token of domain 'ws7' (aaaaaaaa-0000-4000-8000-000000000002) has expired on 2020-01-01 (UTC)"
      }
    ]
    "#);
}

/// A program that is started has the token in no argument, variable or core file.
#[test]
fn programs_are_told_no_token() {
    let lab = Lab::with_set();
    lab.scene.file("a.tok", token("{}"));
    // It is run through env.
    let stub = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/failing");
    fs::remove_file(lab.scene.path("usr/bin/env")).unwrap();
    symlink(stub, lab.scene.path("usr/bin/env")).unwrap();
    let outcome = lab.driver(&format!(
        "token add {} --pool cad",
        lab.scene.path("a.tok").display()
    ));
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let told = lab.plain(&outcome.stdout);
    let (_, told) = told.split_once("asked: ").unwrap();
    let (asked, rest) = told.split_once("; environment: ").unwrap();
    assert!(
        asked.starts_with("SOURCE_DATE_EPOCH=1577836800 /usr/bin/xorriso -as mkisofs "),
        "{asked}"
    );
    let (_, limits) = rest.split_once("; core files: ").unwrap();
    let limits: Vec<&str> = limits.split_whitespace().take(2).collect();
    assert_eq!(limits, ["1", "1"], "{rest}");
    assert_eq!(lab.discs(), ["guest.iso"]);
    let stays = fs::read_dir(lab.scene.path("var/lib/virt-vgpu/drivers")).unwrap();
    assert_eq!(stays.count(), 1);
    let mode = |path: &str| {
        lab.scene
            .path(path)
            .metadata()
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("var/lib/virt-vgpu/tokens") & 0o777, 0o700);
}

/// Killed or failed at any effect: no disc or token is half there, none can be read by others,
/// and the next run removes what was left.
#[cfg(feature = "faults")]
#[test]
fn tokens_are_stored_and_removed_whole() {
    let lab = Lab::with_set();
    lab.scene.file("a.tok", token("{}"));
    let trace = lab.scene.path("trace");
    for verb in ["add @a.tok --pool cad --yes", "remove --pool cad --yes"] {
        let is_add = verb.starts_with("add");
        let other = match is_add {
            true => "remove --pool cad --yes",
            false => "add @a.tok --pool cad --yes",
        };
        let run = |verb: &str| lab.program(&format!("driver token {verb}"));
        if !is_add {
            lab.token(other);
        }
        run(verb).trace(&trace).run().succeeds();
        let effects = fs::read_to_string(&trace).unwrap();
        fs::remove_file(&trace).unwrap();
        let done = lab.everything();
        // Discs alone are tested at each of theirs.
        let is_told = |effect: &&str| {
            let others = ["content/install", "content/README", "content/SHA256SUMS"];
            !others.iter().any(|other| effect.contains(other))
        };
        let numbers = effects.lines().filter(is_told);
        let numbers = numbers.map(|effect| effect.split(' ').next().unwrap());
        for number in numbers {
            for fault in [format!("kill:{number}"), format!("28:{number}")] {
                run(other).run();
                let outcome = run(verb).fault(&fault).run();
                shows_no_secret(&outcome);
                secrets_are_closed(&lab, &format!("{fault}: {effects}"));
                // No other disc in place of the right one.
                let lent = lab.lent(&vm(1, "cad"));
                let has_token = lab
                    .scene
                    .path("var/lib/virt-vgpu/tokens/pool-cad.json")
                    .exists();
                let allowed: &[&str] = match has_token {
                    true => &["guest-pool-cad.iso", ""],
                    false => &["guest.iso"],
                };
                assert!(allowed.contains(&&*lent), "{fault}: {lent}: {effects}");
                // Again: the same command, unless it was done but for its last words.
                run(verb).run();
                if lab.everything() != done {
                    lab.driver("iso nvidia-580.65.05").succeeds();
                }
                assert_eq!(lab.everything(), done, "{fault}: {effects}");
            }
        }
    }
}

/// No file with a token can be reached by others than its owner.
#[cfg(feature = "faults")]
fn secrets_are_closed(lab: &Lab, when: &str) {
    let state = lab.scene.path("var/lib/virt-vgpu");
    let mut found = Vec::new();
    walk(&state, &state, &mut found);
    for (name, _) in found {
        let path = state.join(&name);
        if !path.is_file() || !fs::read(&path).unwrap().windows(6).any(|w| w == b"sesame") {
            continue;
        }
        let mut open = path.metadata().unwrap().permissions().mode() & 0o077 != 0;
        for above in path.ancestors().skip(1).take_while(|one| *one != state) {
            open &= above.metadata().unwrap().permissions().mode() & 0o077 != 0;
        }
        assert!(!open, "{name}: {when}");
    }
}
