//! Measures the wall time of the whole hook process next to `/bin/true`, a minimal C
//! program, a shell hook that calls mdevctl and a Python hook, all in one run and in
//! turns, so that a busy moment affects all of them. Needs root, /dev/fuse and the
//! programs in `needs.rs`; run by `cargo bench`, after `packaging/build`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use virt_vgpu::model::{DomainUuid, MdevUuid};

mod needs;
mod sysfs;

use sysfs::Framework;

const ROUNDS: usize = 300;
const NAMESPACE: &str = "VIRT_VGPU_BENCH_NAMESPACE";

fn main() -> ExitCode {
    if std::env::var_os(NAMESPACE).is_none() {
        if let Err(what) = is_ready() {
            eprintln!("benchmark: {what}");
            return ExitCode::FAILURE;
        }
        // Own mounts: /sys, /run/virt-vgpu and /etc/virt-vgpu of this machine
        // stay as they are.
        let error = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .args(std::env::args_os().skip(1))
            .env(NAMESPACE, "1")
            .exec();
        panic!("cannot run unshare: {error}");
    }
    run();
    ExitCode::SUCCESS
}

/// Whether the machine has what the benchmark needs; otherwise what is missing and what
/// to do.
fn is_ready() -> Result<(), String> {
    needs::missing_programs(&std::env::var("PATH").unwrap_or_default())?;
    if !nix::unistd::geteuid().is_root() {
        return Err("run it as root: it mounts a /sys of its own".to_owned());
    }
    if !Path::new("/dev/fuse").exists() {
        return Err("missing: /dev/fuse; run: modprobe fuse".to_owned());
    }
    for program in [hook(), status()] {
        if !program.exists() {
            let program = program.display();
            return Err(format!("missing: {program}; run: packaging/build"));
        }
    }
    Ok(())
}

/// The hook as shipped.
fn hook() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/dist/usr/sbin/virt-vgpu-hook")
}

/// The command as shipped.
fn status() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/dist/usr/bin/virt-vgpu")
}

fn run() {
    let bench = Bench::set_up();
    // For one table: cargo bench --bench hook -- --whole
    if std::env::args().any(|argument| argument == "--whole") {
        return bench.whole_devices();
    }
    let session = make_host(Framework::Mdev, sysfs::BOARDS);
    // For profiling on the same tree: cargo bench --bench hook -- --exec 'strace …'
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--exec") {
        Some(place) => bench.exec(&arguments[place + 1]),
        None => bench.run(),
    }
    drop(session);
    if arguments.iter().any(|argument| argument == "--exec") {
        return;
    }
    let other_host = |framework, boards| {
        unmount("/sys");
        mount_tmpfs("/sys");
        make_host(framework, boards)
    };
    let session = other_host(Framework::VendorVfio, sysfs::BOARDS);
    bench.run_on_functions();
    drop(session);
    let session = other_host(Framework::Mdev, 2 * sysfs::BOARDS);
    bench.look();
    drop(session);
    unmount("/sys");
    mount_tmpfs("/sys");
    bench.whole_devices();
}

/// Fills `/sys` and handles writes until it is dropped.
fn make_host(framework: Framework, boards: usize) -> fuser::BackgroundSession {
    sysfs::fill(framework, boards);
    sysfs::react()
}

/// The kind of device that a domain asks for.
#[derive(Clone, Copy, PartialEq)]
enum Ask {
    Nothing,
    /// Nothing of a pool, but its XML names a PCI function itself.
    Raw,
    /// A device of a pool of kind `mdev`.
    Mdev,
    /// A device of a pool of kind `nvidia-vgpu`, on a host where it is an mdev.
    Vgpu,
    /// The same on a host where it is a virtual function.
    Function,
    /// A vGPU in a GPU instance, on such a host.
    InInstance,
    /// A device of a pool of kind `mdev` that is spread over all boards.
    Spread,
    /// A whole PCI device.
    Whole,
}

