# Optional devices are plugged into running VMs and removed, whatever client started the VMs; devices that a
# person has removed stay out; devices that were pulled out of the host are plugged in again when they are
# back.
# needs: product
# deadline: 900
on_lab 'create_pool spare --type nvidia-232 --device $T4B --instances 1
	printf "[defaults]\noptional = true\n" >> /etc/virt-vgpu/pools.d/spare.toml
	create_pool cad --type nvidia-232 --device $T4A
	start_daemon
	for vm in ws1 ws2; do define_hot $vm 1 "$(letting_go)"; ask $vm spare; done'
# The request is optional as in its pool, and there is no placeholder that could fail the start.
assert 'settled "virsh -q dumpxml --inactive ws2 | has optional=.yes"'
assert_eq '' 'placeholder_of ws1; placeholder_of ws2'
a=$(on_lab 'device_uuid ws1') b=$(on_lab 'device_uuid ws2')
on_lab 'start_vm ws1'
assert "settled '[ \"\$(devices)\" = \"$a 0000:5e:00.0 nvidia-232\" ]'"
assert 'settled "virsh -q dumpxml ws1 | has ua-vgpu-gpu0"'
# No device is free for the second VM, which runs without one until the first VM stops.
on_lab 'start_vm ws2'
assert_eq '[]' 'virt-vgpu status --json | jq -c .problems'
assert_eq '' 'virsh -q dumpxml ws2 | grep ua-vgpu || true'
on_lab 'virsh -q destroy ws1'
assert "settled '[ \"\$(devices)\" = \"$b 0000:5e:00.0 nvidia-232\" ]'"
assert 'settled "virsh -q dumpxml ws2 | has ua-vgpu-gpu0"'

# Removed by a person: the VM does not get it again in this run, but another VM does.
on_lab 'virsh -q dumpxml ws2 | sed -n "/<hostdev/,/<\/hostdev>/p" > /run/hostdev.xml
	wait_until "virsh -q detach-device ws2 /run/hostdev.xml --live; ! virsh -q dumpxml ws2 | has ua-vgpu" 60
	start_vm ws1'
assert "settled '[ \"\$(devices)\" = \"$a 0000:5e:00.0 nvidia-232\" ]'"
on_lab 'virsh -q destroy ws1'
assert 'settled "[ -z \"\$(left_over)\" ]"'
assert_eq '["gpu0"]' 'jq -c "[.let_go[][1]]" /run/virt-vgpu/daemon.json'
# This also holds after the daemon is restarted; the next run gets the device.
on_lab 'systemctl restart virt-vgpud'
assert 'settled "[ \"\$(jq .connected /run/virt-vgpu/daemon.json)\" = true ]"'
assert_eq '' 'devices'
on_lab 'virsh -q destroy ws2; start_vm ws2'
assert "settled '[ \"\$(devices)\" = \"$b 0000:5e:00.0 nvidia-232\" ]'"
on_lab 'virsh -q destroy ws2; virsh -q undefine ws2; virsh -q undefine ws1'
assert 'settled "[ -z \"\$(left_over)\" ]"'

# A board is pulled while a VM uses its device. QEMU asks the guest to release it, as NVIDIA's driver
# requests (here virsh does), and the kernel waits for that.
on_lab 'define_hot ws3 1 "$(letting_go)"; virt-vgpu attach ws3 --pool cad > /dev/null; start_vm ws3
	virsh -q dumpxml ws3 | sed -n "/<hostdev/,/<\/hostdev>/p" > /run/hostdev.xml'
c=$(on_lab 'device_uuid ws3')
assert_eq "$c 0000:3b:00.0 nvidia-232" 'devices'
on_lab 'in_background removal "echo 0 > $SIM/boards/$T4A/present"
	wait_until "! test -e /sys/class/mdev_bus/$T4A" 10
	wait_until "virsh -q detach-device ws3 /run/hostdev.xml --live; ! virsh -q dumpxml ws3 | has ua-vgpu" 60
	wait_until "ended removal" 20'
assert_eq '' 'devices'
# The daemon tries at once and fails, but does not treat this as the wish of a person.
assert 'settled "[ \"\$(jq -c .let_go /run/virt-vgpu/daemon.json)\" = null ]"'
on_lab 'echo 1 > $SIM/boards/$T4A/present'
assert "settled '[ \"\$(devices)\" = \"$c 0000:3b:00.0 nvidia-232\" ]'"
assert 'settled "virsh -q dumpxml ws3 | has ua-vgpu-gpu0"'
assert_eq '1' "cat \$SIM/vgpus/$c/open"
assert 'settled "[ \"\$(virt-vgpu status --json | jq -c .problems)\" = \"[]\" ]"'
on_lab 'virsh -q destroy ws3'
assert_eq '' 'left_over'
