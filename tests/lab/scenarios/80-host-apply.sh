# Settings of whole GPUs by hand: the steps and their order, what prevents them, and what never happens.
# needs: product
# deadline: 600
a=0000:3b:00.0 b=0000:5e:00.0
on_lab "unload_boards; load_boards l40s@$a/0,l40s@$b/0 framework=vendor-vfio"
assert_eq 'no pool takes a GPU: nothing to do' 'virt-vgpu host apply --all'
on_lab "write_vgpu_pool cad $a 'heterogeneous = true' 'scheduler = { policy = \"equal-share\", strict-round-robin = true, frequency = 480 }'
	write_vgpu_pool web $b"
steps="$a: would be set
  1. /usr/lib/nvidia/sriov-manage -e $a (0 of 32 virtual functions are there)
  2. wait until its functions have vGPU types (new functions show their vGPU types a while later)
  3. switch heterogeneous mode on (for pool 'cad'; a GPU begins with one size)
  4. set the scheduler: equal-share, strict round robin, 480 Hz (for pool 'cad'; a GPU begins with best-effort)"
assert_eq "$steps" "virt-vgpu host apply $a --dry-run"
assert_eq '0 0' "echo \$(functions_of $a) \$(functions_of $b)"

# One GPU; the other one is not touched.
on_lab "virt-vgpu host apply $a"
assert_eq '32 Enabled 0' "echo \$(functions_of $a) \$(mode_of $a) \$(functions_of $b)"
assert_eq '{"policy":"equal-share","strict_round_robin":true,"frequency":480}' \
	"virt-vgpu host show $a --json | jq -c '.gpus[0].scheduler.actual | del(.averaging_factor, .time_slice_ns)'"
assert_eq '[]' "virt-vgpu host show $a --json | jq -c .gpus[0].differences"
assert_eq "$a: nothing to do" "virt-vgpu host apply $a"
# udev has started a run for the rebound GPU meanwhile; it had nothing to do either.
assert "wait_until \"systemctl show virt-vgpu-host@$a.service -p Result,ActiveState | paste -sd, | grep -x Result=success,ActiveState=inactive\" 30"
on_lab "systemctl mask --quiet --runtime virt-vgpu-host@$a.service virt-vgpu-host@$b.service"

# A client of the driver: a short one is waited for, a long one is named.
on_lab 'in_background visitor "sleep 2 < /dev/nvidiactl"; wait_until "pgrep -x sleep" 5'
assert_eq "$b: set
  done: /usr/lib/nvidia/sriov-manage -e $b (0 of 32 virtual functions are there)" "virt-vgpu host apply $b"
on_lab "wait_until 'ended visitor' 10; /usr/lib/nvidia/sriov-manage -d $b
	sleep 60 < /dev/nvidiactl > /dev/null 2>&1 & echo \$! > /run/lab-client"
client=$(on_lab 'cat /run/lab-client')
said=$(refuse "virt-vgpu host apply $b")
[[ $said == *"Cannot obtain unbindLock for $b; stop what has the driver open, then try again: sleep (process $client"* ]] ||
	fail "it said: $said"
assert_eq '0' "functions_of $b"
on_lab "kill $client"
assert "virt-vgpu host apply --all && test \$(functions_of $b) = 32"

# Existing vGPUs: their owner is named, and the other GPU is set up anyway.
function=$(on_lab "vf $a 0")
assert_eq 'OK' "write_type $function 1155"
assert_eq "$a: nothing to do" "virt-vgpu host apply $a"
on_lab "write_vgpu_pool cad $a; write_vgpu_pool web $b 'heterogeneous = true'"
same 'host apply' "$a: REFUSED: in use: vGPU $function, which no domain has from us; when whoever made it has removed it, run 'virt-vgpu host apply $a'
  not done: switch heterogeneous mode off (for pool 'cad'; it is on)
$b: set
  done: switch heterogeneous mode on (for pool 'web'; it is off)" "$(refuse 'virt-vgpu host apply --all')"
assert_eq 'Enabled Enabled' "echo \$(mode_of $a) \$(mode_of $b)"
said=$(refuse "virt-vgpu host apply --renew --yes $a")
[[ $said == *"in use: vGPU $function"* ]] || fail "it said: $said"
assert_eq '1155' "vf_type $function"
assert_eq 'OK' "write_type $function 0"
on_lab "virt-vgpu host apply $a"
assert_eq 'Disabled' "mode_of $a"

# Functions are recreated: the modes are set again, and quarantine notes about old functions are removed.
on_lab "mkdir -p /run/virt-vgpu/quarantine; echo {} > /run/virt-vgpu/quarantine/\$(vf $b 0).json"
assert_eq "$b: set
  done: /usr/lib/nvidia/sriov-manage -d $b, then -e $b (asked for by --renew)
  done: switch heterogeneous mode on (for pool 'web'; it is off)" "virt-vgpu host apply --renew --yes $b"
assert_eq '32 Enabled' "echo \$(functions_of $b) \$(mode_of $b); ls /run/virt-vgpu/quarantine"

# Pools that disagree.
on_lab "write_vgpu_pool other $a 'heterogeneous = true'"
said=$(refuse "virt-vgpu host apply $a")
[[ $said == "$a: REFUSED: pool 'cad' (/etc/virt-vgpu/pools.d/cad.toml) wants heterogeneous = false and pool 'other' "* ]] ||
	fail "it said: $said"

# Types that never appear.
on_lab "rm /etc/virt-vgpu/pools.d/other.toml; echo 20000 > \$SIM/attributes_ms; /usr/lib/nvidia/sriov-manage -d $a"
said=$(refuse "virt-vgpu host apply $a --wait 1")
[[ $said == "$a: FAILED: 32 virtual functions have no vGPU types "*" after 1 s; 'systemctl status nvidia-vgpud' "* ]] ||
	fail "it said: $said"
on_lab 'echo 1 > $SIM/reset'
assert "virt-vgpu host apply $a"

# A domain of ours whose vGPUs are mdevs on virtual functions.
on_lab "unload_boards; load_boards a40@$a/0 framework=sriov-mdev
	rm /etc/virt-vgpu/pools.d/*; write_vgpu_pool cad $a; virt-vgpu host apply $a
	create_pool mdevs --type 'NVIDIA A40-2Q' --device $a; attached_vm ws1 mdevs; start_vm ws1"
said=$(refuse "virt-vgpu host apply --renew --yes $a")
[[ $said == "$a: REFUSED: in use: domain 'ws1' has vGPU $(on_lab 'device_uuid ws1'); shut it down, "* ]] ||
	fail "it said: $said"
on_lab "systemctl unmask --quiet --runtime virt-vgpu-host@$a.service virt-vgpu-host@$b.service; rm /etc/virt-vgpu/pools.d/*"
