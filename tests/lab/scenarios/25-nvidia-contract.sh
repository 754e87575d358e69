# The simulator's module gives the same answers as its twin in memory (tests/lab/nvidia): for the lists of
# operations and for random ones, on every framework, in both dialects, with each switch. The NVML library
# does too.
# deadline: 1800
put_test /root/nvidia-contract contract

# run OPERATIONS [VARIABLE=VALUE]: on the present board
run() {
	on_lab "LAB_NVIDIA_GPU=0000:3b:00.0 LAB_NVIDIA_OPERATIONS=$1 ${2-} /root/nvidia-contract --nocapture the_kernel_module" ||
		fail 'not as the twin'
}

# passes BOARD OPERATIONS [PARAMETER=VALUE...]
passes() {
	on_lab "unload_boards; load_boards $1@0000:3b:00.0/0 ${*:3}"
	run "$2"
}

# Commands for which NVML has a call go through the library.
library_passes() { run "$1" LAB_NVIDIA_LIBRARY=/usr/bin/nvml-command; }

passes l40s 100 framework=vendor-vfio
library_passes 50
passes l40s 50 framework=vendor-vfio dialect=rfc
passes l40s 50 framework=vendor-vfio fine_placements=Y
passes l40s 50 framework=sriov-mdev
passes l40s 50 framework=vendor-vfio rebind_again=N
passes h100 60 framework=vendor-vfio
library_passes 60
passes a100-40 30 framework=vendor-vfio
library_passes 20
passes rtx-pro-6000 100 framework=vendor-vfio
library_passes 60
passes a40 30 framework=sriov-mdev mixed_series=N
passes t4 100
