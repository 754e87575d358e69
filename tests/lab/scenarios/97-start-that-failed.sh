# A start that fails against a driver slower than the hook leaves a claim, of which libvirt tells nobody:
# virt-vgpud takes it away all the same, before it is in anybody's way.
# needs: product
on_lab 'create_pool cad --type nvidia-232 --device $T4A
	attached_vm ws1 cad
	start_daemon
	echo 1 25000 > $SIM/delay_create'
refuse 'virsh start ws1' > /dev/null
assert_eq 'releasing' 'jq -r .state $(claim_of ws1)'
# Two ticks of the daemon at most, the first of which may find the driver still at work.
assert 'wait_until "test -z \"\$(left_over)\"" 150'
assert_eq '' 'virt-vgpu status --json | jq -r ".problems[]"'
assert_eq '4' 'available $T4A nvidia-232'
