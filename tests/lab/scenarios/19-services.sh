# No types before nvidia-vgpud has run, no VM without nvidia-vgpu-mgr; some versions remove an mdev
# themselves when its VM ends.
on_lab 'unload_boards; modprobe virt_vgpu_sim boards=$DEFAULT_BOARDS'
assert_eq '' 'ls /sys/class/mdev_bus'
on_lab 'udevadm monitor --kernel --property --subsystem-match=pci > /run/lab-uevents 2>&1 < /dev/null & echo $! > /run/lab-monitor
	wait_until "grep -q ^monitor /run/lab-uevents" 10
	systemctl start nvidia-vgpud; udevadm settle; kill $(cat /run/lab-monitor)'
assert_eq 'inactive' 'systemctl is-active nvidia-vgpud || true'
assert_eq '3' 'grep -c MDEV_STATE=registered /run/lab-uevents'
assert_eq '4' 'available $T4A nvidia-232'
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1); define_vm ws1 $(uuid 1)'
said=$(refuse 'virsh -q start ws1')
[[ $said == *'Input/output error'* ]] || fail "virsh said: $said"
on_lab 'systemctl start nvidia-vgpu-mgr; start_vm ws1; virsh -q destroy ws1'
assert 'wait_until "journalctl -q -u nvidia-vgpu-mgr --after-cursor=\"$(cat /run/lab-cursor)\" | has \"$(uuid 1): stopped\"" 10'

on_lab 'echo SELF_REMOVE=1 > /etc/default/nvidia-vgpu-mgr; systemctl restart nvidia-vgpu-mgr; start_vm ws1; virsh -q destroy ws1
	wait_until "[ -z \"\$(mdevs)\" ]" 10
	rm /etc/default/nvidia-vgpu-mgr; systemctl restart nvidia-vgpu-mgr'
