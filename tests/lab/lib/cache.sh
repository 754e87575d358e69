# shellcheck shell=bash
# The cache outside the checkout: one folder per artefact and key of its inputs. A folder under its
# final name is complete; anything unfinished has a name that nothing looks for.

CACHE=${VIRT_VGPU_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/virt-vgpu-lab}
RUN_ROOT=$CACHE/run

# hash_of FILE-OR-TEXT...: a short key. Existing paths count with names and contents (folders too).
hash_of() {
	local input
	for input in "$@"; do
		if [[ -d $input ]]; then
			# Names relative to the folder: the key is the same in every checkout.
			(cd "$input" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum)
		elif [[ -f $input ]]; then
			sha256sum < "$input"
		else
			printf '%s\n' "$input"
		fi
	done | sha256sum | cut -c1-16
}

# with_build_lock COMMAND...: one build at a time; says so when it has to wait for another.
with_build_lock() {
	mkdir -p "$CACHE"
	exec {BUILD_LOCK}> "$CACHE/lock"
	if ! flock -n "$BUILD_LOCK"; then
		say "waiting for another build of the lab"
		flock "$BUILD_LOCK"
	fi
	"$@"
	exec {BUILD_LOCK}>&-
}

# begin_artefact NAME: sets WORK to an empty folder for building; leftovers of killed builds go.
# Called with the build lock held, so every *.part is a leftover.
begin_artefact() {
	rm -rf --one-file-system "$CACHE"/*.part
	WORK=$CACHE/$1.part
	mkdir -p "$WORK"
	trap abandon_artefact EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
}

abandon_artefact() {
	if [[ -n ${STEP_PID-} ]]; then
		# apt, dpkg and make run below the step; end them before their folder goes.
		pkill -P "$STEP_PID" 2> /dev/null || true
		kill "$STEP_PID" 2> /dev/null || true
		wait "$STEP_PID" 2> /dev/null || true
	fi
	if [[ -n ${KEEP_FAILED-} ]]; then return; fi
	rm -rf --one-file-system "$WORK"
}

# finish_artefact NAME KIND: makes it count, and removes older ones of the same kind. An image that
# a running lab host still uses stays.
finish_artefact() {
	local old
	trap - EXIT INT TERM HUP
	sync -f "$WORK"
	mv -T "$WORK" "$CACHE/$1"
	for old in "$CACHE/$2"-*; do
		[[ -d $old && $old != "$CACHE/$1" && $old != *.part ]] || continue
		grep -qsxF "$old" "$RUN_ROOT"/*/uses && continue
		rm -rf --one-file-system "$old"
	done
}
