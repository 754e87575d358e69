# Devices plugged into running VMs and unplugged; transient VMs; optional devices after a start.
# needs: product
# deadline: 1200
# gate
on_lab 'create_pool cad --type nvidia-232 --device $T4A'

# Plugged in: definition, run, claim and QEMU have it.
on_lab "define_hot ws1 2; start_vm ws1"
uuid=$(on_lab 'device_uuid ws1')
assert_eq "nothing is changed yet; without --dry-run:
attached gpu0 (uuid $uuid) from pool cad to ws1; plugged in on 0000:3b:00.0" \
	'virt-vgpu attach ws1 --pool cad --live --dry-run'
assert_eq '' 'left_over; virsh -q dumpxml ws1 | grep vgpu || true'
assert_eq "attached gpu0 (uuid $uuid) from pool cad to ws1; plugged in on 0000:3b:00.0" \
	'virt-vgpu attach ws1 --pool cad --live'
assert_eq 'nothing to do: ws1 has gpu0 from pool cad' 'virt-vgpu attach ws1 --pool cad --live'
assert_eq "$uuid 0000:3b:00.0 nvidia-232" 'devices'
assert_eq '1' "cat \$SIM/vgpus/$uuid/open"
assert_eq "sysfsdev = \"/sys/bus/mdev/devices/$uuid\"" \
	'virsh qemu-monitor-command ws1 --hmp "info qtree" | tr -d "\r" | sed -n "s/^ *\(sysfsdev\)/\1/p"'
assert 'virsh qemu-monitor-command ws1 --hmp "info pci" | grep "3D controller: PCI device 10de:1eb8"'
assert_eq 'committed true null gpu0' \
	'jq -r "[.state, .launched, .daemon // \"null\", .devices[].name] | join(\" \")" $(claim_of ws1)'
assert_eq '2 2' 'echo $(virsh -q dumpxml ws1 | grep -c "ua-vgpu-gpu0\|<vgpu:device ") $(virsh -q dumpxml --inactive ws1 | grep -c "ua-vgpu-gpu0\|<vgpu:device ")'
# A second device next to it, and one for which libvirt finds no port: everything is as before.
on_lab 'virt-vgpu attach ws1 --pool cad --live --count 2 > /dev/null
	virsh -q dumpxml ws1 > /run/ws1.live; virsh -q dumpxml --inactive ws1 > /run/ws1.defined; cat $(claim_of ws1) > /run/ws1.claim'
refuse_with 'virt-vgpu attach ws1 --pool cad --live --name more' "virt-vgpu: cannot attach to domain 'ws1': cannot plug in hostdev 'more': internal error: No more available PCI slots: the guest has no free PCIe port; add <controller type='pci' model='pcie-root-port'/> with 'virsh edit ws1' and start it again; the device was taken back"
assert_eq '' 'diff /run/ws1.live <(virsh -q dumpxml ws1); diff /run/ws1.claim $(claim_of ws1)
	diff /run/ws1.defined <(virsh -q dumpxml --inactive ws1)'
assert_eq '2' 'devices | wc -l'
# A guest without an operating system does not release devices; it keeps them.
refuse_with 'virt-vgpu detach ws1 --live --name gpu0 --wait 1' "virt-vgpu: cannot detach from domain 'ws1': the guest of domain 'ws1' has not released 'gpu0' in time, which its operating system must do; the VM keeps the device until then or until the VM stops, and then it is freed automatically"
assert_eq '' 'diff /run/ws1.live <(virsh -q dumpxml ws1); diff /run/ws1.claim $(claim_of ws1)'
assert_eq '2' 'devices | wc -l'
on_lab 'virsh -q destroy ws1'
assert_eq '' 'left_over'
# The next start is an ordinary one.
on_lab 'start_vm ws1'
assert_eq '2' 'devices | wc -l'
on_lab 'virsh -q destroy ws1; virsh -q undefine ws1'
said=$(refuse 'virt-vgpu attach ws1 --pool cad --live')
[[ $said == *"there is no domain 'ws1'"* ]] || fail "it said: $said"

