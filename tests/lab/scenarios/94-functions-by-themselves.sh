# Virtual functions whose addresses are in definitions: the daemon keeps them distinct, and gives stopped
# domains another one when theirs is taken.
# needs: product
# deadline: 900
gpu=0000:3b:00.0
on_lab "unload_boards; load_boards l40s@$gpu/0 framework=vendor-vfio; /usr/lib/nvidia/sriov-manage -e $gpu
	vgpu_pool cad L40S-24Q $gpu; vgpu_pool all L40S-48Q $gpu; start_daemon"
a=$(on_lab "vf $gpu 0") b=$(on_lab "vf $gpu 1") c=$(on_lab "vf $gpu 2")
on_lab 'define_vm ws1; ask ws1 cad; define_vm ws2; ask ws2 cad'
assert "settled '[ \"\$(placeholder_of ws1)\" = $a ] && [ \"\$(placeholder_of ws2)\" = $b ]'"
# Two devices of one domain get the next two functions.
on_lab 'ask ws2 cad gpu0 gpu1'
assert "settled '[ \"\$(placeholder_of ws2 gpu1)\" = $c ]'"
on_lab 'ask ws2 cad'
assert "settled '[ -z \"\$(placeholder_of ws2 gpu1)\" ]'"

# A clone names its original's function, and gets its own.
on_lab 'virt-clone -q -o ws1 -n ws3 --auto-clone > /dev/null'
assert "settled '[ \"\$(placeholder_of ws3)\" = $c ]'"
assert_eq "$a" 'placeholder_of ws1'

# While the daemon is away, another domain starts on the function: the daemon notices later and replaces it.
on_lab "systemctl stop virt-vgpud; virsh -q dumpxml --inactive ws2 |
	sed \"s/<name>ws2/<name>thief/; /<uuid>/d; s|slot='0x${b:8:2}' function='0x${b:11:1}'|slot='0x${a:8:2}' function='0x${a:11:1}'|\" > /run/thief.xml
	virsh -q define /run/thief.xml; virsh -q start thief --paused"
assert_eq "$a $a" 'echo $(placeholder_of thief) $(placeholder_of ws1)'
d=$(on_lab "vf $gpu 3")
on_lab 'start_daemon'
assert "settled '[ \"\$(placeholder_of ws1)\" = $d ]'"
# While the daemon runs: a definition with the function of a running VM gets another function.
on_lab "virsh -q dumpxml --inactive ws1 | sed \"s|slot='0x${d:8:2}' function='0x${d:11:1}'|slot='0x${a:8:2}' function='0x${a:11:1}'|\" > /run/ws1.xml
	virsh -q define /run/ws1.xml"
assert "settled '[ \"\$(placeholder_of ws1)\" = $d ]'"
on_lab 'virsh -q start ws1 --paused'
assert_eq '["thief","ws1"]' 'virt-vgpu status --json | jq -c "[.claims[].domain] | sort"'
# Both are taken now. A domain that has a function of its own keeps it: its GPU may have space when it starts.
assert_eq '[]' 'virt-vgpu status --json | jq -c .problems'
on_lab 'virsh -q destroy thief; virsh -q destroy ws1; virsh -q undefine thief'
assert_eq "$b" 'placeholder_of ws2'

# The last one: both definitions may name it, the first domain that starts gets it, and status reports what
# the other lacks.
on_lab "systemctl stop virt-vgpud; ask ws1 all; ask ws2 all; virt-vgpu sync ws1 ws2
	virsh -q dumpxml --inactive ws2 | sed \"s|slot='0x${b:8:2}' function='0x${b:11:1}'|slot='0x${d:8:2}' function='0x${d:11:1}'|\" > /run/ws2.xml
	virsh -q define /run/ws2.xml; virsh -q start ws1 --paused; start_daemon"
