# A driver that does not release a device: the claim stays, the error is reported, and the device is freed
# later.
# needs: product
# gate
on_lab 'create_pool cad --type nvidia-232 --device $T4A
	attached_vm ws1 cad; start_vm ws1'
vm=$(on_lab 'virsh -q domuuid ws1')
uuid=$(on_lab 'device_uuid ws1')
on_lab 'echo 20 EIO > $SIM/fail_remove
	virsh -q destroy ws1'
why="/sys/bus/mdev/devices/$uuid/remove: Input/output error (os error 5)"
assert_eq "$uuid 0000:3b:00.0 nvidia-232" 'devices'
assert_eq "{\"state\":\"releasing\",\"devices\":[{\"name\":\"gpu0\",\"pool\":\"cad\",\"kind\":\"mdev\",\"uuid\":\"$uuid\",\"parent\":\"0000:3b:00.0\",\"type\":\"nvidia-232\"}]}" \
	'jq -c "{state, devices} | .devices[] |= {name, pool, kind, uuid, parent, type}" $(claim_of ws1)'
assert_eq "stale 1 domain 'ws1' is not running but holds devices; run 'virt-vgpu reconcile'" \
	'virt-vgpu status --json | jq -r "[.claims[0].state, .pools[0].in_use, .problems[]] | join(\" \")"'
assert_eq "3 ws1 $uuid 72cf7eb663bd4aa5822523b0282530f4 domain 'ws1': device 'gpu0' cannot be given back yet: $why" \
	'events PRIORITY DOMAIN_NAME DEVICE MESSAGE_ID MESSAGE | grep 72cf | sort -u'
refuse_start ws1 "domain 'ws1' still has devices of an earlier run: device 'gpu0' cannot be given back yet: $why; see 'virt-vgpu status'"
refuse_with 'virt-vgpu reconcile' "ws1 ($vm): NOT freed: a device could not be removed
  $uuid on 0000:3b:00.0: kept: $why"

# A driver that reports success and leaves the device is noticed.
on_lab 'echo 1 OK > $SIM/fail_remove'
said=$(refuse 'virt-vgpu reconcile')
[[ $said == *"still exists after writing to /sys/bus/mdev/devices/$uuid/remove" ]] || fail "reconcile said: $said"

assert_eq "ws1 ($vm): freed: the domain is not running
  $uuid on 0000:3b:00.0: removed" 'virt-vgpu reconcile'
assert_eq '' 'left_over'
assert_eq 'no claims: nothing to free' 'virt-vgpu reconcile'

# The board disappears from the bus under a running VM: everything is removed when the VM ends, and the
# board can come back.
on_lab 'start_vm ws1
	in_background removal "echo 0 > $SIM/boards/$T4A/present"
	wait_until "! test -e /sys/class/mdev_bus/$T4A" 10'
assert_eq "domain 'ws1': device 'gpu0' ($uuid) is not on 0000:3b:00.0 as claimed; shut the domain down and start it again" \
	'virt-vgpu status --json | jq -r ".problems[]"'
on_lab 'virsh -q destroy ws1
	wait_until "ended removal" 20'
assert 'wait_until "test -z \"\$(left_over)\"" 10'
refuse_start ws1 "pool 'cad' has no free nvidia-232 for domain 'ws1': no device on this host matches its rules; see 'virt-vgpu pool preview cad'"
on_lab 'echo 1 > $SIM/boards/$T4A/present
	start_vm ws1'
assert_eq "$uuid 0000:3b:00.0 nvidia-232" 'devices'
