# Whole PCI devices from pools: handed over and back with their group, refused where the host needs them, pulled out,
# and plugged in after the start.
# needs: product pci
# gate
# deadline: 600
drivers='for name in nvme0 nvme1 igb card card.1 card.2 shared disk; do driver_of $(pci_of $name); done | paste -sd" "'
free='nvme nvme igb - snd_hda_intel xhci_hcd e1000 ahci'
on_lab 'create_pool disks --kind pci --device 0000:01:00.0 --device 0000:e2:00.0
	create_pool card --kind pci --device 0000:02:00.0
	create_pool nics --kind pci --device 0000:e1:00.0
	for vm in a b; do define_vm $vm; virt-vgpu attach $vm --pool disks > /dev/null; done
	define_vm c; virt-vgpu attach c --pool card > /dev/null'
assert_eq '0000:01:00.0 0000:e2:00.0 0000:02:00.0' 'for vm in a b c; do function_of $vm pci0; done | paste -sd" "'
# One list of all, with udev's names; what VMs could have.
assert_eq '["storage","nvme","QEMU NVM Express Controller",["flr","bus"],["disks"],[]]
["gpu",null,null,["bus"],["card"],["0000:02:00.1","0000:02:00.2"]]' 'virt-vgpu devices 0000:01:00.0 0000:02:00.0 --json |
	jq -c ".devices[] | [.class, .driver, .device, .reset_methods, .pools, .companions]"'
assert_eq '["0000:00:03.0","0000:01:00.0","0000:02:00.0","0000:02:00.1","0000:02:00.2","0000:e1:00.0","0000:e2:00.0"]' \
	'virt-vgpu devices --free --json | jq -c "[.devices[].address]"'

# What the host stands on is refused, with the devices in between.
said=$(on_lab 'virt-vgpu pool create shared --kind pci --device 0000:04:01.0')
[[ $said == *'0000:04:01.0 shares IOMMU group '*' with 0000:04:02.0: while a VM has one of them, the host has none'* ]] || fail "it said: $said"
on_lab 'create_pool nic --kind pci --device 0000:00:02.0; create_pool root --kind pci --device 0000:00:01.0'
problem='virt-vgpu pool preview $pool --json | jq -r ".devices[] | select(.matches).problem"'
assert_eq "the host needs 0000:04:02.0, which is in the same IOMMU group ($(on_lab 'basename $(readlink /sys/bus/pci/devices/0000:04:01.0/iommu_group)')): 0000:04:02.0 → ata7 → sdb → /srv/shared" \
	"pool=shared; $problem | sed 's/ata[0-9]*/ata7/; s/sd[a-z]/sdb/'"
[[ $(on_lab "pool=nic; $problem") == "the host needs it: 0000:00:02.0 → "* ]] || fail "$(on_lab "pool=nic; $problem")"
assert_eq 'the host needs it: 0000:00:01.0 → virtio0 → vda → /' "pool=root; $problem"
on_lab 'define_pci_vm d "$(pci_hostdev 0000:04:01.0 | sed "s|</hostdev>|<alias name=\"ua-vgpu-pci0\"/>&|")"; ask d shared pci0'
said=$(refuse 'virsh start d')
[[ $said == *"virt-vgpu: pool 'shared' has no free PCI device for domain 'd': "*'the host needs 0000:04:02.0, '*'/srv/shared'* ]] || fail "it said: $said"
assert_eq "$free" "$drivers"

# The card's other functions come along, on one slot of the guest.
functions='for name in pci0 pci0_1 pci0_2; do function_of c $name; done | paste -sd" "'
assert_eq '0000:02:00.0 0000:02:00.1 0000:02:00.2' "$functions"
assert_eq '1 0x0 0x1 0x2' 'places=$(for name in pci0 pci0_1 pci0_2; do guest_place_of c $name; done)
	echo $(cut -d" " -f1,2 <<< "$places" | sort -u | wc -l) $(cut -d" " -f3 <<< "$places")'
on_lab 'sed -i "0,/^\[\[rule/s//[pci]\nmultifunction = false\n\n&/" /etc/virt-vgpu/pools.d/card.toml; virt-vgpu pool check card'
assert_eq 'c: pci0 gets the functions 0000:02:00.0 on one slot' 'virt-vgpu sync c'
assert_eq '0000:02:00.0' "$functions"
on_lab 'sed -i "/^\[pci\]/d; /^multifunction/d" /etc/virt-vgpu/pools.d/card.toml'
assert_eq 'c: pci0 gets the functions 0000:02:00.0, 0000:02:00.1, 0000:02:00.2 on one slot' 'virt-vgpu sync c'

