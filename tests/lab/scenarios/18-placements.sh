# Mixed sizes on one board: the possible placements decide what fits.
on_lab 'unload_boards; load_boards l40s@0000:3b:00.0/0 framework=vendor-vfio'
gpu=0000:3b:00.0
on_lab 'nvidia-smi vgpu -i 0 -shm 1'
on_lab "/usr/lib/nvidia/sriov-manage -e $gpu"
# The mode was set before the functions existed, so it was reset silently.
assert_eq 'Disabled' "nvidia-smi -q -i 0 | sed -n 's/.*vGPU Heterogeneous Mode *: //p'"
on_lab 'nvidia-smi vgpu -i 0 -shm 1'
type_on() { on_lab "write_type \$(vf $gpu $1) $2"; }
place_of() { on_lab "cat /sys/bus/pci/devices/\$(vf $gpu $1)/nvidia/placement_id"; }
same '24C' OK "$(type_on 0 1172)"
same 'its place' 0 "$(place_of 0)"
same '12C' OK "$(type_on 1 1170)"
same 'its place' 24 "$(place_of 1)"
# 4 GB fit at 0, 8, 12, 20, 24, 32, 36 and 44: two of these places are left.
same '4C' OK "$(type_on 2 1167)"
same '4C' OK "$(type_on 3 1167)"
same 'their places' '36 44' "$(place_of 2) $(place_of 3)"
same 'a third' 'Input/output error' "$(type_on 4 1167)"
assert_eq '19' 'status_of nvidia-smi vgpu -i 0 -shm 0'
# A vGPU can be moved to a free place.
place=/sys/bus/pci/devices/$(on_lab "vf $gpu 3")/nvidia/placement_id
on_lab "write_type \$(vf $gpu 1) 0"
assert_eq 'OK 24' "echo \$(try_write $place '24') \$(cat $place)"
assert_eq 'Input/output error' "try_write $place 26"
assert_eq 'Input/output error' "try_write $place 0"
assert_eq 'Invalid argument' "try_write $place x"

# With a finer table all fit, and the board is full.
on_lab "unload_boards; load_boards l40s@$gpu/0 framework=vendor-vfio fine_placements=Y
	/usr/lib/nvidia/sriov-manage -e $gpu; nvidia-smi vgpu -i 0 -shm 1"
for n_type in '0 1172' '1 1170' '2 1167' '3 1167' '4 1167'; do
	# shellcheck disable=SC2086
	same "$n_type" OK "$(type_on $n_type)"
done
assert_eq '' "creatable \$(vf $gpu 5)"
