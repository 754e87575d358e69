# GPU instances from pool files: made, shared by pools, added and removed beside running VMs, lost and made
# again, and changed by the daemon once the VMs have stopped for which a change waits.
# needs: product
# deadline: 1200
# hosts: uml emulated
gpu=0000:3b:00.0
on_lab "unload_boards; load_boards rtx-pro-6000@$gpu/0 framework=vendor-vfio"
assert_eq "wrote /etc/virt-vgpu/pools.d/half.toml" \
	"virt-vgpu pool create half --profile DC-2-12Q --gpu-instances 1 --device $gpu | sed -n 1p"
assert_eq "$gpu: would be set
  1. switch MIG mode on (for pool 'half'; it is off)
  2. /usr/lib/nvidia/sriov-manage -e $gpu (0 of 48 virtual functions are there)
  3. wait until its functions have vGPU types (new functions show their vGPU types a while later)
  4. create GPU instance 2g.48gb+gfx at memory slots 0-5 (for pool 'half')
  GPU instances: [++++++|......] create 2g.48gb+gfx at 0-5; 6 of 12 slots free" "virt-vgpu host apply $gpu --dry-run"
assert_eq '0' "functions_of $gpu"

# A client of the driver keeps the mode from being switched; it is named, and nothing else is done.
on_lab 'sleep 600 < /dev/nvidiactl > /dev/null 2>&1 & echo $! > /run/lab-client'
client=$(on_lab 'cat /run/lab-client')
said=$(refuse "virt-vgpu host apply $gpu")
[[ $said == "$gpu: REFUSED: "*"sleep (process $client"* ]] || fail "it said: $said"
assert_eq '0' "functions_of $gpu"
on_lab "kill $client; wait_until '! test -e /proc/$client' 10; virt-vgpu host apply $gpu"
assert_eq '2g.48gb+gfx@0:6' gpu_instances
assert_eq "$gpu: nothing to do" "virt-vgpu host apply $gpu | sed -n 1p"
# udev has seen the GPU again meanwhile and started a run of its own.
assert "wait_until \"systemctl show virt-vgpu-host@$gpu.service -p Result,ActiveState | paste -sd, | grep -x Result=success,ActiveState=inactive\" 30"

# Four vGPUs of 12 GB, and no fifth.
on_lab 'for number in 1 2 3 4 5; do attached_vm half$number half; done
	for number in 1 2 3 4; do start_vm half$number; done'
gi() { on_lab "cat /sys/bus/pci/devices/\$(function_of $1)/nvidia/gpu_instance_id"; }
first=$(gi half1)
assert_eq "$first $first $first $first" "for vm in half1 half2 half3 half4; do cat /sys/bus/pci/devices/\$(function_of \$vm)/nvidia/gpu_instance_id; done | paste -sd' '"
refuse_start half5 "pool 'half' has no free DC-2-12Q for domain 'half5': its XML names $(on_lab 'function_of half5'): its GPU instance for DC-2-12Q has all 4 vGPUs that it takes; 'virt-vgpu start half5' looks for another"

# A second pool takes the other half while the four run; a slice of it goes again.
pids=$(on_lab 'for vm in half1 half2 half3 half4; do qemu_pid $vm; done | paste -sd" "')
on_lab "virt-vgpu pool create quarter --profile DC-1-24Q --gpu-instances 2 --device $gpu > /dev/null; virt-vgpu host apply $gpu"
assert_eq '2g.48gb+gfx@0:6 1g.24gb+gfx@6:3 1g.24gb+gfx@9:3' gpu_instances
on_lab 'attached_vm q1 quarter; attached_vm q2 quarter; start_vm q1'
other=$(gi q1)
[[ $other != "$first" ]] || fail "both are in GPU instance $first"
on_lab "sed -i 's/^gpu-instances .*/gpu-instances = 1/' /etc/virt-vgpu/pools.d/quarter.toml; virt-vgpu host apply $gpu"
assert_eq '2' 'gpu_instances | wc -w'
assert_eq "$other" "cat /sys/bus/pci/devices/\$(function_of q1)/nvidia/gpu_instance_id"
refuse_start q2 "pool 'quarter' has no free DC-1-24Q for domain 'q2': its XML names $(on_lab 'function_of q2'): its GPU instance for DC-1-24Q has the one vGPU that it takes; 'virt-vgpu start q2' looks for another"
assert_eq "$pids" 'for vm in half1 half2 half3 half4; do qemu_pid $vm; done | paste -sd" "'
assert "wait_until 'virsh qemu-monitor-command half1 --hmp \"info pci\" | grep -i 10de:2bb5' 10"

# The driver itself would destroy a GPU instance whose vGPU does not run.
on_lab 'virsh -q destroy half1'
assert_eq "$gpu: nothing to do" "virt-vgpu host apply $gpu | sed -n 1p"

# What has to wait for VMs is named, and made by the daemon when they have stopped.
on_lab "rm /etc/virt-vgpu/pools.d/half.toml; sed -i 's/DC-1-24Q/DC-4-96Q/' /etc/virt-vgpu/pools.d/quarter.toml"
said=$(refuse "virt-vgpu host apply $gpu")
[[ $said == "$gpu: REFUSED: its GPU instances cannot be as its pools need them: in the way: "*"in use by domain 'half2', domain 'half3', domain 'half4'"* ]] ||
	fail "it said: $said"
assert_eq '1' "virt-vgpu status --json | jq -r '.problems[]' | grep -c \"^$gpu: its GPU instances cannot be as its pools need them: in the way: .*domain 'half2'\""
on_lab 'start_daemon; for vm in half2 half3 half4 q1; do virsh -q destroy $vm; done'
assert "wait_until '[ \"\$(gpu_instances)\" = 4g.96gb+gfx@0:12 ]' 120"
on_lab 'systemctl stop virt-vgpud; virsh -q undefine q1; virsh -q undefine q2; attached_vm whole quarter; start_vm whole'
# NVML and the driver have 0 for it, which is a GPU instance like any other.
assert_eq '0' "cat /sys/bus/pci/devices/\$(function_of whole)/nvidia/gpu_instance_id"
on_lab 'virsh -q destroy whole'

# What others undo is made again: here as soon as the GPU is bound again.
on_lab "/usr/lib/nvidia/sriov-manage -d $gpu; /usr/lib/nvidia/sriov-manage -e $gpu"
assert "wait_until '[ \"\$(gpu_instances)\" = 4g.96gb+gfx@0:12 ]' 120"
on_lab "udevadm settle; unload_boards; modprobe virt_vgpu_sim boards=rtx-pro-6000@$gpu/0 framework=vendor-vfio
	systemctl restart nvidia-vgpud nvidia-vgpu-mgr"
assert "wait_until '[ \"\$(gpu_instances)\" = 4g.96gb+gfx@0:12 ]' 120"
on_lab 'start_vm whole; virsh -q destroy whole'

# Time-sliced vGPUs need the mode off, and it was off before.
on_lab "vgpu_pool quarter DC-12Q $gpu"
assert "wait_until 'virt-vgpu host apply $gpu' 60"
assert_eq 'Disabled' "nvidia-smi -q -i $gpu | grep -A 1 'MIG Mode' | sed -n 's/.*Current *: //p'"
assert_eq '' 'ls /var/lib/virt-vgpu/gpu-instances'
assert '! dmesg | grep -E "BUG|WARNING|Call Trace|possible circular"'
