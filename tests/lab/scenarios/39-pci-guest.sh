# Whole devices inside a VM whose kernel boots: there from the first look at the bus, also when plugged in right after
# the start; its drives hold what they held.
# needs: pci
# deadline: 900
sum() { head -c 8M < <(yes "contents of $1") | sha256sum | cut -d' ' -f1; }
on_lab 'for name in nvme0 nvme1 igb; do bind_driver $(pci_of $name) vfio-pci; done > /dev/null
	BOOTING=lab.write=written-by-the-guest booting_vm guest "$(pci_hostdev $(pci_of nvme0))$(pci_hostdev $(pci_of igb))" > /run/guest.xml
	pci_hostdev $(pci_of nvme1) > /run/nvme1.xml
	virsh -q create /run/guest.xml; virsh -q attach-device guest /run/nvme1.xml --live'
report "plugged in after $(on_lab 'tr -d "\r" < /var/log/libvirt/qemu/guest.console | grep -ac .') lines of the guest's console"
on_lab 'heard guest "wrote nvme0n1"; heard guest "wrote nvme1n1"; heard guest "+ net"'
told='guest_said guest | sed -n "s/^guest: [0-9.]* + //p"'
assert_eq "LABNVME0 $(sum nvme0)
LABNVME1 $(sum nvme1)" "$told | sed -n 's/^disk nvme.n1 //p' | sort"
assert_eq '52:54:00:1a:b0:01' "$told | sed -n 's/^net [^ ]* //p'"
report "$(on_lab 'guest_said guest | grep -E "1b36:0010|acpiphp|disk|wrote"')"
on_lab 'virsh -q destroy guest; for name in nvme0 nvme1 igb; do bind_driver $(pci_of $name) $(own_driver $name); done > /dev/null
	udevadm settle'
assert_eq 'written-by-the-guest
written-by-the-guest' 'for disk in $(lsblk -dno PATH,SERIAL | sed -n "s/ *LABNVME.*//p"); do head -n 1 $disk; done'
