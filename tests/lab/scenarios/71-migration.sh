# Live migration to a second host whose pool has another board: the same UUID there, nothing left here; if
# nothing fits there, the VM stays here.
# needs: product peer
# deadline: 600
# gate
on_lab 'create_pool cad --type nvidia-232 --device $T4A
	attached_vm ws1 cad; attached_vm ws2 cad
	start_vm ws1'
on_peer 'create_pool cad --type nvidia-232 --device $T4C --instances 1'
uuid=$(on_lab 'device_uuid ws1')
crc=$(on_lab "cat \$SIM/vgpus/$uuid/framebuffer_crc")

on_lab "virsh -q migrate --live --persistent --undefinesource ws1 $(migrate_arguments)"
assert_eq '' 'left_over'
assert_eq 'ws2' 'virsh -q list --all --name | sed /^$/d'
same 'the device there' "$uuid 0000:86:00.0 nvidia-232" "$(on_peer devices)"
same 'its contents' "$crc" "$(on_peer "cat \$SIM/vgpus/$uuid/framebuffer_crc")"
same 'the claim there' 'ws1 committed prepare true cad 0000:86:00.0' \
	"$(on_peer 'jq -r "[.domain_name, .state, .origin, .launched, .devices[0].pool, .devices[0].parent] | join(\" \")" /run/virt-vgpu/claims/*')"
same 'what is logged there' "2dcbce7b88c946e285aa25efc5c795fa migrate begin domain 'ws1': made nvidia-232 on 0000:86:00.0 as 'gpu0' from pool 'cad'" \
	"$(on_peer 'events MESSAGE_ID OPERATION MESSAGE')"
assert_eq '1e2adc4f567e41468802f45711b825b0' 'events MESSAGE_ID | tail -n 1'

# Nothing fits there.
on_lab 'start_vm ws2'
uuid2=$(on_lab 'device_uuid ws2')
refuse_with "virsh migrate --live ws2 $(migrate_arguments)" \
	"$(refusal_of ws2 migrate "pool 'cad' has no free nvidia-232 for domain 'ws2': 1 of at most 1 instances are in use; see 'virt-vgpu status'")"
assert_eq 'running in-use' 'echo $(state_of ws2) $(virt-vgpu status --json | jq -r ".claims[].state")'
assert_eq "$uuid2 0000:3b:00.0 nvidia-232" 'devices'
same 'the other VM there' "$uuid 0000:86:00.0 nvidia-232" "$(on_peer devices)"

# The VM that moved works there: it stops, and starts again from its definition.
on_peer 'virsh -q destroy ws1'
same 'left over there' '' "$(on_peer left_over)"
on_peer 'start_vm ws1'
same 'the device there' "$uuid 0000:86:00.0 nvidia-232" "$(on_peer devices)"
