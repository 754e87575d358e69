# The main job: a start makes the VM's device, a stop removes it, and each step is visible.
# needs: product
# hosts: uml emulated
# gate
on_lab 'create_pool cad --type "GRID T4-4Q" --device $T4A
	attached_vm ws1 cad'
vm=$(on_lab 'virsh -q domuuid ws1')
uuid=$(on_lab 'device_uuid ws1')
# A definition needs no device.
assert_eq '' 'left_over'

on_lab 'start_vm ws1'
assert_eq "$uuid 0000:3b:00.0 nvidia-232" 'devices'
assert_eq "sysfsdev = \"/sys/bus/mdev/devices/$uuid\"" \
	'virsh qemu-monitor-command ws1 --hmp "info qtree" | tr -d "\r" | sed -n "s/^ *\(sysfsdev\)/\1/p"'
assert_eq '1' "cat \$SIM/vgpus/$uuid/open"
assert 'grep -q "^libvirt-.* (enforce)" /proc/$(qemu_pid ws1)/attr/current'
assert_eq "{\"version\":1,\"domain\":\"$vm\",\"domain_name\":\"ws1\",\"state\":\"committed\",\"origin\":\"prepare\",\"launched\":true,\"daemon\":null,\"devices\":[{\"name\":\"gpu0\",\"pool\":\"cad\",\"kind\":\"mdev\",\"uuid\":\"$uuid\",\"handle\":\"$uuid\",\"parent\":\"0000:3b:00.0\",\"board\":\"0000:3b:00.0\",\"type\":\"nvidia-232\"}]}" \
	'jq -c "del(.boot_id, .since_boot_ms, .run) | .devices[] |= {name, pool, kind, uuid, handle, parent, board, type}" $(claim_of ws1)'
assert_eq "$(on_lab "basename \$(readlink /sys/bus/mdev/devices/$uuid/iommu_group)" | sed 's:^:/dev/vfio/:')" \
	'jq -r ".devices[0].nodes[]" $(claim_of ws1) | grep -v /dev/vfio/devices/'
assert_eq "$(on_lab 'cat /proc/sys/kernel/random/boot_id')" 'jq -r .boot_id $(claim_of ws1)'
assert_eq "{\"pools\":[{\"name\":\"cad\",\"type\":\"GRID T4-4Q\",\"parents\":1,\"in_use\":1,\"free\":3,\"exact\":true,\"instances\":0}],\"claims\":[{\"domain\":\"ws1\",\"domain_uuid\":\"$vm\",\"state\":\"in-use\",\"reason\":\"domain 'ws1' is running\",\"devices\":[{\"name\":\"gpu0\",\"pool\":\"cad\",\"uuid\":\"$uuid\",\"parent\":\"0000:3b:00.0\",\"type\":\"nvidia-232\",\"present\":true,\"guest\":{\"driver_loaded\":false}}]}],\"problems\":[]}" \
	'virt-vgpu status --json | jq -c .'
assert_eq "domain 'ws1' has its devices" 'virt-vgpu explain ws1 | sed -n 1p'

on_lab 'virsh -q destroy ws1'
assert_eq '' 'left_over'
assert_eq '4' 'available $T4A nvidia-232'
assert_eq '{"in_use":0,"free":4} 0 0' \
	'virt-vgpu status --json | jq -r "\"\(.pools[0] | {in_use, free}) \(.claims | length) \(.problems | length)\""'

# The journal: an id and fields to select by, and a plain message for people.
fields='SYSLOG_IDENTIFIER PRIORITY DOMAIN_UUID DOMAIN_NAME POOL DEVICE DEVICE_NAME PARENT MESSAGE_ID MESSAGE'
assert_eq "virt-vgpu-hook 5 $vm ws1 cad $uuid gpu0 0000:3b:00.0 2dcbce7b88c946e285aa25efc5c795fa domain 'ws1': made nvidia-232 on 0000:3b:00.0 as 'gpu0' from pool 'cad'
virt-vgpu-hook 5 $vm ws1 cad $uuid gpu0 0000:3b:00.0 1e2adc4f567e41468802f45711b825b0 domain 'ws1': removed nvidia-232 from 0000:3b:00.0 ('gpu0' of pool 'cad')" \
	"events $fields"

# A guest that shuts itself down gives the device back too: a boot sector that does only that.
on_lab 'off=/var/lib/libvirt/images/off.img
	printf "\xba\x04\x06\xb8\x00\x20\xef\xf4" > $off
	truncate -s 510 $off
	printf "\x55\xaa" >> $off
	truncate -s 10M $off
	vm_xml ws2 | sed "s:<devices>:&<disk type=\"file\"><source file=\"$off\"/><target dev=\"sda\" bus=\"sata\"/></disk>:" > /run/ws2.xml
	virsh -q define /run/ws2.xml
	virt-vgpu attach ws2 --pool cad > /dev/null
	start_vm ws2'
assert 'wait_until "test \"\$(state_of ws2)\" = \"shut off\"" 30'
assert_eq 'shut off (shutdown)' 'virsh -q domstate --reason ws2'
assert 'wait_until "test -z \"\$(left_over)\"" 10'
assert_eq '2dcbce7b88c946e285aa25efc5c795fa 1e2adc4f567e41468802f45711b825b0' \
	'events MESSAGE_ID | tail -n 2 | paste -sd" "'