assert 'settled "virt-vgpu status --json | jq -e \".problems | length == 1\""'
assert_eq "$d" 'placeholder_of ws2'
assert_eq "domain 'ws2': gpu0 stays at $d, and nothing else is free: domain 'ws1' has it; stop a domain that uses the pool, or add devices to it" 'virt-vgpu status --json | jq -r ".problems[]"'
assert_eq "ws2: gpu0 stays at $d, and nothing else is free: domain 'ws1' has it; stop a domain that uses the pool, or add devices to it" 'virt-vgpu sync ws2 || [ $? = 1 ]'
on_lab 'virsh -q destroy ws1'
assert 'settled "[ \"\$(virt-vgpu status --json | jq -c .problems)\" = \"[]\" ]"'
assert "settled '[ \"\$(placeholder_of ws2)\" != \"\$(placeholder_of ws1)\" ]'"
on_lab 'virsh -q start ws2 --paused; virsh -q destroy ws2'

# Saved with its function, which is then taken; restored with another, which the definition then names.
on_lab "ask ws1 cad; virt-vgpu sync ws1; start_vm ws1"
now=$(on_lab 'placeholder_of ws1')
id=$(on_lab "vf_type $now")
on_lab "virsh -q managedsave ws1; write_type $now $id; start_vm ws1"
assert "settled '[ \"\$(placeholder_of ws1)\" != $now ]'"
assert_eq "$(on_lab 'jq -r .devices[0].parent $(claim_of ws1)')" 'placeholder_of ws1'
on_lab "virsh -q destroy ws1; write_type $now 0"

# QEMU killed while libvirtd is away: the daemon gives back what the hook could not, once half a
# minute has passed in which libvirt might still say how it ended. It was killed so early that its function
# is not to be used until it has been recreated.
on_lab 'virsh -q start ws1 --paused'
early=$(on_lab 'jq -r ".devices[0].parent" $(claim_of ws1)')
on_lab 'pid=$(qemu_pid ws1); systemctl stop libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket; kill -9 $pid'
assert 'wait_until "[ -z \"\$(ls /run/virt-vgpu/claims)\" ]" 150'
on_lab 'systemctl start libvirtd.socket libvirtd'
assert_eq "$early.json 0" "echo \$(ls /run/virt-vgpu/quarantine) \$(vf_type $early)"
# The daemon now looks for libvirt once a minute.
assert 'wait_until "[ \"\$(jq .connected /run/virt-vgpu/daemon.json)\" = true ]" 90'

# A GPU that is full loses its stopped domains to a GPU with room, whoever takes the last place. 'virt-vgpu
# start' uses another GPU for one run and leaves the definition alone.
other=0000:5e:00.0
on_lab "systemctl stop virt-vgpud; virsh -q undefine ws1; rm -f /run/virt-vgpu/quarantine/* /etc/virt-vgpu/pools.d/*
	unload_boards; load_boards l40s@$gpu/0,l40s@$other/0 framework=vendor-vfio
	create_pool both --profile L40S-48Q --device $gpu --device $other; virt-vgpu host apply --all > /dev/null
	define_vm ws1; ask ws1 both; virt-vgpu sync ws1"
stands=$(on_lab 'placeholder_of ws1')
full=$gpu rest=$other
[[ $stands == 0000:3b:* ]] || full=$other rest=$gpu
foreign=$(on_lab "vf $full 5")
assert_eq 'OK' "write_type $foreign \$(sed -n 's/^ *\([0-9]*\) *: NVIDIA L40S-48Q\$/\1/p' /sys/bus/pci/devices/$foreign/nvidia/creatable_vgpu_types)"
on_lab 'virt-vgpu start ws1 > /dev/null'
assert_eq "$stands" 'placeholder_of ws1'
assert_eq "$rest" 'basename $(readlink /sys/bus/pci/devices/$(jq -r .devices[0].parent $(claim_of ws1))/physfn)'
on_lab 'virsh -q destroy ws1'
assert_eq "ws1: gpu0 gets $(on_lab "vf $rest 0") instead of $stands: a L40S-48Q does not fit on its GPU now" 'virt-vgpu sync ws1'
assert_eq 'nothing to do' 'virt-vgpu sync ws1'
# There is room again: nobody moves for that.
on_lab "write_type $foreign 0"
assert_eq 'nothing to do' 'virt-vgpu sync ws1'
