# Stopped domains name devices that they could have if they were the next to start: of 200 plain starts and
# stops of 24 domains on two boards, a NIC and two drives, none is refused while its pool has room.
# needs: product pci
# deadline: 3600
# LAB_REST_OPERATIONS shortens it, LAB_REST_SEED makes other choices.
operations=${LAB_REST_OPERATIONS:-200} seed=${LAB_REST_SEED:-1}
a=0000:3b:00.0 b=0000:5e:00.0
workstations=18 others=6
on_lab "unload_boards; load_boards l40s@$a/0,l40s@$b/0 framework=vendor-vfio
	create_pool cad --profile L40S-12Q --device $a --device $b; virt-vgpu host apply --all > /dev/null
	create_pool any --kind pci --device 0000:01:00.0 --device 0000:e1:00.0 --device 0000:e2:00.0; start_daemon
	for n in \$(seq $workstations); do define_vm ws\$n; ask ws\$n cad; done
	for n in \$(seq $others); do define_vm any\$n; ask any\$n any; done"
of_ws="for n in \$(seq $workstations); do placeholder_of ws\$n; done"
of_any="for n in \$(seq $others); do placeholder_of any\$n; done"
# As long as there are enough, each domain names one of its own.
assert "settled '[ \"\$($of_ws | sort -u | grep -c .) \$($of_any | sort -u | grep -c .)\" = \"$workstations 3\" ]'"
on_lab 'settled at_rest'
# Where there are more domains than devices, each device has its share of them.
assert_eq '2 2 2' "for n in \$(seq $others); do placeholder_of any\$n; done | sort | uniq -c | sed 's/ *\([0-9]*\) .*/\1/' | paste -sd' '"

status=0
said=$(on_lab "start_and_stop $operations $seed ws:$workstations:8 any:$others:3 2> /run/rest.errors") || status=$?
report "$said"
if ((status)); then fail "$(on_lab 'cat /run/rest.errors')"; fi
# Of six domains on three devices some find none while others run.
assert_eq '[]' 'virt-vgpu status --json | jq -c "[.problems[] | select(contains(\"nothing else is free\") | not)]"'

# The last place: a start beyond it is refused, and moves nobody.
on_lab 'running() { virsh -q list --name | grep -c "^$1" || true; }
	for vm in $(virsh -q list --name --state-shutoff); do
		case $vm in ws*) [ "$(running ws)" -lt 8 ] || continue ;; *) [ "$(running any)" -lt 3 ] || continue ;; esac
		virsh -q start $vm --paused; wait_until at_rest 30
	done'
assert_eq '11' 'ls /run/virt-vgpu/claims | grep -c .'
names="$of_ws; $of_any"
before=$(on_lab "$names")
for pool in 'ws cad L40S-12Q' 'any any PCI device'; do
	read -r group pool device <<< "$pool"
	vm=$(on_lab "virsh -q list --name --state-shutoff | sed -n '/^$group/{p;q}'")
	said=$(refuse "virsh -q start $vm")
	[[ $said == *"pool '$pool' has no free $device for domain '$vm'"* ]] || fail "it said: $said"
done
same 'the names after refused starts' "$before" "$(on_lab "$names")"
# Stops free everything; whoever names a device that is free keeps it.
on_lab 'for vm in $(virsh -q list --name); do virsh -q destroy $vm; done
	wait_until at_rest 30'
assert_eq "$workstations" "$of_ws | sort -u | grep -c ."
assert_eq '' 'left_over'
assert_eq 'nvme igb nvme' 'for name in nvme0 igb nvme1; do driver_of $(pci_of $name); done | paste -sd" "'

# At boot no daemon can help: of the domains that start then, no more name a board than fit on it, and no two the same
# device.
on_lab 'board_of() { basename "$(readlink "/sys/bus/pci/devices/$(placeholder_of "$1")/physfn")"; }
	declare -f board_of > /var/tmp/lab-board-of'
on_lab ". /var/tmp/lab-board-of
	for n in \$(seq $workstations); do printf '%s ws%s\n' \$(board_of ws\$n) \$n; done > /run/rest.boards
	for n in \$(seq $others); do printf '%s any%s\n' \$(placeholder_of any\$n) \$n; done > /run/rest.devices"
# of_most N FILE: the first N of those that name what most name
of_most() { on_lab "sed -n \"s/^\$(cut -d' ' -f1 $2 | sort | uniq -c | sort -n | sed -n '\$s/.* //p') //p\" $2 | sed -n 1,$1p | paste -sd' '"; }
ws_at_boot=$(of_most 6 /run/rest.boards)
any_at_boot=$(of_most 2 /run/rest.devices)
boot="$ws_at_boot $any_at_boot"
on_lab "for vm in $boot; do virsh -q autostart \$vm; done; systemctl restart virt-vgpud
	echo 'options virt_vgpu_sim boards=l40s@$a/0,l40s@$b/0 framework=vendor-vfio' > /etc/modprobe.d/zz-lab-boot.conf"
most="for vm in $ws_at_boot; do board_of \$vm; done | sort | uniq -c | grep -v \"^ *[1-4] \"
	for vm in $any_at_boot; do placeholder_of \$vm; done | sort | uniq -d"
assert ". /var/tmp/lab-board-of; settled '[ -z \"\$($most)\" ]'"
at_boot=$(on_lab "for vm in $boot; do placeholder_of \$vm; done")
on_lab sync
reboot_lab
assert "wait_until '[ \"\$(for vm in $boot; do state_of \$vm; done | sort -u)\" = running ]' 120"
same 'the names after the boot' "$at_boot" "$(on_lab "for vm in $boot; do placeholder_of \$vm; done")"
