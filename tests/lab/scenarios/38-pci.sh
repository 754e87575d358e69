# Whole PCI devices as the kernel, libvirt 11.3 and QEMU 10.0 treat them: what the product stands on.
# needs: pci
# deadline: 400
names='nvme0 nvme1 igb card card.1 card.2 shared disk'
assert_eq 'nvme0 0000:01:00.0 0108 nvme -1 flr bus
nvme1 0000:e2:00.0 0108 nvme 1 flr bus
igb 0000:e1:00.0 0200 igb 1 flr pm bus
card 0000:02:00.0 0380 - -1 bus
card.1 0000:02:00.1 0403 snd_hda_intel -1 none
card.2 0000:02:00.2 0c03 xhci_hcd -1 none
shared 0000:04:01.0 0200 e1000 -1 bus
disk 0000:04:02.0 0106 ahci -1 none' "for name in $names; do
	at=\$(pci_of \$name) device=/sys/bus/pci/devices/\$(pci_of \$name)
	echo \$name \$at \$(cut -c 3-6 \$device/class) \$(driver_of \$at) \$(cat \$device/numa_node) \$(cat \$device/reset_method 2> /dev/null || echo none)
done"
assert_eq '0000:01:00.0
0000:e2:00.0
0000:e1:00.0
0000:02:00.0 0000:02:00.1 0000:02:00.2
0000:03:00.0 0000:04:01.0 0000:04:02.0' 'for name in nvme0 nvme1 igb card shared; do group_of $(pci_of $name); done'
# The lab's own disk and NIC are endpoints with a group each, the storage controller of the board shares one.
assert_eq '0000:00:01.0 virtio-pci
0000:00:02.0 virtio-pci
0000:00:1f.0 0000:00:1f.2 0000:00:1f.3 ahci' 'for at in 0000:00:01.0 0000:00:02.0 0000:00:1f.2; do echo $(group_of $at) $(driver_of $at); done'
assert_eq '/srv/shared 0000:04:02.0' 'disk=$(findmnt -no SOURCE /srv/shared)
	echo $(findmnt -no TARGET /srv/shared) $(readlink -f /sys/class/block/${disk#/dev/} | grep -o "0000:04:[^/]*")'

# A driver's override and a probe bind exactly it, and back.
assert_eq 'vfio-pci nvme vfio-pci igb vfio-pci - (null)' 'echo $(for name in nvme0 igb card; do
		bind_driver $(pci_of $name) vfio-pci; bind_driver $(pci_of $name) $(own_driver $name)
	done; cat /sys/bus/pci/devices/$(pci_of card)/driver_override)'

# start_says VM: what virsh says to its start, without the time in QEMU's message
start_says() { refuse "virsh start $1" | sed 's/: 20[^ ]*Z qemu/: qemu/'; }
on_lab 'define_pci_vm one "$(pci_hostdev $(pci_of nvme0))"
	define_pci_vm two "$(pci_hostdev $(pci_of nvme0))"
	define_pci_vm none "$(pci_hostdev 0000:05:00.0)"
	define_pci_vm bridge "$(pci_hostdev 0000:03:00.0)"
	define_pci_vm shared "$(pci_hostdev $(pci_of shared))"
	define_pci_vm audio "$(pci_hostdev $(pci_of card.1))"
	define_pci_vm display "$(pci_hostdev $(pci_of card))"
	define_pci_vm card "$(for at in card card.1 card.2; do pci_hostdev $(pci_of $at); done)"
	define_pci_vm managed "$(pci_hostdev $(pci_of igb) "managed=\"yes\"")"
	define_pci_vm managed-nvme0 "$(pci_hostdev $(pci_of nvme0) "managed=\"yes\"")"'
