# The simulator's kernel passes the contract that the tests' model of a kernel passes (tests/contract.rs).
contract=$(cd "$LAB/../.." && cargo test --quiet --locked --features faults --test contract --no-run --message-format=json 2>> "$SCENARIO_LOG.stderr" |
	grep '"kind":\["test"\]' | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1) || fail 'the contract test cannot be built'
[[ -x $contract ]] || fail 'the contract test was not built'
strip -o "$RUN/contract" "$contract"
in_guest 'cat > /root/contract; chmod +x /root/contract' < "$RUN/contract"
for board in 0000:3b:00.0 0000:86:00.0; do
	assert_eq 'test a_real_kernel_passes ... ok' \
		"VIRT_VGPU_CONTRACT_SYS=/sys VIRT_VGPU_CONTRACT_PARENT=$board /root/contract a_real_kernel_passes | grep ^test.a_real"
done
assert_eq '' 'mdevs; rm /root/contract'
