# shellcheck shell=bash
# Follows inside.sh on the lab host: plain starts and stops at random, as of people who know of no pool.

# start_and_stop OPERATIONS SEED GROUP...: so many starts and stops of domains by virsh alone; the same seed makes the
# same choices. A GROUP is NAME:DOMAINS:ROOM: the domains NAME1, NAME2… ask one pool, which has room for ROOM of
# them. A start is only tried where there is room. After each operation it waits until the daemon is done. Prints the
# counts. Fails when a start was refused, and says on standard error which.
start_and_stop() {
	local operations=$1 operation group name count room index vm before took
	local starts=0 stops=0 full=0 refused=0 slowest=0 all_running=0
	local -A rooms=() running_in=()
	local running=() stopped=() startable=()
	RANDOM=$2
	shift 2
	for group in "$@"; do
		IFS=: read -r name count room <<< "$group"
		rooms[$name]=$room running_in[$name]=0 all_running=$((all_running + room))
		for ((index = 1; index <= count; index++)); do stopped+=("$name$index"); done
	done
	printf '%s end nothing\n' "${EPOCHREALTIME/./}" > /run/lab-operations
	for ((operation = 0; operation < operations; operation++)); do
		startable=()
		for vm in "${stopped[@]}"; do
			name=${vm%%[0-9]*}
			((running_in[$name] == rooms[$name])) || startable+=("$vm")
		done
		if ((${#running[@]} > 0 && (${#startable[@]} == 0 || RANDOM % 5 < 2))); then
			vm=${running[RANDOM % ${#running[@]}]}
			printf '%s begin %s\n' "${EPOCHREALTIME/./}" "$vm" >> /run/lab-operations
			virsh -q destroy "$vm"
			running_in[${vm%%[0-9]*}]=$((running_in[${vm%%[0-9]*}] - 1))
			stops=$((stops + 1))
			stopped+=("$vm")
			without running "$vm"
		else
			vm=${startable[RANDOM % ${#startable[@]}]}
			printf '%s begin %s\n' "${EPOCHREALTIME/./}" "$vm" >> /run/lab-operations
			if virsh -q start "$vm" --paused; then
				running_in[${vm%%[0-9]*}]=$((running_in[${vm%%[0-9]*}] + 1))
				starts=$((starts + 1))
				running+=("$vm")
				without stopped "$vm"
			else
				printf 'operation %s: %s was refused while these ran: %s\n' "$operation" "$vm" "${running[*]}" >&2
				refused=$((refused + 1))
			fi
		fi
		before=${EPOCHREALTIME/./}
		printf '%s end %s\n' "$before" "$vm" >> /run/lab-operations
		wait_until at_rest 30
		took=$(((${EPOCHREALTIME/./} - before) / 1000))
		if ((took > slowest)); then slowest=$took; fi
		if ((${#running[@]} == all_running)); then full=$((full + 1)); fi
	done
	printf '%s starts, %s stops, %s times full, %s refused; %s edits, the last one %s ms after virsh had ended at most; at rest within %s ms at most, %s ms of them for the look itself\n' \
		"$starts" "$stops" "$full" "$refused" "$(edits | grep -c . || true)" "$(latest_edit)" "$slowest" "$(elapsed_ms 'at_rest || true')"
	[ "$refused" = 0 ]
}

# without ARRAY ITEM: takes that item out of the array of that name
without() {
	local -n items=$1
	local item kept=()
	for item in "${items[@]}"; do [ "$item" = "$2" ] || kept+=("$item"); done
	items=("${kept[@]}")
}

# edits: when the daemon has changed what a stopped domain names, in microseconds, a line for each; since
# start_and_stop began
edits() {
	events MESSAGE_ID __REALTIME_TIMESTAMP MESSAGE |
		sed -n 's/^9b0c6d1f2a5e4c0f8f6d3a7b1e94c258 \([0-9]*\) .* gets .*/\1/p' |
		awk -v since="$(sed -n '1s/ .*//p' /run/lab-operations)" '$1 >= since'
}

# latest_edit: how many milliseconds after the last operation had ended an edit was made, at most. Those made while virsh
# still works do not count.
latest_edit() {
	{
		cat /run/lab-operations
		edits | sed 's/$/ edit/'
	} | sort -n | awk '
		$2 == "begin" { since = 0 }
		$2 == "end" { since = $1 }
		$2 == "edit" && since && $1 - since > most { most = $1 - since }
		END { printf "%d\n", most / 1000 }'
}
