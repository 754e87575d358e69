# A VM bound to a NUMA node, by memory or by CPUs, gets the board of that node when several would do.
# needs: product emulated (two NUMA nodes)
on_lab 'create_pool cad --type nvidia-232 --device $T4A --device $T4C
	vm_xml memory | sed "s:<os>:<numatune><memory mode=\"preferred\" nodeset=\"1\"/></numatune>&:" > /run/memory.xml
	vm_xml cpus | sed "s:<vcpu>:<vcpu cpuset=\"1\">:" > /run/cpus.xml
	virsh -q define /run/memory.xml; virsh -q define /run/cpus.xml; define_vm free
	for vm in memory cpus free; do virt-vgpu attach $vm --pool cad > /dev/null; done'
for vm in memory cpus; do
	assert_eq '0000:86:00.0 pack: 0 in use on 0000:86:00.0, NUMA node 1 at distance 10, 4 of nvidia-232 left' \
		"virt-vgpu explain $vm --json | jq -r '.devices[0].place | \"\\(.parent) \\(.reason)\"'"
done
assert_eq '0000:3b:00.0 pack: 0 in use on 0000:3b:00.0, 4 of nvidia-232 left' \
	"virt-vgpu explain free --json | jq -r '.devices[0].place | \"\\(.parent) \\(.reason)\"'"
on_lab 'start_vm memory'
assert_eq "$(on_lab 'device_uuid memory') 0000:86:00.0 nvidia-232" 'devices'
on_lab 'virsh -q destroy memory; start_vm cpus'
assert_eq "$(on_lab 'device_uuid cpus') 0000:86:00.0 nvidia-232" 'devices'
# Nearness decides only between equal boards: packing puts an unbound VM next to it.
on_lab 'start_vm free'
assert_eq '0000:86:00.0
0000:86:00.0' 'devices | cut -d" " -f2'
