# shellcheck shell=bash
# What the lab tells its user: messages, errors, and long steps with visible progress.

say() { printf 'lab: %s\n' "$*" >&2; }

die() {
	printf 'lab: error: %s\n' "$*" >&2
	exit 1
}

now_ms() {
	local t=${EPOCHREALTIME/[.,]/}
	printf '%s' "$((t / 1000))"
}

# seconds_since MS: "12.3", the time since a now_ms
seconds_since() {
	local d=$(($(now_ms) - $1))
	printf '%d.%d' $((d / 1000)) $((d % 1000 / 100))
}

# isolated COMMAND...: in namespaces of its own: whatever it mounts or starts is gone when it ends, or
# when the process started here is killed.
isolated() {
	exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc "$@"
}

# afresh FUNCTION [ARGUMENT...] [-- FILE]: runs a function of the lab in a bash of its own, then sources
# FILE there. A function called from an `if` or before `||` runs without errexit, whatever it sets;
# there, the first error ends it.
afresh() {
	# shellcheck disable=SC2016  # expanded by the inner shell
	LAB=$LAB NAME=${NAME-} WORK=${WORK-} IMAGE=${IMAGE-} MODULE=${MODULE-} NVIDIA=${NVIDIA-} UML=${UML-} UML_MODULE=${UML_MODULE-} PEER=${PEER-} \
		SCENARIO_LOG=${SCENARIO_LOG-} SECONDS_LEFT=${SECONDS_LEFT-} ${AFRESH_IN-} bash -euo pipefail -c '
			for part in "$LAB"/lib/*.sh; do [[ $part == */inside*.sh ]] || source "$part"; done
			FILE=
			if (($# > 2)) && [[ ${*: -2:1} == -- ]]; then
				FILE=${*: -1}
				set -- "${@:1:$#-2}"
			fi
			"$@"
			[[ -z $FILE ]] || source "$FILE"' lab "$@"
}

# build_step LABEL LOG COMMAND...: as step, isolated
build_step() {
	local AFRESH_IN=isolated
	step "$@"
}

# step LABEL LOG COMMAND...: runs COMMAND with its output in LOG, prints LABEL, a dot every two
# seconds, and the time taken. When it fails, shows the end of LOG and returns its status.
step() {
	local label=$1 log=$2 start pid status=0
	shift 2
	start=$(now_ms)
	printf 'lab: %s ' "$label" >&2
	afresh "$@" > "$log" 2>&1 < /dev/null &
	pid=$!
	STEP_PID=$pid
	while kill -0 "$pid" 2> /dev/null; do
		# Ends early with the step: no time is lost on short ones.
		timeout 2 tail --pid="$pid" -f /dev/null 2> /dev/null || true
		if kill -0 "$pid" 2> /dev/null; then printf '.' >&2; fi
	done
	wait "$pid" || status=$?
	# shellcheck disable=SC2034  # for abandon_artefact
	STEP_PID=
	if ((status == 0)); then
		printf ' %s s\n' "$(seconds_since "$start")" >&2
	else
		printf ' failed after %s s\n' "$(seconds_since "$start")" >&2
		tail -n 30 "$log" | sed 's/^/    /' >&2
	fi
	return "$status"
}
