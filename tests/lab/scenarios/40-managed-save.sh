# A VM is saved with its vGPU and restored onto a new one with the same UUID, including the device's state.
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1)
	define_vm ws1 $(uuid 1) && start_vm ws1'
before=$(on_lab 'cat $SIM/vgpus/$(uuid 1)/framebuffer_crc')
on_lab 'virsh -q managedsave ws1'
assert_eq 'shut off' 'state_of ws1'
on_lab 'remove_mdev $(uuid 1); create_mdev $T4B nvidia-232 $(uuid 1)'
between=$(on_lab 'cat $SIM/vgpus/$(uuid 1)/framebuffer_crc')
[[ $before != "$between" ]] || fail 'a new vGPU has the contents of the old one'
on_lab 'start_vm ws1'
assert_eq "$before" 'cat $SIM/vgpus/$(uuid 1)/framebuffer_crc'
assert_eq 'running' 'state_of ws1'

# Restoring onto another type of the same size is refused, as by NVIDIA.
on_lab 'virsh -q managedsave ws1
	remove_mdev $(uuid 1); create_mdev $T4B nvidia-319 $(uuid 1)'
refuse 'virsh -q start ws1' > /dev/null
assert_eq 'shut off' 'state_of ws1'

# Two vGPUs in one VM are saved and restored together.
on_lab 'remove_mdev $(uuid 1)
	create_mdev $T4A nvidia-232 $(uuid 2); create_mdev $T4C nvidia-233 $(uuid 3)
	define_vm twin $(uuid 2) $(uuid 3) && start_vm twin
	virsh -q managedsave twin
	start_vm twin'
assert_eq 'running' 'state_of twin'
