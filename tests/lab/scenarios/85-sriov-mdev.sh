# mdevs on virtual functions: concurrent starts until all are used, several in one VM, a reboot.
# needs: product
# deadline: 900
# hosts: uml emulated
# gate
gpu=0000:3b:00.0
on_lab "unload_boards; load_boards l40s@$gpu/0 framework=sriov-mdev
	echo 'options virt_vgpu_sim boards=l40s@$gpu/0 framework=sriov-mdev' > /etc/modprobe.d/zz-lab-boot.conf
	create_pool cad --profile L40S-24Q --device $gpu
	printf '[defaults]\nframe-rate-limit = 0\n' >> /etc/virt-vgpu/pools.d/cad.toml
	virt-vgpu host apply --all
	for vm in ws1 ws2 ws3 ws4; do attached_vm \$vm cad; done"
assert_eq '{"in_use":0,"free":2,"exact":true}' 'virt-vgpu status --json | jq -c ".pools[0] | {in_use, free, exact}"'
on_lab 'for vm in ws1 ws2 ws3 ws4; do virsh -q start $vm > /run/$vm.log 2>&1 & done; wait'
assert_eq '2' 'virsh -q list --name | grep -c ws'
assert_eq '2' "grep -l \"pool 'cad' has no free L40S-24Q for domain\" /run/ws?.log | wc -l"
assert_eq '{"in_use":2,"free":0,"exact":true}' 'virt-vgpu status --json | jq -c ".pools[0] | {in_use, free, exact}"'
assert_eq '2' 'devices | grep -c "nvidia-[0-9]*$"'
on_lab 'virsh -q list --name | while read -r vm; do [ -z "$vm" ] || virsh -q destroy "$vm"; done'
assert_eq '' 'left_over'

# Two of the same board and series in one VM, as NVIDIA requires.
on_lab "vgpu_pool web L40S-24A $gpu; define_vm ws5"
on_lab 'virt-vgpu attach ws5 --pool cad --count 2 > /dev/null'
said=$(refuse 'virt-vgpu attach ws5 --pool web')
[[ $said == *'the vGPUs of one VM must have the same series, but L40S-24Q and L40S-24A differ'* ]] || fail "it said: $said"
on_lab 'start_vm ws5'
assert_eq '2' 'devices | wc -l'
assert "wait_until 'test \$(virsh qemu-monitor-command ws5 --hmp \"info pci\" | grep -c 10de:26b9) = 2' 20"
for device in gpu0 gpu1; do
	assert_eq 'frame_rate_limiter=0' "cat /sys/bus/mdev/devices/\$(device_uuid ws5 $device)/nvidia/vgpu_params"
done
on_lab 'virsh -q destroy ws5; virsh -q autostart ws5; sync'
reboot_lab
assert 'wait_until "test \"\$(state_of ws5)\" = running" 120'
assert_eq '2' 'devices | wc -l'
on_lab 'virsh -q destroy ws5; rm /etc/virt-vgpu/pools.d/*'
assert_eq '' 'left_over'
