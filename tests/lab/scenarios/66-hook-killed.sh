# The hook, the child that writes for it, or both are killed while the driver makes a device: the start is
# refused, nothing is left, and the next start works.
# needs: product
# gate
on_lab 'create_pool cad --type nvidia-232 --device $T4A
	attached_vm ws1 cad'
# Read now: while a hook runs, libvirt does not answer for its VM.
uuid=$(on_lab 'device_uuid ws1')

# start_and_kill PIDS: starts ws1 with a driver that takes 5 s, and kills in the middle of it. The hook is
# libvirtd's child, the writer is the hook's.
hook='pgrep -x -P $(pidof libvirtd) 50-virt-vgpu'
writer="pgrep -x -P \$($hook) '50-virt-vgpu|exe'"
start_and_kill() {
	on_lab "echo 1 5000 > \$SIM/delay_create
		in_background start 'virsh start ws1'
		wait_until 'test -d /sys/class/mdev_bus/\$T4A/$uuid' 10
		kill -KILL $*
		wait_until 'ended start' 30"
	assert_eq '1' 'cat /run/lab-start.status'
	assert_eq 'shut off' 'state_of ws1'
	assert 'wait_until "test -z \"\$(left_over)\"" 20'
	assert_eq '4' 'available $T4A nvidia-232'
}

start_and_kill "\$($hook)"
[[ $(on_lab 'cat /run/lab-start.out') == *'ws1 prepare begin -) unexpected fatal signal 9'* ]] || fail 'not the hook was killed'
# The device is created without them; the hook of the failed start removes it.
start_and_kill "\$($writer) \$($hook)"
start_and_kill "\$($writer)"
refusal="virt-vgpu: cannot make device 'gpu0' of domain 'ws1': /sys/class/mdev_bus/0000:3b:00.0/mdev_supported_types/nvidia-232/create: the process that asks the driver died without an answer"
[[ $(on_lab 'cat /run/lab-start.out') == *"$refusal"* ]] || fail 'the refusal has another reason'

# Killed while the device is given back: the claim stays for the next process, here libvirt's next step,
# which waits 4 s for the driver; less than 3 s are left.
on_lab 'start_vm ws1'
on_lab "echo 1 3000 > \$SIM/delay_remove
	in_background stop 'virsh destroy ws1'
	wait_until 'hook_processes && ! test -e /sys/bus/mdev/devices/$uuid' 10
	kill -KILL \$(hook_processes)
	wait_until 'ended stop' 30"
assert_eq '0' 'cat /run/lab-stop.status'
assert 'wait_until "test -z \"\$(left_over)\"" 20'
on_lab 'start_vm ws1'
assert_eq "$uuid 0000:3b:00.0 nvidia-232" 'devices'
