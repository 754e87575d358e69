# The CD-ROM with guest drivers: filled while the VM runs, empty when the ISO cannot be used, and never one
# of the VM's other drives.
# needs: product
on_lab 'mkdir -p /srv/drivers; echo drivers > /srv/drivers/README
	rm -f /srv/guest.iso
	xorriso -as mkisofs -quiet -V DRIVERS -o /srv/guest.iso /srv/drivers 2> /dev/null
	echo other > /var/lib/libvirt/images/other.iso
	create_pool cad --type nvidia-232 --device $T4A --guest-driver /srv/guest.iso
	attached_vm q35 cad --guest-drivers
	vm_xml pc | sed "s/machine=.q35./machine=\"pc\"/; s:<devices>:&<disk type=\"file\" device=\"cdrom\"><source file=\"/var/lib/libvirt/images/other.iso\"/><target dev=\"hda\" bus=\"ide\"/><readonly/></disk><disk type=\"file\" device=\"cdrom\"><target dev=\"hdc\" bus=\"ide\"/><readonly/></disk>:" > /run/pc.xml
	virsh -q define /run/pc.xml'
assert_eq "added the guest-driver CD-ROM to pc as hdb; takes effect at the next start" \
	'virt-vgpu attach pc --pool cad --guest-drivers | tail -n 1'
media_of() { printf '/var/lib/virt-vgpu/media/%s.iso' "$(on_lab "virsh -q domuuid $1")"; }
q35=$(media_of q35) pc=$(media_of pc)
# block VM: its drives as QEMU has them, "DEVICE FILE"
block='block() { virsh qemu-monitor-command $1 "{\"execute\":\"query-block\"}" | jq -r ".return[] | \"\(.qdev) \(.inserted.file // \"empty\")\""; }'
bytes=$(on_lab 'sha256sum < /srv/guest.iso | cut -d" " -f1')

on_lab 'start_vm q35 & start_vm pc & wait'
assert_eq 'running running' 'echo $(state_of q35) $(state_of pc)'
assert_eq "ua-vgpu-guest-drivers $q35" "$block; block q35"
assert_eq "ide0-0-0 /var/lib/libvirt/images/other.iso
ide0-1-0 empty
ua-vgpu-guest-drivers $pc" "$block; block pc | sort"
assert_eq '/srv/guest.iso
/srv/guest.iso' "readlink $q35 $pc"
# QEMU is confined, and the file is really open.
for vm in q35 pc; do
	assert "grep -q '^libvirt-.* (enforce)' /proc/\$(qemu_pid $vm)/attr/current"
	assert "ls -l /proc/\$(qemu_pid $vm)/fd | has ' /srv/guest.iso\$'"
done
assert_eq '/srv/guest.iso' 'virt-vgpu status --json | jq -r ".claims[].guest_driver" | sort -u'
# The ISO is neither chowned nor written.
assert_eq "root:root 644 $bytes" 'echo $(stat -c "%U:%G %a" /srv/guest.iso) $(sha256sum < /srv/guest.iso | cut -d" " -f1)'
on_lab 'virsh -q destroy pc; virsh -q destroy q35'
assert_eq '' 'left_over'
assert_eq '3' 'virsh -q domblklist --inactive pc | grep -c .'

# An ISO that only root can read, then none: the VM starts with an empty drive, and this is reported.
no_medium() {
	on_lab 'start_vm q35'
	assert_eq "ua-vgpu-guest-drivers empty" "$block; block q35"
	assert_eq "domain 'q35': its guest-driver CD-ROM is empty: $1
pool 'cad': guest-driver: $1" 'virt-vgpu status --json | jq -r ".problems[]" | sort'
	assert_eq "4 q35 cad domain 'q35': its guest-driver CD-ROM is empty: $1" \
		'events MESSAGE_ID PRIORITY DOMAIN_NAME POOL MESSAGE | sed -n "s/^e52a7df6d08f49b2b1cef4db1f49197c //p" | tail -n 1'
	on_lab 'virsh -q destroy q35'
	assert_eq '' 'left_over'
}
on_lab 'chmod 600 /srv/guest.iso'
no_medium "/srv/guest.iso is not readable for QEMU's user; run 'chmod o+r /srv/guest.iso'"
on_lab 'rm /srv/guest.iso'
no_medium '/srv/guest.iso: No such file or directory (os error 2)'

on_lab 'virt-vgpu detach pc --all > /dev/null'
assert_eq 'hda /var/lib/libvirt/images/other.iso
hdc -' 'virsh -q domblklist --inactive pc | sed "/^$/d; s/^ *//; s/   */ /g"'
