# shellcheck shell=bash
# One lab host: its process, its state folder, and the way in by ssh. What it is made of, an emulated
# machine or a User-mode Linux, is in emulated.sh and uml.sh: their functions begin with the name of the
# kind, which $RUN/kind holds.
#
# $RUN/            made by `up`, gone after `down`
#   kind           emulated, pci, uml
#   pid            of QEMU, or of the User-mode Linux
#   ssh-address    address and port      peer-address   the same as other lab hosts see it, and a port
#                                                       for migration
#   network        of a User-mode Linux: the network namespace in which it is reached
#   uses           the cached folders it runs from, kept while it runs
#   ssh-config     ssh -F; control socket in $RUN/control
#   console.log    serial console      output.log     what QEMU or the User-mode Linux says itself
#   monitor        QEMU's monitor, a socket
#   slow           how many times longer than usual everything takes on this machine, at least 1

readonly MEMORY_MIB=3072
readonly BOOT_DEADLINE=300
readonly REBOOT_DEADLINE=300

select_guest() {
	[[ $1 =~ ^[a-z0-9-]{1,32}$ ]] || die "lab name '$1': only a-z, 0-9 and -, at most 32"
	NAME=$1
	RUN=$RUN_ROOT/$NAME
}

guest_kind() { cat "$RUN/kind" 2> /dev/null || echo emulated; }

# of_kind FUNCTION [ARGUMENT...]: the one of this lab host's kind
of_kind() {
	local function
	function=$(guest_kind)_$1
	shift
	"$function" "$@"
}

# The process of this lab host, if it lives.
guest_pid() {
	local pid arguments look
	[[ -r $RUN/pid ]] || return 1
	pid=$(< "$RUN/pid")
	[[ $pid =~ ^[0-9]+$ ]] || return 1
	# One that is just executing its next program has no arguments for a moment, or half of them; a
	# zombie has none at all.
	for look in 1 2 3 4 5; do
		arguments=$(tr '\0' ' ' 2> /dev/null < "/proc/$pid/cmdline") || return 1
		if [[ $arguments == *"$(of_kind mark)"* ]]; then
			printf '%s\n' "$pid"
			return 0
		fi
		if ((look == 5)) || grep -qs '^State:.*[ZX]' "/proc/$pid/status"; then return 1; fi
		sleep 0.02
	done
}

guest_running() { guest_pid > /dev/null; }

need_running() { guest_running || die "lab host '$NAME' is not running; start it with: lab --name $NAME up"; }

# reach COMMAND...: where the lab host can be reached
reach() {
	if [[ -e $RUN/network ]]; then
		nsenter --net="$(< "$RUN/network")" "$@"
	else
		"$@"
	fi
}

# guest_up [OPTION...]: one start of a name at a time. -o: QEMU must not inherit the lock.
guest_up() {
	mkdir -p "$RUN_ROOT"
	flock -o "$RUN_ROOT/$NAME.lock" "$LAB/lab" --name "$NAME" up-locked "$@"
}

# host_kind [KIND]: what `--host KIND` comes to; without it an emulated host. 'fast' is a User-mode Linux
# where its kernel is built already: it takes longer to build than an emulated host to boot.
host_kind() {
	local why
	case ${1:-emulated} in
		emulated | pci) echo "${1:-emulated}" ;;
		fast) if uml_possible > /dev/null && uml_built; then echo uml; else echo emulated; fi ;;
		uml)
			why=$(uml_possible) || die "no User-mode Linux here: $why"
			echo uml
			;;
		*) usage_error "no kind of lab host '$1': uml, emulated, pci or fast" ;;
	esac
}

