# Drivers that refuse or hang: another board is used; if there is none, virsh shows the reason; devices that
# a late driver makes are removed again.
# needs: product
on_lab 'create_pool cad --type nvidia-232 --device $T4A --device $T4B
	attached_vm ws1 cad'
uuid=$(on_lab 'device_uuid ws1')

on_lab 'echo 1 EIO > $SIM/boards/$T4A/fail_create
	start_vm ws1'
assert_eq "$uuid 0000:5e:00.0 nvidia-232" 'devices'
assert_eq "4 ws1 0000:3b:00.0 4f18f3cd4b3a47f4af9e302d8922ee0a domain 'ws1': /sys/class/mdev_bus/0000:3b:00.0/mdev_supported_types/nvidia-232/create: Input/output error (os error 5); looking for another device" \
	'events PRIORITY DOMAIN_NAME PARENT MESSAGE_ID MESSAGE | grep ^4'
on_lab 'virsh -q destroy ws1'

on_lab 'echo 1 EIO > $SIM/boards/$T4A/fail_create
	echo 1 ENOSPC > $SIM/boards/$T4B/fail_create'
refuse_start ws1 "pool 'cad' has no free nvidia-232 for domain 'ws1': 0000:3b:00.0: create failed: Input/output error (os error 5); 0000:5e:00.0: create failed: No space left on device (os error 28); see 'virt-vgpu explain ws1'"
assert_eq '' 'left_over'

# Longer than the hook's deadline: refused in time. The driver's late device is removed when it appears, and
# its claim at the next start.
on_lab 'echo 1 30000 > $SIM/boards/$T4A/delay_create'
ms=$(on_lab 'elapsed_ms "virsh start ws1 > /run/lab-said 2>&1 || true"')
((ms < 25000 * $(slow_host "$NAME"))) || fail "refused after $ms ms"
said=$(on_lab 'cat /run/lab-said')
[[ $said == *"no answer from the driver within "*" s: it could not be undone yet ("*"); 'virt-vgpu reconcile' tries again" ]] ||
	fail "virsh said: $said"
assert_eq 'releasing' 'jq -r .state $(claim_of ws1)'
# It is also reported that the driver does not answer, as long as the GPU is not asked again.
assert_eq "domain 'ws1' is not running but holds devices; run 'virt-vgpu reconcile'" \
	'virt-vgpu status --json | jq -r ".problems[] | select(contains(\"does not answer\") | not)"'
assert "wait_until '! test -e /sys/devices/pci0000:3b/\$T4A/$uuid && ! hook_processes' 40"
assert_eq '4 4' 'echo $(available $T4A nvidia-232) $(available $T4B nvidia-232)'
on_lab 'start_vm ws1'
assert_eq "$uuid 0000:3b:00.0 nvidia-232" 'devices'
