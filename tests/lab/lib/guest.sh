# shellcheck shell=bash
# One lab host: its QEMU process, its state folder, and the way in by ssh.
#
# $RUN/            made by `up`, gone after `down`
#   pid            of QEMU
#   ports          two lines: ssh, migration (both on 127.0.0.1 of the outer machine)
#   uses           the cached folders it runs from, kept while it runs
#   ssh-config     ssh -F; control socket in $RUN/control
#   console.log    serial console      qemu.log   QEMU's own messages
#   monitor        QEMU's monitor, a socket
#   slow           how many times longer than usual everything takes on this machine, at least 1

readonly MEMORY_MIB=3072
readonly BOOT_DEADLINE=300
# What a start takes on an emulated host of 2 cores that nobody disturbs.
readonly USUAL_BOOT_MS=30000
readonly REBOOT_DEADLINE=300

select_guest() {
	[[ $1 =~ ^[a-z0-9-]{1,32}$ ]] || die "lab name '$1': only a-z, 0-9 and -, at most 32"
	NAME=$1
	RUN=$RUN_ROOT/$NAME
}

# The process of this lab host, if it lives: the pid alone may belong to anybody by now.
guest_pid() {
	local pid
	[[ -r $RUN/pid ]] || return 1
	pid=$(< "$RUN/pid")
	[[ $pid =~ ^[0-9]+$ ]] || return 1
	tr '\0' ' ' 2> /dev/null < "/proc/$pid/cmdline" | grep -qF "virt-vgpu-lab-$NAME,process" || return 1
	printf '%s\n' "$pid"
}

guest_running() { guest_pid > /dev/null; }

need_running() { guest_running || die "lab host '$NAME' is not running; start it with: lab --name $NAME up"; }

ssh_port() { sed -n 1p "$RUN/ports"; }
migration_port() { sed -n 2p "$RUN/ports"; }

# guest_up [OPTION...]: one start of a name at a time. -o: QEMU must not inherit the lock.
guest_up() {
	mkdir -p "$RUN_ROOT"
	flock -o "$RUN_ROOT/$NAME.lock" "$LAB/lab" --name "$NAME" up-locked "$@"
}

