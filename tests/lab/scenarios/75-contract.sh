# The simulator's kernel passes the contract that the tests' model of a kernel passes (tests/contract.rs).
put_test /root/contract --features faults --test contract
for board in 0000:3b:00.0 0000:86:00.0; do
	assert_eq 'test a_real_kernel_passes ... ok' \
		"VIRT_VGPU_CONTRACT_SYS=/sys VIRT_VGPU_CONTRACT_PARENT=$board /root/contract a_real_kernel_passes | grep ^test.a_real"
done
assert_eq '' 'mdevs; rm /root/contract'
