# shellcheck shell=bash
# What a run of scenarios has to do, and in which order: one task for each scenario and kind of lab host,
# taken by whichever lane is free.
#
# Lines at the top of a scenario that are read here:
#   # needs: product peer     the installed package; a second lab host
#   # needs: emulated (WHY)   an emulated lab host: User-mode Linux cannot show this
#   # needs: pci              a lab host with whole PCI devices behind an IOMMU (pci.sh)
#   # hosts: uml emulated     runs on both kinds
#   # gate                    one of those that together show each promise once
#   # deadline: 300           seconds for the whole scenario (default 300), more on a slow machine

scenario_name() { basename "$1" .sh; }

scenario_needs() { sed -n 's/^# needs: *//p' "$1" | sed 's/([^)]*)//g' | grep -qw "$2"; }

scenario_in_gate() { grep -qx '# gate' "$1"; }

# scenario_deadline FILE: in seconds, on a machine that is not slow
scenario_deadline() {
	local seconds
	seconds=$(sed -n 's/^# deadline: *//p' "$1")
	printf '%s\n' "${seconds:-300}"
}

scenario_selected() {
	local file=$1 pattern
	shift
	(($#)) || return 0
	for pattern in "$@"; do
		[[ $(scenario_name "$file") == *"$pattern"* ]] && return 0
	done
	return 1
}

# scenario_kinds FILE HOST: the kinds of lab host it runs on; HOST is what --host says, or nothing
scenario_kinds() {
	if scenario_needs "$1" pci; then
		echo pci
	elif [[ $2 == emulated ]] || scenario_needs "$1" emulated; then
		echo emulated
	elif [[ -z $2 ]] && grep -qx '# hosts: uml emulated' "$1"; then
		echo uml emulated
	else
		echo uml
	fi
}

# scenario_seconds NAME KIND: about how long it takes; only the order depends on it
scenario_seconds() {
	local column=2 seconds
	[[ $2 == uml ]] || column=3
	seconds=$(awk -v name="$1" -v column=$column '$1 == name && $column ~ /^[0-9]+$/ { print $column }' "$LAB/scenarios/seconds")
	printf '%s\n' "${seconds:-60}"
}

# list_tasks HOST WITHIN FILE...: lines 'CLASS KIND NAME' in their order. All of a class come before
# those of the next. Where time is limited, the first class are those of the gate, longest first, and the
# others come in an order that is shuffled for each commit; else there is one class, longest first.
list_tasks() {
	local host=$1 within=$2 file kind name class weight commit
	shift 2
	commit=$(git -C "$LAB" rev-parse HEAD 2> /dev/null) || commit=none
	for file in "$@"; do
		name=$(scenario_name "$file")
		for kind in $(scenario_kinds "$file" "$host"); do
			class=1
			weight=$(scenario_seconds "$name" "$kind")
			if [[ -n $within ]] && ! scenario_in_gate "$file"; then
				class=2
				weight=$((16#$(hash_of "$commit $kind $name" | cut -c 1-8)))
			fi
			printf '%s %s %s %s\n' "$class" "$weight" "$kind" "$name"
		done
	done | sort -k 1,1n -k 2,2nr | cut -d ' ' -f 1,3,4
}

# take_task FILE LANE LANES: takes the next task of a lane out of FILE and prints it. The first of several
# lanes prefers emulated lab hosts, which are more than one core's work, the others do not: a lane seldom
# goes from one kind to another.
take_task() {
	local lane=$2 prefer='uml pci emulated'
	if (($3 > 1 && lane == 0)); then prefer='emulated pci uml'; fi
	(
		flock 9
		awk -v prefer="$prefer" -v left="$1.left" '
			{ line[NR] = $0; class[NR] = $1; kind[NR] = $2 }
			END {
				taken = 0
				kinds = split(prefer, wanted, " ")
				for (k = 1; k <= kinds && !taken; k++)
					for (i = 1; i <= NR && class[i] == class[1]; i++)
						if (kind[i] == wanted[k]) { taken = i; break }
				printf "" > left
				for (i = 1; i <= NR; i++)
					if (i != taken) print line[i] > left
				if (taken) print line[taken]
			}' "$1"
		mv "$1.left" "$1"
	) 9> "$1.lock"
}

# usual_jobs: how many lanes this machine has cores and memory for
usual_jobs() {
	local cores memory
	cores=$(nproc)
	memory=$(awk '/^MemAvailable:/ { print int($2 / 1024 / 4096) }' /proc/meminfo)
	printf '%s\n' "$((memory < 1 ? 1 : memory < cores ? memory : cores))"
}
