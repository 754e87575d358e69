# The library: its output through nvidia-smi, who may change what, and its failures.
on_lab 'unload_boards; load_boards l40s@0000:3b:00.0/0,t4@0000:5e:00.0/0,rtx-pro-6000@0000:86:00.0/1 framework=vendor-vfio'
assert_eq 'GPU 0: NVIDIA L40S
GPU 1: Tesla T4
GPU 2: NVIDIA RTX PRO 6000 Blackwell Server Edition' "nvidia-smi -L | sed 's/ (UUID: GPU-.*)\$//'"
assert_eq 'SR-IOV,Non SR-IOV,SR-IOV' "nvidia-smi -q | sed -n 's/.*Host VGPU Mode *: //p' | paste -sd,"
assert_eq '00000000:3B:00.0' "nvidia-smi -q -i 0 | sed -n 's/.*Bus Id *: //p'"
# Any user may read.
assert_eq '3' "setpriv --reuid=65534 --clear-groups nvidia-smi -L | wc -l"
assert_eq '4' 'status_of setpriv --reuid=65534 --clear-groups nvidia-smi vgpu -i 0 -shm 1'
# An older library lacks symbols: only calls that need them fail.
assert_eq '3 N/A' 'export LD_LIBRARY_PATH=$(without_symbols nvmlDeviceGetVgpuHeterogeneousMode)
	echo $(nvidia-smi -L | wc -l) $(nvidia-smi -q -i 0 | sed -n "s/.*vGPU Heterogeneous Mode *: //p")'
# A lost GPU, a driver that hangs, and a driver that is not loaded.
on_lab 'echo 1 > $SIM/boards/0000:3b:00.0/lost'
assert_eq '15' 'status_of nvidia-smi -q -i 0'
on_lab 'echo 0 > $SIM/boards/0000:3b:00.0/lost; echo Y > $SIM/nvml_hang'
assert_eq '124' 'status_of timeout 3 nvidia-smi -L'
on_lab 'echo 1 > $SIM/reset'
assert_eq '3' 'nvidia-smi -L | wc -l'
on_lab 'unload_boards'
assert_eq '9' 'status_of nvidia-smi -L'
