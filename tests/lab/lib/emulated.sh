# shellcheck shell=bash
# A lab host that QEMU emulates (or KVM runs): Debian's own kernel, two CPUs in two NUMA nodes. Its network
# is QEMU's user network: it is reached by ports forwarded on this machine.

# What a start takes on an emulated host of 2 cores that nobody disturbs.
readonly EMULATED_USUAL_BOOT_MS=30000

# By its name: the pid alone may belong to anybody by now.
emulated_mark() { printf 'virt-vgpu-lab-%s,process\n' "$NAME"; }

# The image's own QEMU with its own libraries: the newest at hand, and the same on every machine. On an
# emulated host it is nearly twice as fast as that of Debian 12. QEMU_UNDER: a command to run it under.
lab_qemu() {
	local tree=$IMAGE/tree libraries=$IMAGE/tree/usr/lib/x86_64-linux-gnu
	QEMU_MODULE_DIR=$libraries/qemu ${QEMU_UNDER-} "$tree/lib64/ld-linux-x86-64.so.2" \
		--library-path "$libraries:$libraries/pulseaudio" "$tree/usr/bin/qemu-system-x86_64" \
		-L "$tree/usr/share/qemu" -L "$tree/usr/share/seabios" "$@"
}

# State folder: ports, initrd.
emulated_prepare() {
	(
		flock 9
		free_port > "$RUN/ports"
		free_port >> "$RUN/ports"
	) 9> "$RUN_ROOT/ports.lock"
	printf '127.0.0.1 %s\n' "$(sed -n 1p "$RUN/ports")" > "$RUN/ssh-address"
	# Each lab host sees the outer machine as 10.0.2.2, and there the other one's forwarded ports.
	printf '10.0.2.2 %s %s\n' "$(sed -n 1p "$RUN/ports")" "$(sed -n 2p "$RUN/ports")" > "$RUN/peer-address"
	guest_identity "$RUN/identity"
	pack_overlay "$RUN/identity" "$RUN/identity.cpio"
	# The kernel unpacks all archives of an initrd in order, but finds one only at a multiple of four.
	local archive
	for archive in "$IMAGE/initrd.img" "$MODULE/overlay.cpio" "$NVIDIA/overlay.cpio" "$RUN/identity.cpio"; do
		cat "$archive" >> "$RUN/initrd"
		truncate -s %4 "$RUN/initrd"
	done
	rm -rf "$RUN/identity"
}

# Two CPUs, one in each of two NUMA nodes. The disk is a snapshot: QEMU keeps what the host writes
# in a nameless temporary file, through reboots, until it ends. Nobody ever writes to the image, and a
# User-mode Linux locks all of it for a moment when it starts: QEMU looks for no locks on it.
#
# A plain CPU model: what `max` has beyond it costs the translator a quarter of the time.
#
# The host's kernel shall not patch its own code while it runs (jump labels): QEMU's TCG may keep a
# translation of the breakpoint that the patch goes through, made by one CPU between the other's
# invalidation of the page and its write. The kernel that comes by later dies of it ("Oops: int3").
# KVM patches the scheduler for each first and last VM, QEMU's probes included: so there is no KVM
# inside, where VMs are emulated anyway. For cpusets see lab-cpuset.service.
#
# emulated_start [OPTION...]: with these options of QEMU besides (pci.sh)
emulated_start() {
	local accel cpu=Nehalem half=$((MEMORY_MIB / 2)) ports machine=q35,dump-guest-core=off arguments=
	accel=$(accelerator "$IMAGE/vmlinuz")
	[[ $accel != kvm ]] || cpu=host
	if (($#)); then
		# An IOMMU that remaps interrupts wants the interrupt controller in QEMU. The display controller stays
		# without a driver, which would make it the host's console.
		machine+=,kernel-irqchip=off
		arguments=,bochs' intel_iommu=on iommu=pt'
		# A driver that comes or goes switches its device's memory on or off. At that moment QEMU's TCG may look up
		# another CPU's access in a map of memory that is freed already, and lose it: a timer set that way never
		# rings. The registers of an x2APIC are not in memory.
		[[ $accel == kvm ]] || cpu+=,+x2apic
	fi
	mapfile -t ports < "$RUN/ports"
	# shellcheck disable=SC2054  # QEMU's options have commas
	local options=(
		-name "virt-vgpu-lab-$NAME,process=virt-vgpu-lab-$NAME"
		-machine "$machine" -accel "$accel" -cpu "$cpu"
		-smp 2,sockets=2 -m "$MEMORY_MIB"
		-object "memory-backend-ram,id=m0,size=${half}M" -object "memory-backend-ram,id=m1,size=${half}M"
		-numa node,nodeid=0,cpus=0,memdev=m0 -numa node,nodeid=1,cpus=1,memdev=m1
		-nodefaults -no-user-config -display none
		-kernel "$IMAGE/vmlinuz" -initrd "$RUN/initrd"
		-append "root=/dev/vda rw console=ttyS0 quiet mitigations=off module_blacklist=kvm,kvm_amd,kvm_intel$arguments"
		-drive "file=$IMAGE/lab.img,file.locking=off,format=raw,if=none,id=disk,snapshot=on,cache=unsafe"
		-device virtio-blk-pci,drive=disk,addr=1
		-drive "file=$NESTED/nested.img,file.locking=off,format=raw,if=none,id=drive-nested,snapshot=on,cache=unsafe"
		-device ide-hd,bus=ide.0,drive=drive-nested,serial=LABNESTED
		-netdev "user,id=net,hostfwd=tcp:127.0.0.1:${ports[0]}-:22,hostfwd=tcp:127.0.0.1:${ports[1]}-:${ports[1]}"
		-device virtio-net-pci,netdev=net,romfile=,addr=2
		-device virtio-rng-pci,addr=3
		-serial "file:$RUN/console.log"
		-chardev "socket,id=monitor,path=$RUN/monitor,server=on,wait=off" -mon chardev=monitor
		-pidfile "$RUN/pid" -daemonize
	)
	# QEMU keeps its standard error open until it is up; then it is a daemon.
	lab_qemu "${options[@]}" "$@" > "$RUN/output.log" 2>&1 < /dev/null
}

emulated_reboot() { in_guest 'systemctl reboot' > /dev/null 2>&1 || true; }

# The kernel has no part in it: one that is asked to reset may be too busy, or stop half-way.
emulated_cut_power() { ask_monitor system_reset > /dev/null || true; }

emulated_forget() { :; }

# ask_monitor COMMAND...: asks QEMU's monitor, which may hang as well. It has answered when its prompt stands there
# once more than there are commands.
ask_monitor() {
	# shellcheck disable=SC2016  # perl's
	printf '%s\n' "$@" | timeout 10 perl -MIO::Socket::UNIX -e '
		my $monitor = IO::Socket::UNIX->new($ARGV[0]) or die "$ARGV[0]: $!\n";
		my @commands = <STDIN>;
		print $monitor @commands;
		$monitor->flush;
		$| = 1;
		alarm 5;
		my $said = "";
		while (sysread $monitor, my $part, 4096) {
			print $part;
			$said .= $part;
			last if (() = $said =~ /\(qemu\) /g) > @commands;
		}' "$RUN/monitor"
}

emulated_autopsy() { ask_monitor 'info status' 'info cpus' 'info registers -a' || true; }
