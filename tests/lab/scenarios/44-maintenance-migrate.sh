# VMs are moved to another host before maintenance; one that has no room there stays, and goes on running.
# needs: product peer
# deadline: 600
on_lab 'create_pool cad --type nvidia-232 --device $T4A; attached_vm ws1 cad; attached_vm ws2 cad
	start_vm ws1; start_vm ws2'
on_peer 'create_pool cad --type nvidia-232 --device $T4C --instances 1'
to=$(migrate_arguments)
said=$(refuse "virt-vgpu maintenance enter \$T4A --yes --migrate $to 2>&1")
[[ $said == *"domain 'ws2': cannot migrate the domain to "*"pool 'cad' has no free nvidia-232"* ]] || fail "it said: $said"
assert_eq 'ws2' 'virsh -q list --all --name | sed /^$/d'
assert_eq 'running [["ws2"],["0000:3b:00.0"]]' \
	"echo \$(state_of ws2) \$(virt-vgpu maintenance status --json | jq -c '[[.holders.domains[].domain], .gpus]')"
same 'the VM there' 'running' "$(on_peer 'state_of ws1')"
on_lab 'virsh -q destroy ws2'
said=$(refuse 'virsh -q start ws2')
[[ $said == *'it is in maintenance until'* ]] || fail "it said: $said"
on_lab 'virt-vgpu maintenance leave; start_vm ws2'
