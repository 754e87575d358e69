# A reboot of the lab host removes the vGPUs and keeps the files on disk.
# deadline: 600
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1)
	define_vm ws1 $(uuid 1) && start_vm ws1
	echo kept > /var/lib/lab-kept; sync'
boot=$(on_lab 'cat /proc/sys/kernel/random/boot_id')
reboot_lab
[[ $(on_lab 'cat /proc/sys/kernel/random/boot_id') != "$boot" ]] || fail 'the same boot as before'
assert_eq 'kept' 'cat /var/lib/lab-kept; rm /var/lib/lab-kept'
assert_eq '' 'mdevs'
assert_eq 'shut off' 'state_of ws1'
assert_eq '' 'systemctl --failed --plain --no-legend'
on_lab 'create_mdev $T4C nvidia-232 $(uuid 1); start_vm ws1'
assert_eq 'running' 'state_of ws1'
