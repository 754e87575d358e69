# The module can be unloaded while vGPUs exist, but not while one is in use; a parameter selects other
# boards.
# needs: emulated (NUMA nodes, a machine with a PCI bus of its own)
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1); create_mdev $T4B nvidia-232 $(uuid 2)'
on_lab 'define_vm user $(uuid 1) && start_vm user'
refuse 'rmmod virt_vgpu_sim' > /dev/null
assert_eq 'running' 'state_of user'
on_lab 'virsh -q destroy user; unload_boards'
assert_eq '' 'mdevs; ls -d /sys/kernel/debug/virt_vgpu_sim 2> /dev/null || true; lspci -d 10de:'
on_lab 'load_boards v100@0000:af:00.0/1,t4@0000:3b:00.0 mixed_series=N migration=N'
assert_eq 'nvidia-105 GRID V100-1Q 16' 'cd /sys/class/mdev_bus/0000:af:00.0/mdev_supported_types/nvidia-105
	echo nvidia-105 $(cat name) $(cat available_instances)'
assert_eq '-1' 'cat /sys/bus/pci/devices/$T4A/numa_node'
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1)'
assert_eq '3 0' 'echo $(available $T4A nvidia-232) $(available $T4A nvidia-319)'
on_lab 'unload_boards'
for boards in t4 t4@0000:3b:00.1 t4@3b:00.0 k80@0000:3b:00.0 t4@0000:00:00.0 \
	t4@0000:3b:00.0,t4@0000:3b:00.0 t4@0000:3b:00.0/x; do
	refuse "modprobe virt_vgpu_sim boards=$boards" > /dev/null
	assert_eq '' 'lspci -d 10de:'
done
# The kernel logs no errors.
assert '! dmesg | grep -E "BUG|WARNING|Call Trace|possible circular"'
