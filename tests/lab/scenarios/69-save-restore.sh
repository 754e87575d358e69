# Saved states: the device goes back, and the same UUID is made again wherever it fits. If it does not
# fit, the state is kept for later: a hook that failed at libvirt's `restore` would lose it.
# needs: product
# deadline: 400
# gate
on_lab 'create_pool cad --type nvidia-232 --device $T4A --device $T4B
	attached_vm ws1 cad; start_vm ws1'
uuid=$(on_lab 'device_uuid ws1')
assert_eq "$uuid 0000:3b:00.0 nvidia-232" 'devices'
crc=$(on_lab "cat \$SIM/vgpus/$uuid/framebuffer_crc")

on_lab 'virsh -q managedsave ws1'
assert_eq '' 'left_over'
# It fits only on the other board.
on_lab 'create_mdev $T4A nvidia-231 $(uuid 1)
	start_vm ws1'
assert_eq "$uuid 0000:5e:00.0 nvidia-232" 'devices | grep -v ^1111'
assert_eq "$crc" "cat \$SIM/vgpus/$uuid/framebuffer_crc"
assert_eq 'running committed prepare true' \
	'echo $(state_of ws1) $(jq -r "[.state, .origin, .launched] | join(\" \")" $(claim_of ws1))'

on_lab 'virsh -q managedsave ws1
	create_mdev $T4B nvidia-231 $(uuid 2)'
line="pool 'cad' has no free nvidia-232 for domain 'ws1': 0000:3b:00.0, 0000:5e:00.0: no nvidia-232 left; see 'virt-vgpu explain ws1'"
refuse_start ws1 "$line"
assert_eq 'yes' 'virsh dominfo ws1 | sed -n "s/^Managed save: *//p"'
on_lab 'remove_mdev $(uuid 2); start_vm ws1'
assert_eq "$crc" "cat \$SIM/vgpus/$uuid/framebuffer_crc"
assert_eq 'no' 'virsh dominfo ws1 | sed -n "s/^Managed save: *//p"'

# The same with a save file.
file=/var/lib/libvirt/qemu/save/ws1.by-hand
on_lab "virsh -q save ws1 $file
	create_mdev \$T4B nvidia-231 \$(uuid 2)"
assert_eq '' "devices | grep -v ^1111 || true"
refuse_with "virsh restore $file" "error: Failed to restore domain from $file
$(refusal_of ws1 prepare "$line")"
assert_eq 'shut off' 'state_of ws1'
on_lab "remove_mdev \$(uuid 1); virsh -q restore $file; rm $file"
assert_eq "running $crc" "echo \$(state_of ws1) \$(cat \$SIM/vgpus/$uuid/framebuffer_crc)"
assert_eq "$uuid 0000:3b:00.0 nvidia-232" 'devices | grep -v ^1111'
on_lab 'virsh -q destroy ws1'
assert_eq '11111111-2222-4333-8444-000000000002 0000:5e:00.0 nvidia-231' 'devices'
assert_eq '' 'ls /run/virt-vgpu/claims'
