# shellcheck shell=bash
# A lab host with whole PCI devices: an emulated one that has, besides, PCIe devices behind an IOMMU of its own.
#
# name     address        what                                      IOMMU group, NUMA node
# nvme0    0000:01:00.0   NVMe drive, serial LABNVME0               its own, node 0
# card     0000:02:00.0   display controller, no driver             one with card.1 and card.2, node 0
# card.1   0000:02:00.1   audio, snd_hda_intel
# card.2   0000:02:00.2   USB controller, xhci_hcd
# shared   0000:04:01.0   NIC, e1000                                one with disk and their bridge, node 0
# disk     0000:04:02.0   SATA controller, ahci, with a disk that the host has mounted
# igb      0000:e1:00.0   NIC with virtual functions, igb           its own, node 1
# nvme1    0000:e2:00.0   NVMe drive, serial LABNVME1               its own, node 1
#
# Each name but shared and disk is on a port of its own, from which it can be taken and to which it comes back.

# shellcheck disable=SC2034  # by the name of the kind
readonly PCI_USUAL_BOOT_MS=36000

pci_mark() { emulated_mark; }

# pci_device NAME: the options of -device, or of device_add
pci_device() {
	case $1 in
		nvme0) echo 'nvme,id=nvme0,bus=port-nvme0,serial=LABNVME0,drive=drive-nvme0' ;;
		nvme1) echo 'nvme,id=nvme1,bus=port-nvme1,serial=LABNVME1,drive=drive-nvme1' ;;
		igb) echo 'igb,id=igb,bus=port-igb,netdev=net-igb,mac=52:54:00:1a:b0:01' ;;
		card) echo 'bochs-display,id=card,bus=port-card,addr=0.0,multifunction=on' ;;
		card.1) echo 'ich9-intel-hda,id=card.1,bus=port-card,addr=0.1' ;;
		card.2) echo 'qemu-xhci,id=card.2,bus=port-card,addr=0.2' ;;
		shared) echo 'e1000,id=shared,bus=bridge,addr=1,netdev=net-shared,mac=52:54:00:1a:b0:02,romfile=' ;;
		disk) echo 'ich9-ahci,id=disk,bus=bridge,addr=2' ;;
	esac
}

# pci_prepare: the state folder, with the contents of the drives
pci_prepare() {
	local drive
	emulated_prepare
	for drive in nvme0 nvme1; do
		head -c 8M < <(yes "contents of $drive") > "$RUN/$drive.img"
	done
	truncate -s 16M "$RUN/disk.img"
	mke2fs -q -t ext4 -L shared-disk "$RUN/disk.img"
}

pci_start() {
	local name drive
	# shellcheck disable=SC2054  # QEMU's options have commas
	local devices=(
		-device "intel-iommu,intremap=on,caching-mode=on$([[ $(accelerator "$IMAGE/vmlinuz") == kvm ]] || echo ,eim=on)"
		-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off
		-device pcie-root-port,id=port-nvme0,bus=pcie.0,addr=8,chassis=1,slot=1
		-device pcie-root-port,id=port-card,bus=pcie.0,addr=9,chassis=1,slot=2
		-device pcie-root-port,id=port-bridge,bus=pcie.0,addr=a,chassis=1,slot=3
		-device pcie-pci-bridge,id=bridge,bus=port-bridge
		-device pxb-pcie,id=node1,bus=pcie.0,addr=b,bus_nr=224,numa_node=1
		-device pcie-root-port,id=port-igb,bus=node1,addr=0,chassis=2,slot=1
		-device pcie-root-port,id=port-nvme1,bus=node1,addr=1,chassis=2,slot=2
		-netdev user,id=net-igb,restrict=on
		-netdev user,id=net-shared,restrict=on
	)
	for drive in nvme0 nvme1 disk; do
		devices+=(-drive "file=$RUN/$drive.img,format=raw,if=none,id=drive-$drive,snapshot=on,cache=unsafe")
	done
	for name in nvme0 card card.1 card.2 shared disk igb nvme1; do devices+=(-device "$(pci_device "$name")"); done
	# shellcheck disable=SC2054
	devices+=(-device ide-hd,bus=disk.0,drive=drive-disk,serial=LABDISK)
	emulated_start "${devices[@]}"
}

pci_reboot() { emulated_reboot; }

pci_cut_power() { emulated_cut_power; }

pci_forget() { emulated_forget; }

pci_autopsy() { emulated_autopsy; }

# plug_out NAME: asks the host to let go of it, as who presses the button of its slot; of the card, all of it. The
# host does so some seconds later, or when nobody uses it any more.
plug_out() { ask_pci "device_del $1"; }

# plug_in NAME: puts it in, once it is out; the card, all of it
plug_in() {
	local name=$1 end=$((SECONDS + 30))
	# The host lets go of a device before it switches the slot off.
	while pci_in_slot "$name"; do
		((SECONDS < end)) || fail "$name is not out of its slot after 30 s"
		sleep 0.2
	done
	on_lab 'wait_until slots_settled 30' > /dev/null
	# A card of several functions is there when function 0 comes.
	if [[ $name == card ]]; then ask_pci "device_add $(pci_device card.1)" "device_add $(pci_device card.2)"; fi
	ask_pci "device_add $(pci_device "$name")"
}

# pci_in_slot NAME: whether QEMU has it
pci_in_slot() { (select_guest "$NAME" && ask_monitor 'info qtree') | grep -a "id \"$1\"" > /dev/null; }

# pci_clean_state: all devices in their slots, as a scenario finds them
pci_clean_state() {
	local name
	on_lab 'forget_silent'
	for name in nvme0 card igb nvme1; do
		pci_in_slot "$name" || plug_in "$name"
	done
	# shellcheck disable=SC2016  # expanded on the lab host
	on_lab 'for name in nvme0 card igb nvme1; do wait_until "test -e /sys/bus/pci/devices/$(pci_of $name)" 30; done
		clean_pci'
}

# ask_pci COMMAND...: QEMU says nothing to what it does as asked
ask_pci() {
	local answer
	trace "[$NAME, QEMU] $*"
	answer=$(select_guest "$NAME" && ask_monitor "$@") || fail "QEMU's monitor does not answer"
	answer=$(tr -d '\r' <<< "$answer" | grep -a '^Error') || return 0
	fail "QEMU said: $answer"
}
