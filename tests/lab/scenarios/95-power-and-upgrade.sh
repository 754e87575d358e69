# A reboot, a power cut, restarts of libvirtd and the daemon, an upgrade of the package: running VMs go on,
# VMs with autostart start, and nothing is left over.
# needs: product
# deadline: 900
# gate
on_lab 'create_pool cad --type nvidia-232 --device $T4A
	systemctl enable virt-vgpud 2> /dev/null; start_daemon
	for vm in ws1 ws2 ws3; do define_vm $vm; ask $vm cad; done'
assert 'settled "[ -n \"\$(placeholder_of ws1)\" ] && [ -n \"\$(placeholder_of ws2)\" ] && [ -n \"\$(placeholder_of ws3)\" ]"'
on_lab 'virsh -q autostart ws1; start_vm ws1; start_vm ws2'
both=$(on_lab 'devices')
running() {
	assert_eq "$both" 'devices'
	assert_eq 'running running' 'echo $(state_of ws1) $(state_of ws2)'
	assert_eq "$pids" 'echo $(qemu_pid ws1) $(qemu_pid ws2)'
	assert_eq '2 []' 'virt-vgpu status --json | jq -r "\"\(.claims | length) \(.problems)\""'
}
pids=$(on_lab 'echo $(qemu_pid ws1) $(qemu_pid ws2)')
running

# Clean and hard restarts: QEMU does not notice, and work continues.
on_lab 'systemctl restart libvirtd; systemctl restart virt-vgpud; systemctl kill -s KILL libvirtd'
assert 'wait_until "virsh -q list > /dev/null" 30'
assert 'wait_until "[ \"\$(jq .connected /run/virt-vgpu/daemon.json)\" = true ]" 60'
running
on_lab 'ask ws3 cad gpu0 gpu1'
assert 'settled "[ -n \"\$(placeholder_of ws3 gpu1)\" ]"'
on_lab 'ask ws3 cad'
assert 'settled "[ -z \"\$(placeholder_of ws3 gpu1)\" ]"'

# The package is installed over itself while VMs run: the daemon is the new one, nothing else happens.
# (The image's policy-rc.d prevents packages from starting services.)
daemon=$(on_lab 'rm -f /usr/sbin/policy-rc.d; systemctl show -P MainPID virt-vgpud')
on_lab 'DEBIAN_FRONTEND=noninteractive dpkg -i /var/tmp/virt-vgpu.deb > /dev/null 2>&1'
[[ $(on_lab 'systemctl show -P MainPID virt-vgpud') != "$daemon" ]] || fail 'the daemon was not restarted'
assert 'wait_until "[ \"\$(jq .connected /run/virt-vgpu/daemon.json)\" = true ]" 60'
running
assert_eq 'enabled active' 'echo $(systemctl is-enabled virt-vgpud) $(systemctl is-active virt-vgpud)'
# Removed and installed again: VMs go on; without the hook no VM with a device can start.
on_lab 'dpkg -r virt-vgpu > /dev/null 2>&1'
assert_eq "$both" 'devices'
assert_eq 'inactive' 'systemctl is-active virt-vgpud || true'
on_lab 'DEBIAN_FRONTEND=noninteractive dpkg -i /var/tmp/virt-vgpu.deb > /dev/null 2>&1'
assert 'wait_until "[ \"\$(jq .connected /run/virt-vgpu/daemon.json)\" = true ]" 60'
running

# A VM that is stopped by the host's shutdown, and one with autostart.
on_lab 'sync'
reboot_lab
assert 'wait_until "test \"\$(state_of ws1)\" = running" 90'
assert_eq "$(on_lab 'device_uuid ws1') 0000:3b:00.0 nvidia-232" 'devices'
assert_eq 'shut off' 'state_of ws2'
assert 'wait_until "[ \"\$(jq .connected /run/virt-vgpu/daemon.json)\" = true ]" 60'
on_lab 'start_vm ws2'

# A power cut: nothing is shut down.
on_lab 'start_vm ws3; sync'
cut_power
assert 'wait_until "test \"\$(state_of ws1)\" = running" 90'
assert_eq "$(on_lab 'device_uuid ws1') 0000:3b:00.0 nvidia-232" 'devices'
assert_eq "$(on_lab 'virsh -q domuuid ws1').json" 'ls /run/virt-vgpu/claims'
assert 'wait_until "[ \"\$(jq .connected /run/virt-vgpu/daemon.json)\" = true ]" 60'
assert_eq '[]' 'virt-vgpu status --json | jq -c .problems'
on_lab 'start_vm ws3; virsh -q destroy ws1; virsh -q destroy ws3'
assert_eq '' 'left_over'
assert_eq '' 'systemctl --failed --plain --no-legend'