impl Ask {
    fn pool(self) -> &'static str {
        match self {
            Self::Nothing | Self::Raw | Self::Mdev => "bench",
            Self::Spread => "spread",
            Self::Vgpu | Self::Function => "vgpu",
            Self::InInstance => "slice",
            Self::Whole => "whole",
        }
    }

    /// The value that the C program writes, and the file.
    fn write(self, number: usize, domain: DomainUuid) -> (String, String) {
        let parent = parent(number);
        let device = MdevUuid::for_device(domain, &"gpu0".parse().unwrap()).to_string();
        match self {
            Self::Nothing | Self::Raw | Self::Whole => (device, "/dev/null".to_owned()),
            Self::Mdev | Self::Vgpu | Self::Spread => (
                device,
                format!("/sys/class/mdev_bus/{parent}/mdev_supported_types/nvidia-512/create"),
            ),
            Self::Function => ("512\n".to_owned(), sysfs::current_type(&parent)),
            Self::InInstance => (
                format!("{}\n", sysfs::IN_INSTANCE),
                sysfs::current_type(&parent),
            ),
        }
    }
}

/// The function that a domain's device is on.
fn parent(number: usize) -> String {
    sysfs::address((number - 1) / 32, 1 + (number - 1) % 32)
}

struct Bench {
    source: PathBuf,
    hook: PathBuf,
    c_program: PathBuf,
    peak: PathBuf,
}

/// One way to make a device.
#[derive(Clone, Copy, PartialEq)]
enum Contestant {
    True,
    C,
    Hook,
    Mdevctl,
    Python,
}

impl Contestant {
    const ALL: [Self; 5] = [Self::True, Self::C, Self::Hook, Self::Mdevctl, Self::Python];

    fn name(self) -> &'static str {
        match self {
            Self::True => "/bin/true",
            Self::C => "minimal C program",
            Self::Hook => "virt-vgpu-hook",
            Self::Mdevctl => "shell hook with mdevctl",
            Self::Python => "Python hook",
        }
    }
}

fn compile(source: &Path) -> PathBuf {
    let name = source.file_stem().unwrap().to_str().unwrap();
    let program = std::env::temp_dir().join(format!("virt-vgpu-bench-{name}"));
    let mut compiler = Command::new("cc");
    compiler.arg("-O2").arg("-o").arg(&program).arg(source);
    assert!(compiler.status().expect("cc").success());
    program
}

fn write_pool(name: &str, kind: &str) {
    fs::create_dir_all("/etc/virt-vgpu/pools.d").unwrap();
    let text = format!(
        "{kind}\ninstances = 200\n[[rule]]\nwhere = [\n  \
         {{ field = \"vendor-id\", op = \"equal\", value = \"10de\" }},\n  \
         {{ field = \"address\", op = \"begins-with\", value = \"0000:2\" }},\n]\n"
    );
    fs::write(format!("/etc/virt-vgpu/pools.d/{name}.toml"), text).unwrap();
}

fn mount_tmpfs(path: &str) {
    fs::create_dir_all(path).unwrap();
    let status = Command::new("mount")
        // With the mode of these directories: directories that anybody can write are
        // not used.
        .args(["-t", "tmpfs", "-o", "mode=755", "bench", path])
        .status()
        .unwrap();
    assert!(
        status.success(),
        "cannot mount a tmpfs on {path}: run as root"
    );
}

fn unmount(path: &str) {
    let status = Command::new("umount").arg(path).status().unwrap();
    assert!(status.success(), "cannot unmount {path}");
}