# Not even the first fits: afterwards the VM has no claim, as before.
on_lab "define_hot ws2 0; start_vm ws2"
said=$(refuse 'virt-vgpu attach ws2 --pool cad --live')
[[ $said == *'No more available PCI slots'* ]] || fail "it said: $said"
assert_eq '' 'left_over; virsh -q dumpxml ws2 | grep vgpu || true; virsh -q dumpxml --inactive ws2 | grep vgpu || true'
on_lab 'virsh -q destroy ws2'
refuse_with 'virt-vgpu attach ws2 --pool cad --live' "virt-vgpu: domain 'ws2' is not running: '--live' works only on a running domain; leave it out, or start the domain first"

# A guest that releases devices.
on_lab 'define_hot ws3 2 "$(letting_go)"
	start_vm ws3
	virt-vgpu attach ws3 --pool cad --live --count 2 > /dev/null'
a=$(on_lab 'device_uuid ws3')
b=$(on_lab 'device_uuid ws3 gpu1')
assert_eq "detached gpu1 (uuid $b) of pool cad from ws3; unplugged from the running domain" \
	'virt-vgpu detach ws3 --live --name gpu1 --wait 60'
assert_eq "$a 0000:3b:00.0 nvidia-232" 'devices'
assert_eq 'gpu0' 'jq -r ".devices[].name" $(claim_of ws3)'
# The definition no longer had it: only the run had.
on_lab 'virt-vgpu detach ws3 --all > /dev/null'
assert_eq "unplugged gpu0 (uuid $a) of pool cad from ws3" 'virt-vgpu detach ws3 --all --live --wait 60'
assert_eq '' 'left_over; virsh -q dumpxml ws3 | grep vgpu || true'
assert_eq 'running' 'state_of ws3'
on_lab 'virsh -q destroy ws3'

# A transient VM, created from XML that has only requests.
asking='<metadata><v\:devices xmlns\:v=\"urn\:virt-vgpu\:devices\:1\"><v\:device name=\"gpu0\" pool=\"cad\"/></v\:devices></metadata>'
on_lab "hot_vm brief 2 | sed \"s:<devices>:$asking&:\" > /run/brief.xml"
assert_eq '1' 'virt-vgpu create /run/brief.xml --dry-run | tee /run/brief.whole.xml | grep -c "<alias name=.ua-vgpu-gpu0./>"'
assert_eq '' 'left_over; virsh -q list --name; diff /run/brief.xml /run/brief.whole.xml | grep "^<" || true'
on_lab 'virt-vgpu create /run/brief.xml > /run/brief.said'
brief=$(on_lab 'device_uuid brief')
assert_eq "created brief ($(on_lab 'virsh -q domuuid brief'))
added gpu0 (uuid $brief) of pool cad" 'cat /run/brief.said'
assert_eq "$brief 0000:3b:00.0 nvidia-232" 'devices'
assert_eq 'no' 'virsh -q dominfo brief | sed -n "s/^Persistent: *//p"'
# It gets one more while it runs, and everything is given back.
more=$(on_lab 'device_uuid brief more')
assert_eq "attached more (uuid $more) from pool cad to brief; plugged in on 0000:3b:00.0" \
	'virt-vgpu attach brief --pool cad --name more --live'
assert_eq '2' 'devices | wc -l'
on_lab 'virsh -q destroy brief'
assert_eq '' 'left_over; virsh -q list --all --name | grep brief || true'
on_lab 'sed -i s:pool=:pol=: /run/brief.xml'
refuse_with 'virt-vgpu create /run/brief.xml' "virt-vgpu: /run/brief.xml: line 8: <v:device name='gpu0'>: unknown attribute 'pol'; accepted: name, pool, guest-drivers, optional, together, frame-rate-limit, console-vnc, unified-memory, debuggers, profilers"

