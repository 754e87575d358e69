# A virtual function with a vGPU type in a VM, as described in libvirt's documentation for NVIDIA.
on_lab 'unload_boards; load_boards l40s@0000:3b:00.0/0 framework=vendor-vfio'
gpu=0000:3b:00.0
on_lab "/usr/lib/nvidia/sriov-manage -e $gpu"
a=$(on_lab "vf $gpu 0")
on_lab "define_vf_vm ws1 $a"
# Without a type: QEMU cannot open it.
said=$(refuse 'virsh -q start ws1')
[[ $said == *'No such device'* ]] || fail "virsh said: $said"
assert 'grep -q "current_vgpu_type of VF not configured" <(dmesg)'
on_lab "[ \$(write_type $a 1155) = OK ]; start_vm ws1"
assert "wait_until 'virsh qemu-monitor-command ws1 --hmp \"info pci\" | grep 10de:26b9' 10"
assert_eq 'nvidia' "basename \$(readlink /sys/bus/pci/devices/$a/driver)"
assert_eq '1' "cat \$SIM/vgpus/$a/open"
assert_eq 'Operation not permitted' "write_type $a 0"
assert_eq 'Operation not permitted' "try_write /sys/bus/pci/devices/$a/nvidia/vgpu_params enable_uvm=1"
assert_eq "Cannot obtain unbindLock for $gpu" "last_line_of /usr/lib/nvidia/sriov-manage -d $gpu"
assert_eq "$(on_lab 'virsh -q domuuid ws1')" "nvidia-smi vgpu -q | sed -n 's/^ *VM UUID *: //p'"
# After a shutdown the type stays; a slow plugin keeps the function busy.
on_lab 'echo 8000 > $SIM/plugin_exit_ms; virsh -q destroy ws1'
assert_eq '1155 Device or resource busy' "echo \$(vf_type $a) \$(write_type $a 0)"
assert "wait_until '[ \"\$(write_type $a 0)\" = OK ]' 10"

# Killed in its first seconds: the function is wedged, and sysfs does not show it.
on_lab "echo 60000 > \$SIM/init_ms; [ \$(write_type $a 1155) = OK ]; start_vm ws1; kill -KILL \$(qemu_pid ws1)
	wait_until '[ \"\$(state_of ws1)\" = \"shut off\" ]' 20"
assert_eq "$a" "cat \$SIM/boards/$gpu/wedged"
on_lab 'echo 1 > $SIM/reset; start_vm ws1; virsh -q destroy ws1'
assert_eq "$a" "cat \$SIM/boards/$gpu/wedged"
on_lab "/usr/lib/nvidia/sriov-manage -d $gpu; /usr/lib/nvidia/sriov-manage -e $gpu"
assert_eq '' "cat \$SIM/boards/$gpu/wedged"
# The state of a function is saved with the VM.
on_lab "[ \$(write_type $a 1155) = OK ]; start_vm ws1"
crc=$(on_lab "cat \$SIM/vgpus/$a/framebuffer_crc")
on_lab "virsh -q managedsave ws1; [ \$(write_type $a 0) = OK ]; [ \$(write_type $a 1155) = OK ]; start_vm ws1"
assert_eq "$crc" "cat \$SIM/vgpus/$a/framebuffer_crc"
assert '! dmesg | grep -E "BUG|WARNING|Call Trace|possible circular"'