same 'with the host'"'"'s driver' "error: Failed to start domain 'one'
error: Requested operation is not valid: Unmanaged PCI device 0000:01:00.0 must be manually detached from the host" "$(start_says one)"
on_lab 'bind_driver $(pci_of nvme0) vfio-pci; virsh -q start one'
same 'in use' "error: Failed to start domain 'two'
error: Requested operation is not valid: PCI device 0000:01:00.0 is in use by driver QEMU, domain one" "$(start_says two)"
on_lab 'virsh -q destroy one; bind_driver $(pci_of nvme0) nvme'
# Once seen on vfio-pci, its driver is not looked at any more.
same 'driver taken back' "error: Failed to start domain 'one'
error: Path '/dev/vfio/$(on_lab 'basename $(readlink /sys/bus/pci/devices/$(pci_of nvme0)/iommu_group)')' is not accessible: No such file or directory" "$(start_says one)"
assert_eq 'nvme' 'driver_of $(pci_of nvme0)'
same 'no such device' "error: Failed to start domain 'none'
error: Device 0000:05:00.0 not found: could not access /sys/bus/pci/devices/0000:05:00.0/config: No such file or directory" "$(start_says none)"
same 'a bridge' "error: Failed to start domain 'bridge'
error: internal error: Non-endpoint PCI devices cannot be assigned to guests" "$(start_says bridge)"
# viable VM DEVICE GROUP: what QEMU says when others of the group have their drivers
viable() {
	printf "error: Failed to start domain '%s'\nerror: internal error: %s: qemu-system-x86_64: -device %s: vfio %s: group %s is not viable\n%s\n" "$1" 'process exited while connecting to monitor' \
		"{\"driver\":\"vfio-pci\",\"host\":\"$2\",\"id\":\"hostdev0\",\"bus\":\"pci.3\",\"addr\":\"0x1\"}" "$2" \
		"$(on_lab "basename \$(readlink /sys/bus/pci/devices/$2/iommu_group)")" \
		'Please ensure all devices within the iommu_group are bound to their vfio bus driver.'
}
on_lab 'for name in shared card.1; do bind_driver $(pci_of $name) vfio-pci; done'
same 'a group with the disk of the host' "$(viable shared 0000:04:01.0)" "$(start_says shared)"
same 'a card with functions of the host' "$(viable audio 0000:02:00.1)" "$(start_says audio)"
assert_eq 'ahci yes' 'echo $(driver_of $(pci_of disk)) $(mountpoint -q /srv/shared && echo yes)'
on_lab 'for name in card card.2; do bind_driver $(pci_of $name) vfio-pci; done; virsh -q start audio'
same 'a group of two VMs' "error: Failed to start domain 'display'
error: Requested operation is not valid: PCI device 0000:02:00.1 is in use by driver QEMU, domain audio" "$(start_says display)"
on_lab 'virsh -q destroy audio; virsh -q start card; virsh -q destroy card'

# managed='yes': whatever driver matches is bound at the end, also where there was none; but vfio-pci stays when it was
# bound before, or libvirtd has seen the device with managed='no'.
assert_eq '- vfio-pci igb' 'echo $(bind_driver $(pci_of igb) -; virsh -q start managed; driver_of $(pci_of igb); virsh -q destroy managed; driver_of $(pci_of igb))'
assert_eq 'nvme vfio-pci' 'bind_driver $(pci_of nvme0) vfio-pci > /dev/null; virsh -q start one; virsh -q destroy one
	echo $(bind_driver $(pci_of nvme0) nvme; virsh -q start managed-nvme0; virsh -q destroy managed-nvme0; driver_of $(pci_of nvme0))'
# A persistent domain started from another XML: its definition, autostart included, is there after the stop.
on_lab 'for name in nvme0 nvme1; do bind_driver $(pci_of $name) vfio-pci; done; virsh -q autostart one
	virsh -q dumpxml one | sed "/<source>/,/<.source>/s/0x01/0xe2/" > /run/other.xml'
