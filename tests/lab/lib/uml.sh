# shellcheck shell=bash
# A lab host that is a User-mode Linux: a real kernel whose user space runs at the processor's own speed,
# on one core. All of them hang on one bridge in a network namespace of ours, where commands reach them
# by address; nothing of this machine's own network is touched. uml/README.md has the limits.

readonly UML_USUAL_BOOT_MS=10000

# uml_possible: whether this machine can have one; says why not
uml_possible() {
	if [[ $(uname -m) != x86_64 ]]; then
		printf 'this machine is no x86_64\n'
	elif ((EUID != 0)); then
		printf 'that needs root\n'
	elif [[ ! -c /dev/net/tun ]] || ! (: <> /dev/net/tun) 2> /dev/null; then
		printf '/dev/net/tun cannot be opened\n'
	elif ! command -v ip > /dev/null; then
		printf 'the program ip is missing (package iproute2)\n'
	elif ! unshare --net true 2> /dev/null; then
		printf 'network namespaces are not allowed\n'
	else
		return 0
	fi
	return 1
}

uml_mark() { printf 'umid=virt-vgpu-lab-%s ' "$NAME"; }

# One for each cache: lab hosts of two caches do not know of each other.
uml_network() { printf 'virt-vgpu-lab-%s\n' "$(sha256sum <<< "$RUN_ROOT" | cut -c 1-8)"; }

# with_network_lock FUNCTION...
with_network_lock() {
	(
		flock 9
		"$@"
	) 9> "$RUN_ROOT/network.lock"
}

# Bridge and namespace, if they are not there; a tap device for this lab host; its address.
uml_plug_in() {
	local network n taken
	network=$(uml_network)
	if [[ ! -e /run/netns/$network ]]; then
		ip netns add "$network"
		ip -n "$network" link set lo up
		ip -n "$network" link add bridge type bridge
		ip -n "$network" addr add 10.0.2.2/24 dev bridge
		ip -n "$network" link set bridge up
	fi
	taken=$(cat "$RUN_ROOT"/*/number 2> /dev/null) || true
	for ((n = 15; n < 200; n++)); do
		grep -qx "$n" <<< "$taken" || break
	done
	printf '%s\n' "$n" > "$RUN/number"
	# What a killed lab host has left.
	ip -n "$network" link del "tap$n" 2> /dev/null || true
	ip -n "$network" tuntap add "tap$n" mode tap vnet_hdr
	ip -n "$network" link set "tap$n" master bridge up
	printf '/run/netns/%s\n' "$network" > "$RUN/network"
}

# The last one takes the namespace along.
uml_unplug() {
	local network
	network=$(uml_network)
	[[ -e $RUN/number && -e /run/netns/$network ]] || return 0
	ip -n "$network" link del "tap$(< "$RUN/number")" 2> /dev/null || true
	rm -f "$RUN/number"
	compgen -G "$RUN_ROOT/*/number" > /dev/null || ip netns del "$network"
}

# State folder: address, second disk.
uml_prepare() {
	local tree=$RUN/identity archive address
	with_network_lock uml_plug_in
	address=10.0.2.$(< "$RUN/number")
	printf '%s 22\n' "$address" > "$RUN/ssh-address"
	printf '%s 22 49152\n' "$address" > "$RUN/peer-address"
	guest_identity "$tree"
	for archive in "$UML_MODULE/overlay.cpio" "$NVIDIA/overlay.cpio"; do
		(cd "$tree" && cpio --quiet -idmu) < "$archive"
	done
	(
		cd "$tree/lab-overlay"
		: > etc/fstab
		# Nobody answers; an error at once is better than silence.
		echo 'nameserver 127.0.0.1' > etc/resolv.conf
		mkdir -p etc/systemd/network
		printf '[Match]\nName=vec0\n\n[Network]\nAddress=%s/24\n' "$address" > etc/systemd/network/10-lab.network
		tar -c --owner=0 --group=0 . -f "$RUN/second-disk"
	)
	rm -rf "$tree"
	uml_core > "$RUN/core"
	# It starts more than once, also by a command that knows of no kernel.
	ln -s "$UML/linux" "$RUN/linux"
	ln -s "$NESTED/nested.img" "$RUN/nested.img"
	printf '%s\n' "$IMAGE/lab.img" > "$RUN/image"
}

# uml_core: one core of those that this process may use, the one for this lab host
uml_core() {
	local list part cores=()
	list=$(taskset -cp $$ | sed 's/.*: *//')
	for part in ${list//,/ }; do
		# shellcheck disable=SC2207  # numbers
		cores+=($(seq "${part%-*}" "${part#*-}"))
	done
	printf '%s\n' "${cores[${LAB_LANE:-$(< "$RUN/number")} % ${#cores[@]}]}"
}

# The processes of the host's programs are processes of this machine, which its kernel steers by ptrace:
# all on one core, else each system call wakes another one. Its memory is a file; what /dev/shm holds here
# may be little. glibc's rseq would be met by the kernel of this machine in memory that those processes
# do not have.
uml_start() {
	# shellcheck disable=SC2016  # expanded by the inner shell
	GLIBC_TUNABLES=glibc.pthread.rseq=0 setsid nsenter --net="$(< "$RUN/network")" \
		unshare --mount --propagation private sh -c '
			mount -t tmpfs -o size=$1M,mode=1777 tmpfs /dev/shm || exit
			shift
			exec "$@"' sh $((MEMORY_MIB + 256)) taskset -c "$(< "$RUN/core")" \
		"$RUN/linux" "umid=virt-vgpu-lab-$NAME" "uml_dir=$RUN/" "mem=${MEMORY_MIB}M" root=/dev/ubda rw init=/usr/sbin/lab-init \
		"ubd0=$RUN/disk,$(< "$RUN/image")" "ubd1r=$RUN/second-disk" "ubd2r=$RUN/nested.img" \
		"vec0:transport=tap,ifname=tap$(< "$RUN/number"),depth=128,gro=1" \
		con0=null,fd:1 con=null ssl=null quiet systemd.log_color=0 \
		> "$RUN/console.log" 2> "$RUN/output.log" < /dev/null &
	printf '%s\n' "$!" > "$RUN/pid"
	# Until it has become what was started, nobody knows it by its arguments.
	local i
	for ((i = 0; i < 600; i++)); do
		if guest_running; then return 0; fi
		kill -0 "$(< "$RUN/pid")" 2> /dev/null || return 1
		sleep 0.05
	done
	return 1
}

# It goes off, and is started again when it has: to reboot by itself is to execute its kernel again in the
# same process, and a signal that the old one was still to get kills the new one now and then.
uml_reboot() {
	local start end=$((SECONDS + REBOOT_DEADLINE))
	start=$(now_ms)
	# Its end may cut the connection before an answer.
	in_guest 'systemctl poweroff' > /dev/null 2>&1 < /dev/null &
	printf 'lab: lab host %s goes off ' "'$NAME'" >&2
	while guest_running; do
		((SECONDS < end)) || {
			printf ' no end after %s s\n' "$REBOOT_DEADLINE" >&2
			guest_explain
			die "lab host '$NAME' does not go off"
		}
		sleep 0.1
	done
	printf '%s s\n' "$(seconds_since "$start")" >&2
	uml_start || die "lab host '$NAME' does not start again"
}

# Killed and started again with the disk as it is.
uml_cut_power() {
	guest_stop
	uml_start || die "lab host '$NAME' does not start again after the power cut"
}

uml_forget() { with_network_lock uml_unplug; }

uml_autopsy() { :; }