fn domain(number: usize, ask: Ask) -> (DomainUuid, String) {
    let uuid: DomainUuid = format!("aaaaaaaa-0000-4000-8000-{number:012}")
        .parse()
        .unwrap();
    let (mut metadata, mut hostdev) = (String::new(), String::new());
    if ask == Ask::Raw {
        hostdev = format!(
            "<hostdev mode='subsystem' type='pci' managed='yes'><source>{}</source></hostdev>",
            pci_address(&parent(number))
        );
    } else if ask != Ask::Nothing {
        let device = MdevUuid::for_device(uuid, &"gpu0".parse().unwrap());
        metadata = format!(
            "<metadata><vgpu:devices xmlns:vgpu='urn:virt-vgpu:devices:1'>\
             <vgpu:device name='gpu0' pool='{}'/></vgpu:devices></metadata>",
            ask.pool()
        );
        let (attributes, address) = match ask {
            Ask::Function | Ask::InInstance => {
                ("type='pci' managed='no'", pci_address(&parent(number)))
            }
            Ask::Whole => ("type='pci' managed='no'", pci_address(&sysfs::whole(0))),
            _ => (
                "type='mdev' managed='no' model='vfio-pci' display='off'",
                format!("<address uuid='{device}'/>"),
            ),
        };
        hostdev = format!(
            "<hostdev mode='subsystem' {attributes}><source>{address}</source>\
             <alias name='ua-vgpu-gpu0'/></hostdev>"
        );
    }
    let controllers: String = (1..20)
        .map(|n| format!("    <controller type='pci' index='{n}' model='pcie-root-port'>\n      <target chassis='{n}'/>\n    </controller>\n"))
        .collect();
    let xml = format!(
        "<domain type='kvm'>\n  <name>vm{number}</name>\n  <uuid>{uuid}</uuid>\n  {metadata}\n  <memory unit='KiB'>8388608</memory>\n  <devices>\n{controllers}{hostdev}\n  </devices>\n</domain>\n"
    );
    (uuid, xml)
}

/// `0000:20:00.1` as libvirt has it.
fn pci_address(address: &str) -> String {
    let parts: Vec<&str> = address.split([':', '.']).collect();
    format!(
        "<address domain='0x{}' bus='0x{}' slot='0x{}' function='0x{}'/>",
        parts[0], parts[1], parts[2], parts[3]
    )
}

