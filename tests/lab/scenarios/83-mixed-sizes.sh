# Mixed sizes: one 24C, one 12Q and three 4C of three pools on one L40S; what NVML reports decides.
# needs: product
# deadline: 900
gpu=0000:3b:00.0
mixed() {
	on_lab "unload_boards; load_boards l40s@$gpu/0 framework=vendor-vfio $1
		systemctl mask --quiet --runtime virt-vgpu-host@$gpu.service"
}
mixed ''
on_lab "vgpu_pool big L40S-24C $gpu 'heterogeneous = true'
	vgpu_pool middle L40S-12Q $gpu 'heterogeneous = true'
	vgpu_pool small L40S-4C $gpu 'heterogeneous = true'
	/usr/lib/nvidia/sriov-manage -e $gpu
	attached_vm ws1 big; attached_vm ws2 middle
	for vm in ws3 ws4 ws5; do attached_vm \$vm small; done"
# Before the GPU is set up for it, nothing is handed out.
a=$(on_lab 'function_of ws1')
refuse_start ws1 "pool 'big' has no free L40S-24C for domain 'ws1': its XML names $a: $gpu is not set to mix sizes yet; run 'virt-vgpu host apply $gpu'; 'virt-vgpu start ws1' looks for another"
on_lab "virt-vgpu host apply $gpu"
assert_eq 'Enabled' "mode_of $gpu"
fits() {
	printf '%s' "virt-vgpu profiles $gpu --json | jq -c '[.gpus[0].profiles[] | select(.profile == \"L40S-24C\" or .profile == \"L40S-4C\") | {(.profile): .fits}] | add'"
}
assert_eq '{"L40S-4C":8,"L40S-24C":2}' "$(fits)"
on_lab 'start_vm ws1'
on_lab 'start_vm ws2'
assert_eq '{"L40S-4C":2,"L40S-24C":0}' "$(fits)"
on_lab 'start_vm ws3; start_vm ws4'
c=$(on_lab 'function_of ws5')
refuse_start ws5 "pool 'small' has no free L40S-4C for domain 'ws5': its XML names $c: no placement id of L40S-4C is free: its ids 0, 8, 12, 20, 24, 32, 36 and 44 are covered; 'virt-vgpu start ws5' looks for another"
assert_eq '[0,2,1]' 'virt-vgpu status --json | jq -c "[.pools[] | .in_use] | [.[2] - 2, .[2], .[1]]"'
on_lab 'for vm in ws1 ws2 ws3 ws4; do virsh -q destroy $vm; done'
assert_eq '' 'ls /run/virt-vgpu/claims'

# With a finer table all three fit, and the board is full.
mixed fine_placements=Y
on_lab "virt-vgpu host apply $gpu"
on_lab 'start_vm ws1; start_vm ws3'
on_lab 'start_vm ws4; start_vm ws5'
on_lab 'start_vm ws2'
assert_eq '{"L40S-4C":0,"L40S-24C":0}' "$(fits)"
on_lab 'for vm in ws1 ws2 ws3 ws4 ws5; do virsh -q destroy $vm; done'
assert '! dmesg | grep -E "BUG|WARNING|Call Trace|possible circular"'
