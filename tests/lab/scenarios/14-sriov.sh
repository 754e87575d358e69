# Virtual functions are created and removed only by sriov-manage, with the lock, the texts and the uevents
# of the real program.
on_lab 'unload_boards; load_boards l40s@0000:3b:00.0/0,a100-80@0000:86:00.0/1 framework=vendor-vfio'
gpu=0000:3b:00.0 functions=/sys/bus/pci/devices/0000:3b:00.0
assert_eq '0 32' "cat $functions/sriov_numvfs $functions/sriov_totalvfs | paste -sd' '"
assert_eq 'No such file or directory' "try_write $functions/sriov_numvfs 4"
assert_eq '' "ls -d $functions/nvidia $functions/mdev_supported_types 2> /dev/null || true"

# A process that has the GPU open prevents the lock.
lock=/proc/driver/nvidia/gpus/$gpu/unbindLock
assert_eq '0' "cat $lock"
assert_eq "Cannot obtain unbindLock for $gpu" "exec 7<> /dev/nvidiactl; last_line_of /usr/lib/nvidia/sriov-manage -e $gpu"
assert_eq '1' "exec 7<> /dev/nvidiactl; status_of /usr/lib/nvidia/sriov-manage -e $gpu"
assert_eq '0 0' "echo \$(cat $lock $functions/sriov_numvfs)"
assert_eq "Cannot obtain unbindLock for $gpu" "exec 7<> /dev/nvidiactl; { /usr/lib/nvidia/sriov-manage -e $gpu > /dev/null || true; } 2>&1"
# ALL stops at the first GPU that fails.
assert_eq "Enabling VFs on $gpu 0 0" "exec 7<> /dev/nvidiactl; echo \$(/usr/lib/nvidia/sriov-manage -e ALL 2> /dev/null || true) \$(cat /sys/bus/pci/devices/{$gpu,0000:86:00.0}/sriov_numvfs)"
# No device: failure without a word.
assert_eq '1' 'status_of /usr/lib/nvidia/sriov-manage -e 0000:99:00.0'
assert_eq '' '/usr/lib/nvidia/sriov-manage -e 0000:99:00.0 2>&1 || true'

on_lab "udevadm monitor --kernel --subsystem-match=pci > /run/lab-uevents 2>&1 < /dev/null & echo \$! > /run/lab-monitor
	wait_until 'grep -q ^monitor /run/lab-uevents' 10"
assert_eq "Enabling VFs on $gpu" "/usr/lib/nvidia/sriov-manage -e $gpu"
assert_eq '32' "ls -d $functions/virtfn* | wc -l"
assert_eq "$gpu" "basename \$(readlink /sys/bus/pci/devices/\$(vf $gpu 31)/physfn)"
# The numbering continues on the next device: addresses must not be computed.
assert_eq '0000:3b:00.4 0000:3b:00.7 0000:3b:01.0 0000:3b:04.3' "echo \$(vf $gpu 0) \$(vf $gpu 3) \$(vf $gpu 4) \$(vf $gpu 31)"
assert_eq '32' "for n in \$(seq 0 31); do readlink /sys/bus/pci/devices/\$(vf $gpu \$n)/driver; done | grep -c '/nvidia\$'"
assert_eq '10de:26b9' "lspci -n -s \$(vf $gpu 5) | cut -d' ' -f3"
assert_eq '0' 'cat /sys/bus/pci/devices/0000:86:00.0/sriov_numvfs'
on_lab "udevadm settle; kill \$(cat /run/lab-monitor)"
assert_eq '32' 'grep -c "add .*0000:3b:0[0-4]\.[0-7] (pci)" /run/lab-uevents'
assert_eq '32' 'grep "bind .*(pci)" /run/lab-uevents | grep -v unbind | grep -vc "/0000:3b:00.0 (pci)"'
assert_eq '2' 'grep " bind .*/0000:3b:00.0 (pci)" /run/lab-uevents | wc -l'

