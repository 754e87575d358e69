# The host's driver is changed: GPUs go into maintenance, VMs off them, another driver is installed and loaded, and all
# comes back. With a VM that does not stop, a program that has the driver open, drivers that do not build or load, a
# command that is killed, and a power cut.
# needs: product
# deadline: 900
a=0000:3b:00.0 b=0000:5e:00.0
on_lab "unload_boards
	echo 'options nvidia boards=l40s@$a/0,l40s@$b/0 framework=vendor-vfio' > /etc/modprobe.d/lab-nvidia.conf
	mkdir -p /lib/modules/\$(uname -r)/build
	driver_package /srv/packages 580.65.05
	driver_package /srv/packages 580.82.02
	driver_package /srv/packages 570.86.10 builds-not
	driver_package /srv/packages 550.90.05 loads-not
	driver_package /srv/packages 535.54.06 waits
	for package in /srv/packages/*; do virt-vgpu driver add \$package; done > /dev/null
	apt-get install --yes /srv/packages/*_580.65.05_*.deb > /dev/null
	modprobe nvidia; systemctl restart nvidia-vgpud nvidia-vgpu-mgr
	write_vgpu_pool cad $a; write_vgpu_pool web $b
	virt-vgpu host apply --all > /dev/null
	attached_vm ws1 cad; attached_vm ws2 web; start_vm ws1; start_vm ws2"
assert_eq '580.65.05' 'cat /sys/module/nvidia/version'
assert_eq '["nvidia-535.54.06","nvidia-550.90.05","nvidia-570.86.10","nvidia-580.65.05","nvidia-580.82.02"]' \
	"virt-vgpu driver list --json | jq -c '[.sets[].name]'"
said=$(refuse 'virt-vgpu driver load nvidia-580.82.02 --yes')
[[ $said == *"in maintenance only; 'virt-vgpu maintenance enter'"* ]] || fail "it said: $said"

# Who is in the way, and who does not go.
on_lab 'obeying ws1'
said=$(refuse 'virt-vgpu maintenance enter --shutdown --timeout 5 --yes 2>&1')
[[ $said == *"domain 'ws2': it has not shut down in 5 s"*"'virsh destroy ws2'"* ]] || fail "it said: $said"
assert_eq 'shut off running' 'echo $(state_of ws1) $(state_of ws2)'
assert_eq '[["ws2"],["ws1","ws2"]]' \
	"virt-vgpu maintenance status --json | jq -c '[[.holders.domains[].domain], .shut_down]'"
said=$(refuse 'virsh -q start ws1')
[[ $said == *"its GPU $a is in maintenance until 'virt-vgpu maintenance leave'"* ]] || fail "it said: $said"
on_lab "write_type $(on_lab "vf $a 5") \$(creatable $(on_lab "vf $a 5") | cut -d, -f1) > /dev/null
	define_vf_vm raw $(on_lab "vf $a 5")"
said=$(refuse 'virsh -q start raw')
[[ $said == *"domain 'raw' names $(on_lab "vf $a 5"), and its GPU $a is in maintenance"* ]] || fail "it said: $said"
on_lab "virsh -q undefine raw; write_type $(on_lab "vf $a 5") 0"
said=$(refuse 'virt-vgpu driver load nvidia-580.82.02 --yes')
[[ $said == *"the GPUs are in use: domain 'ws2'"* ]] || fail "it said: $said"
on_lab 'virsh -q destroy ws2; in_background exporter "exec 3<> /dev/nvidiactl; exec sleep 1000"
	wait_until "ls -l /proc/[0-9]*/fd 2> /dev/null | has nvidiactl" 20'
said=$(refuse 'virt-vgpu driver load nvidia-580.82.02 --yes')
[[ $said == *"others have the driver open, and it cannot be unloaded then: sleep (process "* ]] || fail "it said: $said"
assert_eq '580.65.05 32 32' "echo \$(cat /sys/module/nvidia/version) \$(functions_of $a) \$(functions_of $b)"
on_lab 'pkill -x sleep; wait_until "! ls -l /proc/[0-9]*/fd 2> /dev/null | has nvidiactl" 20'

