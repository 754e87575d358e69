# The package is installed and removed while VMs run, and libvirtd notices without a restart.
# needs: product
# deadline: 400
# gate
install='DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --reinstall /var/tmp/virt-vgpu.deb > /run/apt.log 2>&1 || { cat /run/apt.log >&2; false; }'
on_lab 'create_pool cad --type nvidia-232 --device $T4A
	attached_vm ws1 cad; attached_vm ws2 cad
	start_vm ws1'
uuid=$(on_lab 'device_uuid ws1')
claim=$(on_lab 'cat $(claim_of ws1)')
running() {
	assert_eq "running $uuid 0000:3b:00.0 nvidia-232" 'echo $(state_of ws1) $(devices)'
	assert_eq "$claim" 'cat $(claim_of ws1)'
}

# Installed a second time, as in an upgrade.
on_lab "$install"
running

# A removal that fails leaves a daemon running. (The image's policy-rc.d prevents packages from stopping
# services.)
daemon=$(on_lab 'mv /usr/sbin/policy-rc.d /run/ 2> /dev/null || true; systemctl start virt-vgpud; systemctl show -P MainPID virt-vgpud')
on_lab 'echo "exit 1" >> /var/lib/dpkg/info/virt-vgpu.prerm'
refuse 'dpkg --remove virt-vgpu' > /dev/null
on_lab 'sed -i "\$d" /var/lib/dpkg/info/virt-vgpu.prerm'
assert 'systemctl -q is-active virt-vgpud'
[[ $(on_lab 'systemctl show -P MainPID virt-vgpud') != "$daemon" ]] || fail 'the removal did not stop the daemon'
on_lab 'systemctl stop virt-vgpud; mv /run/policy-rc.d /usr/sbin/ 2> /dev/null || true'
running

# Removed while a VM runs: it names the VMs that hold devices and touches none of them.
assert_eq 'virt-vgpu: these VMs hold devices, which stay until they are removed by hand or the host reboots:
  ws1' 'dpkg --remove virt-vgpu 2>&1 | sed -n "/^virt-vgpu:/,/^  /p"'
running
assert '! test -e /etc/libvirt/hooks/qemu.d/50-virt-vgpu && ! test -e /usr/sbin/virt-vgpu-hook && ! command -v virt-vgpu'
assert 'test -e /etc/virt-vgpu/pools.d/cad.toml'
# Without the hook, libvirt itself reports that the device is missing.
said=$(refuse 'virsh -q start ws2')
[[ $said == *"mediated device '$(on_lab 'device_uuid ws2')' not found"* ]] || fail "virsh said: $said"

# Installed again: the claim is recognised, and the device is given back.
on_lab "$install"
running
on_lab 'virsh -q destroy ws1'
assert_eq '' 'left_over'

# A libvirtd that started without any hook finds the first one.
on_lab 'dpkg --purge virt-vgpu > /dev/null 2>&1'
assert_eq '' 'find /etc/libvirt/hooks -type f -o -type l; dpkg --listfiles virt-vgpu 2> /dev/null || true'
libvirtd=$(on_lab 'systemctl restart libvirtd; systemctl show -P MainPID libvirtd')
on_lab "$install
	start_vm ws1"
assert_eq "$libvirtd" 'systemctl show -P MainPID libvirtd'
assert_eq "$uuid 0000:3b:00.0 nvidia-232" 'devices'
