# GPU instances that starts of VMs make: one after the other and at once, beside running VMs, within what the
# pools want ahead; named when there is no room or no time; given back by the daemon; and made by the autostart
# after a reboot.
# needs: product
# deadline: 1500
gpu=0000:3b:00.0
on_lab "unload_boards; load_boards rtx-pro-6000@$gpu/0 framework=vendor-vfio"
assert_eq "wrote /etc/virt-vgpu/pools.d/some.toml" \
	"virt-vgpu pool create some --profile DC-1-12Q --gpu-instances 0 --on-demand --device $gpu | sed -n 1p"
on_lab "virt-vgpu host apply $gpu"
assert_eq '' 'gpu_instances || true' # nvidia-smi ends with 6 where there are none
assert_eq '8' "virt-vgpu pool show some --json | jq .free"

# The first start makes one, and the second one uses it.
on_lab 'for number in 1 2 3 4 5 6; do attached_vm some$number some; done; start_vm some1'
assert_eq '1' 'gpu_instances | wc -w'
on_lab 'start_vm some2'
assert_eq '1' 'gpu_instances | wc -w'
assert_eq '1' "journalctl -t virt-vgpu-hook -o cat | grep -c \"^made GPU instance 1g.24gb+gfx at memory slots .* on $gpu for domain 'some1'\""

# Four at once need two more; who runs does not notice.
pids=$(on_lab 'for vm in some1 some2; do qemu_pid $vm; done | paste -sd" "')
on_lab 'for number in 3 4 5 6; do start_vm some$number & done; wait'
assert_eq '3' 'gpu_instances | wc -w'
assert_eq '2 2 2' "for vm in some1 some2 some3 some4 some5 some6; do cat /sys/bus/pci/devices/\$(function_of \$vm)/nvidia/gpu_instance_id; done | sort | uniq -c | awk '{ print \$1 }' | paste -sd' '"
assert_eq "$pids" 'for vm in some1 some2; do qemu_pid $vm; done | paste -sd" "'
assert "wait_until 'virsh qemu-monitor-command some1 --hmp \"info pci\" | grep -i 10de:2bb5' 10"

# What another pool wants ahead keeps its place, although nobody has made it yet.
on_lab "virt-vgpu pool create slice --profile DC-1-24Q --gpu-instances 1 --device $gpu > /dev/null; attached_vm some7 some"
said=$(refuse 'virsh start some7')
[[ $said == *"one more GPU instance 1g.24gb+gfx does not fit: pools 'some', 'slice' need 5 × 1g.24gb+gfx, and this GPU can have 4"* ||
	$said == *"one more GPU instance 1g.24gb+gfx does not fit: pools 'slice', 'some' need 5 × 1g.24gb+gfx, and this GPU can have 4"* ]] ||
	fail "it said: $said"
on_lab 'rm /etc/virt-vgpu/pools.d/slice.toml'

# While another run has NVIDIA's driver for itself, a start that needs nothing new goes on; one that does says why
# it cannot.
on_lab 'virsh -q destroy some6; flock /run/virt-vgpu/host/driver.lock sleep 600 < /dev/null > /dev/null 2>&1 & echo $! > /run/lab-holder'
assert "wait_until '! flock -n /run/virt-vgpu/host/driver.lock true' 10"
on_lab 'start_vm some6'
said=$(refuse 'virsh start some7')
[[ $said == *"/run/virt-vgpu/host/driver.lock"* ]] || fail "it said: $said"
on_lab 'kill $(cat /run/lab-holder); pkill -x sleep || true; wait_until "flock -n /run/virt-vgpu/host/driver.lock true" 10; start_vm some7'
assert_eq '4' 'gpu_instances | wc -w'

# Twenty at once fill four GPU instances, and a twenty-first has no room.
on_lab "for number in 1 2 3 4 5 6 7; do virsh -q destroy some\$number; virsh -q undefine some\$number; done
	virt-vgpu pool delete some --yes > /dev/null
	virt-vgpu pool create five --profile DC-1-4Q --gpu-instances 0 --vgpus-per-instance 5 --on-demand --device $gpu > /dev/null
	virt-vgpu host apply $gpu
	for number in \$(seq 21); do attached_vm five\$number five; done"
said=$(on_lab 'for number in $(seq 21); do virsh start five$number 2>&1 > /dev/null & done; wait')
assert_eq '20' 'virsh -q list --name | grep -c five'
[[ $(grep -c "^error: Failed to start domain" <<< "$said") == 1 && $said == *"its 4 GPU instances for DC-1-4Q have all the vGPUs that they take, and no further one fits"* ]] ||
	fail "it said: $said"
assert_eq '5 5 5 5' "for vm in \$(virsh -q list --name); do cat /sys/bus/pci/devices/\$(function_of \$vm)/nvidia/gpu_instance_id; done | sort | uniq -c | awk '{ print \$1 }' | paste -sd' '"
on_lab "for number in \$(seq 21); do virsh -q destroy five\$number || true; virsh -q undefine five\$number; done
	virt-vgpu pool delete five --yes > /dev/null
	virt-vgpu pool create some --profile DC-1-12Q --gpu-instances 0 --on-demand --device $gpu > /dev/null; virt-vgpu host apply $gpu
	for number in 1 2 3 4 5 6 7; do attached_vm some\$number some; start_vm some\$number; done"
pids=$(on_lab 'for vm in some1 some2; do qemu_pid $vm; done | paste -sd" "')

# They are given back some time after the last VM has gone, and not before.
on_lab 'start_daemon; for number in 3 4 5 6 7; do virsh -q destroy some$number; done'
assert_eq '4' 'gpu_instances | wc -w'
assert "wait_until '[ \"\$(gpu_instances | wc -w)\" = 1 ]' 400"
assert_eq "$pids" 'for vm in some1 some2; do qemu_pid $vm; done | paste -sd" "'
assert_eq '' "systemctl --failed --plain --no-legend"
assert_eq '6' "virt-vgpu pool show some --json | jq .free"

# After a reboot the autostart makes what it needs.
on_lab "virsh -q destroy some1; virsh -q autostart some2; virsh -q autostart some3
	echo 'options virt_vgpu_sim boards=rtx-pro-6000@$gpu/0 framework=vendor-vfio' > /etc/modprobe.d/zz-lab-boot.conf
	sync"
reboot_lab
assert 'wait_until "systemctl -q is-active multi-user.target" 180'
assert 'wait_until "[ \"\$(virsh -q list --name | sort | xargs)\" = \"some2 some3\" ]" 180'
assert_eq '1' 'gpu_instances | wc -w'
assert_eq '' 'systemctl --failed --plain --no-legend'
on_lab 'for number in 1 2 3 4 5 6 7; do virsh -q destroy some$number || true; virsh -q undefine some$number; done; rm /etc/virt-vgpu/pools.d/*'
assert '! dmesg | grep -E "BUG|WARNING|Call Trace|possible circular"'
