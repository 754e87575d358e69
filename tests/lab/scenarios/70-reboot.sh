# A reboot of the lab host: claims disappear with their devices; VMs with autostart get new devices, and so
# do VMs that are started by hand.
# needs: product
# deadline: 600
# gate
on_lab 'create_pool cad --type nvidia-232 --device $T4A
	attached_vm ws1 cad; attached_vm ws2 cad
	virsh -q autostart ws1
	start_vm ws1'
# There was also a claim of a VM without autostart.
on_lab 'sed "s/ws1/ws2/; s/$(virsh -q domuuid ws1)/$(virsh -q domuuid ws2)/" $(claim_of ws1) > $(claim_of ws2)
	sync'
reboot_lab
assert 'wait_until "test \"\$(state_of ws1)\" = running" 60'
assert_eq "$(on_lab 'device_uuid ws1') 0000:3b:00.0 nvidia-232" 'devices'
assert_eq '["ws1","in-use"] 3 0' \
	'virt-vgpu status --json | jq -r "\"\(.claims[] | [.domain, .state] | tojson) \(.pools[0].free) \(.problems | length)\""'
assert_eq "$(on_lab 'cat /proc/sys/kernel/random/boot_id')" 'jq -r .boot_id $(claim_of ws1)'
assert_eq '' 'systemctl --failed --plain --no-legend'
on_lab 'start_vm ws2; virsh -q destroy ws1'
assert_eq "$(on_lab 'device_uuid ws2') 0000:3b:00.0 nvidia-232" 'devices'
