# libvirt lists the parents, with the present counts.
assert_eq 'pci_0000_3b_00_0
pci_0000_5e_00_0
pci_0000_86_00_0' 'virsh -q nodedev-list --cap mdev_types | sed "/^$/d"'
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1)'
assert_eq '3' 'virsh nodedev-dumpxml pci_0000_3b_00_0 |
	sed -n "/<type id=.nvidia-232.>/,/<.type>/s:.*<availableInstances>\(.*\)</availableInstances>:\1:p"'
assert 'wait_until "virsh -q nodedev-list --cap mdev | has 11111111_2222" 10'
