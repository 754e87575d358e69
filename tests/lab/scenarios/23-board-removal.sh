# A board disappears from the bus: its vGPUs disappear, libvirt notices, everything else is unchanged, and
# the board can come back.
# needs: emulated (a board on a NUMA node)
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1); create_mdev $T4B nvidia-232 $(uuid 2)'
on_lab 'echo 0 > $SIM/boards/$T4A/present'
assert '! test -e /sys/bus/pci/devices/$T4A'
assert_eq '11111111-2222-4333-8444-000000000002' 'mdevs'
assert 'wait_until "! virsh -q nodedev-list --cap mdev_types | has 3b_00" 10'
on_lab 'echo 1 > $SIM/boards/$T4A/present'
assert_eq '4' 'available $T4A nvidia-232'
assert_eq '0' 'cat /sys/bus/pci/devices/$T4A/numa_node'
assert 'wait_until "virsh -q nodedev-list --cap mdev_types | has 3b_00" 10'

# If a VM uses the board, it disappears when the VM ends.
on_lab 'define_vm held $(uuid 2) && start_vm held'
on_lab 'in_background removal "echo 0 > $SIM/boards/$T4B/present"
	wait_until "! test -e /sys/class/mdev_bus/$T4B" 10'
assert '! ended removal && test -d /sys/bus/pci/devices/$T4B/$(uuid 2)'
on_lab 'virsh -q destroy held'
assert 'wait_until "ended removal" 20 && ! test -e /sys/bus/pci/devices/$T4B'
assert_eq '' 'mdevs'
on_lab 'echo 1 > $SIM/boards/$T4B/present'
assert_eq '4' 'available $T4B nvidia-232'
