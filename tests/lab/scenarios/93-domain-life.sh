# The devices of a domain that is cloned, renamed, snapshotted, saved, edited while it runs, or undefined:
# each case has one result.
# needs: product
# deadline: 900
on_lab 'create_pool cad --type "GRID T4-4Q" --device $T4A --device $T4B; start_daemon
	define_vm ws1; ask ws1 cad'
assert 'settled "[ \"\$(placeholder_of ws1)\" = \"\$(device_uuid ws1)\" ]"'

# virt-clone: another UUID, so other devices. Original and clone run at the same time.
on_lab 'virt-clone -q -o ws1 -n ws2 --auto-clone > /dev/null'
assert 'settled "[ \"\$(placeholder_of ws2)\" = \"\$(device_uuid ws2)\" ]"'
assert '[ "$(placeholder_of ws1)" != "$(placeholder_of ws2)" ]'
on_lab 'virsh -q start ws1 --paused; virsh -q start ws2 --paused'
assert_eq '2' 'devices | wc -l'
on_lab 'virsh -q destroy ws1; virsh -q destroy ws2'
assert_eq '' 'left_over'

# Cloned by hand, with the original's device UUID, and not yet corrected: refused with the next step, or corrected.
on_lab 'systemctl stop virt-vgpud
	virsh -q dumpxml --inactive ws1 | sed "s|<name>ws1|<name>ws3|; /<uuid>/d" > /run/ws3.xml; virsh -q define /run/ws3.xml'
ws3=$(on_lab 'device_uuid ws3')
refuse_start ws3 "domain 'ws3' asks for device 'gpu0' in its metadata but has no <hostdev> with UUID $ws3; virt-vgpud adds it a moment after the domain is defined, 'virt-vgpu sync ws3' by hand; then start it again"
assert_eq "ws3: corrected the hostdev of gpu0, which belonged to another domain" 'virt-vgpu sync ws3'
on_lab 'virsh -q start ws3 --paused; virsh -q destroy ws3; virsh -q undefine ws3; start_daemon'

# Renamed: the UUID is the same, and so are its devices.
on_lab 'virsh -q domrename ws2 ws2-new; virsh -q start ws2-new --paused'
assert_eq "$(on_lab 'device_uuid ws2-new')" 'devices | cut -d" " -f1'
assert_eq 'ws2-new' 'virt-vgpu status --json | jq -r ".claims[].domain"'
on_lab 'virsh -q destroy ws2-new; virsh -q domrename ws2-new ws2'
assert_eq '' 'left_over'

# Snapshots of a stopped domain: reverting restores metadata and placeholder.
on_lab 'qemu-img create -q -f qcow2 /var/lib/libvirt/images/snap.qcow2 1M
	virsh -q attach-disk ws2 /var/lib/libvirt/images/snap.qcow2 sda --targetbus sata --subdriver qcow2 --config
	virsh -q snapshot-create-as ws2 with-device > /dev/null
	virsh -q metadata ws2 urn:virt-vgpu:devices:1 --config --remove'
assert 'settled "[ -z \"\$(placeholder_of ws2)\" ]"'
on_lab 'virsh -q snapshot-create-as ws2 without > /dev/null; virsh -q snapshot-revert ws2 with-device'
assert 'settled "[ \"\$(placeholder_of ws2)\" = \"\$(device_uuid ws2)\" ]"'
on_lab 'virsh -q start ws2 --paused'
assert_eq "$(on_lab 'device_uuid ws2')" 'devices | cut -d" " -f1'
# With its memory (where QEMU and the driver can): reverting recreates the device for that state.
on_lab 'virsh -q snapshot-create-as ws2 running > /dev/null; virsh -q destroy ws2'
assert_eq '' 'left_over'
on_lab 'virsh -q snapshot-revert ws2 running'
assert_eq "paused $(on_lab 'device_uuid ws2')" 'echo $(state_of ws2) $(devices | cut -d" " -f1)'
# Reverting to the snapshot without memory: libvirt stops the VM, and its device is given back.
on_lab 'virsh -q snapshot-revert ws2 without'
assert_eq 'shut off' 'state_of ws2'
assert 'settled "[ -z \"\$(left_over)\" ]"'
assert_eq '' 'placeholder_of ws2'
on_lab 'virsh -q snapshot-revert ws2 with-device'
assert 'settled "[ -n \"\$(placeholder_of ws2)\" ]"'

# Edited while it runs (virsh edit defines): the run keeps its device, the next start uses the edit.
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

# A managed save contains the XML of that time; its device is given back, and recreated when the domain is
# resumed.
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
