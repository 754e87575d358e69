# MIG-backed vGPUs in the right order, and in each wrong one. Uses nvidia-smi, and so the library.
on_lab 'unload_boards; load_boards a100-80@0000:3b:00.0/0 framework=vendor-vfio'
gpu=0000:3b:00.0
manage="/usr/lib/nvidia/sriov-manage"

# No GPU instances without MIG, no time-sliced types with MIG.
assert_eq '3' "status_of nvidia-smi mig -cgi 19"
on_lab "nvidia-smi -i 0 -mig 1; nvidia-smi mig -cgi 9"
# The instances were made before the functions, so they are gone.
on_lab "$manage -e $gpu"
assert_eq '' "creatable \$(vf $gpu 0)"
assert_eq 'Input/output error' "write_type \$(vf $gpu 0) 701"
assert_eq 'Input/output error' "write_type \$(vf $gpu 0) 697"
on_lab 'nvidia-smi mig -cgi 9,9'
assert_eq 'GRID A100D-3-40C' "creatable \$(vf $gpu 0)"
assert_eq 'OK OK Input/output error' "echo \$(write_type \$(vf $gpu 0) 701) \$(write_type \$(vf $gpu 1) 701) \$(write_type \$(vf $gpu 2) 701)"
assert_eq '1 2' "cat /sys/bus/pci/devices/{\$(vf $gpu 0),\$(vf $gpu 1)}/nvidia/gpu_instance_id | paste -sd' '"
# A function that merely has a type does not keep its instance, and then points to one that is gone.
assert_eq '0' "status_of nvidia-smi mig -dgi -gi 1"
assert_eq '1' "cat /sys/bus/pci/devices/\$(vf $gpu 0)/nvidia/gpu_instance_id"
on_lab 'nvidia-smi mig -cgi 9:0 -C'
assert_eq '1' "nvidia-smi mig -lgi | sed -n 's/.*9 *\\([0-9]*\\) *0:4 .*/\\1/p'"
# In use: neither an instance nor the mode can be removed.
assert_eq '19' "status_of nvidia-smi mig -dgi -gi 1"
on_lab 'nvidia-smi mig -dci'
said='Warning: MIG mode is in pending disable state for GPU 00000000:3B:00.0:In use by another client'
assert_eq "$said" 'nvidia-smi -i 0 -mig 0 | sed -n 1p'
assert_eq 'Enabled' "nvidia-smi -q -i 0 | grep -A 1 'MIG Mode' | sed -n 's/.*Current *: //p'"
assert_eq 'OK OK' "echo \$(write_type \$(vf $gpu 0) 0) \$(write_type \$(vf $gpu 1) 0)"
assert_eq '0' "status_of nvidia-smi mig -dgi"
# It takes effect when the GPU is bound again.
on_lab "$manage -d $gpu"
assert_eq 'Disabled' "nvidia-smi -q -i 0 | grep -A 1 'MIG Mode' | sed -n 's/.*Current *: //p'"
# Capacity: seven of one slice, or what is left beside three.
on_lab "nvidia-smi -i 0 -mig 1; $manage -e $gpu; nvidia-smi mig -cgi 5,14"
assert_eq '23' "status_of nvidia-smi mig -cgi 9"
on_lab 'nvidia-smi mig -cgi 19'
assert_eq 'GRID A100D-1-10C,GRID A100D-2-20C,GRID A100D-4-40C' "creatable \$(vf $gpu 0) | tr , '\n' | sort | paste -sd,"

# The mode of such a board outlives the driver; the instances do not.
on_lab "unload_boards; modprobe virt_vgpu_sim boards=a100-80@$gpu/0 framework=vendor-vfio
	systemctl restart nvidia-vgpud"
assert_eq 'Enabled' "nvidia-smi -q -i 0 | grep -A 1 'MIG Mode' | sed -n 's/.*Current *: //p'"
assert_eq '6' 'status_of nvidia-smi mig -lgi'
# It takes a reset, which nobody may have the GPU open for.
said='Warning: MIG mode is in pending disable state for GPU 00000000:3B:00.0:In use by another client'
assert_eq "$said" 'exec 7<> /dev/nvidiactl; nvidia-smi -i 0 -mig 0 | sed -n 1p'
assert_eq 'GPU 00000000:3B:00.0 is currently in use by another process.' 'exec 7<> /dev/nvidiactl; nvidia-smi -r -i 0 || true'
assert_eq '19' 'exec 7<> /dev/nvidiactl; status_of nvidia-smi -r -i 0'
assert_eq 'GPU 00000000:3B:00.0 was successfully reset.' 'nvidia-smi -r -i 0 | sed -n 1p'
assert_eq 'Disabled' "nvidia-smi -q -i 0 | grep -A 1 'MIG Mode' | sed -n 's/.*Current *: //p'"
# Each call of NVML can fail by itself.
on_lab "echo '1 EBUSY' > \$SIM/fail_mig"
assert_eq '19 0' 'echo $(status_of nvidia-smi -i 0 -mig 1) $(status_of nvidia-smi -i 0 -mig 1)'
on_lab "echo '1 ENOSPC' > \$SIM/boards/$gpu/fail_gi_create; echo '1 EBUSY' > \$SIM/boards/$gpu/fail_gi_destroy"
assert_eq '23 0 19 0' 'echo $(status_of nvidia-smi mig -cgi 9) $(status_of nvidia-smi mig -cgi 9) $(status_of nvidia-smi mig -dgi) $(status_of nvidia-smi mig -dgi)'
on_lab "echo '1 OK' > \$SIM/fail_mig"
assert_eq 'Disabled MIG Mode for GPU 00000000:3B:00.0' 'nvidia-smi -i 0 -mig 0 | sed -n 1p'
assert_eq 'Enabled' "nvidia-smi -q -i 0 | grep -A 1 'MIG Mode' | sed -n 's/.*Current *: //p'"
