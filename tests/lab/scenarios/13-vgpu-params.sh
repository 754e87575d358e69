# The plugin parameters have the pitfalls of the real driver.
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1)'
params='/sys/bus/mdev/devices/$(uuid 1)/nvidia/vgpu_params'
assert_eq '' "cat $params"
on_lab "echo disable_vnc=1,frame_rate_limiter=0 > $params"
assert_eq 'disable_vnc=1,frame_rate_limiter=0' "cat $params"
# Without a newline the last character is lost silently.
assert_eq 'OK' "try_write $params disable_vnc=1"
assert_eq 'disable_vnc=' "cat $params"
assert_eq 'OK' "try_write $params ' '"
assert_eq '' "cat $params"
assert_eq 'Argument list too long' "try_write $params \$(head -c 1025 /dev/zero | tr '\\0' a)"
on_lab 'define_vm params $(uuid 1) && start_vm params'
assert_eq 'Operation not permitted' "try_write $params enable_uvm=1"
