# shellcheck shell=bash
# `lab test`: runs the tasks of queue.sh in lanes, each with lab hosts of its own that it brings up as
# needed, each scenario from a clean state. A scenario that fails is run once more on a fresh lab host,
# and once again if a lab host was lost.

run_scenarios() {
	local deb='' keep='' list='' within='' host='' jobs='' file patterns=() files=()
	while (($#)); do
		case $1 in
			--deb | --within | --jobs | --host)
				(($# >= 2)) || usage_error "$1 needs a value"
				printf -v "${1#--}" '%s' "$2"
				shift
				;;
			--keep) keep=yes ;;
			--list) list=yes ;;
			-*) usage_error "unknown option '$1' of 'test'" ;;
			*) patterns+=("$1") ;;
		esac
		shift
	done
	[[ -z $within || $within =~ ^[0-9]+$ ]] || usage_error "--within needs a number of seconds"
	[[ -z $jobs || $jobs =~ ^[1-9][0-9]?$ ]] || usage_error "--jobs needs a number from 1 to 99"
	SCENARIOS=${VIRT_VGPU_LAB_SCENARIOS:-$LAB/scenarios}
	for file in "$SCENARIOS"/[0-9]*.sh; do
		scenario_selected "$file" "${patterns[@]}" && files+=("$file")
	done
	((${#files[@]})) || die "no scenario matches: ${patterns[*]}"
	if [[ -n $list ]]; then
		for file in "${files[@]}"; do scenario_name "$file"; done
		return
	fi
	ensure_host_packages
	if [[ -n $host ]]; then
		host=$(host_kind "$host") || exit
	elif ! host=$(uml_possible); then
		say "all on emulated lab hosts, since there can be no User-mode Linux here: $host"
		host=emulated
	fi
	[[ -n $deb ]] || deb=$(newest_package)
	[[ -z $deb || -r $deb ]] || die "no package at '$deb'"
	RUN_END=
	if [[ -n $within ]]; then RUN_END=$((SECONDS + within)); fi
	RUN_LONGEST=$((${within:-0} / 5))
	RUN_DEB=$deb
	ensure_image
	ensure_nvidia
	ensure_nested
	STATE=$(mktemp -d)
	list_tasks "$host" "$within" "${files[@]}" > "$STATE/tasks"
	touch "$STATE/results"
	if grep -q ' uml ' "$STATE/tasks"; then ensure_uml; fi
	if grep -qE ' (emulated|pci) ' "$STATE/tasks"; then ensure_module; fi
	run_lanes "${jobs:-$(usual_jobs)}" "$keep"
	summary
}

newest_package() {
	local deb
	# shellcheck disable=SC2012  # names of our own build, no odd characters
	deb=$(ls -t "$LAB"/../../target/package/*.deb 2> /dev/null | head -n 1) || true
	printf '%s\n' "$deb"
}

time_is_over() { [[ -n $RUN_END ]] && ((SECONDS >= RUN_END)); }

# run_lanes JOBS KEEP
run_lanes() {
	local jobs=$1 keep=$2 lane
	LOGS=$CACHE/logs
	LANES=()
	mkdir -p "$LOGS"
	# shellcheck disable=SC2064  # the value of now
	trap "end_lanes '$keep'" EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	say "$(wc -l < "$STATE/tasks") scenarios, $jobs at once${RUN_DEB:+, with $(basename "$RUN_DEB")}"
	for ((lane = 0; lane < jobs; lane++)); do
		run_lane "$lane" "$jobs" &
		LANES+=("$!")
	done
	wait "${LANES[@]}" || true
	end_lanes "$keep"
	trap - EXIT INT TERM HUP
}

# Lanes are told first: nothing is started any more.
end_lanes() {
	local folder
	kill "${LANES[@]}" 2> /dev/null || true
	[[ -z $1 ]] || return 0
	for folder in "$RUN_ROOT/$TEST_NAME"-[0-9]*; do
		[[ -d $folder ]] || continue
		select_guest "$(basename "$folder")"
		guest_kill
	done
}

# run_lane LANE LANES
run_lane() {
	local task class kind name file
	trap - EXIT INT TERM HUP
	export LAB_LANE=$1
	while true; do
		task=$(take_task "$STATE/tasks" "$1" "$2")
		[[ -n $task ]] || break
		read -r class kind name <<< "$task"
		file=$SCENARIOS/$name.sh
		SCENARIO_LOG=$LOGS/$name.$kind.log
		rm -f "$SCENARIO_LOG".*
		if [[ -z $RUN_DEB ]] && scenario_needs "$file" product; then
			result SKIP "$kind" "$name" 0 'needs the package, see --deb'
		elif ((class > 1 && $(scenario_seconds "$name" "$kind") > RUN_LONGEST)); then
			result SKIP "$kind" "$name" 0 'takes more than a fifth of the time there is'
		elif time_is_over; then
			result SKIP "$kind" "$name" 0 "no time left$( ((class > 1)) || echo ', although it is of the gate')"
		else
			run_task "$file" "$kind" "$name" "$class"
		fi
	done
}

# result STATUS KIND NAME MILLISECONDS [REASON]: notes and tells it, with the report and, of a failure, its explanation
result() {
	local status=$1 kind=$2 name=$3 ms=$4 reason=${5-}
	(
		flock 9
		printf '%s\t%s\t%s\t%s\t%s\n' "$status" "$kind" "$name" "$ms" "$reason" >> "$STATE/results"
		case $status in
			PASS) printf 'PASS %s (%s, %s s)\n' "$name" "$kind" "$(tenths "$ms")" ;;
			SKIP) printf 'SKIP %s (%s): %s\n' "$name" "$kind" "$reason" ;;
			*) printf '%s %s (%s, %s s): %s\n' "$status" "$name" "$kind" "$(tenths "$ms")" "$reason" ;;
		esac
		[[ ! -e $SCENARIO_LOG.report || $status == SKIP ]] || sed 's/^/  /' "$SCENARIO_LOG.report"
		if [[ $status == FAIL ]] || [[ $status == SKIP && -e $SCENARIO_LOG.explained.1 ]]; then cat "$SCENARIO_LOG".explained.*; fi
	) 9> "$STATE/results.lock"
}

tenths() { printf '%d.%d' "$(($1 / 1000))" "$(($1 % 1000 / 100))"; }

# run_task FILE KIND NAME CLASS: until it passes or has failed twice. Of three tries, those whose lab host was lost do
# not count: they say more of the emulator than of the product. One that is not of the gate and had no time for a try
# that counts is left out.
run_task() {
	local file=$1 kind=$2 name=$3 class=$4 start try failed=0 reason reasons='' other
	# An idle lab host of another kind would take part of a core.
	for other in uml emulated pci; do
		[[ $other != "$kind" ]] || continue
		NAME=$TEST_NAME-$LAB_LANE-$other
		PEER=$NAME-peer
		end_hosts
	done
	NAME=$TEST_NAME-$LAB_LANE-$kind
	PEER=$NAME-peer
	for ((try = 1; try <= 3 && failed < 2; try++)); do
		start=$(now_ms)
		if try_scenario "$file" "$kind"; then
			result "$([[ -z $reasons ]] && echo PASS || echo FLAKY)" "$kind" "$name" "$(($(now_ms) - start))" "$reasons"
			return
		fi
		if time_is_over; then
			if ((!failed || class > 1)); then
				result SKIP "$kind" "$name" "$(($(now_ms) - start))" \
					"the time was over while it ran${reasons:+ again, after: $reasons}"
				return
			fi
			reason='no time for another try'
			failed=2
		else
			reason=$(failure_reason)
			explain_failure > "$SCENARIO_LOG.explained.$try" 2>&1
			if ! lost_host "$SCENARIO_LOG.explained.$try"; then failed=$((failed + 1)); fi
			cp "$SCENARIO_LOG" "$SCENARIO_LOG.try.$try"
			cp "$SCENARIO_LOG.stderr" "$SCENARIO_LOG.stderr.$try"
		fi
		[[ $reasons == "$reason" ]] || reasons+="${reasons:+; then: }$reason"
		# What has failed may have left anything behind.
		end_hosts
	done
	result FAIL "$kind" "$name" "$(($(now_ms) - start))" "$reasons"
}

# lost_host EXPLANATION: whether this try has ended for want of a lab host
lost_host() { grep -q '^  LOST: ' "$1" || grep -q '^FAILED: lab host .* does not come up' "$SCENARIO_LOG"; }

# end_hosts: those of NAME and PEER
end_hosts() {
	local host
	for host in "$NAME" "$PEER"; do (select_guest "$host" && [[ ! -e $RUN ]] || guest_kill); done
}

# try_scenario FILE KIND: on this lane's lab hosts, which are there when it begins
try_scenario() {
	local file=$1 kind=$2 seconds
	: > "$SCENARIO_LOG"
	: > "$SCENARIO_LOG.stderr"
	rm -f "$SCENARIO_LOG.report"
	select_guest "$NAME"
	have_host "$NAME" "$kind" || return 1
	if scenario_needs "$file" peer; then have_host "$PEER" "$kind" || return 1; fi
	SECONDS_LEFT=${RUN_END:+$((RUN_END - SECONDS))}
	SECONDS_LEFT=${SECONDS_LEFT:-999999}
	seconds=$(($(scenario_deadline "$file") * $(slow_host "$NAME")))
	# What the scenario does on this machine may hang as well.
	AFRESH_IN="timeout --kill-after=10 $((seconds + 120))" afresh scenario_begin "$file" "$seconds" -- "$file" \
		> /dev/null 2>> "$SCENARIO_LOG.stderr" < /dev/null || {
		(($? != 124)) || trace "FAILED: it has not ended $((seconds + 120)) s after it began"
		return 1
	}
}

# have_host NAME KIND: a lab host of that name, with the package
have_host() (
	select_guest "$1"
	if guest_running && guest_answers 60 && has_package "$1"; then return; fi
	[[ ! -e $RUN ]] || guest_kill
	if guest_up --host "$2" 2> "$LOGS/$1.log" && prepare_guest "$1" && {
		[[ -z $RUN_DEB ]] || guest_install "$RUN_DEB" > /dev/null 2>> "$LOGS/$1.log"
	}; then
		: > "$STATE/$1.ours"
		tail -n 1 "$LOGS/$1.log" >&2
		return
	fi
	cat "$LOGS/$1.log" >> "$SCENARIO_LOG.stderr"
	trace "FAILED: lab host $1 does not come up: $(grep -a . "$LOGS/$1.log" | tail -n 1)"
	return 1
)

# has_package NAME: whether it has the package of this run, and not that of the run that kept it
has_package() {
	[[ -n $RUN_DEB && ! -e $STATE/$1.ours ]] || return 0
	[[ $(in_guest 'sha256sum < /var/tmp/virt-vgpu.deb' 2> /dev/null < /dev/null) == "$(sha256sum < "$RUN_DEB")" ]] || return 1
	: > "$STATE/$1.ours"
}

# Scenario helpers on the host.
prepare_guest() {
	(
		select_guest "$1"
		cat "$LAB"/lib/inside.sh "$LAB"/lib/inside-random.sh | in_guest 'cat > /run/lab-inside.sh'
	)
}

# scenario_begin FILE SECONDS: what comes before the scenario itself, in the same shell
scenario_begin() {
	select_guest "$NAME"
	# shellcheck disable=SC2034  # for run_inside
	SCENARIO_END=$((SECONDS + (SECONDS_LEFT < $2 ? SECONDS_LEFT : $2)))
	# explain_failure and `events` show the journal from the cursor on.
	local afresh='clean_state
		journalctl -q -n 0 --show-cursor | sed -n "s/^-- cursor: //p" > /run/lab-cursor'
	on_lab "$afresh"
	if scenario_needs "$1" pci; then pci_clean_state; fi
	if scenario_needs "$1" peer; then on_peer "$afresh"; fi
}

# failure_reason: what ended the scenario, in one line: what it said itself, or the last thing that its last command
# said on standard error, which the log has before what it printed
failure_reason() {
	local complaint
	if grep -aq '^FAILED: ' "$SCENARIO_LOG"; then
		sed -n '/^FAILED: /,$p' "$SCENARIO_LOG" | sed 's/^FAILED: //' | paste -sd' ' | cut -c 1-300
	else
		complaint=$(grep -a . "$SCENARIO_LOG.stderr" | tail -n 1) || true
		awk -v complaint="$complaint" '
			/^\[/ { last = $0; said = ""; next }
			/^ *exit status / { status = $0; next }
			$0 == complaint { said = $0 }
			END { sub(/^ */, "", status); print (said == "" ? last ": " status : said) }' "$SCENARIO_LOG" | cut -c 1-300
	fi | tr '\t' ' '
}

explain_failure() {
	local host
	printf '  last commands (%s):\n' "$SCENARIO_LOG"
	tail -n 30 "$SCENARIO_LOG" | sed 's/^/    /'
	printf '  standard error:\n'
	tail -n 15 "$SCENARIO_LOG.stderr" | sed 's/^/    /'
	for host in "$NAME" "$PEER"; do (select_guest "$host" && [[ ! -e $RUN ]] || explain_host "$host"); done
}

explain_host() {
	if ! guest_answers 20; then
		printf '  LOST: lab host %s does not answer any more; all of it is in %s\n' "$1" "$SCENARIO_LOG.$1"
		guest_autopsy "$SCENARIO_LOG.$1"
		return
	fi
	printf '  journal of lab host %s:\n' "$1"
	# shellcheck disable=SC2016  # expanded on the lab host
	reach timeout 20 ssh -F "$RUN/ssh-config" lab \
		'journalctl -q --no-pager -o short-monotonic --after-cursor="$(cat /run/lab-cursor)" | grep -v apparmor=.STATUS | tail -n 30' \
		2>&1 < /dev/null | sed 's/^/    /' || true
}

# What the run comes to; what is looked for first stands last.
summary() {
	local passed failed skipped
	printf '\nSeconds that each scenario took:\n'
	awk -F '\t' '$1 != "SKIP" { printf "%7.1f  %-9s %s\n", $4 / 1000, $2, $3 }' "$STATE/results" | sort -rn
	awk -F '\t' '$1 == "SKIP" { left[$5] = left[$5] " " $3 } END { for (why in left) printf "LEFT OUT (%s):%s\n", why, left[why] }' "$STATE/results"
	awk -F '\t' '$1 == "FLAKY" { printf "FLAKY %s: %s\n", $3, $5 } $1 == "FAIL" { printf "FAILED %s (%s): %s\n", $3, $2, $5 }' "$STATE/results" | sort -r
	passed=$(grep -cE $'^(PASS|FLAKY)\t' "$STATE/results") || true
	failed=$(grep -c $'^FAIL\t' "$STATE/results") || true
	skipped=$(grep -c $'^SKIP\t' "$STATE/results") || true
	# A lane that broke off leaves its task behind.
	failed=$((failed + $(wc -l < "$STATE/tasks")))
	rm -rf "$STATE"
	printf '%d passed, %d failed%s\n' "$passed" "$failed" "$( ((skipped == 0)) || printf ', %d skipped' "$skipped")"
	((failed == 0 && passed > 0))
}
