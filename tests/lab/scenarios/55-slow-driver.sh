# A GPU whose driver hangs inside its lock does not delay starts on another GPU, commands that show the
# state, or giving devices back. The GPU is named.
# needs: product
on_lab 'create_pool cad --type nvidia-232 --device $T4A --device $T4B
	for vm in ws1 ws2 ws3; do attached_vm $vm cad; done
	start_vm ws1'
first=$(on_lab 'device_uuid ws1')
assert_eq "$first 0000:3b:00.0 nvidia-232" 'devices'
hangs="the driver of 0000:3b:00.0 does not answer"

# A process that asks that board sleeps uninterruptibly; requests behind it wait.
on_lab 'echo 1 40000 > $SIM/boards/$T4A/delay_read
	in_background sleeper "cat /sys/class/mdev_bus/$T4A/mdev_supported_types/nvidia-232/available_instances"
	wait_until "grep -q ^0 $SIM/boards/$T4A/delay_read" 10
	start_vm ws2'
second=$(on_lab 'device_uuid ws2')
assert_eq "$second 0000:5e:00.0 nvidia-232" 'devices | grep 0000:5e'
assert "virt-vgpu status --json | jq -e '.problems[] | select(contains(\"$hangs\"))'"
assert "virt-vgpu devices --kind mdev --json | jq -e '.devices[] | select(.problem // \"\" | contains(\"$hangs\"))'"
on_lab 'virsh -q destroy ws2'
assert 'wait_until "test \"\$(devices | wc -l)\" = 1" 10'
on_lab 'start_vm ws3'
third=$(on_lab 'device_uuid ws3')
assert_eq "$third 0000:5e:00.0 nvidia-232" 'devices | grep 0000:5e'
assert '! ended sleeper'

# When the driver answers again, the GPU is used again, and everything is given back.
assert 'wait_until "ended sleeper" 60'
on_lab 'virsh -q destroy ws1; virsh -q destroy ws3'
assert 'wait_until "test -z \"\$(left_over)\"" 60'
assert 'wait_until "virt-vgpu status --json | jq -e \".problems == []\"" 30'