# Optional devices are plugged in after the start, if one is free.
on_lab 'create_pool spare --type nvidia-232 --device $T4B --instances 1
	printf "[defaults]\noptional = true\n" >> /etc/virt-vgpu/pools.d/spare.toml
	for vm in ws4 ws5; do define_hot $vm 1; virt-vgpu attach $vm --pool spare > /dev/null; done'
ws4=$(on_lab 'device_uuid ws4')
assert_eq "started ws4
plugged gpu0 (uuid $ws4) of pool spare into ws4 on 0000:5e:00.0" 'virt-vgpu start ws4'
assert_eq "started ws5
gpu0 is not plugged in: pool 'spare' has no free nvidia-232 for domain 'ws5': 1 of at most 1 instances are in use; see 'virt-vgpu status'" \
	'virt-vgpu start ws5'
assert_eq "$ws4 0000:5e:00.0 nvidia-232" 'devices'
on_lab 'virsh -q destroy ws4; virsh -q destroy ws5'
assert_eq '' 'left_over'

# vGPUs that are virtual functions: the one in the definition, and another one if that is taken.
gpu=0000:3b:00.0
on_lab "unload_boards; load_boards l40s@$gpu/0 framework=vendor-vfio
	rm /etc/virt-vgpu/pools.d/*; create_pool vf --profile L40S-12Q --device $gpu; virt-vgpu host apply --all > /dev/null
	define_hot ws6 1; start_vm ws6"
f=$(on_lab "vf $gpu 0")
g=$(on_lab "vf $gpu 1")
assert_eq "attached gpu0 ($f) from pool vf to ws6; plugged in as $f" 'virt-vgpu attach ws6 --pool vf --live'
id=$(on_lab "vf_type $f")
[[ $id != 0 ]] || fail "$f has no type"
assert "wait_until 'virsh qemu-monitor-command ws6 --hmp \"info pci\" | grep 10de:26b9' 10"
on_lab 'virsh -q destroy ws6'
assert_eq '0' "vf_type $f"
on_lab "virt-vgpu detach ws6 --all > /dev/null; start_vm ws6; virt-vgpu attach ws6 --pool vf > /dev/null; write_type $f $id > /dev/null"
assert_eq "plugged gpu0 ($g) of pool vf into ws6 as $g" 'virt-vgpu attach ws6 --pool vf --live'
on_lab "virsh -q destroy ws6"
assert_eq "$id 0" "echo \$(vf_type $f) \$(vf_type $g)"
assert_eq '' 'ls /run/virt-vgpu/claims'
# A transient VM gets a function, and another one if the function in its XML has been taken meanwhile.
on_lab "virsh -q undefine ws6; write_type $f 0 > /dev/null
	hot_vm brief 2 | sed \"s:<devices>:${asking/cad/vf}&:\" > /run/brief.xml
	virt-vgpu create /run/brief.xml --dry-run > /run/brief.whole.xml"
assert_eq "added gpu0 ($f) of pool vf" 'virt-vgpu create /run/brief.xml | tail -n 1'
assert_eq "$id 0" "echo \$(vf_type $f) \$(vf_type $g)"
on_lab "virsh -q destroy brief; write_type $f $id > /dev/null"
assert_eq "it has gpu0 ($g) of pool vf" 'virt-vgpu create /run/brief.whole.xml | tail -n 1'
assert_eq "$id $id" "echo \$(vf_type $f) \$(vf_type $g)"
on_lab "virsh -q destroy brief"
assert_eq "$id 0" "echo \$(vf_type $f) \$(vf_type $g)"
assert_eq '' 'ls /run/virt-vgpu/claims'
on_lab "write_type $f 0 > /dev/null; rm /etc/virt-vgpu/pools.d/*"
assert '! dmesg | grep -E "BUG|WARNING|Call Trace|possible circular"'
