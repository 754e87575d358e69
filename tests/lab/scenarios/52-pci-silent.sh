# A drive that falls silent: ones are read from it, and the kernel goes on believing in it. Nobody gets it, the VM that
# has it can be ended, no other device suffers, and when it is back it is handed out again.
# needs: product pci
# deadline: 900
on_lab 'create_pool drives --kind pci --device 0000:01:00.0 --device 0000:e2:00.0
	define_vm a; virt-vgpu attach a --pool drives > /dev/null; define_vm b; virt-vgpu attach b --pool drives > /dev/null'
assert_eq '0000:01:00.0 0000:e2:00.0' 'echo $(function_of a pci0) $(function_of b pci0)'
# come_back NAME ADDRESS: taken out for good, and put in again
come_back() {
	on_lab "forget_silent; wait_until '[ ! -e /sys/bus/pci/devices/$2 ]' 60"
	plug_in "$1"
	on_lab "wait_until '[ \$(driver_of $2) = nvme ]' 60"
}

# Idle: refused, and told in our words; libvirt would say 'Unknown PCI header type'.
on_lab 'silence nvme0'
refused="virt-vgpu: pool 'drives' has no free PCI device for domain 'a': its XML names 0000:01:00.0: "
said=$(refuse 'virsh start a')
[[ $said == *"$refused"*"0000:01:00.0 does not answer: "*"it is quarantined until nvme has it again and it answers"* ]] || fail "it said: $said"
assert_eq 'nvme' 'driver_of 0000:e2:00.0'
said=$(on_lab 'virt-vgpu start a')
[[ $said == *'0000:e2:00.0 instead of 0000:01:00.0'* ]] || fail "it said: $said"
on_lab 'virsh -q destroy a'
come_back nvme0 0000:01:00.0
assert_eq '' left_over
on_lab 'start_vm a; start_vm b'

# In use: the VM ends, however long QEMU needs for it; the other one runs on.
on_lab 'silence nvme0'
on_lab 'virsh -q destroy a || true; wait_until "[ \"\$(state_of a)\" = \"shut off\" ]" 240'
assert_eq 'running' 'state_of b'
assert 'wait_until "[ ! -e $(claim_of a) ]" 60'
said=$(on_lab 'virt-vgpu status --json | jq -r ".problems[]"')
[[ $said == '0000:01:00.0 is quarantined: 0000:01:00.0 has not got its driver back: '*" 'echo 1 > /sys/bus/pci/devices/0000:01:00.0/remove' "* ]] || fail "it said: $said"
said=$(refuse 'virsh start a')
[[ $said == *"$refused"*'has not got its driver back: '* ]] || fail "it said: $said"
on_lab 'virsh -q destroy b'
assert_eq 'nvme' 'driver_of 0000:e2:00.0'
come_back nvme0 0000:01:00.0
assert_eq '0000:01:00.0: repaired, no longer quarantined' 'virt-vgpu reconcile --grace 0 | tail -n 1'
on_lab 'start_vm a; start_vm b; virsh -q destroy a; virsh -q destroy b'
assert_eq '' left_over
assert_eq 'nvme nvme' 'echo $(driver_of 0000:01:00.0) $(driver_of 0000:e2:00.0)'
