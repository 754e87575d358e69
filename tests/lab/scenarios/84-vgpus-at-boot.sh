# Legacy mdev and vendor-specific VFIO on one host: from a device to a VM with autostart at boot.
# needs: product
# deadline: 900
t=0000:3b:00.0 l=0000:5e:00.0
boards="boards=t4@$t/0,l40s@$l/1 framework=vendor-vfio"
# shellcheck disable=SC2086
on_lab "unload_boards; load_boards ${boards#boards=}
	echo 'options virt_vgpu_sim $boards' > /etc/modprobe.d/zz-lab-boot.conf
	create_pool desk --profile T4-4Q --device $t
	create_pool cad --profile L40S-12Q --device $l
	printf '%s\n' '[defaults]' 'frame-rate-limit = 0' 'console-vnc = false' | tee -a /etc/virt-vgpu/pools.d/desk.toml /etc/virt-vgpu/pools.d/cad.toml > /dev/null
	virt-vgpu pool check
	virt-vgpu host apply --all
	attached_vm ws1 desk; attached_vm ws2 cad
	virsh -q autostart ws1; virsh -q autostart ws2
	start_vm ws1; start_vm ws2"
f=$(on_lab 'function_of ws2')
served() {
	assert "wait_until 'virsh qemu-monitor-command ws1 --hmp \"info pci\" | grep 10de:1eb8' 20"
	assert "wait_until 'virsh qemu-monitor-command ws2 --hmp \"info pci\" | grep 10de:26b9' 20"
	assert_eq "$(on_lab 'device_uuid ws1') $t nvidia-232" 'devices'
	assert_eq 'frame_rate_limiter=0,disable_vnc=1' 'cat /sys/bus/mdev/devices/$(device_uuid ws1)/nvidia/vgpu_params'
	assert_eq 'frame_rate_limiter=0,disable_vnc=1' "cat /sys/bus/pci/devices/$f/nvidia/vgpu_params"
	assert_eq '[["cad",1,3,true],["desk",1,3,true]]' 'virt-vgpu status --json | jq -c "[.pools[] | [.name, .in_use, .free, .exact]]"'
}
served
on_lab 'virsh -q destroy ws1; virsh -q destroy ws2'
assert_eq '0' "vf_type $f"
assert_eq '' 'left_over'
on_lab 'start_vm ws1; start_vm ws2; sync'
reboot_lab
assert 'wait_until "test \"\$(state_of ws1) \$(state_of ws2)\" = \"running running\"" 120'
served
assert_eq '' 'systemctl --failed --plain --no-legend'

# The GPU disappears from the bus under a running VM: leftovers are removed, and nothing else is touched.
on_lab "in_background removal 'echo 0 > \$SIM/boards/$l/present'"
on_lab 'virsh -q destroy ws2'
assert "wait_until '! test -e /sys/bus/pci/devices/$l' 30"
assert_eq "$(on_lab 'virsh -q domuuid ws1').json" 'ls /run/virt-vgpu/claims'
refuse_start ws2 "pool 'cad' has no free L40S-12Q for domain 'ws2': its XML names $f: it is not a virtual function of this host (see 'virt-vgpu host show'); 'virt-vgpu start ws2' looks for another"
on_lab "echo 1 > \$SIM/boards/$l/present"
assert "wait_until 'test -e /sys/bus/pci/devices/$f/nvidia/current_vgpu_type' 60"
on_lab 'start_vm ws2; virsh -q destroy ws2; virsh -q destroy ws1; rm /etc/virt-vgpu/pools.d/*'
