# mdevs on virtual functions: one on each; the board decides how many fit.
on_lab 'unload_boards; load_boards a40@0000:3b:00.0/0 framework=sriov-mdev'
gpu=0000:3b:00.0
assert_eq '' 'ls /sys/class/mdev_bus'
on_lab "/usr/lib/nvidia/sriov-manage -e $gpu"
assert_eq '32' 'ls /sys/class/mdev_bus | wc -l'
assert_eq '' "ls -d /sys/bus/pci/devices/$gpu/mdev_supported_types 2> /dev/null || true"
a=$(on_lab "vf $gpu 0") b=$(on_lab "vf $gpu 1")
assert_eq 'NVIDIA A40-2Q 1' "echo \$(cat \$(type_path $a nvidia-558)/name) \$(available $a nvidia-558)"
assert_eq 'num_heads=4, frl_config=60, framebuffer=2048M, max_resolution=7680x4320, max_instance=24' \
	"cat \$(type_path $a nvidia-558)/description"
on_lab "create_mdev $a nvidia-558 \$(uuid 1)"
assert_eq '0 1 0' "echo \$(available $a nvidia-558) \$(available $b nvidia-558) \$(available $b nvidia-560)"
assert_eq 'Input/output error' "try_write \$(type_path $a nvidia-558)/create \$(uuid 2)"
assert_eq 'Input/output error' "try_write \$(type_path $b nvidia-560)/create \$(uuid 2)"
assert_eq 'File exists' "try_write \$(type_path $b nvidia-558)/create \$(uuid 1)"
assert_eq 'Invalid argument' "try_write \$(type_path $b nvidia-558)/create vgpu1"
# 32 functions, but only 24 fit.
on_lab "for n in \$(seq 1 23); do create_mdev \$(vf $gpu \$n) nvidia-558 \$(uuid \$((n + 1))); done"
assert_eq '0 Input/output error' "echo \$(available \$(vf $gpu 24) nvidia-558) \$(try_write \$(type_path \$(vf $gpu 24) nvidia-558)/create \$(uuid 99))"
assert_eq 'gpu_instance_id placement_id vgpu_params vm_name' 'echo $(ls /sys/bus/mdev/devices/$(uuid 1)/nvidia)'
assert_eq 'Not Applicable' 'cat /sys/bus/mdev/devices/$(uuid 1)/nvidia/placement_id'
# A VM uses one; its name is shown meanwhile.
on_lab 'define_vm ws1 $(uuid 1) && start_vm ws1'
assert_eq 'ws1' 'cat /sys/bus/mdev/devices/$(uuid 1)/nvidia/vm_name'
assert_eq "Cannot obtain unbindLock for $gpu" "last_line_of /usr/lib/nvidia/sriov-manage -d $gpu"
on_lab 'virsh -q destroy ws1'
assert_eq '' 'cat /sys/bus/mdev/devices/$(uuid 1)/nvidia/vm_name'
# Without VMs the cycle removes everything.
on_lab "/usr/lib/nvidia/sriov-manage -d $gpu"
assert_eq '' 'mdevs'
