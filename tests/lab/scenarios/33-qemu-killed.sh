# QEMU is killed: the vGPU is closed, stays, and can be removed.
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1)
	define_vm ws1 $(uuid 1) && start_vm ws1
	kill -KILL $(qemu_pid ws1)
	wait_until "test \"\$(state_of ws1)\" = \"shut off\"" 10'
assert_eq '0' 'cat $SIM/vgpus/$(uuid 1)/open'
on_lab 'remove_mdev $(uuid 1)'
