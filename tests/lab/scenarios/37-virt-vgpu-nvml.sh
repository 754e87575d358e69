# The installed program with the lab host's library: its answers, who may change settings, and its failures.
# needs: product
on_lab 'unload_boards; load_boards l40s@0000:3b:00.0/0,t4@0000:5e:00.0/0 framework=vendor-vfio
	/usr/lib/nvidia/sriov-manage -e 0000:3b:00.0'
# ask QUESTION [FILTER]: the answer, through jq
inside='ask() { /usr/sbin/virt-vgpu-nvml <<< "$1" | jq -c "${2-.}"; }
	hetero() { printf "{\"do\":\"set-heterogeneous\",\"gpu\":\"0000:3b:00.0\",\"on\":%s}" "$1"; }'
asked() { assert_eq "$1" "$inside; $2"; }

asked '["0000:3b:00.0","NVIDIA L40S",46068,true,{"supported":true,"enabled":false},30]
["0000:5e:00.0","Tesla T4",15360,true,{"supported":false,"enabled":false},11]' \
	'ask "{\"do\":\"gpus\"}" ".gpus[] | [.address, .name.value, .memory_mib.value, .hosts_vgpus.value,
		.heterogeneous.value, (.types.value | length)]"'
asked '["NVIDIA L40S-12Q",12288,4,true,{"size":12,"supported":[0,12,24,36],"creatable":[]}]' \
	'ask "{\"do\":\"gpu\",\"gpu\":\"00000000:3B:00.0\"}" ".gpus[].types.value[] | select(.id == \"1153\") |
		[.name, .framebuffer_mib, .max_instances, .creatable, .placements]"'

# Any user may ask, root may change settings.
asked '{"failed":{"kind":"no-permission","message":"cannot switch the heterogeneous mode of 0000:3b:00.0 on: Insufficient Permissions"}}' \
	'hetero true | setpriv --reuid=65534 --clear-groups /usr/sbin/virt-vgpu-nvml'
asked '"done"' 'ask "$(hetero true)"'
assert_eq 'Enabled' "nvidia-smi -q -i 0 | sed -n 's/.*vGPU Heterogeneous Mode *: //p'"

# A vGPU that a VM has open is at the place that the driver has chosen.
on_lab 'write_type "$(vf 0000:3b:00.0 2)" 1153
	define_vf_vm ws1 "$(vf 0000:3b:00.0 2)"; start_vm ws1'
vm=$(on_lab 'virsh -q domuuid ws1 | sed -n 1p')
function=$(on_lab 'vf 0000:3b:00.0 2')
asked "[{\"type_id\":\"1153\",\"vm\":\"$vm\",\"mdev\":null,\"placement\":0}]" \
	'ask "{\"do\":\"gpu\",\"gpu\":\"0000:3b:00.0\"}" ".gpus[].vgpus.value"'
# What runs in its guest, for as long as the VM does.
guests() { asked "$1" 'ask "{\"do\":\"guests\"}" ".guests | [.host_driver, (.vgpus[] | .gpu, .vm, .driver, .licence)]"'; }
guests "[\"580.65.05\",\"0000:3b:00.0\",\"$vm\",\"not-loaded\",null]"
on_lab "echo 580.65.06 5 2 2030 1 31 9 8 7 > \$SIM/vgpus/$function/guest"
guests "[\"580.65.05\",\"0000:3b:00.0\",\"$vm\",{\"version\":\"580.65.06\"},{\"state\":\"licensed\",\"term\":{\"until\":[2030,1,31,9,8,7]}}]"
asked '"in-use"' 'ask "$(hetero false)" .failed.kind'
asked '"in-use"' 'ask "{\"do\":\"set-scheduler\",\"gpu\":\"0000:3b:00.0\",
	\"scheduler\":{\"policy\":\"equal-share\",\"strict_round_robin\":true}}" .failed.kind'
on_lab 'virsh -q destroy ws1'
assert_eq 'none' "cat \$SIM/vgpus/$function/guest"
guests '["580.65.05"]'

# The program leaves nothing behind: sriov-manage gets its lock, and resets the mode.
on_lab '/usr/lib/nvidia/sriov-manage -d 0000:3b:00.0; /usr/lib/nvidia/sriov-manage -e 0000:3b:00.0'
asked '{"supported":true,"enabled":false}' \
	'ask "{\"do\":\"gpu\",\"gpu\":\"0000:3b:00.0\"}" ".gpus[].heterogeneous.value"'

# An older library, a lost GPU, a driver that is not loaded.
asked '["NVIDIA L40S","no-symbol"]' 'export LD_LIBRARY_PATH=$(without_symbols nvmlDeviceGetVgpuHeterogeneousMode)
	ask "{\"do\":\"gpu\",\"gpu\":\"0000:3b:00.0\"}" ".gpus[] | [.name.value, .heterogeneous.unavailable.kind]"'
on_lab 'echo 1 > $SIM/boards/0000:3b:00.0/lost'
asked '["0000:5e:00.0"]' 'ask "{\"do\":\"gpus\"}" "[.gpus[].address]"'
asked '{"kind":"no-gpu","message":"cannot open GPU 0000:3b:00.0: GPU is lost"}' \
	'ask "{\"do\":\"gpu\",\"gpu\":\"0000:3b:00.0\"}" .failed'
on_lab 'echo 0 > $SIM/boards/0000:3b:00.0/lost; unload_boards'
asked '{"kind":"no-library","message":"cannot start libnvidia-ml.so.1: NVIDIA driver is not loaded"}' \
	'ask "{\"do\":\"gpus\"}" .failed'