# The group of the card as a whole; two domains with two drives.
on_lab 'start_vm c; start_vm a'
assert_eq '0 1 2' 'bus=$(guest_place_of c pci0 | cut -c3-4); virsh -q qemu-monitor-command c --hmp info pci |
	sed -n "s/.*Bus  *$((16#$bus)), device  *0, function \([0-9]\):.*/\1/p" | paste -sd" "'
assert_eq 'vfio-pci nvme igb vfio-pci vfio-pci vfio-pci e1000 ahci' "$drivers"
on_lab 'virsh -q destroy c; virsh -q destroy a'
assert_eq "$free" "$drivers"
assert_eq '(null)' 'cat /sys/bus/pci/devices/0000:01:00.0/driver_override'
assert_eq '' left_over

# Taken back behind libvirt's back, which has seen it on vfio-pci: looked at again all the same.
on_lab 'bind_driver 0000:01:00.0 vfio-pci > /dev/null; start_vm a; virsh -q destroy a'
assert_eq 'vfio-pci nvme' 'echo $(driver_of 0000:01:00.0) $(bind_driver 0000:01:00.0 nvme)'
on_lab 'start_vm a'
# QEMU is killed: the driver comes back.
on_lab 'kill -9 $(qemu_pid a); wait_until "[ \"\$(state_of a)\" = \"shut off\" ]" 30'
assert 'wait_until "[ $(driver_of 0000:01:00.0) = nvme ]" 30'
assert_eq '' left_over

# Two domains on one address: the second one is told, and starts with another one.
on_lab 'define_pci_vm e "$(pci_hostdev 0000:01:00.0 | sed "s|</hostdev>|<alias name=\"ua-vgpu-pci0\"/>&|")"; ask e disks pci0; start_vm a'
refuse_start e "pool 'disks' has no free PCI device for domain 'e': its XML names 0000:01:00.0: domain 'a' has it; 'virt-vgpu start e' looks for another"
said=$(on_lab 'virt-vgpu start e')
[[ $said == *'0000:e2:00.0 instead of 0000:01:00.0'* ]] || fail "it said: $said"
assert_eq 'vfio-pci vfio-pci' "$drivers | cut -d' ' -f1,2"
on_lab 'virsh -q destroy a; virsh -q destroy e'
assert_eq "$free" "$drivers"

# Pulled out of a VM by surprise, and idle: nothing else suffers, and what comes back is handed out.
on_lab 'start_vm a; pull nvme0'
on_lab 'virsh -q destroy a'
assert 'wait_until "[ ! -e /sys/bus/pci/devices/0000:01:00.0 ]" 30'
assert_eq '' left_over
refuse_start a "pool 'disks' has no free PCI device for domain 'a': its XML names 0000:01:00.0: this host has no such PCI device (see 'virt-vgpu devices'); 'virt-vgpu start a' looks for another"
plug_in nvme0
on_lab 'wait_until "[ \"\$(driver_of 0000:01:00.0)\" = nvme ]" 30; start_vm a; virsh -q destroy a'

# The daemon plugs in when the VM has started; the XML names no device.
on_lab 'printf "%s\n" "kind = \"pci\"" "[pci]" "placeholder = \"hotplug\"" "[[rule]]" \
		"where = [{ field = \"address\", op = \"equal\", value = \"0000:e1:00.0\" }]" > /etc/virt-vgpu/pools.d/nics.toml
	virt-vgpu pool check nics; define_hot f 2; start_daemon; ask f nics pci0
	settled "virsh -q metadata f urn:virt-vgpu:devices:1 --config | grep -q optional"; start_vm f'
assert 'wait_until "[ $(driver_of 0000:e1:00.0) = vfio-pci ] && virsh -q dumpxml f | grep -q ua-vgpu-pci0" 60'
on_lab 'virsh -q destroy f'
assert 'wait_until "[ $(driver_of 0000:e1:00.0) = igb ]" 60'

# A power cut in the middle: nothing is left of it.
on_lab 'start_vm a; sync'
cut_power
assert_eq '' left_over
assert_eq 'nvme' 'driver_of 0000:01:00.0'
