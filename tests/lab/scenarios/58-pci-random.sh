# Forty starts and stops of four domains over three drives and NICs at random, each by plain virsh: nobody is refused
# while there is a device, nothing is left over, and each device has its driver again.
# needs: product pci
# deadline: 1500
# LAB_PCI_OPERATIONS shortens it, LAB_PCI_SEED makes other choices.
operations=${LAB_PCI_OPERATIONS:-40} seed=${LAB_PCI_SEED:-1}
on_lab "create_pool any --kind pci --device 0000:01:00.0 --device 0000:e1:00.0 --device 0000:e2:00.0; start_daemon
	for n in 1 2 3 4; do define_vm any\$n; virt-vgpu attach any\$n --pool any > /dev/null; done
	settled at_rest"
status=0
said=$(on_lab "start_and_stop $operations $seed any:4:3 2> /run/any.errors") || status=$?
report "$said"
if ((status)); then fail "$(on_lab 'cat /run/any.errors')"; fi
on_lab 'for vm in $(virsh -q list --name); do virsh -q destroy $vm; done; wait_until at_rest 30'
assert_eq '' left_over
assert_eq 'nvme igb nvme' 'for name in nvme0 igb nvme1; do driver_of $(pci_of $name); done | paste -sd" "'