# The change, and back to work.
report "$(on_lab 'virt-vgpu driver load nvidia-580.82.02 --yes 2>&1')"
assert_eq '580.82.02 32 32' "echo \$(cat /sys/module/nvidia/version) \$(functions_of $a) \$(functions_of $b)"
assert_eq 'active' 'systemctl is-active nvidia-vgpu-mgr'
assert_eq 'ii nvidia-vgpu-ubuntu-580 580.82.02' "dpkg-query -W -f '\${db:Status-Abbrev}\${Package} \${Version}\n' 'nvidia-vgpu-ubuntu*'"
on_lab 'virt-vgpu maintenance leave --start'
assert_eq 'running running' 'echo $(state_of ws1) $(state_of ws2)'
assert_eq '' 'systemctl --failed --plain --no-legend'
on_lab 'virsh -q destroy ws1; virsh -q destroy ws2; virt-vgpu maintenance enter > /dev/null'

# Drivers that do not build or load give way to the former.
for bad in 570.86.10 550.90.05; do
	said=$(refuse "virt-vgpu driver load nvidia-$bad --yes 2>&1")
	report "$said"
	[[ $said == *'the former driver is back; driver 580.82.02 is loaded'* ]] || fail "it said: $said"
	assert_eq '580.82.02 32 32' "echo \$(cat /sys/module/nvidia/version) \$(functions_of $a) \$(functions_of $b)"
	assert_eq 'active' 'systemctl is-active nvidia-vgpu-mgr'
done

# stopped_at_install: whoever comes next knows where the change has stopped
stopped_at_install() {
	local said
	assert_eq '["install",false]' "virt-vgpu maintenance status --json | jq -c '[.load.step, .driver_loaded]'"
	said=$(refuse 'virt-vgpu maintenance leave')
	[[ $said == *"'virt-vgpu driver load nvidia-535.54.06' stopped at 'install the driver', and no driver is loaded now"* ]] ||
		fail "it said: $said"
}

# Killed while a package is installed: who comes next knows it.
on_lab 'in_background load "exec virt-vgpu driver load nvidia-535.54.06 --yes"; wait_until "test -e /run/lab-is-waiting" 120
	pkill -9 -x virt-vgpu; wait_until "! pgrep -x virt-vgpu" 20; touch /run/lab-go-on; wait_until "! pgrep -x apt-get" 120'
stopped_at_install
on_lab 'virt-vgpu driver load nvidia-580.65.05 --yes; virt-vgpu maintenance leave'
assert_eq '580.65.05 32 32' "echo \$(cat /sys/module/nvidia/version) \$(functions_of $a) \$(functions_of $b)"

# The power is cut while a package is installed: nothing was shut down, and the next command knows where it stopped.
on_lab 'virt-vgpu maintenance enter > /dev/null; rm /run/lab-is-waiting /run/lab-go-on
	mv /etc/modules-load.d/virt-vgpu-sim.conf /etc/lab-modules; sync
	in_background load "exec virt-vgpu driver load nvidia-535.54.06 --yes"; wait_until "test -e /run/lab-is-waiting" 120'
cut_power
assert 'wait_until "systemctl -q is-active multi-user.target" 180'
stopped_at_install
assert_eq 'nvidia-vgpu-ubuntu-535' "dpkg --audit | grep -o 'nvidia-vgpu-ubuntu-[0-9]*'"
said=$(refuse 'virt-vgpu driver load nvidia-580.65.05 --yes')
[[ $said == *"dpkg was interrupted at its work and refuses other work; complete it with 'dpkg --configure -a', then try again" ]] ||
	fail "it said: $said"
on_lab 'touch /run/lab-go-on; dpkg --configure -a > /dev/null; virt-vgpu driver load nvidia-580.65.05 --yes
	virt-vgpu maintenance leave; mv /etc/lab-modules /etc/modules-load.d/virt-vgpu-sim.conf'
assert_eq '580.65.05 32 32' "echo \$(cat /sys/module/nvidia/version) \$(functions_of $a) \$(functions_of $b)"
assert_eq '' 'dpkg --audit'
on_lab "start_vm ws1; virsh -q destroy ws1; virsh -q undefine ws1; virsh -q undefine ws2
	rm /etc/virt-vgpu/pools.d/*
	for gpu in $a $b; do /usr/lib/nvidia/sriov-manage -d \$gpu; done
	systemctl stop nvidia-vgpu-mgr; modprobe -r nvidia; dpkg --purge nvidia-vgpu-ubuntu-580 > /dev/null
	for set in \$(virt-vgpu driver list --json | jq -r '.sets[].name'); do virt-vgpu driver remove \$set --yes; done > /dev/null
	rm -r /srv/packages /etc/modprobe.d/lab-nvidia.conf /lib/modules/\$(uname -r)/build
	load_boards \$DEFAULT_BOARDS"
