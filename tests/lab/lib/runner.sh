# shellcheck shell=bash
# `lab test`: selects scenarios, brings lab hosts up as needed, runs each from a clean state.
#
# Lines at the top of a scenario that the runner reads:
#   # needs: product peer     the installed package; a second lab host
#   # deadline: 300           seconds for the whole scenario (default 300), more on a slow machine

run_scenarios() {
	local deb='' keep='' list='' within='' file patterns=() files=()
	while (($#)); do
		case $1 in
			--deb)
				(($# >= 2)) || usage_error "--deb needs a file"
				deb=$2
				shift
				;;
			--within)
				[[ ${2-} =~ ^[0-9]+$ ]] || usage_error "--within needs a number of seconds"
				within=$2
				shift
				;;
			--keep) keep=yes ;;
			--list) list=yes ;;
			-*) usage_error "unknown option '$1' of 'test'" ;;
			*) patterns+=("$1") ;;
		esac
		shift
	done
	for file in "$LAB"/scenarios/[0-9]*.sh; do
		scenario_selected "$file" "${patterns[@]}" && files+=("$file")
	done
	((${#files[@]})) || die "no scenario matches: ${patterns[*]}"
	if [[ -n $list ]]; then
		for file in "${files[@]}"; do scenario_name "$file"; done
		return
	fi
	[[ -n $deb ]] || deb=$(newest_package)
	# shellcheck disable=SC2153  # set by select_guest
	PEER=$NAME-peer
	RUN_END=
	if [[ -n $within ]]; then
		RUN_END=$((SECONDS + within))
		mapfile -t files < <(by_weight "${files[@]}")
	fi
	run_selected "$deb" "$keep" "${files[@]}"
}

# by_weight FILE...: the order in which they are run when there may not be time for all: those of the
# product, the newest first, but long ones after these; then those of the simulator.
by_weight() {
	local file short=() long=() simulator=()
	for file in "$@"; do
		if ! scenario_needs "$file" product; then
			simulator+=("$file")
		elif (($(scenario_deadline "$file") > 900)); then
			long+=("$file")
		else
			short=("$file" "${short[@]}")
		fi
	done
	printf '%s\n' "${short[@]}" "${long[@]}" "${simulator[@]}" | sed '/^$/d'
}

# scenario_deadline FILE: in seconds, on a machine that is not slow
scenario_deadline() {
	local seconds
	seconds=$(sed -n 's/^# deadline: *//p' "$1")
	printf '%s\n' "${seconds:-300}"
}

time_is_over() { [[ -n $RUN_END ]] && ((SECONDS >= RUN_END)); }

scenario_name() { basename "$1" .sh; }

scenario_selected() {
	local file=$1 pattern
	shift
	(($#)) || return 0
	for pattern in "$@"; do
		[[ $(scenario_name "$file") == *"$pattern"* ]] && return 0
	done
	return 1
}

scenario_needs() { sed -n 's/^# needs: *//p' "$1" | grep -qw "$2"; }

newest_package() {
	local deb
	# shellcheck disable=SC2012  # names of our own build, no odd characters
	deb=$(ls -t "$LAB"/../../target/package/*.deb 2> /dev/null | head -n 1) || true
	printf '%s\n' "$deb"
}

run_selected() {
	local deb=$1 keep=$2 file start status passed=0 failed=0 skipped=0 failures=() ours=() logs
	shift 2
	# Only what this run starts is ended by it.
	guest_running || ours+=("$NAME")
	(select_guest "$PEER" && guest_running) || ours+=("$PEER")
	# shellcheck disable=SC2064  # the values of now
	[[ -n $keep ]] || trap "end_guests ${ours[*]}" EXIT
	guest_up
	prepare_guest "$NAME"
	if [[ -n $deb ]]; then
		say "installing $deb"
		guest_install "$deb" > /dev/null
	fi
	logs=$CACHE/logs
	mkdir -p "$logs"
	for file in "$@"; do
		if [[ -z $deb ]] && scenario_needs "$file" product; then
			printf 'SKIP %s: needs the package, see --deb\n' "$(scenario_name "$file")"
			skipped=$((skipped + 1))
			continue
		fi
		if scenario_needs "$file" peer; then ensure_peer "$deb"; fi
		if time_is_over; then
			printf 'SKIP %s: no time left\n' "$(scenario_name "$file")"
			skipped=$((skipped + 1))
			continue
		fi
		SCENARIO_LOG=$logs/$(scenario_name "$file").log
		start=$(now_ms)
		status=0
		run_scenario "$file" || status=$?
		if ((status)) && replace_dead_guests "$file" "$deb"; then
			status=0
			run_scenario "$file" || status=$?
		fi
		if ((status == 0)); then
			passed=$((passed + 1))
			printf 'PASS %s (%s s)\n' "$(scenario_name "$file")" "$(seconds_since "$start")"
			show_report
		elif time_is_over; then
			printf 'SKIP %s: no time left after %s s\n' "$(scenario_name "$file")" "$(seconds_since "$start")"
			skipped=$((skipped + 1))
		else
			failed=$((failed + 1))
			printf 'FAIL %s (%s s)\n' "$(scenario_name "$file")" "$(seconds_since "$start")"
			show_report
			explain_failure
			failures+=("$(scenario_name "$file"): $(failure_reason)")
		fi
	done
	# Once more at the end, where it is looked for first.
	((${#failures[@]} == 0)) || printf 'FAILED %s\n' "${failures[@]}"
	printf '%d passed, %d failed%s\n' "$passed" "$failed" "$( ((skipped == 0)) || printf ', %d skipped' "$skipped")"
	((failed == 0 && passed > 0))
}

end_guests() {
	local name
	for name in "$@"; do
		select_guest "$name"
		if [[ -e $RUN ]]; then guest_down; fi
	done
}

# Scenario helpers on the host, and a journal that starts with the test.
prepare_guest() {
	(
		select_guest "$1"
		in_guest 'cat > /run/lab-inside.sh' < "$LAB/lib/inside.sh"
	)
}

ensure_peer() {
	local deb=$1
	if ! (select_guest "$PEER" && guest_running); then
		(
			select_guest "$PEER"
			guest_up
		)
	fi
	prepare_guest "$PEER"
	if [[ -n $deb ]] && ! on_peer_quietly 'test -e /usr/sbin/virt-vgpu-hook'; then
		(
			select_guest "$PEER"
			guest_install "$deb" > /dev/null
		)
	fi
}

on_peer_quietly() {
	(
		select_guest "$PEER"
		in_guest "$1"
	) > /dev/null 2>&1 < /dev/null
}

run_scenario() {
	SECONDS_LEFT=${RUN_END:+$((RUN_END - SECONDS))}
	SECONDS_LEFT=${SECONDS_LEFT:-999999}
	: > "$SCENARIO_LOG"
	rm -f "$SCENARIO_LOG.report"
	afresh scenario_begin "$1" -- "$1" > /dev/null 2> "$SCENARIO_LOG.stderr" < /dev/null
}

# What comes before the scenario itself, in the same shell.
scenario_begin() {
	local seconds
	select_guest "$NAME"
	seconds=$(($(scenario_deadline "$1") * $(slow_host "$NAME")))
	# shellcheck disable=SC2034  # for run_inside
	SCENARIO_END=$((SECONDS + (SECONDS_LEFT < seconds ? SECONDS_LEFT : seconds)))
	# explain_failure and `events` show the journal from the cursor on.
	local afresh='clean_state
		journalctl -q -n 0 --show-cursor | sed -n "s/^-- cursor: //p" > /run/lab-cursor'
	on_lab "$afresh"
	if scenario_needs "$1" peer; then on_peer "$afresh"; fi
}

# replace_dead_guests FILE DEB: after a scenario that failed. A lab host that does not answer any more is
# replaced, for the scenarios that follow. Succeeds when FILE is to be run again: its lab host has
# stopped for what is the emulator's, and nothing that is tested here.
replace_dead_guests() {
	local file=$1 deb=$2 host again=no hosts=("$NAME")
	if scenario_needs "$file" peer; then hosts+=("$PEER"); fi
	for host in "${hosts[@]}"; do
		if (select_guest "$host" && guest_answers 60); then continue; fi
		printf 'LOST %s: lab host %s does not answer any more; see %s\n' "$(scenario_name "$file")" "$host" \
			"$SCENARIO_LOG.$host"
		if (select_guest "$host" && guest_autopsy "$SCENARIO_LOG.$host"); then again=yes; fi
		(
			select_guest "$host"
			guest_kill
		)
		if [[ $host == "$PEER" ]]; then
			ensure_peer "$deb"
		else
			guest_up
			prepare_guest "$NAME"
			if [[ -n $deb ]]; then guest_install "$deb" > /dev/null; fi
		fi
	done
	[[ $again == yes ]]
}

show_report() { [[ ! -e $SCENARIO_LOG.report ]] || sed 's/^/  /' "$SCENARIO_LOG.report"; }

# failure_reason: what ended the scenario, in one line
failure_reason() {
	if grep -q '^FAILED: ' "$SCENARIO_LOG"; then
		sed -n '/^FAILED: /,$p' "$SCENARIO_LOG" | sed 's/^FAILED: //' | paste -sd' ' | cut -c 1-300
	else
		grep -v '^ *exit status ' "$SCENARIO_LOG" | tail -n 1 | cut -c 1-300
	fi
}

explain_failure() {
	printf '  last commands (%s):\n' "$SCENARIO_LOG"
	tail -n 30 "$SCENARIO_LOG" | sed 's/^/    /'
	printf '  standard error:\n'
	tail -n 15 "$SCENARIO_LOG.stderr" | sed 's/^/    /'
	printf '  journal of the lab host:\n'
	# shellcheck disable=SC2016  # expanded on the lab host
	timeout 20 ssh -F "$RUN/ssh-config" lab \
		'journalctl -q --no-pager -o short-monotonic --after-cursor="$(cat /run/lab-cursor)" | grep -v apparmor=.STATUS | tail -n 30' \
		2>&1 < /dev/null | sed 's/^/    /' || true
}
