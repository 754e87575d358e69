# A start that fails because its driver is slower than the hook leaves a claim that libvirt does not report.
# virt-vgpud removes the claim before it gets in the way.
# needs: product
on_lab 'create_pool cad --type nvidia-232 --device $T4A
	attached_vm ws1 cad
	start_daemon
	echo 1 25000 > $SIM/delay_create'
refuse 'virsh start ws1' > /dev/null
assert_eq 'releasing' 'jq -r .state $(claim_of ws1)'
# At most two ticks of the daemon; at the first one the driver may still be working.
assert 'wait_until "test -z \"\$(left_over)\"" 150'
assert_eq '' 'virt-vgpu status --json | jq -r ".problems[]"'
assert_eq '4' 'available $T4A nvidia-232'
