#!/usr/bin/python3
"""Random operations on domains that ask for devices, on the lab host, as root.

    soak.py SEED OPERATIONS

Operations are made with virsh and virt-vgpu, as people and programs make them; what has become of the host
is read from libvirt, sysfs and the claims. Every answer has to be one that is known, every running domain
has to have exactly what it asks for at any time, and in the end everything has to agree, without help.
The same seed makes the same choices as long as the host answers the same. The counts are the last lines of
the output; exit status 1: something was not as it should be, which the lines with UNEXPECTED say.
"""

import collections
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
import xml.etree.ElementTree as tree

import libvirt

NAMESPACE = "urn:virt-vgpu:devices:1"
ALIAS = "ua-vgpu-"
CLAIMS = "/run/virt-vgpu/claims"
MDEVS = "/sys/bus/mdev/devices"
FAULTS = "/sys/kernel/debug/virt_vgpu_sim"
POOLS = ["cad", "cad", "cad", "big"]
DOMAINS = 20
# More than these need the memory of the lab host.
MOST_RUNNING = 14
# Ticks of virt-vgpud, with which it tries again what could not be done at once: two of them, and work.
SETTLED_WITHIN = 240
# How many times longer than usual everything takes on this host.
SLOW = int(os.environ.get("LAB_SLOW", "1"))

# What may be said, and what it is counted as. NAME and UUID are any here: what was asked of whom is in
# the log beside it.
KNOWN = [
    # The hook's refusals.
    ("refused: no placeholder yet", r"asks for device '\S+' in its metadata but has no <hostdev> with UUID \S+; virt-vgpud adds it"),
    ("refused: no room", r"virt-vgpu: pool '\S+' has no free \S+ for domain "),
    ("refused: device of an earlier run", r"virt-vgpu: domain '\S+' still has devices of an earlier run: "),
    ("refused: slow driver", r"virt-vgpu: .*(no answer from the driver within |the driver of \S+ does not answer)"),
    ("refused: locked", r"virt-vgpu: .*/run/virt-vgpu/lock(s/\S+)? has been locked for "),
    # A placeholder whose request has gone a moment ago.
    ("refused: placeholder without a request", r"device not found: mediated device '\S+' not found"),
    # libvirt's own.
    ("no libvirtd", r"no valid connection|[Ff]ailed to connect (socket )?to |End of file while reading data|[Cc]annot (recv|write|read) data|client socket is closed|[Cc]onnection reset|Broken pipe|internal client error|Disconnected from qemu"),
    ("not there", r"failed to get domain '|Domain not found"),
    ("not running", r"[Dd]omain is not running|domain '\S+' is not running"),
    ("running already", r"Domain is already active|domain is already running|cannot rename active domain"),
    ("transient", r"transient domain|domain is transient|domain '\S+' is transient"),
    ("busy", r"cannot acquire state change lock|another (asynchronous )?job is active|Timed out during operation"),
    ("no such device", r"device not found|no matching|not found in (the )?(inactive|persistent|domain)|host device .* not found"),
    ("QEMU died", r"process exited while connecting to monitor|(qemu|QEMU) unexpectedly closed the monitor|End of file from qemu monitor|monitor (was )?(closed|unexpectedly)|domain is no longer running|QEMU terminated|failed to connect to monitor|guest unexpectedly quit"),
    ("saved", r"managed save(d state)?"),
    ("already there", r"already exists"),
    ("no metadata", r"metadata not found|[Rr]equested metadata element is not present"),
    ("not freed", r"NOT (freed|checked): "),
]


# What an operation returns that has found nothing to act on; another one is made in its place.
NOTHING = "nothing"


class Unexpected(Exception):
    pass


def say(text):
    print(text, flush=True)


def device_uuid(domain, name):
    return str(uuid.uuid5(uuid.UUID(domain), name))