# A second run succeeds; ALL means all boards that have virtual functions.
on_lab "/usr/lib/nvidia/sriov-manage -e $gpu"
assert_eq '32' "cat $functions/sriov_numvfs"
assert_eq 'Enabling VFs on 0000:3b:00.0
Enabling VFs on 0000:86:00.0' '/usr/lib/nvidia/sriov-manage -e ALL'
assert_eq '20' 'cat /sys/bus/pci/devices/0000:86:00.0/sriov_numvfs'
# libvirtd waits a second for each device that appeared and disappeared before; a new libvirtd reads the
# present state.
on_lab 'systemctl restart libvirtd'
assert 'wait_until "[ \$(virsh nodedev-list --cap pci | grep -c ^pci_0000_[38][b6]_) = 54 ]" 60'
on_lab "/usr/lib/nvidia/sriov-manage -d $gpu"
assert_eq '0 20' "cat $functions/sriov_numvfs /sys/bus/pci/devices/0000:86:00.0/sriov_numvfs | paste -sd' '"

# A function that loses its driver in another way has no vGPU part until the next cycle.
on_lab "/usr/lib/nvidia/sriov-manage -e $gpu"
on_lab "f=\$(vf $gpu 2); echo \$f > /sys/bus/pci/drivers/nvidia/unbind; echo \$f > /sys/bus/pci/drivers/nvidia/bind"
assert_eq 'Invalid argument' "write_type \$(vf $gpu 2) 1155"
assert 'grep -q "vfio_pci_core_device not found" <(dmesg)'
assert_eq 'OK' "write_type \$(vf $gpu 3) 1155"
on_lab "/usr/lib/nvidia/sriov-manage -d $gpu; /usr/lib/nvidia/sriov-manage -e $gpu"
assert_eq '0 OK' "echo \$(vf_type \$(vf $gpu 3)) \$(write_type \$(vf $gpu 2) 1155)"

# One function disappears from the bus; a whole board with functions does, and comes back without them.
on_lab "echo 4 > \$SIM/boards/$gpu/vanish"
assert_eq '31' "ls -d $functions/virtfn* | wc -l"
on_lab "echo 0 > \$SIM/boards/$gpu/present"
assert_eq '' "ls -d /sys/bus/pci/devices/0000:3b:* 2> /dev/null || true"
on_lab "echo 1 > \$SIM/boards/$gpu/present; /usr/lib/nvidia/sriov-manage -e $gpu"
assert_eq '32 0' "echo \$(ls -d $functions/virtfn* | wc -l) \$(vf_type \$(vf $gpu 2))"
# A board that is removed by hand disappears with its functions; `reset` brings it back.
on_lab "echo 1 > $functions/remove"
assert_eq '' "ls -d /sys/bus/pci/devices/0000:3b:* 2> /dev/null || true"
on_lab "echo 1 > \$SIM/reset; /usr/lib/nvidia/sriov-manage -e $gpu"
assert_eq '32 0' "echo \$(ls -d $functions/virtfn* | wc -l) \$(vf_type \$(vf $gpu 2))"
# Other versions leave a GPU alone that has its functions: nothing is wiped, and nobody is asked.
on_lab "unload_boards; load_boards l40s@$gpu/0 framework=vendor-vfio rebind_again=N
	/usr/lib/nvidia/sriov-manage -e $gpu; write_type \$(vf $gpu 0) 1155"
assert_eq "$gpu has 32 virtual functions already" "exec 7<> /dev/nvidiactl; last_line_of /usr/lib/nvidia/sriov-manage -e $gpu"
assert_eq '1155 Not' "echo \$(vf_type \$(vf $gpu 0)) \$(cut -d' ' -f1 /sys/bus/pci/devices/\$(vf $gpu 0)/nvidia/gpu_instance_id)"
on_lab "/usr/lib/nvidia/sriov-manage -d $gpu"
assert_eq "$gpu has 0 virtual functions already" "last_line_of /usr/lib/nvidia/sriov-manage -d $gpu"
assert '! dmesg | grep -E "BUG|WARNING|Call Trace|possible circular"'