guest_up_locked() {
	local start accel attempt
	boards_from_options "$@"
	if guest_running; then
		(($# == 0)) || die "lab host '$NAME' is up already; to give it other boards: lab --name $NAME down"
		if ! timeout 5 ssh -F "$RUN/ssh-config" lab true > /dev/null 2>&1 < /dev/null; then
			guest_wait_ssh "lab host '$NAME' runs; waiting for it" "$BOOT_DEADLINE" ||
				die "lab host '$NAME' runs but does not answer; end it with: lab --name $NAME down"
		fi
		say "lab host '$NAME' is up already (lab --name $NAME down ends it)"
		return 0
	fi
	ensure_host_packages
	ensure_image
	ensure_module
	ensure_nvidia
	if [[ -e $RUN ]]; then
		say "clearing what a killed lab host '$NAME' left behind"
		rm -rf "$RUN"
	fi
	start=$(now_ms)
	accel=$(accelerator "$IMAGE/vmlinuz")
	# Somebody else may take a port between the look and QEMU's bind.
	for attempt in 1 2 3; do
		guest_prepare
		if guest_start_qemu "$accel"; then break; fi
		if ((attempt == 3)) || ! grep -q 'forwarding rule' "$RUN/qemu.log"; then
			cat "$RUN/qemu.log" >&2
			guest_forget
			die "QEMU does not start"
		fi
		guest_forget
	done
	guest_wait_ssh "booting lab host '$NAME' (${accel%%,*})" "$BOOT_DEADLINE" || {
		guest_explain
		guest_kill
		die "lab host '$NAME' did not answer within $BOOT_DEADLINE s; console: $RUN_ROOT/$NAME.console.log"
	}
	say "lab host '$NAME' is up after $(seconds_since "$start") s"
	printf '%d\n' $((1 + ($(now_ms) - start) / (USUAL_BOOT_MS + USUAL_BOOT_MS / 2))) > "$RUN/slow"
}

# State folder with ports, initrd and ssh configuration.
guest_prepare() {
	mkdir -p "$RUN"
	printf '%s\n' "$IMAGE" "$MODULE" "$NVIDIA" > "$RUN/uses"
	(
		flock 9
		free_port > "$RUN/ports"
		free_port >> "$RUN/ports"
	) 9> "$RUN_ROOT/ports.lock"
	guest_identity
	# The kernel unpacks all archives of an initrd in order, but finds one only at a multiple of four.
	local archive
	for archive in "$IMAGE/initrd.img" "$MODULE/overlay.cpio" "$NVIDIA/overlay.cpio" "$RUN/identity.cpio"; do
		cat "$archive" >> "$RUN/initrd"
		truncate -s %4 "$RUN/initrd"
	done
	cat > "$RUN/ssh-config" <<-E
		Host lab
		    HostName 127.0.0.1
		    Port $(ssh_port)
		    User root
		    IdentityFile $IMAGE/ssh-key
		    IdentitiesOnly yes
		    StrictHostKeyChecking no
		    UserKnownHostsFile /dev/null
		    LogLevel ERROR
		    ConnectTimeout 5
		    ServerAliveInterval 10
		    ControlMaster auto
		    ControlPath $RUN/control
		    ControlPersist yes
	E
}

# What differs between two lab hosts of one image: names and UUIDs.
guest_identity() {
	local tree=$RUN/identity top=$RUN/identity/lab-overlay uuid
	rm -rf "$tree"
	mkdir -p "$top/etc/libvirt" "$top/var/lib"
	uuid=$(< /proc/sys/kernel/random/uuid)
	printf 'lab-%s\n' "$NAME" > "$top/etc/hostname"
	printf '127.0.0.1 localhost lab-%s\n' "$NAME" > "$top/etc/hosts"
	printf '%s\n' "${uuid//-/}" > "$top/etc/machine-id"
	# The stamp by which a reboot knows that this is in place (see image/root/.../lab-overlay).
	printf '%s\n' "$uuid" > "$top/var/lib/lab-overlay"
	# Only what has to differ from the packages' libvirtd.conf.
	(
		cat "$IMAGE/tree/etc/libvirt/libvirtd.conf"
		printf 'host_uuid = "%s"\n' "$uuid"
	) > "$top/etc/libvirt/libvirtd.conf"
	if [[ -n $BOARDS_CONF ]]; then
		mkdir -p "$top/etc/modprobe.d"
		sed "s|^options virt_vgpu_sim .*|options virt_vgpu_sim $BOARDS_CONF|; /^# Three/d" \
			"$LAB/image/root/etc/modprobe.d/virt-vgpu-sim.conf" > "$top/etc/modprobe.d/virt-vgpu-sim.conf"
	fi
	pack_overlay "$tree" "$RUN/identity.cpio"
	rm -rf "$tree"
}

# Two CPUs, one in each of two NUMA nodes. The disk is a snapshot: QEMU keeps what the host writes
# in a nameless temporary file, through reboots, until it ends.
#
# The host's kernel shall not patch its own code while it runs (jump labels): QEMU's TCG may keep a
# translation of the breakpoint that the patch goes through, made by one CPU between the other's
# invalidation of the page and its write. The kernel that comes by later dies of it ("Oops: int3").
# KVM patches the scheduler for each first and last VM, QEMU's probes included: so there is no KVM
# inside, where VMs are emulated anyway. For cpusets see lab-cpuset.service.
guest_start_qemu() {
	local accel=$1 cpu=max half=$((MEMORY_MIB / 2))
	# shellcheck disable=SC2054  # QEMU's options have commas
	local command=(
		qemu-system-x86_64
		-name "virt-vgpu-lab-$NAME,process=virt-vgpu-lab-$NAME"
		-machine q35,dump-guest-core=off -accel "$accel" -cpu "$cpu"
		-smp 2,sockets=2 -m "$MEMORY_MIB"
		-object "memory-backend-ram,id=m0,size=${half}M" -object "memory-backend-ram,id=m1,size=${half}M"
		-numa node,nodeid=0,cpus=0,memdev=m0 -numa node,nodeid=1,cpus=1,memdev=m1
		-nodefaults -no-user-config -display none
		-kernel "$IMAGE/vmlinuz" -initrd "$RUN/initrd"
		-append 'root=/dev/vda rw console=ttyS0 quiet mitigations=off module_blacklist=kvm,kvm_amd,kvm_intel'
		-drive "file=$IMAGE/lab.img,format=raw,if=none,id=disk,snapshot=on,cache=unsafe"
		-device virtio-blk-pci,drive=disk
		-netdev "user,id=net,hostfwd=tcp:127.0.0.1:$(ssh_port)-:22,hostfwd=tcp:127.0.0.1:$(migration_port)-:$(migration_port)"
		-device virtio-net-pci,netdev=net,romfile=
		-device virtio-rng-pci
		-serial "file:$RUN/console.log"
		-chardev "socket,id=monitor,path=$RUN/monitor,server=on,wait=off" -mon chardev=monitor
		-pidfile "$RUN/pid" -daemonize
	)
	# QEMU keeps its standard error open until it is up; then it is a daemon.
	"${command[@]}" > "$RUN/qemu.log" 2>&1 < /dev/null
}

# guest_wait_ssh LABEL DEADLINE [COMMAND]: until COMMAND (default: true) works over ssh
guest_wait_ssh() {
	local label=$1 deadline=$2 probe=${3-true} end start
	start=$(now_ms)
	end=$((SECONDS + deadline))
	printf 'lab: %s ' "$label" >&2
	while ((SECONDS < end)); do
		if ! guest_running; then
			printf ' QEMU ended\n' >&2
			return 1
		fi
		if timeout 10 ssh -F "$RUN/ssh-config" lab "$probe" > /dev/null 2>&1 < /dev/null; then
			printf ' %s s\n' "$(seconds_since "$start")" >&2
			return 0
		fi
		printf '.' >&2
		sleep 0.5
	done
	printf ' no answer after %s s\n' "$deadline" >&2
	return 1
}

guest_explain() {
	say "last lines of the console:"
	tail -n 25 "$RUN/console.log" 2> /dev/null | tr -d '\r' | sed 's/^/    /' >&2
	sed 's/^/    qemu: /' "$RUN/qemu.log" >&2 2> /dev/null || true
	# The folder goes with the host; the console is what explains it.
	cp "$RUN/console.log" "$RUN_ROOT/$NAME.console.log" 2> /dev/null || true
}

# guest_answers SECONDS: whether a new connection gets an answer within that time
guest_answers() {
	local end=$((SECONDS + $1))
	while guest_running; do
		if timeout 20 ssh -F "$RUN/ssh-config" -o ControlPath=none lab true > /dev/null 2>&1 < /dev/null; then
			return 0
		fi
		((SECONDS < end)) || return 1
		sleep 1
	done
	return 1
}

# ask_monitor COMMAND...: asks QEMU's monitor, which may hang as well
ask_monitor() {
	# shellcheck disable=SC2016  # perl's
	printf '%s\n' "$@" | timeout 10 perl -MIO::Socket::UNIX -e '
		my $monitor = IO::Socket::UNIX->new($ARGV[0]) or die "$ARGV[0]: $!\n";
		print $monitor <STDIN>;
		$monitor->flush;
		$| = 1;
		alarm 5;
		print while <$monitor>;' "$RUN/monitor"
}

# guest_autopsy FILE: writes what can still be known of a lab host that does not answer into FILE, and
# prints the most of it; succeeds when its kernel has not said that anything is wrong, or nothing but
# what the emulator is known to do to it (guest_start_qemu).
guest_autopsy() {
	local file=$1 pid complaint
	{
		if pid=$(guest_pid); then
			printf '== QEMU, its threads\n'
			ps -L -o tid,stat,time,wchan:24,comm -p "$pid"
			printf '== QEMU monitor\n'
			ask_monitor 'info status' 'info cpus' 'info registers -a' || true
		else
			printf '== QEMU has ended\n'
		fi
		printf '\n== QEMU said\n'
		cat "$RUN/qemu.log"
		printf '== console\n'
		tail -n 200 "$RUN/console.log" | tr -d '\r'
	} > "$file" 2>&1
	sed -n '/^== QEMU, its threads/,/^== QEMU monitor/p; /CPU#/p; /RIP=/p' "$file" | grep -v '^== QEMU monitor' |
		head -n 30 | sed 's/^/    /'
	sed '1,/^== console/d' "$file" | tail -n 40 | sed 's/^/    /'
	complaint=$(sed '1,/^== console/d' "$file" |
		grep -E -m 1 'Oops|BUG: |Kernel panic|Call Trace|blocked for more than|soft lockup|self-detected stall') || true
	[[ -z $complaint ]] || printf '    the first complaint of its kernel: %s\n' "$complaint"
	[[ -z $complaint || $complaint == *'Oops: int3'* ]]
}

# in_guest COMMAND...: with the caller's stdin
in_guest() { ssh -F "$RUN/ssh-config" lab "$@"; }

guest_reboot() {
	local before start
	need_running
	start=$(now_ms)
	before=$(in_guest cat /proc/sys/kernel/random/boot_id)
	in_guest 'systemctl reboot' > /dev/null 2>&1 || true
	guest_comes_back "$before" "$start"
}

# As after a power cut: nothing that runs there is told, and what was not written is lost.
guest_cut_power() {
	local before start
	need_running
	start=$(now_ms)
	before=$(in_guest cat /proc/sys/kernel/random/boot_id)
	in_guest 'echo b > /proc/sysrq-trigger' > /dev/null 2>&1 &
	guest_comes_back "$before" "$start"
}

# guest_comes_back BOOT-ID SINCE: waits for a boot of another id
guest_comes_back() {
	ssh -F "$RUN/ssh-config" -O exit lab > /dev/null 2>&1 || true
	guest_wait_ssh "rebooting lab host '$NAME'" "$REBOOT_DEADLINE" \
		"test \$(cat /proc/sys/kernel/random/boot_id) != $1" || {
		guest_explain
		die "lab host '$NAME' did not come back within $REBOOT_DEADLINE s"
	}
	say "lab host '$NAME' is back after $(seconds_since "$2") s"
}

guest_kill() {
	local pid i
	if [[ -S $RUN/control ]]; then ssh -F "$RUN/ssh-config" -O exit lab > /dev/null 2>&1 || true; fi
	if pid=$(guest_pid); then
		kill "$pid" 2> /dev/null || true
		for ((i = 0; i < 50; i++)); do
			guest_running || break
			sleep 0.1
		done
		if guest_running; then kill -KILL "$pid" 2> /dev/null || true; fi
	fi
	guest_forget
}

guest_forget() { rm -rf "$RUN"; }

guest_down() {
	if [[ ! -e $RUN ]]; then
		say "lab host '$NAME' is not running"
		return 0
	fi
	guest_kill
	say "lab host '$NAME' is down"
}

guest_install() {
	local deb=$1
	[[ -r $deb ]] || die "no package at '$deb'"
	need_running
	# Kept over reboots: scenarios install it again.
	in_guest 'cat > /var/tmp/virt-vgpu.deb' < "$deb"
	# The host has no package lists: what the package depends on has to be in the image.
	in_guest 'DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends --allow-downgrades --reinstall /var/tmp/virt-vgpu.deb' < /dev/null ||
		die "installing $deb failed"
}

guest_status() {
	local folder name some=
	for folder in "$RUN_ROOT"/*/; do
		[[ -d $folder ]] || continue
		some=yes
		name=$(basename "$folder")
		select_guest "$name"
		if guest_running; then
			printf '%-10s up    pid %s, ssh 127.0.0.1:%s, migration 127.0.0.1:%s, %s\n' "$name" \
				"$(guest_pid)" "$(ssh_port)" "$(migration_port)" \
				"$(ps -o etime= -p "$(guest_pid)" | tr -d ' ')"
		else
			printf '%-10s dead  left over; lab --name %s down clears it\n' "$name" "$name"
		fi
	done
	if [[ -z $some ]]; then printf 'no lab host is running\n'; fi
}
