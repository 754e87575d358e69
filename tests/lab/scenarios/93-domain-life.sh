# What happens to the devices of a domain that is cloned, renamed, snapshotted, saved, edited while it
# runs, undefined: each has one outcome.
# needs: product
# deadline: 900
on_lab 'create_pool cad --type "GRID T4-4Q" --device $T4A --device $T4B; start_daemon
	define_vm ws1; ask ws1 cad'
assert 'settled "[ \"\$(placeholder_of ws1)\" = \"\$(device_uuid ws1)\" ]"'

# virt-clone: another UUID, so other devices. Original and clone run at once.
on_lab 'virt-clone -q -o ws1 -n ws2 --auto-clone > /dev/null'
assert 'settled "[ \"\$(placeholder_of ws2)\" = \"\$(device_uuid ws2)\" ]"'
assert '[ "$(placeholder_of ws1)" != "$(placeholder_of ws2)" ]'
on_lab 'virsh -q start ws1 --paused; virsh -q start ws2 --paused'
assert_eq '2' 'devices | wc -l'
on_lab 'virsh -q destroy ws1; virsh -q destroy ws2'
assert_eq '' 'left_over'

# By hand, with the same UUID of its device in it and not yet mended: refused, with the way out; or mended.
on_lab 'systemctl stop virt-vgpud
	virsh -q dumpxml --inactive ws1 | sed "s|<name>ws1|<name>ws3|; /<uuid>/d" > /run/ws3.xml; virsh -q define /run/ws3.xml'
ws3=$(on_lab 'device_uuid ws3')
refuse_start ws3 "domain 'ws3' asks for device 'gpu0' in its metadata but has no <hostdev> with UUID $ws3; virt-vgpud adds it a moment after the domain is defined, 'virt-vgpu sync ws3' by hand; then start it again"
assert_eq "ws3: mended the hostdev of gpu0, which was another domain's" 'virt-vgpu sync ws3'
on_lab 'virsh -q start ws3 --paused; virsh -q destroy ws3; virsh -q undefine ws3; start_daemon'

# Renamed: the UUID is the same, and so are its devices.
on_lab 'virsh -q domrename ws2 ws2-new; virsh -q start ws2-new --paused'
assert_eq "$(on_lab 'device_uuid ws2-new')" 'devices | cut -d" " -f1'
assert_eq 'ws2-new' 'virt-vgpu status --json | jq -r ".claims[].domain"'
on_lab 'virsh -q destroy ws2-new; virsh -q domrename ws2-new ws2'
assert_eq '' 'left_over'

# Snapshots of a stopped domain: going back brings metadata and placeholder back, as they were.
on_lab 'qemu-img create -q -f qcow2 /var/lib/libvirt/images/snap.qcow2 1M
	virsh -q attach-disk ws2 /var/lib/libvirt/images/snap.qcow2 sda --targetbus sata --subdriver qcow2 --config
	virsh -q snapshot-create-as ws2 with-device > /dev/null
	virsh -q metadata ws2 urn:virt-vgpu:devices:1 --config --remove'
assert 'settled "[ -z \"\$(placeholder_of ws2)\" ]"'
on_lab 'virsh -q snapshot-create-as ws2 without > /dev/null; virsh -q snapshot-revert ws2 with-device'
assert 'settled "[ \"\$(placeholder_of ws2)\" = \"\$(device_uuid ws2)\" ]"'
on_lab 'virsh -q start ws2 --paused'
assert_eq "$(on_lab 'device_uuid ws2')" 'devices | cut -d" " -f1'
# With its memory (where QEMU and the driver can): going back makes the device anew for the state of then.
on_lab 'virsh -q snapshot-create-as ws2 running > /dev/null; virsh -q destroy ws2'
assert_eq '' 'left_over'
on_lab 'virsh -q snapshot-revert ws2 running'
assert_eq "paused $(on_lab 'device_uuid ws2')" 'echo $(state_of ws2) $(devices | cut -d" " -f1)'
# Back to the snapshot without: libvirt stops the VM, and its device goes.
on_lab 'virsh -q snapshot-revert ws2 without'
assert_eq 'shut off' 'state_of ws2'
assert 'settled "[ -z \"\$(left_over)\" ]"'
assert_eq '' 'placeholder_of ws2'
on_lab 'virsh -q snapshot-revert ws2 with-device'
assert 'settled "[ -n \"\$(placeholder_of ws2)\" ]"'

# Edited while it runs (virsh edit defines): the run keeps its device, the next start follows the edit.
on_lab 'virsh -q start ws1 --paused
	virsh -q dumpxml --inactive ws1 | sed "/<hostdev/,/<\/hostdev>/d; s|<memory unit=.KiB.>[0-9]*|<memory unit=\"MiB\">96|; s|<currentMemory.*||" > /run/ws1.xml
	virsh -q define /run/ws1.xml'
assert 'settled "[ \"\$(placeholder_of ws1)\" = \"\$(device_uuid ws1)\" ]"'
assert_eq "$(on_lab 'device_uuid ws1')" 'devices | cut -d" " -f1'
on_lab "virsh -q dumpxml --inactive ws1 | sed 's|pool=.cad.|pool=\"cad2\"|' > /run/ws1.xml; virsh -q define /run/ws1.xml"
assert_eq '["cad"]' 'virt-vgpu status --json | jq -c "[.claims[].devices[].pool]"'
on_lab 'virsh -q destroy ws1'
assert_eq '' 'left_over'
refuse_start ws1 "domain 'ws1' asks for a device of pool 'cad2': there is no pool 'cad2'; see 'virt-vgpu pool list'"
on_lab 'ask ws1 cad'

# A managed save holds the XML of its time; its device goes back and is made anew when it is resumed.
on_lab 'start_vm ws1; virsh -q managedsave ws1'
assert_eq '' 'left_over'
on_lab 'virsh -q metadata ws1 urn:virt-vgpu:devices:1 --config --remove'
assert 'settled "[ -z \"\$(placeholder_of ws1)\" ]"'
on_lab 'start_vm ws1'
assert_eq "$(on_lab 'device_uuid ws1')" 'devices | cut -d" " -f1'
on_lab 'virsh -q destroy ws1'
assert_eq '' 'left_over'
on_lab 'start_vm ws1'
assert_eq '' 'devices'
on_lab 'virsh -q destroy ws1'

# Undefined while it runs: it is transient then, keeps its device until it stops, and leaves nothing.
on_lab 'ask ws1 cad'
assert 'settled "[ -n \"\$(placeholder_of ws1)\" ]"'
on_lab 'virsh -q start ws1 --paused; virsh -q undefine ws1'
assert_eq '1' 'devices | wc -l'
on_lab 'virsh -q destroy ws1; virsh -q undefine ws2 --snapshots-metadata'
assert_eq '' 'left_over'
assert_eq '' 'virsh -q list --all --name | sed "/^$/d"'
assert 'settled "[ \"\$(jq -c .problems /run/virt-vgpu/daemon.json)\" = \"[]\" ]"'
