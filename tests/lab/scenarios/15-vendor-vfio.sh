# Vendor-specific VFIO by hand: the result of each write to a virtual function.
on_lab 'unload_boards; load_boards l40s@0000:3b:00.0/0 framework=vendor-vfio'
gpu=0000:3b:00.0
on_lab "/usr/lib/nvidia/sriov-manage -e $gpu"
a=$(on_lab "vf $gpu 0") b=$(on_lab "vf $gpu 1")
assert_eq '' "ls -d /sys/bus/pci/devices/$gpu/nvidia 2> /dev/null || true"
assert_eq 'creatable_vgpu_types
current_vgpu_type
gpu_instance_id
placement_id
vgpu_params' "ls /sys/bus/pci/devices/$a/nvidia"
types=/sys/bus/pci/devices/$a/nvidia/creatable_vgpu_types
assert_eq 'ID    : vGPU Name
1145  : NVIDIA L40S-1B' "head -n 2 $types"
assert_eq '31' "wc -l < $types"

assert_eq 'Invalid argument' "write_type $a L40S-24Q"
assert_eq 'Numerical result out of range' "write_type $a 99999999999"
assert_eq 'Operation not permitted' "write_type $a 0"
assert_eq 'Input/output error' "write_type $a 4711"
for attribute in vgpu_params placement_id gpu_instance_id; do
	assert_eq 'No such device or address' "try_read /sys/bus/pci/devices/$a/nvidia/$attribute"
done
assert_eq 'OK' "write_type $a 1155"
assert_eq '1155' "vf_type $a"
assert_eq 'ID    : vGPU Name' "cat $types"
assert_eq 'NVIDIA L40S-24Q,NVIDIA L40S-24A,NVIDIA L40S-24C' "creatable $b"
assert_eq 'Operation not permitted' "write_type $a 1155"
assert_eq 'Operation not permitted' "write_type $a 1153"
assert_eq 'Input/output error' "write_type $b 1153"
assert_eq 'OK' "write_type $b 1165"
# The board is full: a free function lists no types.
assert_eq '' "creatable \$(vf $gpu 2)"
assert_eq 'Input/output error' "write_type \$(vf $gpu 2) 1155"
assert 'grep -q "vGPU creation failed" <(dmesg)'

params=/sys/bus/pci/devices/$a/nvidia/vgpu_params
on_lab "echo frame_rate_limiter=0,disable_vnc=1 > $params"
assert_eq 'frame_rate_limiter=0,disable_vnc=1' "cat $params"
assert_eq 'OK' "try_write $params disable_vnc=1"
assert_eq 'disable_vnc=' "cat $params"
assert_eq 'Argument list too long' "try_write $params \$(head -c 1025 /dev/zero | tr '\\0' a)"
assert_eq 'OK OK' "echo \$(write_type $a 0) \$(write_type $b 0)"
assert_eq 'OK' "echo \$(write_type $a 1151) \$(cat $params)"
assert_eq '0' "vf_type $b"
assert_eq 'OK' "write_type $a 0"
assert_eq '31' "wc -l < $types"

# The other dialect.
on_lab "unload_boards; load_boards l40s@$gpu/0 framework=vendor-vfio dialect=rfc; /usr/lib/nvidia/sriov-manage -e $gpu"
assert_eq 'Invalid argument' "write_type $a L40S-24Q"
assert_eq 'OK' "write_type $a 0"
assert_eq 'No such device' "write_type $a 4711"
assert_eq 'OK' "write_type $a 1155"
assert_eq '' "cat $types"
assert_eq 'Invalid argument' "write_type $b 1153"
assert_eq 'OK' "write_type $b 1155"
assert_eq 'No space left on device' "write_type \$(vf $gpu 2) 1155"
assert_eq 'OK' "write_type $a 1165"
assert_eq '1165' "vf_type $a"
