# GPU instances at boot: there before libvirt starts its domains, on each of two GPUs, and a GPU whose wishes
# do not fit costs the other nothing.
# needs: product
# deadline: 900
a=0000:3b:00.0 b=0000:5e:00.0
on_lab "unload_boards; load_boards rtx-pro-6000@$a/0,h100@$b/0 framework=vendor-vfio
	virt-vgpu pool create half --profile DC-2-12Q --gpu-instances 1 --device $a > /dev/null
	virt-vgpu pool create slices --profile H100-1-10C --gpu-instances 2 --device $b > /dev/null
	virt-vgpu host apply --all
	attached_vm ws1 half; attached_vm ws2 slices; virsh -q autostart ws1; virsh -q autostart ws2
	echo 'options virt_vgpu_sim boards=rtx-pro-6000@$a/0,h100@$b/0 framework=vendor-vfio' > /etc/modprobe.d/zz-lab-boot.conf
	sync"
reboot_lab
assert 'wait_until "systemctl -q is-active multi-user.target" 180'
assert_eq '1 2' "for gpu in $a $b; do nvidia-smi mig -lgi -i \$gpu | grep -c 'MIG [0-9]'; done | paste -sd' '"
assert_eq '' 'systemctl --failed --plain --no-legend'
assert 'wait_until "[ \"\$(virsh -q list --name | sort | xargs)\" = \"ws1 ws2\" ]" 120'
on_lab 'virsh -q destroy ws1; virsh -q destroy ws2'
# More than fits.
on_lab "sed -i 's/^gpu-instances .*/gpu-instances = 3/' /etc/virt-vgpu/pools.d/half.toml; sync"
reboot_lab
assert 'wait_until "systemctl -q is-active multi-user.target" 180'
assert_eq '2' "nvidia-smi mig -lgi -i $b | grep -c 'MIG [0-9]'"
assert_eq '1' "journalctl -b -u virt-vgpu-host.service -o cat | grep -c \"^$a: FAILED: its GPU instances cannot be as its pools need them: pool 'half' needs 3 × 2g.48gb+gfx, and this GPU can have 2\""
assert 'wait_until "[ \"\$(state_of ws2)\" = running ]" 120'
on_lab 'rm /etc/virt-vgpu/pools.d/*; for vm in ws1 ws2; do virsh -q destroy $vm || true; virsh -q undefine $vm; done'