impl Bench {
    fn set_up() -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench");
        let c_program = compile(&source.join("create.c"));
        let peak = compile(&source.join("peak.c"));
        for path in [
            "/sys",
            "/run/virt-vgpu",
            "/etc/virt-vgpu",
            "/var/lib/virt-vgpu",
        ] {
            mount_tmpfs(path);
        }
        write_pool("bench", "kind = \"mdev\"\ntype = \"nvidia-512\"");
        let spread = "kind = \"mdev\"\ntype = \"nvidia-512\"\nplacement = \"spread\"";
        write_pool("spread", spread);
        write_pool("vgpu", "kind = \"nvidia-vgpu\"\nprofile = \"L40S-12Q\"");
        let slice = "kind = \"nvidia-vgpu\"\nprofile = \"L40S-1-12Q\"\nmig.gpu-instances = 4";
        write_pool("slice", slice);
        Self {
            source,
            hook: hook(),
            c_program,
            peak,
        }
    }

    fn run(&self) {
        println!("tree: 8 boards with 32 VFs each, 25 types a VF; medians of {ROUNDS} rounds\n");
        self.table(
            "(a) domain without request",
            Ask::Nothing,
            &[Contestant::True, Contestant::C, Contestant::Hook],
            ROUNDS,
        );
        self.maintenance();
        self.table("(b) one mdev", Ask::Mdev, &Contestant::ALL, ROUNDS);
        write_claims(1000);
        self.table(
            "(c) one mdev, 1000 claims present",
            Ask::Mdev,
            &[Contestant::True, Contestant::C, Contestant::Hook],
            ROUNDS,
        );
        clear_claims();
        self.concurrent(64);
        self.slow_boards(64);
        self.memory();
        self.one_vgpu("(e) one vGPU, SR-IOV mdev", Ask::Vgpu);
    }

    /// Domains without a request while a GPU that they do not name is in maintenance.
    fn maintenance(&self) {
        const NOTE: &str = "/var/lib/virt-vgpu/maintenance.json";
        const CONTESTANTS: [Contestant; 2] = [Contestant::True, Contestant::Hook];
        let named = "(m) domain without request that names a PCI function";
        self.table(named, Ask::Raw, &CONTESTANTS, ROUNDS);
        fs::write(NOTE, "{\"since\":1790000000,\"gpus\":[\"0000:af:00.0\"]}").unwrap();
        let beside = "(n) the same while another GPU is in maintenance";
        self.table(beside, Ask::Raw, &CONTESTANTS, ROUNDS);
        fs::remove_file(NOTE).unwrap();
    }

    fn run_on_functions(&self) {
        self.one_vgpu("(f) one vGPU, vendor VFIO", Ask::Function);
        write_instances();
        self.one_vgpu(
            "(l) one vGPU in a GPU instance, vendor VFIO",
            Ask::InInstance,
        );
    }

    /// A command that reads a big host, and a VM that starts meanwhile.
    fn look(&self) {
        const POOLS: usize = 20;
        const ROUNDS: usize = 15;
        for number in 0..POOLS {
            let kind = format!("kind = \"nvidia-vgpu\"\nprofile = \"L40S-{number}Q\"");
            write_pool(&format!("look{number}"), &kind);
        }
        let status = || {
            let mut command = Command::new(status());
            command.arg("status").stdout(Stdio::null());
            command
        };
        let cat = || {
            let mut command = Command::new("find");
            let name = "available_instances";
            command.args(["/sys/devices", "-name", name, "-exec", "cat", "{}", "+"]);
            command.stdout(Stdio::null());
            command
        };
        let took = |mut command: Command| {
            let started = Instant::now();
            assert!(command.status().unwrap().success(), "{command:?}");
            started.elapsed()
        };
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            times[0].push(took(cat()));
            times[1].push(took(status()));
        }
        let [cat, looked] = times.map(|times| median(times) / 1000.0);
        println!("(g) 16 boards with 32 VFs each, {POOLS} pools; medians of {ROUNDS} rounds");
        println!("| | median ms | × find and cat |\n|---|---|---|");
        println!("| find and cat of all available_instances | {cat:.0} | 1.00 |");
        println!("| virt-vgpu status | {looked:.0} | {:.2} |\n", looked / cat);

        let starts = || -> f64 {
            let one = |_| self.one(Contestant::Hook, Ask::Vgpu);
            median((0..ROUNDS * 4).map(one).collect())
        };
        let alone = starts();
        let ends = std::sync::atomic::AtomicBool::new(false);
        let (meanwhile, looks) = std::thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let mut looks = 0;
                while !ends.load(std::sync::atomic::Ordering::SeqCst) {
                    took(status());
                    looks += 1;
                }
                looks
            });
            let meanwhile = starts();
            ends.store(true, std::sync::atomic::Ordering::SeqCst);
            (meanwhile, looks.join().unwrap())
        });
        println!(
            "(h) one vGPU there, while virt-vgpu status runs {looks} times one after the other"
        );
        println!("| | median µs | × alone |\n|---|---|---|");
        println!("| virt-vgpu-hook alone | {alone:.0} | 1.00 |");
        println!(
            "| virt-vgpu-hook meanwhile | {meanwhile:.0} | {:.2} |",
            meanwhile / alone
        );
    }

    /// A start with one whole PCI device, next to a program that does only what gives the
    /// function another driver.
    fn whole_devices(&self) {
        let text = "kind = \"pci\"\n[[rule]]\nwhere = [\n  \
                    { field = \"vendor-id\", op = \"equal\", value = \"144d\" },\n  \
                    { field = \"address\", op = \"begins-with\", value = \"0000:4\" },\n]\n";
        fs::write("/etc/virt-vgpu/pools.d/whole.toml", text).unwrap();
        let bind = compile(&self.source.join("bind.c"));
        self.whole_device("(j) one whole PCI device", sysfs::Whole::Card, &bind);
        unmount("/sys");
        mount_tmpfs("/sys");
        self.whole_device("(k) one NVMe drive", sysfs::Whole::Drive, &bind);
    }

    fn whole_device(&self, title: &str, what: sysfs::Whole, bind: &Path) {
        sysfs::fill_whole(what);
        let session = sysfs::react();
        let (uuid, xml) = domain(1, Ask::Whole);
        let took = |program: &Path, arguments: &[&str]| {
            let mut command = Command::new(program);
            command
                .args(arguments)
                .stdin(input_file(&xml))
                .stdout(Stdio::null());
            let started = Instant::now();
            assert!(command.status().unwrap().success(), "{command:?}");
            started.elapsed()
        };
        let function = sysfs::whole(0);
        let back = || took(bind, &[&function, "vfio-pci", "\n"]);
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            times[0].push(took(bind, &[&function, "host", "vfio-pci"]));
            back();
            times[1].push(took(&self.hook, &["vm1", "prepare", "begin", "-"]));
            back();
            fs::remove_file(format!("/run/virt-vgpu/claims/{uuid}.json")).unwrap();
        }
        let [least, hook] = times.map(median);
        let count = sysfs::WHOLE;
        println!("\n{title}, {count} in the pool; medians of {ROUNDS} rounds");
        println!("| | median µs | × C program |\n|---|---|---|");
        println!("| C program that binds | {least:.0} | 1.00 |");
        println!("| virt-vgpu-hook | {hook:.0} | {:.2} |", hook / least);
        println!("\nthe hook's own part: {:.1} ms", (hook - least) / 1000.0);
        drop(session);
    }

    fn one_vgpu(&self, title: &str, ask: Ask) {
        let contestants = [Contestant::True, Contestant::C, Contestant::Hook];
        self.table(title, ask, &contestants, ROUNDS);
    }

    fn exec(&self, command: &str) {
        let (_, xml) = domain(1, Ask::Mdev);
        let status = Command::new("sh")
            .args(["-c", command])
            .stdin(input_file(&xml))
            .status()
            .unwrap();
        println!("{status}");
    }

    fn table(&self, title: &str, ask: Ask, contestants: &[Contestant], rounds: usize) {
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); contestants.len()];
        for round in 0..rounds {
            for (index, &contestant) in contestants.iter().enumerate() {
                // The slow ones need fewer rounds for a median that is just as stable.
                if matches!(contestant, Contestant::Mdevctl | Contestant::Python) && round % 6 != 0
                {
                    continue;
                }
                times[index].push(self.one(contestant, ask));
            }
        }
        let medians: Vec<f64> = times.into_iter().map(median).collect();
        println!("{title}");
        println!("| | median µs | × /bin/true | × C program |\n|---|---|---|---|");
        for (contestant, value) in contestants.iter().zip(&medians) {
            println!(
                "| {} | {value:.0} | {:.2} | {:.2} |",
                contestant.name(),
                value / medians[0],
                value / medians[1]
            );
        }
        println!();
    }

    fn one(&self, contestant: Contestant, ask: Ask) -> Duration {
        let (uuid, xml) = domain(1, ask);
        let input = input_file(&xml);
        let mut command = self.command(contestant, 1, uuid, ask);
        command
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let started = Instant::now();
        let status = command.status().unwrap();
        let taken = started.elapsed();
        assert!(status.success(), "{} failed", contestant.name());
        if !matches!(ask, Ask::Nothing | Ask::Raw) && contestant != Contestant::True {
            clean_up(ask, 1, uuid);
        }
        taken
    }

    fn command(
        &self,
        contestant: Contestant,
        number: usize,
        domain: DomainUuid,
        ask: Ask,
    ) -> Command {
        let (text, file) = ask.write(number, domain);
        let mut command = match contestant {
            Contestant::True => Command::new("/bin/true"),
            Contestant::C => Command::new(&self.c_program),
            Contestant::Hook => Command::new(&self.hook),
            Contestant::Mdevctl => Command::new(self.source.join("create.sh")),
            Contestant::Python => Command::new("/usr/bin/python3"),
        };
        match contestant {
            Contestant::True => {}
            Contestant::C => {
                command.args([&text, &file]);
            }
            Contestant::Hook => {
                command.args([&format!("vm{number}"), "prepare", "begin", "-"]);
            }
            Contestant::Mdevctl => {
                command.args([&text, &parent(number), "nvidia-512"]);
            }
            Contestant::Python => {
                command
                    .arg(self.source.join("create.py"))
                    .args([&text, &file]);
            }
        }
        command
    }

    fn concurrent(&self, count: usize) {
        println!("(d) {count} at once, until the last is done; medians of 9 rounds");
        println!("| | median ms | × C program |\n|---|---|---|");
        let contestants = [
            Contestant::C,
            Contestant::Hook,
            Contestant::Mdevctl,
            Contestant::Python,
        ];
        let mut medians = Vec::new();
        for contestant in contestants {
            let times: Vec<Duration> = (0..9).map(|_| self.at_once(contestant, count)).collect();
            medians.push(median(times) / 1000.0);
        }
        for (contestant, value) in contestants.iter().zip(&medians) {
            println!(
                "| {} | {value:.1} | {:.2} |",
                contestant.name(),
                value / medians[0]
            );
        }
        println!();
    }

    /// Slow boards, and starts that are spread over them.
    fn slow_boards(&self, count: usize) {
        const CREATION: u64 = 300;
        let took = |milliseconds| {
            sysfs::CREATION.store(milliseconds, std::sync::atomic::Ordering::SeqCst);
            let starts = (0..3).map(|_| self.at_once_for(Contestant::Hook, count, Ask::Spread));
            let median = median(starts.collect()) / 1000.0;
            sysfs::CREATION.store(0, std::sync::atomic::Ordering::SeqCst);
            median
        };
        let (plans, slow) = (took(0), took(CREATION));
        let rounds = count / sysfs::BOARDS;
        let creations = (u64::try_from(rounds).unwrap() * CREATION) as f64;
        println!(
            "(i) {count} at once on {} boards that take {CREATION} ms a creation; medians of 3",
            sysfs::BOARDS
        );
        println!("| | ms |\n|---|---|");
        println!("| {count} starts, creations that take no time | {plans:.0} |");
        println!("| {rounds} creations one after another | {creations:.0} |");
        println!("| {count} starts | {slow:.0} |");
        println!("\n{:.2} x the two together\n", slow / (plans + creations));
    }

    fn at_once(&self, contestant: Contestant, count: usize) -> Duration {
        self.at_once_for(contestant, count, Ask::Mdev)
    }

    fn at_once_for(&self, contestant: Contestant, count: usize, ask: Ask) -> Duration {
        let domains: Vec<(DomainUuid, String)> =
            (1..=count).map(|number| domain(number, ask)).collect();
        let mut commands: Vec<Command> = domains
            .iter()
            .enumerate()
            .map(|(index, (uuid, xml))| {
                let mut command = self.command(contestant, index + 1, *uuid, ask);
                command.stdin(input_file(xml)).stdout(Stdio::null());
                command
            })
            .collect();
        let started = Instant::now();
        let children: Vec<Child> = commands
            .iter_mut()
            .map(|command| command.spawn().unwrap())
            .collect();
        for mut child in children {
            assert!(
                child.wait().unwrap().success(),
                "{} failed",
                contestant.name()
            );
        }
        let taken = started.elapsed();
        for (number, (uuid, _)) in (1..).zip(domains) {
            clean_up(ask, number, uuid);
        }
        taken
    }

    fn memory(&self) {
        let (uuid, xml) = domain(1, Ask::Mdev);
        let output = Command::new("sh")
            .args(["-c", "exec \"$@\"", "sh"])
            .arg(&self.peak)
            .arg(&self.hook)
            .args(["vm1", "prepare", "begin", "-"])
            .stdin(input_file(&xml))
            .output()
            .unwrap();
        assert!(output.status.success());
        let kib = String::from_utf8_lossy(&output.stdout);
        println!(
            "peak memory of the hook making one mdev: {} KiB",
            kib.trim()
        );
        clean_up(Ask::Mdev, 1, uuid);
    }
}

