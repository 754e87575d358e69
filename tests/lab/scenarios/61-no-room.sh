# Two VMs and one device: the second is refused with the reason, and starts when the first has stopped.
# needs: product
# gate
on_lab 'create_pool one --type nvidia-232 --device $T4A --instances 1
	create_pool big --type "GRID T4-16Q" --device $T4A --device $T4C
	attached_vm ws1 one; attached_vm ws2 one; attached_vm ws3 big
	start_vm ws1'
refusal="pool 'one' has no free nvidia-232 for domain 'ws2': 1 of at most 1 instances are in use; see 'virt-vgpu status'"
refuse_start ws2 "$refusal"
assert_eq "3 one of 3309374b3e234889ba559b1e2ea6af90 $refusal" \
	'events PRIORITY DOMAIN_NAME MESSAGE_ID MESSAGE | sed -n "s/^3 ws2/3 one of/p"'
# The refused VM left nothing, and the other VM lost nothing.
assert_eq "$(on_lab 'device_uuid ws1') 0000:3b:00.0 nvidia-232" 'devices'
assert_eq '["ws1","in-use"]' 'virt-vgpu status --json | jq -c ".claims[] | [.domain, .state]"'
assert_eq 'running shut off' 'echo $(state_of ws1) $(state_of ws2)'

# Boards that fit only other sizes, or nothing: each is named. explain says the same before.
on_lab 'create_mdev $T4C nvidia-234 $(uuid 1)'
refusal="pool 'big' has no free GRID T4-16Q for domain 'ws3': 0000:3b:00.0, 0000:86:00.0: no nvidia-234 left; see 'virt-vgpu explain ws3'"
explained=$(refuse 'virt-vgpu explain ws3')
[[ $explained == "domain 'ws3' would be refused
  virt-vgpu: $refusal"* ]] || fail "explain said: $explained"
refuse_start ws3 "$refusal"

on_lab 'virsh -q destroy ws1; start_vm ws2'
assert_eq "$(on_lab 'device_uuid ws2') 0000:3b:00.0 nvidia-232" 'devices | grep -v ^11111111'
on_lab 'virsh -q destroy ws2; start_vm ws3'
assert_eq "$(on_lab 'device_uuid ws3') 0000:3b:00.0 nvidia-234" 'devices | grep -v ^11111111'
