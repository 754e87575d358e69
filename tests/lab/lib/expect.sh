# shellcheck shell=bash
# What a scenario is written with. A scenario is a bash file sourced under `set -euo pipefail` on
# the outer machine; it passes when it reaches its end.

# on_lab COMMANDS: runs them in bash on the lab host, with lib/inside.sh; prints their output
on_lab() { run_inside "$NAME" "$1"; }

# on_peer COMMANDS: the same on the second lab host (needs: peer)
on_peer() { run_inside "$PEER" "$1"; }

run_inside() {
	local host=$1 commands=$2 left slow status=0 out
	left=$((SCENARIO_END - SECONDS))
	((left > 0)) || fail "the scenario's time is over"
	trace "[$host, ${SECONDS} s] $commands"
	slow=$(slow_host "$host")
	out=$(
		select_guest "$host"
		reach timeout $((left + 10)) ssh -F "$RUN/ssh-config" lab "LAB_SLOW=$slow LAB_LEFT=$left timeout $left bash -euo pipefail -c $(printf '%q' ". /run/lab-inside.sh; $commands")" \
			2> >(tee -a "$SCENARIO_LOG" >&2) < /dev/null
	) || status=$?
	[[ -z $out ]] || printf '%s\n' "$out" | tee -a "$SCENARIO_LOG"
	if ((status)); then trace "    exit status $status"; fi
	if ((status == 124 && SECONDS >= SCENARIO_END)); then fail "the scenario's time is over"; fi
	return "$status"
}

# slow_host HOST: how many times longer than usual everything takes there
slow_host() {
	(
		select_guest "$1"
		cat "$RUN/slow" 2> /dev/null || echo 1
	)
}

trace() { printf '%s\n' "$*" >> "$SCENARIO_LOG"; }

# report TEXT: what the run shall show below the scenario's result, such as counts
report() {
	trace "$1"
	printf '%s\n' "$1" >> "$SCENARIO_LOG.report"
}

# Ends the scenario from any depth of subshells.
fail() {
	trace "FAILED: $*"
	exit 99
}

# assert_eq EXPECTED COMMANDS: the output of COMMANDS on the lab host is exactly EXPECTED
assert_eq() {
	local expected=$1 got
	got=$(on_lab "$2") || fail "command failed: $2"
	[[ $got == "$expected" ]] || fail "$(printf 'expected:\n%s\ngot:\n%s' "$expected" "$got")"
}

# assert COMMANDS: they succeed on the lab host
assert() { on_lab "$1" > /dev/null || fail "not so: $1"; }

# refuse COMMANDS: they fail on the lab host; prints what they said
refuse() {
	local said
	if said=$(on_lab "{ $1; } 2>&1"); then fail "succeeded: $1"; fi
	printf '%s\n' "$said"
}

# same WHAT EXPECTED GOT: two texts the scenario has at hand
same() { [[ $2 == "$3" ]] || fail "$(printf '%s: expected:\n%s\ngot:\n%s' "$1" "$2" "$3")"; }

# refuse_start VM LINE: the hook refuses the start, and virsh shows exactly that line of it
refuse_start() {
	refuse_with "virsh start $1" "error: Failed to start domain '$1'
$(refusal_of "$1" prepare "$2")"
}

# refuse_with COMMAND TEXT: it fails and says exactly TEXT, but for the environment of a hook
refuse_with() {
	local said
	said=$(refuse "$1")
	# shellcheck disable=SC2001
	same "$1" "$2" "$(sed 's:(LC_ALL=C [^)]* /etc/libvirt/hooks/:(/etc/libvirt/hooks/:' <<< "$said")"
}

# refusal_of VM OPERATION LINE: how libvirt passes on a line of the hook
refusal_of() {
	printf 'error: Hook script execution failed: internal error: Child process (%s) unexpected exit status 1: %s\n' \
		"/etc/libvirt/hooks/qemu.d/50-virt-vgpu $1 $2 begin -" "virt-vgpu: $3"
}

# put_test PATH NAME: the test program of that name, to PATH there; built as tests/cargo-tests builds it
put_test() { put_built "$1" test "$2" test --workspace --test "$2" --no-run; }

# put_faulty PATH NAME: the program of that name with the faults of src/host/fault.rs, to PATH there
put_faulty() { put_built "$1" bin "$2" build --bin "$2"; }

# put_built PATH KIND NAME COMMAND...: what that command of cargo builds, with faults
put_built() {
	local path=$1 kind=$2 name=$3 program
	shift 3
	program=$(cd "$LAB/../.." && cargo "$@" --quiet --locked --features virt-vgpu/faults --message-format=json 2>> "$SCENARIO_LOG.stderr" |
		grep "\"kind\":\[\"$kind\"\]" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1) ||
		fail "cannot be built: $kind program $name"
	[[ -x $program ]] || fail "was not built: $kind program $name"
	strip -o "$RUN/built-program" "$program"
	in_guest "cat > $path; chmod +x $path" < "$RUN/built-program"
}

# A reboot of the lab host; what scenarios need there is put back.
reboot_lab() {
	trace "[$NAME] (reboot)"
	guest_reboot
	prepare_guest "$NAME"
}

# cut_power: the same without a shutdown
cut_power() {
	trace "[$NAME] (power cut)"
	guest_cut_power
	prepare_guest "$NAME"
}

# What follows `virsh migrate ... DOMAIN` to send it to the peer.
migrate_arguments() {
	(
		select_guest "$PEER"
		read -r address ssh migration < "$RUN/peer-address"
		printf '%s --migrateuri tcp://%s:%s --listen-address 0.0.0.0\n' \
			"'qemu+ssh://root@$address:$ssh/system?keyfile=/root/.ssh/id_ed25519&no_verify=1'" \
			"$address" "$migration"
	)
}
