# Devices in pools have a property in udev's database, whenever they appear.
# needs: product
property() { printf "udevadm info %s | sed -n 's/^E: %s=//p'" "$1" "${2-ID_VIRT_VGPU_POOLS}"; }
board() { property "/sys/bus/pci/devices/$1"; }
units() { printf 'journalctl -q -u virt-vgpu-host@%s.service --after-cursor=$(cat /run/lab-cursor)' "$a"; }
a=0000:3b:00.0 b=0000:5e:00.0
assert 'udevadm verify --resolve-names=never /usr/lib/udev/rules.d/60-virt-vgpu.rules'
# Removes udev's data about the pools of other scenarios.
on_lab 'udevadm trigger --settle --action=add --subsystem-match=pci'
assert_eq '' "$(board $a)"

# A parent of mediated devices, and the devices made on it by anybody. Nothing is set up for it.
on_lab 'create_pool any --type nvidia-232 --device $T4A
	udevadm trigger --settle --action=add --subsystem-match=pci
	create_mdev $T4A nvidia-232 $(uuid 1); udevadm settle'
assert_eq 'any' "$(board $a)"
assert_eq '' "$(board $b)"
assert_eq 'any' "$(property "/sys/bus/mdev/devices/\$(uuid 1)")"
assert_eq '' "$(units)"
on_lab 'remove_mdev $(uuid 1)'

# A vGPU pool on the same board. The driver is unloaded and comes back late; its types appear even later.
on_lab "write_vgpu_pool cad $a; udevadm trigger --settle --action=add --subsystem-match=pci"
assert_eq 'any cad' "$(board $a)"
on_lab 'unload_boards; systemctl stop nvidia-vgpud; modprobe virt_vgpu_sim; udevadm settle'
assert_eq 'cad' "$(board $a)"
on_lab 'systemctl restart nvidia-vgpud nvidia-vgpu-mgr; udevadm settle'
assert_eq 'any cad' "$(board $a)"
assert "wait_until '$(units) | has Finished' 30"
on_lab 'rm /etc/virt-vgpu/pools.d/*; udevadm trigger --settle --action=add --subsystem-match=pci'
assert_eq '' "$(board $a)"

# Types of virtual functions that appear late: the GPU is set up again when its first function has them.
on_lab "unload_boards; systemctl stop nvidia-vgpud; modprobe virt_vgpu_sim boards=l40s@$a/0 framework=sriov-mdev
	echo sriov-mdev > /run/lab-boards; /usr/lib/nvidia/sriov-manage -e $a; udevadm settle; write_vgpu_pool cad $a"
before=$(on_lab "$(units) | grep -c Finished || true")
on_lab 'systemctl restart nvidia-vgpud nvidia-vgpu-mgr; udevadm settle'
assert_eq "$a" "$(property "\$(readlink -f /sys/bus/pci/devices/$a/virtfn0)" ID_VIRT_VGPU_FIRST_OF)"
assert_eq '' "$(property "\$(readlink -f /sys/bus/pci/devices/$a/virtfn1)" ID_VIRT_VGPU_FIRST_OF)"
assert "wait_until '[ \$($(units) | grep -c Finished) -gt $before ]' 60"
on_lab 'rm /etc/virt-vgpu/pools.d/*'