guest_up_locked() {
	local start kind='' wanted attempt boards=()
	while (($#)); do
		if [[ $1 == --host ]]; then
			(($# >= 2)) || usage_error "--host needs a value"
			kind=$2
			shift 2
		else
			boards+=("$1")
			shift
		fi
	done
	wanted=$kind
	kind=$(host_kind "$kind") || exit
	boards_from_options "${boards[@]}"
	if guest_running; then
		((${#boards[@]} == 0)) || die "lab host '$NAME' is up already; to give it other boards: lab --name $NAME down"
		[[ -z $wanted || $kind == "$(guest_kind)" ]] ||
			die "lab host '$NAME' is up already, and $(guest_kind); to make it $kind: lab --name $NAME down"
		if ! reach timeout 5 ssh -F "$RUN/ssh-config" lab true > /dev/null 2>&1 < /dev/null; then
			guest_wait_ssh "lab host '$NAME' runs; waiting for it" "$BOOT_DEADLINE" ||
				die "lab host '$NAME' runs but does not answer; end it with: lab --name $NAME down"
		fi
		say "lab host '$NAME' is up already (lab --name $NAME down ends it)"
		return 0
	fi
	ensure_host_packages
	ensure_image
	ensure_nvidia
	ensure_nested
	if [[ $kind == uml ]]; then ensure_uml; else ensure_module; fi
	if [[ -e $RUN ]]; then
		say "clearing what a killed lab host '$NAME' left behind"
		guest_kill
	fi
	start=$(now_ms)
	# Somebody else may take a port between the look and QEMU's bind.
	for attempt in 1 2 3; do
		guest_prepare "$kind"
		if of_kind start; then break; fi
		if ((attempt == 3)) || ! grep -q 'forwarding rule' "$RUN/output.log"; then
			cat "$RUN/output.log" >&2
			guest_forget
			die "lab host '$NAME' does not start"
		fi
		guest_forget
	done
	guest_wait_ssh "booting lab host '$NAME' ($kind)" "$BOOT_DEADLINE" || {
		guest_explain
		guest_kill
		die "lab host '$NAME' does not come up; console: $RUN_ROOT/$NAME.console.log"
	}
	say "lab host '$NAME' is up after $(seconds_since "$start") s"
	local usual=${kind^^}_USUAL_BOOT_MS
	printf '%d\n' $((1 + ($(now_ms) - start) / (${!usual} + ${!usual} / 2))) > "$RUN/slow"
}

# guest_prepare KIND: the state folder
guest_prepare() {
	local address port
	mkdir -p "$RUN"
	printf '%s\n' "$1" > "$RUN/kind"
	printf '%s\n' "$IMAGE" "${MODULE-}" "$NVIDIA" "${UML-}" "${UML_MODULE-}" "${NESTED-}" | sed '/^$/d' > "$RUN/uses"
	of_kind prepare
	read -r address port < "$RUN/ssh-address"
	cat > "$RUN/ssh-config" <<-E
		Host lab
		    HostName $address
		    Port $port
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

# guest_identity FOLDER: what differs between two lab hosts of one image, names and UUIDs, to
# FOLDER/lab-overlay
guest_identity() {
	local top=$1/lab-overlay uuid
	rm -rf "$1"
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
}

# guest_wait_ssh LABEL DEADLINE [COMMAND]: until COMMAND (default: true) works over ssh
guest_wait_ssh() {
	local label=$1 deadline=$2 probe=${3-true} end start
	start=$(now_ms)
	end=$((SECONDS + deadline))
	printf 'lab: %s ' "$label" >&2
	while ((SECONDS < end)); do
		if ! guest_running; then
			printf ' it has ended\n' >&2
			return 1
		fi
		if reach timeout 10 ssh -F "$RUN/ssh-config" lab "$probe" > /dev/null 2>&1 < /dev/null; then
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
	sed 's/^/    /' "$RUN/output.log" >&2 2> /dev/null || true
	# The folder goes with the host; the console is what explains it.
	cp "$RUN/console.log" "$RUN_ROOT/$NAME.console.log" 2> /dev/null || true
}

# guest_answers SECONDS: whether a new connection gets an answer within that time
guest_answers() {
	local end=$((SECONDS + $1))
	while guest_running; do
		if reach timeout 20 ssh -F "$RUN/ssh-config" -o ControlPath=none lab true > /dev/null 2>&1 < /dev/null; then
			return 0
		fi
		((SECONDS < end)) || return 1
		sleep 1
	done
	return 1
}

# guest_autopsy FILE: writes what can still be known of a lab host that does not answer into FILE, and
# prints the most of it
guest_autopsy() {
	local file=$1 pid complaint
	{
		if pid=$(guest_pid); then
			printf '== its process, with threads\n'
			ps -L -o tid,stat,time,wchan:24,comm -p "$pid"
			of_kind autopsy
		else
			printf '== its process has ended\n'
		fi
		printf '\n== QEMU or the User-mode Linux said\n'
		cat "$RUN/output.log"
		printf '== console\n'
		tail -n 200 "$RUN/console.log" | tr -d '\r'
	} > "$file" 2>&1
	sed '1,/^== console/d' "$file" | tail -n 20 | sed 's/^/    /'
	complaint=$(sed '1,/^== console/d' "$file" |
		grep -E -m 1 'Oops|BUG: |Kernel panic|Call Trace|blocked for more than|soft lockup|self-detected stall') || true
	[[ -z $complaint ]] || printf '    the first complaint of its kernel: %s\n' "$complaint"
}

# in_guest COMMAND...: with the caller's stdin
in_guest() { reach ssh -F "$RUN/ssh-config" lab "$@"; }

guest_reboot() {
	local before start
	need_running
	start=$(now_ms)
	before=$(in_guest cat /proc/sys/kernel/random/boot_id)
	of_kind reboot
	guest_comes_back "$before" "$start"
}

# As after a power cut: nothing that runs there is told, and what was not written is lost.
guest_cut_power() {
	local before start
	need_running
	start=$(now_ms)
	before=$(in_guest cat /proc/sys/kernel/random/boot_id)
	of_kind cut_power
	guest_comes_back "$before" "$start"
}

# guest_comes_back BOOT-ID SINCE: waits for a boot of another id
guest_comes_back() {
	reach ssh -F "$RUN/ssh-config" -O exit lab > /dev/null 2>&1 || true
	guest_wait_ssh "rebooting lab host '$NAME'" "$REBOOT_DEADLINE" \
		"test \$(cat /proc/sys/kernel/random/boot_id) != $1" || {
		guest_explain
		die "lab host '$NAME' did not come back within $REBOOT_DEADLINE s"
	}
	say "lab host '$NAME' is back after $(seconds_since "$2") s"
}

# guest_stop: ends its process, at once
guest_stop() {
	local pid i
	if [[ -S $RUN/control ]]; then reach ssh -F "$RUN/ssh-config" -O exit lab > /dev/null 2>&1 || true; fi
	pid=$(guest_pid) || return 0
	# A User-mode Linux is a group of processes of its own.
	kill -KILL -- "-$pid" 2> /dev/null || kill -KILL "$pid" 2> /dev/null || true
	for ((i = 0; i < 100; i++)); do
		guest_running || break
		sleep 0.1
	done
}

guest_kill() {
	guest_stop
	guest_forget
}

guest_forget() {
	of_kind forget
	rm -rf "$RUN"
}

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
			printf '%-10s up    %s, pid %s, ssh %s, %s\n' "$name" \
				"$(guest_kind)" "$(guest_pid)" "$(tr ' ' ':' < "$RUN/ssh-address")" \
				"$(ps -o etime= -p "$(guest_pid)" | tr -d ' ')"
		else
			printf '%-10s dead  left over; lab --name %s down clears it\n' "$name" "$name"
		fi
	done
	if [[ -z $some ]]; then printf 'no lab host is running\n'; fi
}
