# Failures with vendor-specific VFIO: a QEMU killed in its first seconds, drivers that refuse.
# needs: product
# deadline: 600
# gate
gpu=0000:3b:00.0
on_lab "unload_boards; load_boards l40s@$gpu/0 framework=vendor-vfio
	create_pool cad --profile L40S-12Q --device $gpu; printf '[defaults]\ndebuggers = true\n' >> /etc/virt-vgpu/pools.d/cad.toml
	virt-vgpu host apply --all
	attached_vm ws1 cad"
a=$(on_lab 'function_of ws1')
# Each write refused by the driver: nothing is left of the start.
for fault in 'set_type EIO' 'set_type ENODEV' 'set_type EBUSY' 'params EIO' 'set_type EPERM' 'params EPERM'; do
	on_lab "echo '1 ${fault#* }' > \$SIM/fail_${fault% *}"
	said=$(refuse 'virsh -q start ws1')
	case $fault in
		'params EPERM') reason="cannot make device 'gpu0' of domain 'ws1': /sys/bus/pci/devices/$a/nvidia/"*': Operation not permitted' ;;
		*) reason="pool 'cad' has no free L40S-12Q for domain 'ws1': its XML names $a: "*' failed: ' ;;
	esac
	# shellcheck disable=SC2053  # a pattern
	[[ $said == *$reason* ]] || fail "$fault: it said: $said"
	assert_eq '0' "vf_type $a"
	assert_eq '' 'ls /run/virt-vgpu/claims'
done
on_lab 'echo 60000 > $SIM/init_ms; start_vm ws1'
assert_eq 'enable_debugging=1' "cat /sys/bus/pci/devices/$a/nvidia/vgpu_params"
assert_eq '["debuggers"]' 'virt-vgpu status --json | jq -c ".claims[0].devices[0].against_migration"'
on_lab 'kill -KILL $(qemu_pid ws1); wait_until "test \"\$(state_of ws1)\" = \"shut off\"" 20'
assert_eq "$a" "cat \$SIM/boards/$gpu/wedged"
assert "wait_until 'test -e /run/virt-vgpu/quarantine/$a.json && [ \"\$(vf_type $a)\" = 0 ]' 20"
why="the QEMU of domain 'ws1' was killed while its vGPU was still starting, which may have wedged the function; when no VM uses $gpu, 'virt-vgpu host apply --renew $gpu' repairs it"
assert_eq "$a is quarantined: $why" 'virt-vgpu status --json | jq -r ".problems[]"'
refuse_start ws1 "pool 'cad' has no free L40S-12Q for domain 'ws1': its XML names $a: $why; 'virt-vgpu start ws1' looks for another"
on_lab 'virt-vgpu start ws1 > /dev/null'
b=$(on_lab 'jq -r .devices[0].parent $(claim_of ws1)')
[[ $b != "$a" ]] || fail "still at $a"
assert_eq "$a" 'function_of ws1'
# It is in use: it cannot be repaired now.
said=$(refuse "virt-vgpu host apply --renew --yes $gpu")
[[ $said == *"ws1"* ]] || fail "it said: $said"
on_lab 'virsh -q destroy ws1'
assert_eq '0' "vf_type $b"
on_lab "virt-vgpu host apply --renew --yes $gpu > /dev/null"
assert_eq '' "cat \$SIM/boards/$gpu/wedged; ls /run/virt-vgpu/quarantine"
assert_eq '[]' 'virt-vgpu status --json | jq -c .problems'
on_lab 'rm /etc/virt-vgpu/pools.d/*'
