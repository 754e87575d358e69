# The simulator's module answers as its twin in memory (tests/lab/nvidia): the lists of operations, and
# random ones, on every framework, in both dialects, with each switch.
# deadline: 900
build() {
	cd "$LAB/../.." && cargo test --quiet --locked -p lab-nvidia --test contract --no-run --message-format=json 2>> "$SCENARIO_LOG.stderr" |
		grep '"kind":\["test"\]' | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}
contract=$(build) && [[ -x $contract ]] || fail 'the contract test cannot be built'
strip -o "$RUN/nvidia-contract" "$contract"
in_guest 'cat > /root/nvidia-contract; chmod +x /root/nvidia-contract' < "$RUN/nvidia-contract"

# passes BOARD OPERATIONS [PARAMETER=VALUE...]
passes() {
	local board=$1 operations=$2
	shift 2
	on_lab "unload_boards; load_boards $board@0000:3b:00.0/0 $*
		LAB_NVIDIA_GPU=0000:3b:00.0 LAB_NVIDIA_OPERATIONS=$operations /root/nvidia-contract --nocapture the_kernel_module" ||
		fail "$board $*: not as the twin"
}
passes l40s 100 framework=vendor-vfio
passes l40s 50 framework=vendor-vfio dialect=rfc
passes l40s 50 framework=vendor-vfio fine_placements=Y
passes l40s 50 framework=sriov-mdev
passes a100-40 60 framework=vendor-vfio
passes rtx-pro-6000 100 framework=vendor-vfio
passes a40 30 framework=sriov-mdev mixed_series=N
passes t4 100
