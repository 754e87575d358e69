# Six VMs start at once for the last four devices: exactly four run, and two are refused with the reason.
# needs: product
# hosts: uml emulated
on_lab 'create_pool cad --type nvidia-232 --device $T4A
	for n in 1 2 3 4 5 6; do attached_vm ws$n cad & done; wait'
assert_eq "2 error: Failed to start domain 'wsN'
2 $(refusal_of wsN prepare "pool 'cad' has no free nvidia-232 for domain 'wsN': 0000:3b:00.0: no nvidia-232 left; see 'virt-vgpu explain wsN'")" \
	'for n in 1 2 3 4 5 6; do virsh start ws$n 2> /run/lab-ws$n.stderr > /dev/null & done; wait
		cat /run/lab-ws*.stderr |
		sed "/^$/d; s/ws[1-6]/wsN/g; s:(LC_ALL=C [^)]* /etc/libvirt/hooks/:(/etc/libvirt/hooks/:" |
		LC_ALL=C sort | uniq -c | sed "s/^ *//"'
assert_eq '4 4 0' 'echo $(virsh -q list --name | grep -c .) $(mdevs | wc -l) $(available $T4A nvidia-232)'
assert_eq '{"in_use":4,"free":0}' 'virt-vgpu status --json | jq -c ".pools[0] | {in_use, free}"'
on_lab 'for vm in $(virsh -q list --name); do virsh -q destroy $vm & done; wait'
assert_eq '' 'left_over'
assert_eq '4' 'available $T4A nvidia-232'
