# The hook dies after each of its effects while a device is handed over or given back, and nobody runs it afterwards
# either: the next plain start makes all right, or a reconcile. A NIC and a drive; the card's USB controller is slow in
# an emulator, and its driver may not take it in time.
# needs: product pci
# deadline: 3600
# LAB_KILLED_VMS and LAB_KILLED_BY shorten it: of the VMs nic and drive, and of kill and child.
put_faulty /usr/sbin/lab-hook-with-faults virt-vgpu-hook
link=$(on_lab 'readlink /etc/libvirt/hooks/qemu.d/50-virt-vgpu')
# libvirtd runs what is behind a link to /usr/sbin.
in_guest 'cat > /usr/sbin/lab-hook; chmod +x /usr/sbin/lab-hook; ln -sfn /usr/sbin/lab-hook /etc/libvirt/hooks/qemu.d/50-virt-vgpu' <<'HOOK'
#!/bin/sh
# The hook. /run/lab-fault, if it is there, says what it dies of: OPERATION FAULT. Then it is not run any more.
if read -r operation fault 2> /dev/null < /run/lab-fault; then
	case $operation in
		gone) exit 0 ;;
		"$2")
			echo gone > /run/lab-fault
			export VIRT_VGPU_FAULT="$fault" VIRT_VGPU_FAULT_TRACE=/run/lab-effects
			;;
	esac
fi
exec /usr/sbin/lab-hook-with-faults "$@"
HOOK
in_guest 'cat > /run/killed.sh' <<'SCRIPT'
# killed.sh VMS BY: says what is not as it should be
set +e
vms=$1 by=$2
drivers() { for name in nvme0 igb card card.1 card.2 nvme1; do
	printf '%s ' "$(driver_of "$(pci_of $name)")" "$(cat "/sys/bus/pci/devices/$(pci_of $name)/driver_override")"
done; }
# with_fault OPERATION FAULT: a start and a stop in which the hook's OPERATION meets that fault
with_fault() {
	echo "$1 $2" > /run/lab-fault
	: > /run/lab-effects
	refused=
	virsh -q start $vm > /run/lab-said 2>&1 || refused=yes
	[ -n "$refused" ] || virsh -q destroy $vm
	reached=$(cat /run/lab-fault)
	rm /run/lab-fault
}
# kill_everywhere OPERATION: after each effect, and each write of the child that writes for the hook
kill_everywhere() {
	local operation=$1 what number effects
	# The first run makes directories as well.
	with_fault $operation none:0
	with_fault $operation none:0
	[ -z "$refused" ] || { cat /run/lab-said; return 1; }
	effects=$(grep -c . /run/lab-effects)
	virt-vgpu reconcile --grace 0 > /dev/null
	for what in $by; do
		for ((number = 1; number <= effects; number++)); do
			with_fault $operation $what:$number
			[ "$reached" = gone ] || echo "$vm: $operation $what:$number: the hook was not run"
			# A child has no more writes than that.
			[ $what = kill ] || grep -q 'unexpected\|died' /run/lab-said || [ $operation = stopped ] || break
			# The effects that were listed are those of the child as well: the hook itself has fewer.
			if [ $operation = prepare ] && [ $what = kill ] && [ -z "$refused" ]; then
				[ $number -gt 8 ] || echo "$vm: prepare kill:$number was not refused"
				break
			fi
			tried=$((tried + 1))
			if ((number % 2)); then
				virsh -q start $vm && virsh -q destroy $vm || echo "$vm: after $operation $what:$number no start"
			else
				virt-vgpu reconcile --grace 0 > /run/lab-said 2>&1 || { echo "$vm: after $operation $what:$number:"; cat /run/lab-said; }
			fi
			[ "$(drivers)" = "$before" ] || echo "$vm: after $operation $what:$number the drivers are $(drivers)"
			# A file that was not complete goes with the next write.
			[ -z "$(left_over | grep -v "[.]tmp$")" ] || { echo "$vm: after $operation $what:$number is left over:"; left_over; }
		done
	done
	echo "$vm: $operation has $effects effects" >> /run/lab-counts
}
before=$(drivers)
tried=0
for vm in $vms; do for operation in prepare stopped; do kill_everywhere $operation; done; done
paste -sd, /run/lab-counts > /run/lab-report
echo "$tried times killed" >> /run/lab-report
SCRIPT
on_lab 'create_pool nics --kind pci --device $(pci_of igb); create_pool drives --kind pci --device $(pci_of nvme0)
	define_vm nic; virt-vgpu attach nic --pool nics > /dev/null; define_vm drive; virt-vgpu attach drive --pool drives > /dev/null; rm -f /run/lab-counts'
assert_eq '' "set -- '${LAB_KILLED_VMS:-nic drive}' '${LAB_KILLED_BY:-kill child}'; . /run/killed.sh"
report "$(on_lab 'paste -sd" " /run/lab-report')"
assert_eq '' 'left_over'
on_lab "ln -sfn $link /etc/libvirt/hooks/qemu.d/50-virt-vgpu"
