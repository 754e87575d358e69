# Vendor-specific VFIO: a pool by GPU and profile; its functions are attached, get a type at the start, and
# are given back.
# needs: product
# hosts: uml emulated
# gate
gpu=0000:3b:00.0
on_lab "unload_boards; load_boards l40s@$gpu/0 framework=vendor-vfio"
# Before the functions exist, the pool can be created, but nothing can be attached.
said=$(on_lab "virt-vgpu pool create cad --profile L40S-24Q --device $gpu")
[[ $said == *"its virtual functions do not exist yet; run 'virt-vgpu host apply $gpu'"* ]] || fail "it said: $said"
on_lab 'define_vm ws1'
said=$(refuse 'virt-vgpu attach ws1 --pool cad')
[[ $said == *"no device on this host can serve pool 'cad': the virtual functions of $gpu do not exist yet, 'virt-vgpu host apply' creates them; see 'virt-vgpu pool preview cad'"* ]] ||
	fail "virt-vgpu said: $said"
on_lab "/usr/lib/nvidia/sriov-manage -e $gpu"
said=$(refuse 'virt-vgpu pool create bad --profile L40S-11Q --device 3b:00.0')
[[ $said == *"$gpu has no profile 'L40S-11Q'; it has L40S-12A, "* ]] || fail "virt-vgpu said: $said"
a=$(on_lab "vf $gpu 0")
b=$(on_lab "vf $gpu 1")
c=$(on_lab "vf $gpu 2")
id=$(on_lab "sed -n 's/^\([0-9]*\) *: NVIDIA L40S-24Q$/\1/p' /sys/bus/pci/devices/$a/nvidia/creatable_vgpu_types")

# Each domain has its own function as long as there are enough.
assert_eq "attached gpu0 ($a) from pool cad to ws1; takes effect at the next start" 'virt-vgpu attach ws1 --pool cad'
assert_eq 'nothing to do: ws1 has gpu0 from pool cad' 'virt-vgpu attach ws1 --pool cad'
on_lab 'attached_vm ws2 cad; attached_vm ws3 cad'
assert_eq "$b $c" 'echo $(function_of ws2) $(function_of ws3)'
on_lab 'start_vm ws1'
assert_eq "$id" "vf_type $a"
assert_eq 'nvidia' "basename \$(readlink /sys/bus/pci/devices/$a/driver)"
assert "wait_until 'virsh qemu-monitor-command ws1 --hmp \"info pci\" | grep 10de:26b9' 10"
on_lab 'start_vm ws2'
assert_eq "$id $id 0" "echo \$(vf_type $a) \$(vf_type $b) \$(vf_type $c)"
on_lab "echo 550.54.10 4 0 0 0 0 0 0 0 > \$SIM/vgpus/$a/guest"
assert_eq '["550.54.10","unlicensed"]' "virt-vgpu status --json |
	jq -c '.claims[] | select(.domain == \"ws1\") | .devices[0].guest | [.driver, .licence]'"
# Only two fit; the third start is refused, and no other function is free.
refusal="pool 'cad' has no free L40S-24Q for domain 'ws3': its XML names $c: a L40S-24Q does not fit on its GPU now; 'virt-vgpu start ws3' looks for another"
refuse_start ws3 "$refusal"
said=$(refuse 'virt-vgpu start ws3')
[[ $said == "virt-vgpu: domain 'ws3' was refused its devices: $refusal"* ]] || fail "virt-vgpu said: $said"
assert_eq '0' "vf_type $c"
assert_eq '{"in_use":2,"free":0}' 'virt-vgpu status --json | jq -c ".pools[0] | {in_use, free}"'
on_lab 'virsh -q destroy ws1; virsh -q destroy ws2'
assert_eq '0 0' "echo \$(vf_type $a) \$(vf_type $b)"
assert_eq '' 'ls /run/virt-vgpu/claims'

# Another domain has taken the function meanwhile: refused, and 'virt-vgpu start' finds another one for this
# run. The definition stays as it is.
on_lab "write_type $a $id; virsh -q autostart ws1; virsh -q dumpxml --inactive ws1 > /run/ws1.defined"
refuse_start ws1 "pool 'cad' has no free L40S-24Q for domain 'ws1': its XML names $a: already has the type $id, but belongs to no domain of ours; 'virt-vgpu start ws1' looks for another"
d=$(on_lab "vf $gpu 3")
assert_eq "gpu0 of ws1: $d instead of $a: already has the type $id, but belongs to no domain of ours
started ws1" 'virt-vgpu start ws1'
assert_eq "$id $id" "echo \$(vf_type $a) \$(vf_type $d)"
assert_eq '' 'virsh -q dumpxml --inactive ws1 | diff /run/ws1.defined -'
assert_eq "Persistent: yes Autostart: enable" 'virsh -q dominfo ws1 | grep -E "Persistent|Autostart:" | xargs'
assert_eq "1" "virsh -q dumpxml ws1 | grep -c \"bus='0x${d:5:2}' slot='0x${d:8:2}' function='0x${d:11:1}'\""
on_lab "virsh -q destroy ws1"
assert_eq '' 'virsh -q dumpxml ws1 | diff /run/ws1.defined -'
assert_eq "$id 0" "echo \$(vf_type $a) \$(vf_type $d)"
# A start that fails leaves it as it is too.
on_lab 'virsh -q autostart --disable ws1; chmod a-x /usr/bin/qemu-system-x86_64'
refuse 'virt-vgpu start ws1' > /dev/null
on_lab 'chmod a+x /usr/bin/qemu-system-x86_64'
assert_eq '' 'virsh -q dumpxml ws1 | diff /run/ws1.defined -; ls /run/virt-vgpu/claims'
on_lab "write_type $a 0"

# Saved; its function is taken; restored: the hook changes the XML of the state.
on_lab "start_vm ws1; virsh -q managedsave ws1"
assert_eq '0' "vf_type $a"
# 'virt-vgpu start' resumes it too.
on_lab "write_type $a $id; virt-vgpu start ws1"
assert_eq "$id $id" "echo \$(vf_type $a) \$(vf_type $b)"
on_lab "virsh -q destroy ws1; write_type $a 0"

# A slow plugin: the claim stays, and the rest is removed later.
on_lab 'echo 20000 > $SIM/plugin_exit_ms; virt-vgpu start ws1'
on_lab 'virsh -q destroy ws1'
assert 'virt-vgpu status --json | jq -e ".claims | length == 1"'
on_lab 'echo 0 > $SIM/plugin_exit_ms'
assert "wait_until 'virt-vgpu reconcile > /dev/null; [ -z \"\$(ls /run/virt-vgpu/claims)\" ]' 20"
assert_eq "detached gpu0 ($b) of pool cad from ws2; takes effect at the next start" 'virt-vgpu detach ws2 --all'
assert_eq '' 'virsh -q dumpxml ws2 | grep -E "hostdev|vgpu" || true'
assert '! dmesg | grep -E "BUG|WARNING|Call Trace|possible circular"'
