# Stopped domains name functions that they could have if they were the next to start: of 200 plain starts and
# stops of 24 domains on two boards, none is refused while the pool has room.
# needs: product
# deadline: 3600
# LAB_REST_OPERATIONS shortens it, LAB_REST_SEED makes other choices.
operations=${LAB_REST_OPERATIONS:-200} seed=${LAB_REST_SEED:-1}
a=0000:3b:00.0 b=0000:5e:00.0
on_lab "unload_boards; load_boards l40s@$a/0,l40s@$b/0 framework=vendor-vfio
	create_pool cad --profile L40S-12Q --device $a --device $b; virt-vgpu host apply --all > /dev/null; start_daemon
	for n in \$(seq 24); do define_vm ws\$n; ask ws\$n cad; done"
assert 'settled "[ \$(for n in \$(seq 24); do placeholder_of ws\$n; done | sort -u | grep -c .) = 24 ]"'

in_guest 'cat > /run/rest.sh' <<'SCRIPT'
# rest.sh OPERATIONS SEED: after each operation it waits until the daemon is done.
operations=$1 RANDOM=$2 room=8
running=() stopped=(ws{1..24})
refused=0 starts=0 stops=0 full=0 slowest=0

for ((operation = 0; operation < operations; operation++)); do
	if ((${#running[@]} > 0 && (${#running[@]} == room || RANDOM % 5 < 2))); then
		index=$((RANDOM % ${#running[@]}))
		virsh -q destroy "${running[index]}"
		stopped+=("${running[index]}")
		unset "running[index]"
		running=("${running[@]}")
		stops=$((stops + 1))
	else
		index=$((RANDOM % ${#stopped[@]}))
		if virsh -q start "${stopped[index]}" --paused; then
			running+=("${stopped[index]}")
			unset "stopped[index]"
			stopped=("${stopped[@]}")
			starts=$((starts + 1))
		else
			echo "operation $operation: ${stopped[index]} was refused, ${#running[@]} run" >&2
			refused=$((refused + 1))
		fi
	fi
	before=${EPOCHREALTIME/./}
	wait_until at_rest 30
	took=$(((${EPOCHREALTIME/./} - before) / 1000))
	if ((took > slowest)); then slowest=$took; fi
	if ((${#running[@]} == room)); then full=$((full + 1)); fi
done
echo "$starts starts, $stops stops, $full times full, $refused refused; at rest within $slowest ms at most, the check included"
[ "$refused" = 0 ]
SCRIPT
status=0
said=$(on_lab "set -- $operations $seed; . /run/rest.sh 2> /run/rest.errors") || status=$?
edits=$(on_lab 'events MESSAGE_ID MESSAGE | grep "^9b0c6d1f2a5e4c0f8f6d3a7b1e94c258 .* gets " | grep -c . || true')
report "$said; $edits edits"
if ((status)); then fail "$(on_lab 'cat /run/rest.errors')"; fi
assert_eq '[]' 'virt-vgpu status --json | jq -c .problems'

# The last place: a start beyond it is refused, and moves nobody.
on_lab 'for vm in $(virsh -q list --name --state-shutoff); do [ "$(virsh -q list --name | grep -c .)" = 8 ] && break
	virsh -q start $vm --paused; wait_until at_rest 30; done'
assert_eq '8' 'ls /run/virt-vgpu/claims | grep -c .'
names='for n in $(seq 24); do placeholder_of ws$n; done'
before=$(on_lab "$names")
vm=$(on_lab 'virsh -q list --name --state-shutoff | sed -n 1p')
said=$(refuse "virsh -q start $vm")
[[ $said == *"pool 'cad' has no free L40S-12Q for domain '$vm'"* ]] || fail "it said: $said"
same 'the names after a refused start' "$before" "$(on_lab "$names")"
# Stops free everything; whoever names a function that is free keeps it.
on_lab 'for vm in $(virsh -q list --name); do virsh -q destroy $vm; done
	wait_until at_rest 30'
assert_eq '24' "$names | sort -u | grep -c ."
assert_eq '' 'left_over'

# At boot no daemon can help: of the domains that start then, no more name a board than fit on it.
on_lab 'board_of() { basename "$(readlink "/sys/bus/pci/devices/$(placeholder_of "$1")/physfn")"; }
	declare -f board_of > /var/tmp/lab-board-of
	for n in $(seq 24); do printf "%s ws%s\n" "$(board_of ws$n)" $n; done > /run/rest.boards'
crowded=$(on_lab 'cut -d" " -f1 /run/rest.boards | sort | uniq -c | sort -n | sed -n "\$s/.* //p"')
boot=$(on_lab "sed -n 's/^$crowded //p' /run/rest.boards | sed -n 1,6p | paste -sd' '")
on_lab "for vm in $boot; do virsh -q autostart \$vm; done; systemctl restart virt-vgpud
	echo 'options virt_vgpu_sim boards=l40s@$a/0,l40s@$b/0 framework=vendor-vfio' > /etc/modprobe.d/zz-lab-boot.conf"
most="for vm in $boot; do board_of \$vm; done | sort | uniq -c | grep -v \"^ *[1-4] \""
assert ". /var/tmp/lab-board-of; settled '[ -z \"\$($most)\" ]'"
at_boot=$(on_lab "for vm in $boot; do placeholder_of \$vm; done")
on_lab sync
reboot_lab
assert "wait_until '[ \"\$(for vm in $boot; do state_of \$vm; done | sort -u)\" = running ]' 120"
same 'the names after the boot' "$at_boot" "$(on_lab "for vm in $boot; do placeholder_of \$vm; done")"