class Host:
    """What libvirt, sysfs and the claims say."""

    def __init__(self):
        libvirt.registerErrorHandler(lambda *_: None, None)
        self.connection = None

    def ask(self, question):
        """question(connection); again while libvirtd is on its way up."""
        end = time.monotonic() + 120
        while True:
            try:
                if self.connection is None:
                    self.connection = libvirt.open("qemu:///system")
                return question(self.connection)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                self.connection = None
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def domains(self):
        """name -> whether it runs"""
        found = None
        while found is None:
            # None: one of them has gone meanwhile.
            found = self.ask(lambda c: [(d.name(), d.isActive()) for d in c.listAllDomains()])
        return {name: bool(active) for name, active in found}

    def xml(self, name, inactive):
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0
        return self.ask(lambda c: c.lookupByName(name).XMLDesc(flags))

    def persistent(self, name):
        return self.ask(lambda c: c.lookupByName(name).isPersistent())

    def claims(self):
        claims = {}
        for name in os.listdir(CLAIMS) if os.path.isdir(CLAIMS) else []:
            if name.endswith(".json"):
                try:
                    with open(f"{CLAIMS}/{name}", encoding="utf-8") as file:
                        claims[name.removesuffix(".json")] = json.load(file)
                except FileNotFoundError:
                    pass
        return claims

    def mdevs(self):
        return set(os.listdir(MDEVS)) if os.path.isdir(MDEVS) else set()


class Definition:
    """What concerns us in a domain's XML."""

    def __init__(self, text):
        root = tree.fromstring(text)
        self.uuid = root.findtext("uuid")
        self.requests = [d.get("name") for d in root.iterfind(f"metadata/{{{NAMESPACE}}}devices/{{{NAMESPACE}}}device")]
        self.hostdevs = {}
        for hostdev in root.iterfind("devices/hostdev"):
            alias = hostdev.find("alias")
            name = alias.get("name") if alias is not None else ""
            self.hostdevs[name] = hostdev.find("source/address").get("uuid")

    def wanted(self):
        return {ALIAS + name: device_uuid(self.uuid, name) for name in self.requests}

    def is_settled(self):
        return self.hostdevs == self.wanted()


class Soak:
    def __init__(self, seed, operations):
        self.random = random.Random(seed)
        self.operations = operations
        self.host = Host()
        self.counts = collections.Counter()
        self.number = 0
        self.unexpected = []
        self.names = [f"s{n:02}" for n in range(DOMAINS)]
        # A domain keeps its UUID, under whatever name.
        self.uuids = {name: str(uuid.uuid5(uuid.NAMESPACE_URL, f"soak {name}")) for name in self.names}
        
    # Operations: each makes one and counts what has become of it.

    WEIGHTS = {
        "start": 74,
        "define_and_start": 14,
        "start_several": 12,
        "start_and_kill": 8,
        "destroy": 62,
        "define": 42,
        "define_again": 24,
        "edit": 28,
        "ask": 52,
        "unask": 28,
        "detach": 22,
        "undefine": 26,
        "rename": 14,
        "clone": 14,
        "save": 12,
        "kill_qemu": 22,
        "kill_virt_vgpud": 12,
        "kill_libvirtd": 8,
        "restart_libvirtd": 6,
        "sync": 12,
        "reconcile": 12,
        "status": 8,
        "fault": 34,
        "heal": 15,
    }

    def run(self):
        names, weights = zip(*self.WEIGHTS.items())
        for name in self.names:
            self.define_one(name)
        self.counts.clear()
        for self.number in range(1, self.operations + 1):
            while self.guarded(getattr(self, self.random.choices(names, weights)[0])) is NOTHING:
                pass
            if self.number % 10 == 0:
                self.guarded(self.check_running)

    def guarded(self, action):
        try:
            return action()
        except Unexpected as wrong:
            self.note_unexpected(str(wrong))
            return None

    def note_unexpected(self, what):
        self.unexpected.append(f"{self.number}: {what}")
        say(f"{self.number} UNEXPECTED {what}")

    def count(self, operation, outcome, about=""):
        self.counts[(operation, outcome)] += 1
        say(f"{self.number} {time.strftime('%H:%M:%S')} {operation} {about}: {outcome}")

    def tell(self, operation, command, about="", fine="done", allowed=()):
        """Runs a command; counts and returns its outcome."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=300 * SLOW, check=False)
        return self.judge(operation, command, done.returncode, done.stdout + done.stderr, about, fine, allowed)

    def judge(self, operation, command, status, said, about, fine="done", allowed=()):
        outcome = fine if status == 0 else self.classify(said)
        if outcome is None and "kill libvirtd" in operation and "virt-vgpu" not in said:
            # Whatever words virsh finds for a libvirtd that goes under its hands; none of ours.
            outcome = "no libvirtd"
        self.count(operation, outcome or "UNEXPECTED", about)
        always = {"no libvirtd", "busy"}
        if outcome is None or (status and outcome not in always | set(allowed)):
            raise Unexpected(f"{' '.join(command)}: {' '.join(said.split())}")
        return outcome

    @staticmethod
    def classify(said):
        for outcome, pattern in KNOWN:
            if re.search(pattern, said):
                return outcome
        return None

    def pick(self, running=None):
        """A domain that runs, one that does not, or any; None when there is none."""
        domains = self.host.domains()
        fitting = sorted(name for name, active in domains.items() if running is None or active == running)
        return self.random.choice(fitting) if fitting else None

    def undefined(self):
        present = set(self.host.ask(lambda c: [d.UUIDString() for d in c.listAllDomains()]) or [])
        return [name for name in self.names if self.uuids[name] not in present]

    def metadata(self, count=None, prefix=""):
        count = self.random.choice([1, 1, 1, 2]) if count is None else count
        pool = self.random.choice(POOLS)
        opening = f"<{prefix}devices xmlns{':' + prefix[:-1] if prefix else ''}='{NAMESPACE}'>"
        devices = "".join(f"<{prefix}device name='gpu{n}' pool='{pool}'/>" for n in range(count))
        return f"{opening}{devices}</{prefix}devices>"

    def write(self, text):
        path = "/run/soak.xml"
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def plain(self, name, domain, metadata=""):
        # Without a profile of AppArmor a start takes half the time on an emulated host.
        return f"""<domain type='qemu'><name>{name}</name><uuid>{domain}</uuid>
