# QEMU starts with a manually created vGPU, confined by AppArmor, and the device is on the guest's bus.
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1)'
on_lab 'define_vm ws1 $(uuid 1) && start_vm ws1'
assert_eq 'running' 'state_of ws1'
assert_eq '1' 'cat $SIM/vgpus/$(uuid 1)/open'
assert 'grep -q "^libvirt-.* (enforce)" /proc/$(qemu_pid ws1)/attr/current'
assert 'virsh qemu-monitor-command ws1 --hmp "info pci" | has "3D controller: PCI device 10de:1eb8\|Class 0770\|10de:1eb8"'
assert 'ls -l /proc/$(qemu_pid ws1)/fd | has "/dev/vfio/"'
# libvirt refuses the same vGPU to a second VM.
on_lab 'define_vm ws2 $(uuid 1)'
said=$(refuse 'virsh -q start ws2')
[[ $said == *'is in use by driver QEMU, domain ws1'* ]] || fail "virsh said: $said"
on_lab 'virsh -q destroy ws1'
assert_eq '0' 'cat $SIM/vgpus/$(uuid 1)/open'
on_lab 'start_vm ws2'
# A VM whose vGPU does not exist is refused by libvirt.
on_lab 'define_vm ws3 $(uuid 3)'
said=$(refuse 'virsh -q start ws3')
[[ $said == *"mediated device '11111111-2222-4333-8444-000000000003' not found"* ]] || fail "virsh said: $said"
