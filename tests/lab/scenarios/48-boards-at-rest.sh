# As 59-right-at-rest, with the two boards alone and on a host that nothing emulates: here the times that it reports
# are those of a real machine.
# needs: product
# deadline: 2400
# LAB_REST_OPERATIONS shortens it, LAB_REST_SEED makes other choices.
a=0000:3b:00.0 b=0000:5e:00.0
on_lab "unload_boards; load_boards l40s@$a/0,l40s@$b/0 framework=vendor-vfio
	create_pool cad --profile L40S-12Q --device $a --device $b; virt-vgpu host apply --all > /dev/null; start_daemon
	for n in \$(seq 18); do define_vm ws\$n; ask ws\$n cad; done"
of_all='for n in $(seq 18); do placeholder_of ws$n; done'
assert "settled '[ \"\$($of_all | sort -u | grep -c .)\" = 18 ]'"
on_lab 'settled at_rest'
status=0
said=$(on_lab "start_and_stop ${LAB_REST_OPERATIONS:-200} ${LAB_REST_SEED:-1} ws:18:8 2> /run/rest.errors") || status=$?
report "$said"
if ((status)); then fail "$(on_lab 'cat /run/rest.errors')"; fi
on_lab 'for vm in $(virsh -q list --name); do virsh -q destroy $vm; done; wait_until at_rest 30'
assert_eq 18 "$of_all | sort -u | grep -c ."
assert_eq '' left_over
