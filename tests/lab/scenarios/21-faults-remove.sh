# Removals fail with the chosen errno and leave the vGPU; one kind of fault also reports success and leaves
# it.
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1); create_mdev $T4B nvidia-232 $(uuid 2)'
on_lab 'echo 2 EBUSY > $SIM/boards/$T4A/fail_remove'
assert_eq 'OK' 'try_write /sys/bus/mdev/devices/$(uuid 2)/remove 1'
assert_eq 'Device or resource busy
Device or resource busy' 'for n in 1 2; do try_write /sys/bus/mdev/devices/$(uuid 1)/remove 1; done'
assert_eq '3' 'available $T4A nvidia-232'
on_lab 'echo 1 OK > $SIM/fail_remove'
assert_eq 'OK' 'try_write /sys/bus/mdev/devices/$(uuid 1)/remove 1'
assert_eq '11111111-2222-4333-8444-000000000001' 'mdevs'
assert_eq 'OK' 'try_write /sys/bus/mdev/devices/$(uuid 1)/remove 1'
assert_eq '' 'mdevs'