<metadata>{metadata}</metadata><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<cpu mode='custom' match='exact'><model>qemu64</model></cpu>
<devices><controller type='usb' model='none'/><memballoon model='none'/></devices><seclabel type='none'/></domain>"""

    def define(self):
        """A domain that is not there yet."""
        free = self.undefined()
        if not free:
            return self.define_again()
        name = self.random.choice(free)
        if name in self.host.domains():
            return NOTHING
        return self.define_one(name)

    def define_one(self, name):
        metadata = self.metadata() if self.random.random() < 0.6 else ""
        return self.tell("define", ["virsh", "-q", "define", self.write(self.plain(name, self.uuids[name], metadata))], name)

    def define_again(self):
        """From XML that knows nothing of placeholders, over what is there."""
        name = self.pick()
        domain = name and self.host.xml(name, False)
        if not domain:
            return NOTHING
        metadata = self.metadata() if self.random.random() < 0.7 else ""
        path = self.write(self.plain(name, Definition(domain).uuid, metadata))
        return self.tell("define again", ["virsh", "-q", "define", path], name)

    def edit(self):
        """As with an editor: what is there, but without placeholders or without the request."""
        name = self.pick()
        text = name and self.host.xml(name, True)
        if not text:
            return NOTHING
        root = tree.fromstring(text)
        if self.random.random() < 0.7:
            devices = root.find("devices")
            for hostdev in devices.findall("hostdev"):
                devices.remove(hostdev)
        else:
            for metadata in root.findall("metadata"):
                root.remove(metadata)
        return self.tell("edit", ["virsh", "-q", "define", self.write(tree.tostring(root, "unicode"))], name)

    def ask(self):
        name = self.pick()
        if not name:
            return NOTHING
        command = ["virsh", "-q", "metadata", name, NAMESPACE, "--config", "--key", "vgpu", "--set", self.metadata()]
        return self.tell("ask", command, name, allowed=self.unless_persistent(name))

    def unask(self):
        name = self.pick()
        if not name:
            return NOTHING
        command = ["virsh", "-q", "metadata", name, NAMESPACE, "--config", "--remove"]
        return self.tell("unask", command, name, allowed={"no metadata"} | self.unless_persistent(name))

    def detach(self):
        """A placeholder is taken out although it is asked for."""
        name = self.pick()
        text = name and self.host.xml(name, True)
        hostdevs = list(Definition(text).hostdevs.values()) if text else []
        if not hostdevs:
            return NOTHING
        path = self.write(
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='%s'/></source></hostdev>"
            % self.random.choice(hostdevs)
        )
        command = ["virsh", "-q", "detach-device", name, path, "--config"]
        return self.tell("detach", command, name, allowed={"no such device"} | self.unless_persistent(name))

    def unless_persistent(self, name):
        """A running domain that was undefined has no definition to be changed."""
        return set() if self.host.persistent(name) else {"transient"}

    def undefine(self):
        name = self.pick(running=None)
        if not name:
            return NOTHING
        return self.tell("undefine", ["virsh", "-q", "undefine", name, "--managed-save"], name, allowed={"transient"})

    def rename(self):
        name = self.pick(running=False)
        if not name:
            return NOTHING
        other = name.removesuffix("-renamed") if name.endswith("-renamed") else name + "-renamed"
        return self.tell("rename", ["virsh", "-q", "domrename", name, other], name, allowed={"saved", "already there", "running already"})

    def clone(self):
        """As virt-clone: another name and UUID, and otherwise all of the original."""
        free, name = self.undefined(), self.pick()
        text = name and self.host.xml(name, True)
        if not free or not text:
            return NOTHING
        new = self.random.choice(free)
        if new in self.host.domains():
            return NOTHING
        if not set(Definition(text).hostdevs) <= set(Definition(text).wanted()):
            return NOTHING
        root = tree.fromstring(text)
        root.find("name").text = new
        root.find("uuid").text = self.uuids[new]
        return self.tell("clone", ["virsh", "-q", "define", self.write(tree.tostring(root, "unicode"))], f"{name} {new}")

    START = {
        "refused: no placeholder yet",
        "refused: no room",
        "refused: device of an earlier run",
        "refused: slow driver",
        "refused: placeholder without a request",
        "running already",
    }

    def start(self):
        name = self.pick(running=False)
        if not name:
            return NOTHING
        self.make_room()
        before = self.host.xml(name, True)
        outcome = self.tell("start", ["virsh", "-q", "start", "--paused", name], name, "started", self.START)
        return self.look_at(name, outcome, before)

    def define_and_start(self):
        """In one breath, by one client."""
        name = self.pick(running=False)
        text = name and self.host.xml(name, True)
        if not text:
            return NOTHING
        self.make_room()
        path = self.write(self.plain(name, Definition(text).uuid, self.metadata()))
        commands = f"define {path}; start --paused {name}"
        outcome = self.tell("define and start", ["virsh", "-q", commands], name, "started", self.START)
        return self.look_at(name, outcome, None)

    def make_room(self):
        running = sorted(name for name, active in self.host.domains().items() if active)
        while len(running) >= MOST_RUNNING:
            name = running.pop(self.random.randrange(len(running)))
            subprocess.run(["virsh", "-q", "destroy", name], capture_output=True, check=False)

    def look_at(self, name, outcome, before):
        if outcome == "started":
            self.check_domain(name)
        elif outcome == "refused: placeholder without a request" and before:
            definition = Definition(before)
            if set(definition.hostdevs.values()) <= set(definition.wanted().values()):
                raise Unexpected(f"{name}: libvirt misses a device that the hook has to make: {before}")

    def several(self, operation, between):
        stopped = sorted(name for name, active in self.host.domains().items() if not active)
        chosen = self.random.sample(stopped, min(3, len(stopped)))
        self.make_room()
        before = {name: self.host.xml(name, True) for name in chosen}
        starts = {}
        for name in chosen:
            command = ["virsh", "-q", "start", "--paused", name]
            starts[name] = (command, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        between()
        wrong = []
        for name, (command, process) in starts.items():
            said, _ = process.communicate(timeout=300 * SLOW)
            try:
                outcome = self.judge(operation, command, process.returncode, said, name, "started", self.START | {"QEMU died"})
                if operation == "start several":
                    self.look_at(name, outcome, before[name])
            except Unexpected as one:
                wrong.append(str(one))
        if wrong:
            raise Unexpected("; ".join(wrong))

    def start_several(self):
        self.several("start several", lambda: None)

    def start_and_kill(self):
        victim = self.random.choice(["libvirtd", "libvirtd", "virt-vgpud", "QEMU"])
        after = self.random.choice([0.1, 0.3, 0.6, 1.0, 2.0])

        def between():
            time.sleep(after)
            if victim == "QEMU":
                self.kill_any_qemu()
            else:
                self.kill_service(victim)

        self.several(f"start and kill {victim}", between)

    def destroy(self):
        name = self.pick(running=True)
        if not name:
            return NOTHING
        return self.tell("destroy", ["virsh", "-q", "destroy", name], name, allowed={"not running", "not there"})

    def save(self):
        name = self.pick(running=True)
        if not name:
            return NOTHING
        command = ["virsh", "-q", "managedsave", name]
        return self.tell("save", command, name, allowed={"not running", "not there", "QEMU died", "transient"})

    def kill_any_qemu(self):
        running = sorted(name for name, active in self.host.domains().items() if active)
        if not running:
            return None
        name = self.random.choice(running)
        try:
            with open(f"/run/libvirt/qemu/{name}.pid", encoding="utf-8") as file:
                os.kill(int(file.read()), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return name

    def kill_qemu(self):
        name = self.kill_any_qemu()
        if not name:
            return NOTHING
        return self.count("kill QEMU", "killed", name)

    def main_pid(self, unit):
        shown = subprocess.run(["systemctl", "show", "-P", "MainPID", unit], capture_output=True, text=True, check=True)
        return int(shown.stdout)

    def kill_service(self, unit):
        pid = self.main_pid(unit)
        if pid:
            os.kill(pid, signal.SIGKILL)
        self.count(f"kill {unit}", "killed" if pid else "is on its way up")

    def kill_virt_vgpud(self):
        self.kill_service("virt-vgpud")

    def kill_libvirtd(self):
        self.kill_service("libvirtd")

    def restart_libvirtd(self):
        self.tell("restart libvirtd", ["systemctl", "restart", "libvirtd"])

    def sync(self):
        name = self.pick()
        which = ["--all"] if not name or self.random.random() < 0.3 else [name]
        self.tell("sync", ["virt-vgpu", "sync", *which], " ".join(which), allowed={"not there", "transient"})

    def reconcile(self):
        self.tell("reconcile", ["virt-vgpu", "reconcile"], allowed={"not freed"})

    def status(self):
        self.tell("status", ["virt-vgpu", "status", "--json"])

    def fault(self):
        kind = self.random.choice(["fail_create", "fail_create", "fail_remove", "delay_create", "delay_remove"])
        times = self.random.choice([1, 1, 2, 3])
        if kind.startswith("delay"):
            # Now and then longer than the hook waits for a driver.
            what = self.random.choice([300, 800, 1500, 3000, 6000, 25000 if self.random.random() < 0.5 else 500])
            times = 1 if what > 3000 else times
        else:
            what = self.random.choice(["EIO", "EBUSY", "ENOSPC"] if kind == "fail_create" else ["EIO", "EBUSY", "OK"])
        self.arm(kind, f"{times} {what}")
        self.count("fault", kind, f"{times} {what}")

    def heal(self):
        self.arm("reset", "1")
        self.count("heal", "done")

    def arm(self, file, text):
        with open(f"{FAULTS}/{file}", "w", encoding="utf-8") as fault:
            fault.write(text)

    # What has to be so.

    def check_domain(self, name):
        """A domain that runs has what it has asked for when it started: at any time."""
        text = self.host.xml(name, False)
        if not text or not self.host.domains().get(name):
            return
        live = Definition(text)
        if live.hostdevs != live.wanted():
            raise Unexpected(f"{name} runs with {live.hostdevs} and asks for {live.wanted()}")
        self.eventually(lambda: self.claim_is_wrong(name))

    def claim_is_wrong(self, name):
        text = self.host.xml(name, False)
        if not text or not self.host.domains().get(name):
            return None
        live = Definition(text)
        claim = self.host.claims().get(live.uuid)
        wanted = sorted(live.hostdevs.values())
        if not wanted:
            return claim and f"{name} has no device, but a claim: {claim}"
        if claim is None:
            return f"{name} has devices {wanted}, but no claim"
        claimed = sorted(device["uuid"] for device in claim["devices"])
        if claim["state"] != "committed" or claimed != wanted:
            return f"{name} has devices {wanted}, but its claim says {claim}"
        missing = set(wanted) - self.host.mdevs()
        return f"{name}: not in sysfs: {sorted(missing)}" if missing else None

    def check_running(self):
        for name, active in self.host.domains().items():
            if active:
                self.check_domain(name)

    def eventually(self, wrong, seconds=20):
        """Waits until wrong() is None. What it says last is unexpected."""
        end = time.monotonic() + seconds * SLOW
        while True:
            what = wrong()
            if not what:
                return
            if time.monotonic() > end:
                raise Unexpected(f"{what} (for {seconds} s)")
            time.sleep(0.5)

    def unsettled(self):
        """What is not yet as it has to be in the end; None when all agree."""
        domains = self.host.domains()
        needed, holders = set(), set()
        for name, active in sorted(domains.items()):
            text = self.host.xml(name, True)
            if not text:
                return f"{name} has gone"
            definition = Definition(text)
            if self.host.persistent(name) and not definition.is_settled():
                return f"{name} is defined with {definition.hostdevs} and asks for {definition.wanted()}"
            if active:
                what = self.claim_is_wrong(name)
                if what:
                    return what
                live = Definition(self.host.xml(name, False))
                needed |= set(live.hostdevs.values())
                if live.hostdevs:
                    holders.add(live.uuid)
        surplus = {domain: claim for domain, claim in self.host.claims().items() if domain not in holders}
        if surplus:
            return f"claims of domains that do not run: {surplus}"
        devices = self.host.mdevs()
        if devices != needed:
            return f"sysfs has {sorted(devices)}, and {sorted(needed)} are in use"
        traces = find_traces() - needed
        if traces:
            return f"the driver is busy with {sorted(traces)}"
        return None

    def finish(self):
        self.number = "end"
        self.arm("reset", "1")
        begun = time.monotonic()
        self.guarded(lambda: self.eventually(self.unsettled, SETTLED_WITHIN))
        self.counts[("settled within", f"{int(time.monotonic() - begun) // 10 * 10 + 10} s")] += 1
        # The last operation may have killed what systemd is about to start again.
        self.guarded(lambda: self.eventually(self.status_is_wrong))
        self.guarded(self.check_quiet)
        running = [name for name, active in self.host.domains().items() if active]
        self.counts[("left running", "VMs")] = len(running)
        for name in running:
            subprocess.run(["virsh", "-q", "destroy", name], capture_output=True, check=False)
        self.guarded(lambda: self.eventually(self.left_over, SETTLED_WITHIN))

    def status_is_wrong(self):
        shown = subprocess.run(["virt-vgpu", "status", "--json"], capture_output=True, text=True, check=True)
        problems = json.loads(shown.stdout)["problems"]
        return f"status has problems: {problems}" if problems else None

    def check_quiet(self):
        processes = subprocess.run(["pgrep", "-x", "50-virt-vgpu|exe"], capture_output=True, text=True, check=False).stdout
        if processes:
            raise Unexpected(f"hooks are left: {processes.split()}")
        for lock in ["lock", "edits", "host"]:
            path = f"/run/virt-vgpu/{lock}"
            if os.path.exists(path) and subprocess.run(["flock", "-n", path, "true"], check=False).returncode:
                raise Unexpected(f"somebody holds {path}")

    def left_over(self):
        left = find_traces() | self.host.mdevs() | set(self.host.claims())
        return f"left over without any VM: {sorted(left)}" if left else None


def find_traces():
    """Folders of mediated devices, also of those that their driver has not done with."""
    found = set()
    for bus in os.listdir("/sys/devices"):
        if bus.startswith("pci"):
            for board in os.scandir(f"/sys/devices/{bus}"):
                if board.is_dir():
                    found |= {name for name in os.listdir(board.path) if re.fullmatch(r"[0-9a-f-]{36}", name)}
    return found


def main():
    seed, operations = sys.argv[1], int(sys.argv[2])
    begun = time.monotonic()
    soak = Soak(seed, operations)
    soak.run()
    soak.finish()
    say(f"COUNTS seed {seed}, {operations} operations, {int(time.monotonic() - begun)} s")
    by_operation = collections.defaultdict(list)
    for (operation, outcome), count in sorted(soak.counts.items()):
        by_operation[operation].append(f"{count} {outcome}")
    for operation, outcomes in by_operation.items():
        say(f"COUNTS {operation}: {', '.join(outcomes)}")
    for what in soak.unexpected:
        say(f"COUNTS UNEXPECTED {what}")
    return 1 if soak.unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
