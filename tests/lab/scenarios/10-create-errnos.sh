# Each refusal of create and remove has the errno of NVIDIA's driver or of the kernel's mdev core.
assert_eq 'OK' 'try_write $(type_path $T4A nvidia-232)/create $(uuid 1)'
assert_eq 'File exists' 'try_write $(type_path $T4A nvidia-232)/create $(uuid 1)'
# A UUID is unique on the host, not on the board.
assert_eq 'File exists' 'try_write $(type_path $T4B nvidia-231)/create $(uuid 1)'
assert_eq 'Invalid argument' 'try_write $(type_path $T4A nvidia-232)/create garbage'
assert_eq 'Invalid argument' 'try_write $(type_path $T4A nvidia-232)/create $(uuid 2)00'
assert_eq 'Invalid argument' 'try_write $(type_path $T4A nvidia-232)/create gggggggg-2222-4333-8444-000000000002'
# Another size on the same board, then a full board: the resource manager answers all with one errno.
assert_eq 'Input/output error' 'try_write $(type_path $T4A nvidia-231)/create $(uuid 2)'
assert_eq 'OK
OK
OK
Input/output error' 'for n in 2 3 4 5; do try_write $(type_path $T4A nvidia-232)/create $(uuid $n); done'
assert 'grep -q "nvidia-vgpu-vfio. $(uuid 5): vGPU creation failed" <(dmesg)'
assert_eq 'Invalid argument' 'try_write /sys/bus/mdev/devices/$(uuid 1)/remove yes'
assert_eq 'OK' 'try_write /sys/bus/mdev/devices/$(uuid 1)/remove 1'
assert '! test -e /sys/bus/mdev/devices/$(uuid 1)'
# Refused operations changed nothing.
assert_eq '1' 'available $T4A nvidia-232'