[[ $(on_lab 'grep -c 0xe2 /run/other.xml') == 1 ]] || fail 'the other XML names the first device'
on_lab 'virsh -q create /run/other.xml'
state='virsh -q dominfo one | sed -nE "s/^(State|Persistent|Autostart|Managed save): *//p" | paste -sd" "'
assert_eq 'running yes enable no' "$state"
assert_eq '0xe2' 'virsh -q dumpxml one | sed -n "/<source>/,/<.source>/p" | grep -o 0xe2'
assert_eq '0x01' 'virsh -q dumpxml --inactive one | sed -n "/<source>/,/<.source>/p" | grep -o 0x01'
same 'twice' "error: Failed to create domain from /run/other.xml
error: Requested operation is not valid: domain 'one' is already active" "$(refuse 'virsh create /run/other.xml')"
on_lab 'virsh -q destroy one'
assert_eq 'shut off yes enable no' "$state"
assert_eq '0x01' 'virsh -q dumpxml one | sed -n "/<source>/,/<.source>/p" | grep -o 0x01'
# A VM with a device cannot be saved. One that is saved starts afresh from another XML, and its memory stays behind:
# the next plain start would go on with it.
on_lab 'virsh -q start one'
same 'saved' "error: Failed to save domain 'one' state
error: Requested operation is not valid: cannot migrate domain: 0000:01:00.0: VFIO migration is not supported in kernel" \
	"$(refuse 'virsh -q managedsave one' | sed '/^$/d')"
on_lab 'virsh -q destroy one; define_vm saved; virsh -q dumpxml saved > /run/saved.xml; virsh -q start saved; virsh -q managedsave saved
	virsh -q create /run/saved.xml'
assert_eq 'running (booted) yes' 'echo $(virsh -q domstate saved --reason) $(virsh -q dominfo saved | sed -n "s/^Managed save: *//p")'
on_lab 'virsh -q destroy saved; virsh -q start saved'
assert_eq 'running (restored) no' 'echo $(virsh -q domstate saved --reason) $(virsh -q dominfo saved | sed -n "s/^Managed save: *//p")'

# Asked for by the button of its slot: gone five seconds later, and back.
gone='wait_until "test ! -e /sys/bus/pci/devices/$(pci_of nvme1)" 30'
plug_out nvme1
on_lab "$gone"
plug_in nvme1
on_lab 'wait_until "[ \$(driver_of $(pci_of nvme1)) = nvme ]" 30'
# Pulled from its driver, and idle on vfio-pci.
on_lab "pull nvme1; $gone"
plug_in nvme1
on_lab "wait_until '[ \$(driver_of \$(pci_of nvme1)) = nvme ]' 30; bind_driver \$(pci_of nvme1) vfio-pci; pull nvme1; $gone"
plug_in nvme1
on_lab 'wait_until "[ \$(driver_of $(pci_of nvme1)) = nvme ]" 30; bind_driver $(pci_of nvme1) vfio-pci
	define_pci_vm pulled "$(pci_hostdev $(pci_of nvme1))"; virsh -q start pulled; dmesg -C; pull nvme1
	wait_until "dmesg | has Relaying" 30'
# Pulled from a VM: the VM runs on with nothing in its slot, and the device is in sysfs, without a driver, until QEMU ends.
assert_eq 'running - /sys/bus/pci/devices/0000:e2:00.0' 'echo $(state_of pulled) $(driver_of $(pci_of nvme1)) $(ls -d /sys/bus/pci/devices/$(pci_of nvme1))'
assert_eq 'pcieport 0000:e0:01.0: pciehp: Slot(2-1): Card not present
vfio-pci 0000:e2:00.0: Relaying device request to user (#0)' 'dmesg | grep -E "pciehp|Relaying" | head -n 2 | sed "s/^[^]]*] //"'
on_lab "virsh -q destroy pulled; $gone"
# Silent while idle: in sysfs as ever, and ones are read from it.
plug_in nvme1
on_lab 'wait_until "[ \$(driver_of $(pci_of nvme1)) = nvme ]" 30; bind_driver $(pci_of nvme1) vfio-pci; silence nvme1'
assert_eq '0x1b36 ffff' 'echo $(cat /sys/bus/pci/devices/$(pci_of nvme1)/vendor) $(setpci -s $(pci_of nvme1) 0.w)'
same 'silent' "error: Failed to start domain 'pulled'
error: internal error: Unknown PCI header type '127' for device '0000:e2:00.0'" "$(start_says pulled)"
