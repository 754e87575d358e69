# Two vGPUs of two boards in one VM, and four VMs on one board.
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1); create_mdev $T4C nvidia-233 $(uuid 2)
	define_vm twin $(uuid 1) $(uuid 2) && start_vm twin'
assert_eq '1 1' 'echo $(cat $SIM/vgpus/$(uuid 1)/open) $(cat $SIM/vgpus/$(uuid 2)/open)'
on_lab 'for n in 3 4 5; do create_mdev $T4A nvidia-232 $(uuid $n); define_vm ws$n $(uuid $n); done
	for n in 3 4 5; do start_vm ws$n & done; wait'
assert_eq '4' 'virsh -q list --name | grep -c .'
