# A process that cannot be examined has a device open: nothing is freed, and the kernel's group shows which
# device is in use. Without CAP_SYS_PTRACE root cannot see other root processes' open files.
# needs: product
on_lab 'create_pool cad --type nvidia-232 --device $T4A
	attached_vm ws1 cad; start_vm ws1'
vm=$(on_lab 'virsh -q domuuid ws1')
uuid=$(on_lab 'device_uuid ws1')
group=$(on_lab "basename \$(readlink /sys/bus/mdev/devices/$uuid/iommu_group)")
blind='setpriv --bounding-set=-sys_ptrace virt-vgpu'

# QEMU itself, recognised by libvirt's data about it.
said=$(on_lab "$blind reconcile --grace 0")
[[ $said == "ws1 ($vm): in use: domain 'ws1' is running"* ]] || fail "reconcile said: $said"

# Its VM is gone, and another process has opened the device that the driver would not release.
on_lab 'echo 20 EIO > $SIM/fail_remove
	systemctl stop virt-vgpud
	virsh -q destroy ws1
	echo 0 OK > $SIM/fail_remove'
on_lab "mkfifo /run/end
	in_background holder 'exec 3<> /dev/vfio/$group; echo open > /run/holder; read _ < /run/end'
	wait_until 'test -s /run/holder' 10"
said=$(on_lab "$blind reconcile --grace 0")
[[ $said == "ws1 ($vm): in doubt, kept: process "*" cannot be looked at (/proc/"*"Permission denied"*"; somebody has /dev/vfio/$group open"* ]] ||
	fail "reconcile said: $said"
assert_eq "$uuid 0000:3b:00.0 nvidia-232" 'devices'
assert_eq unknown "$blind status --json | jq -r '.claims[0].state'"

# It closes the device: the group can be opened, so no process has the device, not even a hidden one.
on_lab 'echo > /run/end; wait_until "ended holder" 10'
assert_eq "ws1 ($vm): freed: the domain is not running
  $uuid on 0000:3b:00.0: removed" "$blind reconcile --grace 0"
assert_eq '' 'left_over'
