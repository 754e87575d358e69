# `remove` waits as long as QEMU has the vGPU open, and finishes soon after. Meanwhile the links of the vGPU
# are gone: only its directory below the parent shows that it still exists.
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1)
	define_vm ws1 $(uuid 1) && start_vm ws1'
on_lab 'in_background remover "remove_mdev $(uuid 1)"
	wait_until "! test -e /sys/bus/mdev/devices/$(uuid 1)" 10'
assert '! ended remover'
assert 'test -d /sys/class/mdev_bus/$T4A/$(uuid 1)'
assert_eq '' 'ls $(type_path $T4A nvidia-232)/devices'
assert_eq '3' 'available $T4A nvidia-232'
assert_eq 'running' 'state_of ws1'
# The UUID is still taken.
assert_eq 'File exists' 'try_write $(type_path $T4B nvidia-232)/create $(uuid 1)'
on_lab 'virsh -q destroy ws1'
assert 'wait_until "ended remover" 15'
assert_eq '0' 'cat /run/lab-remover.status'
assert '! test -e /sys/class/mdev_bus/$T4A/$(uuid 1)'
assert_eq '4' 'available $T4A nvidia-232'