fn input_file(xml: &str) -> fs::File {
    let path = std::env::temp_dir().join("virt-vgpu-bench-domain.xml");
    // A new file for each: the one before may still be read by another process.
    let _ = fs::remove_file(&path);
    fs::write(&path, xml).unwrap();
    fs::File::open(path).unwrap()
}

fn clean_up(ask: Ask, number: usize, domain: DomainUuid) {
    if ask == Ask::InInstance {
        // The driver forgets it with the type.
        fs::write(sysfs::instance(&parent(number)), "").unwrap();
    }
    if matches!(ask, Ask::Function | Ask::InInstance) {
        fs::write(sysfs::current_type(&parent(number)), "0\n").unwrap();
    } else {
        let device = MdevUuid::for_device(domain, &"gpu0".parse().unwrap());
        fs::write(format!("/sys/bus/mdev/devices/{device}/remove"), "1").unwrap();
    }
    let _ = fs::remove_file(format!("/run/virt-vgpu/claims/{domain}.json"));
}

/// The notes of `host apply` about the GPU instances of each board: four for twelve vGPUs.
fn write_instances() {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::create_dir_all("/var/lib/virt-vgpu/gpu-instances").unwrap();
    for board in 0..sysfs::BOARDS {
        let place = |start: u32| serde_json::json!({"profile": 47, "start": start, "size": 3});
        let used = |number: u32| {
            serde_json::json!({
                "id": 3 + number, "place": place(3 * number), "pools": ["slice"],
                "types": ["NVIDIA L40S-1-12Q"], "vgpus": 12, "room": 12,
            })
        };
        let note = serde_json::json!({
            "switched-on": true, "boot": boot.trim(),
            "made": [place(0), place(3), place(6), place(9)],
            "used": [used(0), used(1), used(2), used(3)],
        });
        let gpu = sysfs::address(board, 0);
        let path = format!("/var/lib/virt-vgpu/gpu-instances/{gpu}.json");
        fs::write(path, note.to_string()).unwrap();
    }
}

