# The next N creations fail with the chosen errno, on one board or on all, and then no more.
on_lab 'echo 2 ENOSPC > $SIM/boards/$T4A/fail_create'
assert_eq '2 ENOSPC' 'cat $SIM/boards/$T4A/fail_create'
assert_eq 'OK' 'try_write $(type_path $T4B nvidia-232)/create $(uuid 1)'
assert_eq 'No space left on device
No space left on device
OK' 'for n in 2 3 4; do try_write $(type_path $T4A nvidia-232)/create $(uuid $n); done'
assert_eq '3' 'available $T4A nvidia-232'

for errno in 'EIO:Input/output error' 'EINVAL:Invalid argument' 'EBUSY:Device or resource busy' \
	'ENOMEM:Cannot allocate memory' 'EPERM:Operation not permitted'; do
	on_lab "echo 1 ${errno%%:*} > \$SIM/fail_create"
	assert_eq "${errno#*:}" 'try_write $(type_path $T4C nvidia-232)/create $(uuid 5)'
done
assert_eq 'OK' 'try_write $(type_path $T4C nvidia-232)/create $(uuid 5)'

# reset removes armed faults; invalid input is refused.
on_lab 'echo 5 EIO > $SIM/fail_create; echo 1 > $SIM/reset'
assert_eq 'OK' 'try_write $(type_path $T4C nvidia-232)/create $(uuid 6)'
assert_eq 'Invalid argument' 'try_write $SIM/fail_create "1 ENONSENSE"'
assert_eq 'Invalid argument' 'try_write $SIM/fail_create "1 OK"'
