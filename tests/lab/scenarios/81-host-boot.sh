# GPUs are set up at boot before libvirt starts domains, and whenever one appears later.
# needs: product
# deadline: 900
# gate
a=0000:3b:00.0 b=0000:5e:00.0
on_lab "write_vgpu_pool cad $a 'heterogeneous = true'; write_vgpu_pool web $b 'heterogeneous = true'
	echo 'options virt_vgpu_sim boards=l40s@$a/0,l40s@$b/0,l40s@0000:86:00.0/1 framework=vendor-vfio' > /etc/modprobe.d/zz-lab-boot.conf
	sync"
reboot_lab
assert 'wait_until "systemctl -q is-active multi-user.target" 180'
set='echo $(functions_of %s) $(mode_of %s)'
# shellcheck disable=SC2059
state() { printf "$set" "$1" "$1"; }
assert_eq '32 Enabled' "$(state $a)"
assert_eq '32 Enabled' "$(state $b)"
assert_eq '0 Disabled' "$(state 0000:86:00.0)"
assert_eq '' 'systemctl --failed --plain --no-legend'
assert_eq 'success' 'systemctl show -P Result virt-vgpu-host.service'
assert 'systemctl -q is-active libvirtd'
assert 'started=$(systemctl show -P ExecMainStartTimestampMonotonic libvirtd)
	ended=$(systemctl show -P ExecMainExitTimestampMonotonic virt-vgpu-host)
	echo "virt-vgpu-host $ended libvirtd $started" >&2
	((ended > 0 && ended <= started))'
assert_eq 'cad' "udevadm info /sys/bus/pci/devices/$a | sed -n 's/^E: ID_VIRT_VGPU_POOLS=//p'"
assert_eq 'cad' "udevadm info \$(readlink -f /sys/bus/pci/devices/$a/virtfn0) | sed -n 's/^E: ID_VIRT_VGPU_POOLS=//p'"
assert_eq '' "udevadm info /sys/bus/pci/devices/0000:86:00.0 | sed -n 's/^E: ID_VIRT_VGPU_POOLS=//p'"

# A board that comes back, and a driver that is loaded again.
on_lab "echo 0 > \$SIM/boards/$b/present; wait_until '! test -e /sys/bus/pci/devices/$b' 20
	echo 1 > \$SIM/boards/$b/present"
assert "wait_until '[ \"\$(functions_of $b) \$(mode_of $b)\" = \"32 Enabled\" ]' 60"
on_lab "udevadm settle; unload_boards; modprobe virt_vgpu_sim; systemctl restart nvidia-vgpud nvidia-vgpu-mgr"
assert "wait_until '[ \"\$(functions_of $a) \$(mode_of $a)\" = \"32 Enabled\" ]' 60"
assert "wait_until '[ \"\$(functions_of $b) \$(mode_of $b)\" = \"32 Enabled\" ]' 60"
on_lab 'rm /etc/virt-vgpu/pools.d/*'
