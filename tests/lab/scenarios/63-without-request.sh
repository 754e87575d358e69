# A VM without a request starts and stops whatever the state of our files is, and changes none of them.
# needs: product
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1)
	define_vm plain $(uuid 1)
	virsh -q dumpxml --inactive plain > /run/plain.before
	rm -rf /etc/virt-vgpu/pools.d /run/virt-vgpu
	echo rubbish | tee /etc/virt-vgpu/pools.d > /run/virt-vgpu'
on_lab 'start_vm plain && virsh -q suspend plain && virsh -q resume plain && virsh -q destroy plain'
assert_eq 'rubbish
rubbish' 'cat /etc/virt-vgpu/pools.d /run/virt-vgpu'
# If the claims cannot be listed, the journal says so, and nothing else happens.
assert_eq '/run/virt-vgpu/claims: Not a directory (os error 20)' 'events MESSAGE | sort -u'
assert_eq '11111111-2222-4333-8444-000000000001 0000:3b:00.0 nvidia-232' 'devices'
assert 'virsh -q dumpxml --inactive plain | cmp - /run/plain.before'
assert_eq "domain 'plain' asks for no devices: the hook does nothing" 'virt-vgpu explain plain'
