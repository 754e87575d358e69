# What a start and a stop with a device of a pool take beside the same with libvirt's managed='yes' alone, by turns on
# one host. Nothing depends on the times: they are reported.
# needs: product pci
# deadline: 900
# LAB_TIMES says how often.
on_lab 'create_pool drives --kind pci --device $(pci_of nvme0); define_vm pool; virt-vgpu attach pool --pool drives > /dev/null
	define_pci_vm managed "$(pci_hostdev $(pci_of nvme1) "managed=\"yes\"")"'
said=$(on_lab "for n in \$(seq ${LAB_TIMES:-5}); do for vm in managed pool; do
		printf '%s start %s stop %s\n' \$vm \$(elapsed_ms \"virsh -q start \$vm --paused\") \$(elapsed_ms \"virsh -q destroy \$vm\")
	done; done")
assert_eq 'nvme nvme' 'echo $(driver_of $(pci_of nvme0)) $(driver_of $(pci_of nvme1))'
# median COLUMN VM
median() { awk -v vm="$2" -v column="$1" '$1 == vm { print $column }' <<< "$said" | sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
for column in 3 5; do
	managed=$(median $column managed) pool=$(median $column pool)
	report "$( ((column == 3)) && echo start || echo stop): $pool ms with a pool, $managed ms with managed='yes': $((pool - managed)) ms more, $((pool * 100 / managed)) %"
done
assert_eq '' left_over
