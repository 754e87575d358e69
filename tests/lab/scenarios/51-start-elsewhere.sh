# 'virt-vgpu start' runs a domain with another device and leaves what belongs to the domain: its NVRAM, its snapshots,
# its managed save, whether it starts at boot.
# needs: product
gpu=0000:3b:00.0
on_lab "unload_boards; load_boards l40s@$gpu/0 framework=vendor-vfio; vgpu_pool cad L40S-12Q $gpu; virt-vgpu host apply --all > /dev/null"
# A firmware in flash memory, which QEMU runs as well as any, with variables of its own; a disk with a snapshot.
on_lab 'head -c 128K < /dev/zero > /run/vars.template; cp /usr/share/seabios/bios-256k.bin /var/lib/libvirt/images/firmware.bin
	qemu-img create -q -f qcow2 /var/lib/libvirt/images/snapshot.qcow2 1M
	vm_xml firmware | sed "s|</os>|<loader readonly=\"yes\" type=\"pflash\">/var/lib/libvirt/images/firmware.bin</loader><nvram template=\"/run/vars.template\">/var/lib/libvirt/qemu/nvram/firmware.fd</nvram>&|" > /run/firmware.xml
	disk="<disk type=\"file\"><driver name=\"qemu\" type=\"qcow2\"/><source file=\"/var/lib/libvirt/images/snapshot.qcow2\"/><target dev=\"sda\" bus=\"sata\"/></disk>"
	vm_xml snapshot | sed "s|<memballoon|$disk&|" > /run/snapshot.xml
	for vm in firmware snapshot; do
		virsh -q define /run/$vm.xml
		virt-vgpu attach $vm --pool cad > /dev/null
		virsh -q autostart $vm
	done
	virsh -q snapshot-create-as snapshot before > /dev/null
	start_vm firmware; virsh -q destroy firmware
	printf "a boot entry" | dd of=/var/lib/libvirt/qemu/nvram/firmware.fd conv=notrunc status=none'
of_domain='virsh -q dominfo $vm | sed -nE "s/^(State|Persistent|Autostart|Managed save): *//p" | paste -sd" "
	virsh -q dumpxml --inactive $vm | sha256sum
	virsh -q snapshot-list --name $vm
	virsh -q snapshot-current --name $vm 2> /dev/null || true
	head -c 12 /var/lib/libvirt/qemu/nvram/firmware.fd; echo
	ls /etc/libvirt/qemu/*.xml /etc/libvirt/qemu/autostart /var/lib/libvirt/qemu/snapshot/$vm 2> /dev/null || true'
for vm in firmware snapshot; do
	named=$(on_lab "function_of $vm")
	id=$(on_lab "sed -n 's/^\([0-9]*\) *: NVIDIA L40S-12Q$/\1/p' /sys/bus/pci/devices/$named/nvidia/creatable_vgpu_types")
	before=$(on_lab "vm=$vm; $of_domain")
	[[ $before == "shut off yes enable no"* ]] || fail "$before"
	# Somebody has taken the function that its XML names.
	on_lab "write_type $named $id"
	said=$(on_lab "virt-vgpu start $vm")
	[[ $said == "gpu0 of $vm: "*" instead of $named: "*"started $vm" ]] || fail "it said: $said"
	same 'while it runs' "${before/#shut off/running}" "$(on_lab "vm=$vm; $of_domain")"
	on_lab "virsh -q destroy $vm"
	same 'after it' "$before" "$(on_lab "vm=$vm; $of_domain")"
	on_lab "write_type $named 0"
	on_lab "start_vm $vm; virsh -q destroy $vm"
	same 'after a plain start' "$before" "$(on_lab "vm=$vm; $of_domain")"
done
# The snapshot is still one that can be gone back to.
on_lab 'virsh -q snapshot-revert snapshot before'
# A variable that the firmware writes while the VM runs elsewhere stays.
assert_eq 'a boot entry' 'head -c 12 /var/lib/libvirt/qemu/nvram/firmware.fd'
assert_eq '' left_over
