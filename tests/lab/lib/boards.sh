# shellcheck shell=bash
# `lab up --gpus`: which boards the simulator is to have, as options of its module.

# Bus and NUMA node of the first board, the second, ...
readonly BOARD_SLOTS=(3b/0 5e/0 86/1 af/1 18/0 1f/0 8a/1 d8/1 41/0 61/0 b1/1 e1/1 21/0 25/0 c1/1 c5/1)

# boards_from_options OPTION...: checks them, and sets BOARDS_CONF to the options of the module; without
# options to nothing: the image has its own.
boards_from_options() {
	local gpus=t4,t4,t4 framework='' switches=()
	BOARDS_CONF=
	(($#)) || return 0
	while (($#)); do
		(($# >= 2)) || usage_error "$1 needs a value"
		case $1 in
			--gpus) gpus=$2 ;;
			--framework)
				[[ $2 == vendor-vfio || $2 == sriov-mdev ]] ||
					usage_error "no framework '$2': vendor-vfio or sriov-mdev"
				framework=$2
				;;
			--switch)
				[[ $2 =~ ^[a-z_]+=[A-Za-z0-9]+$ ]] || usage_error "--switch needs NAME=VALUE"
				switches+=("$2")
				;;
			*) usage_error "unknown option '$1' of 'up'" ;;
		esac
		shift 2
	done
	gpus=$(boards_parameter "$gpus") || exit 2
	# shellcheck disable=SC2034  # for guest_identity
	BOARDS_CONF="boards=$gpus ${framework:+framework=$framework }${switches[*]-}"
}

# boards_parameter LIST: the module's boards=; a board without an address gets the next free slot
boards_parameter() {
	local list=$1 item model count i next=0 all=() slot
	for item in ${list//,/ }; do
		model=${item%%@*}
		[[ $model =~ ^[a-z0-9-]+$ && -e $LAB/nvidia/boards/$model ]] ||
			usage_error "no board '$model'; there are: $(cd "$LAB/nvidia/boards" && echo *)"
		if [[ $item == *@* ]]; then
			all+=("$item")
			continue
		fi
		# An A16 is four GPUs.
		count=1
		[[ $model != a16 ]] || count=4
		for ((i = 0; i < count; i++)); do
			while slot=${BOARD_SLOTS[next]-} && [[ ,$list =~ 0000:${slot%/*}: ]]; do next=$((next + 1)); done
			[[ -n $slot ]] || usage_error "more than ${#BOARD_SLOTS[@]} GPUs"
			all+=("$model@0000:${slot%/*}:00.0/${slot#*/}")
			next=$((next + 1))
		done
	done
	((${#all[@]})) || usage_error "--gpus is empty"
	local IFS=,
	printf '%s\n' "${all[*]}"
}
