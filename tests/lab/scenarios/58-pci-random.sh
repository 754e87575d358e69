# Forty starts and stops of four domains over three drives and NICs at random, each by plain virsh: nobody is refused
# while there is a device, nothing is left over, and each device has its driver again.
# needs: product pci
# deadline: 1500
# LAB_PCI_OPERATIONS shortens it, LAB_PCI_SEED makes other choices.
operations=${LAB_PCI_OPERATIONS:-40} seed=${LAB_PCI_SEED:-1}
on_lab "create_pool any --kind pci --device 0000:01:00.0 --device 0000:e1:00.0 --device 0000:e2:00.0; start_daemon
	for n in 1 2 3 4; do define_vm any\$n; virt-vgpu attach any\$n --pool any > /dev/null; done
	settled at_rest"
in_guest 'cat > /run/any.sh' <<'SCRIPT'
# any.sh OPERATIONS SEED
operations=$1 RANDOM=$2 devices=3
running=() stopped=(any1 any2 any3 any4)
starts=0 stops=0 refused=0
for ((operation = 0; operation < operations; operation++)); do
	if ((${#running[@]} > 0 && (${#running[@]} == devices || RANDOM % 2))); then
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
	wait_until at_rest 30
done
for vm in "${running[@]}"; do virsh -q destroy "$vm"; done
echo "$starts starts, $stops stops, $refused refused"
[ "$refused" = 0 ]
SCRIPT
status=0
said=$(on_lab "set -- $operations $seed; . /run/any.sh 2> /run/any.errors") || status=$?
report "$said; $(on_lab 'events MESSAGE_ID MESSAGE | grep "^9b0c6d1f2a5e4c0f8f6d3a7b1e94c258 .* gets " | grep -c . || true') edits"
if ((status)); then fail "$(on_lab 'cat /run/any.errors')"; fi
assert_eq '' left_over
assert_eq 'nvme igb nvme' 'for name in nvme0 igb nvme1; do driver_of $(pci_of $name); done | paste -sd" "'
