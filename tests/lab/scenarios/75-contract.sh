# The simulator's kernel passes the contract that the tests' model of a kernel passes (tests/it/contract/mdev.rs).
put_test /root/it it
for board in 0000:3b:00.0 0000:86:00.0; do
	assert_eq 'test contract::mdev::a_real_kernel_passes ... ok' \
		"VIRT_VGPU_CONTRACT_SYS=/sys VIRT_VGPU_CONTRACT_PARENT=$board /root/it a_real_kernel_passes | grep ^test.contract"
done
assert_eq '' 'mdevs; rm /root/it'
