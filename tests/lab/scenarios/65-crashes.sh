# QEMU killed; libvirtd restarted, reloaded, killed; both killed: a running VM keeps its device, and the
# device of a dead VM is given back.
# needs: product
# gate
on_lab 'create_pool cad --type nvidia-232 --device $T4A
	attached_vm ws1 cad; attached_vm ws2 cad
	start_vm ws1'
on_lab 'kill -KILL $(qemu_pid ws1)'
assert 'wait_until "test \"\$(state_of ws1)\" = \"shut off\" && test -z \"\$(left_over)\"" 20'
assert_eq 'shut off (crashed)' 'virsh -q domstate --reason ws1'

on_lab 'start_vm ws1 & start_vm ws2 & wait'
claims=$(on_lab 'jq -c . /run/virt-vgpu/claims/*')
device=$(on_lab devices)
qemu=$(on_lab 'qemu_pid ws1')
still_runs() {
	assert_eq "running running $qemu
$device
$claims
[\"in-use\",\"in-use\"] []" 'echo $(state_of ws1) $(state_of ws2) $(qemu_pid ws1)
		devices
		jq -c . /run/virt-vgpu/claims/*
		virt-vgpu reconcile --grace 0 --json | jq -r "\"\([.claims[].result] | tojson) \(.damaged | tojson)\""
		events PRIORITY MESSAGE | sed "/^5/d"'
}
on_lab 'systemctl reload libvirtd'
still_runs
on_lab 'systemctl restart libvirtd'
still_runs
on_lab 'kill -KILL $(pidof libvirtd)
	wait_until "pidof libvirtd" 20'
still_runs

# QEMUs are killed while libvirtd hangs: their devices are known to be free. libvirtd is killed and started
# again, notices that its VMs are gone and has their devices given back.
on_lab 'qemus="$(qemu_pid ws1) $(qemu_pid ws2)"
	kill -STOP $(pidof libvirtd)
	kill -KILL $qemus
	wait_until "! pidof qemu-system-x86_64" 10'
assert_eq "$device" devices
assert_eq "[\"ws1\",\"stale\"]
[\"ws2\",\"stale\"]
domain 'ws1' is not running but holds devices; run 'virt-vgpu reconcile'
domain 'ws2' is not running but holds devices; run 'virt-vgpu reconcile'" \
	'virt-vgpu status --json | jq -r "(.claims[] | [.domain, .state] | tojson), .problems[]" | sort'
assert_eq 'would-be-freed would-be-freed' \
	'virt-vgpu reconcile --dry-run --json | jq -r "[.claims[].result] | join(\" \")"'
on_lab 'kill -KILL $(pidof libvirtd)'
assert 'wait_until "test -z \"\$(left_over)\"" 30'
assert_eq 'shut off shut off' 'echo $(state_of ws1) $(state_of ws2)'
