# A pool with GPU instances on each framework and generation of boards that has MIG.
# needs: product
# deadline: 900
gpu=0000:3b:00.0
try() {
	local board=$1 framework=$2 profile=$3 count=$4
	on_lab "unload_boards; load_boards $board@$gpu/0 framework=$framework
		virt-vgpu pool create slices --profile $profile --gpu-instances $count --device $gpu > /dev/null
		virt-vgpu host apply $gpu"
	assert_eq "$count" 'nvidia-smi mig -lgi | grep -c "MIG [0-9]"'
	on_lab "attached_vm ws1 slices; start_vm ws1"
	assert_eq "{\"in_use\":1,\"free\":$((count - 1))}" 'virt-vgpu status --json | jq -c ".pools[0] | {in_use, free}"'
	on_lab "virsh -q destroy ws1; virsh -q undefine ws1; rm /etc/virt-vgpu/pools.d/slices.toml"
	assert_eq '' 'ls /run/virt-vgpu/claims'
}
try a100-80 sriov-mdev A100D-2-20C 3
try a100-80 vendor-vfio A100D-1-10C 7
try a30 vendor-vfio A30-1-6C 4
try h100 vendor-vfio H100-3-40C 2
try b200 vendor-vfio B200X-1-23C 7
try rtx-pro-6000 vendor-vfio DC-1-24Q 4

# Sizes are mixed, and time is shared, in each GPU instance by itself.
on_lab "unload_boards; load_boards rtx-pro-6000@$gpu/0 framework=vendor-vfio
	for pool in large:DC-2-24Q small:DC-2-12Q; do
		vgpu_pool \${pool%:*} \${pool#*:} $gpu 'heterogeneous = true' 'scheduler = { policy = \"equal-share\" }' '[mig]' 'gpu-instances = 1'
	done
	virt-vgpu host apply $gpu; attached_vm ws1 large; attached_vm ws2 small; start_vm ws1; start_vm ws2"
of_both() { printf '%s' "for vm in ws1 ws2; do cat /sys/bus/pci/devices/\$(function_of \$vm)/nvidia/$1; done | paste -sd' '"; }
assert_eq '0 24' "$(of_both placement_id)"
assert_eq '1' "$(of_both gpu_instance_id) | xargs -n1 | sort -u | wc -l"
assert_eq "$gpu: nothing to do" "virt-vgpu host apply $gpu | sed -n 1p"
assert '! dmesg | grep -E "BUG|WARNING|Call Trace|possible circular"'