/// Claims of other domains that run on the machine, as long as real ones.
fn write_claims(count: usize) {
    fs::create_dir_all("/run/virt-vgpu/claims").unwrap();
    for number in 0..count {
        let uuid = format!("bbbbbbbb-0000-4000-8000-{number:012}");
        let path = format!("/sys/bus/mdev/devices/{uuid}");
        let claim = serde_json::json!({
            "version": 1, "domain": uuid, "domain_name": format!("other{number}"),
            "state": "committed", "origin": "prepare", "launched": true, "boot_id": null,
            "since_boot_ms": 1, "daemon": null,
            "devices": [{
                "name": "gpu0", "pool": "other", "kind": "mdev", "uuid": uuid, "handle": uuid,
                "parent": "0000:90:00.0", "board": "0000:90:00.0", "type": "nvidia-512",
                "nodes": ["/dev/vfio/7"],
                "identity": [
                    {"check": "link-passes", "path": path, "component": "0000:90:00.0"},
                    {"check": "link-passes", "path": format!("{path}/mdev_type"), "component": "nvidia-512"},
                ],
                "undo": [{
                    "write": {"path": format!("{path}/remove"), "value": "1"},
                    "whole": format!("{path}/mdev_type"),
                    "gone": [path, format!("/sys/class/mdev_bus/0000:90:00.0/{uuid}")],
                }],
                "rests_on": "/sys/class/mdev_bus/0000:90:00.0",
            }],
        });
        // As the hook writes it.
        let text = serde_json::to_string_pretty(&claim).unwrap() + "\n";
        fs::write(format!("/run/virt-vgpu/claims/{uuid}.json"), text).unwrap();
    }
}

fn clear_claims() {
    for entry in fs::read_dir("/run/virt-vgpu/claims").unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

/// In microseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}
