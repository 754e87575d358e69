# A driver bundle becomes a set, and its disc is in the VMs of a pool that lends it: QEMU, confined, has it open. So
# it is with a licence token on it, also when the VM gets that disc while it runs.
# needs: product
# deadline: 600
linux=NVIDIA-Linux-x86_64-580.65.06-grid.run windows=580.88_grid_win10_win11_server2022_dch_64bit_international.exe
on_lab "mkdir -p /srv/bundle/Host_Drivers /srv/bundle/Guest_Drivers
	printf '#!/bin/sh\n# Graphics Driver for Linux-x86_64 580.65.05\n' > /srv/bundle/Host_Drivers/NVIDIA-Linux-x86_64-580.65.05-vgpu-kvm.run
	printf '#!/bin/sh\n# Graphics Driver for Linux-x86_64 580.65.06\necho \"installing \$*\"\n' > /srv/bundle/Guest_Drivers/$linux
	{ printf 'MZ'; head -c 58 /dev/zero; printf '\200\0\0\0'; head -c 64 /dev/zero; printf 'PE\0\0'; } > /srv/bundle/Guest_Drivers/$windows
	virt-vgpu driver add /srv/bundle"
assert_eq '[true,["580.65.06","580.88"]]' "virt-vgpu driver list --json | jq -c '.sets[0] | [.disc, [.guests[].version]]'"
disc=/var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest.iso
assert_eq 'root:root 644' "stat -c '%U:%G %a' $disc"

# What a Linux guest sees, and what its installer does there with stubs of the guest's programs.
# (User-mode Linux has no ISO 9660; there xorriso reads it.)
on_lab "mkdir -p /run/disc; mount -o loop,ro $disc /run/disc 2> /dev/null ||
	xorriso -osirrox on -indev $disc -extract / /run/disc 2> /dev/null"
assert_eq "$windows
$linux
README.txt
SHA256SUMS
install.cmd
install.sh" 'ls /run/disc | LC_ALL=C sort'
assert_eq "-r-xr-xr-x $linux
-r-xr-xr-x install.sh" "cd /run/disc; stat -c '%A %n' $linux install.sh"
assert 'cd /run/disc; sha256sum -c --quiet SHA256SUMS'
on_lab 'mkdir -p /run/guest/lib/modules/$(uname -r)/build'
assert_eq "install.sh: installing $linux
installing --silent
install.sh: done; 'nvidia-smi' shows the GPU, 'nvidia-smi -q | grep License' the licence" \
	'INSTALL_ROOT=/run/guest sh /run/disc/install.sh'
on_lab 'umount /run/disc || rm -rf /run/disc'

on_lab 'create_pool cad --type nvidia-232 --device $T4A --guest-driver nvidia-580.65.05; attached_vm ws1 cad --guest-drivers; start_vm ws1'
assert "grep -q '^libvirt-.* (enforce)' /proc/\$(qemu_pid ws1)/attr/current"
assert "ls -l /proc/\$(qemu_pid ws1)/fd | has ' $disc\$'"
assert_eq 'root:root 644' "stat -c '%U:%G %a' $disc"

# A licence token of the pool: its disc is QEMU's alone, and comes to the VM that runs, confined as before.
on_lab 'printf "sesame.c2VzYW1l.sesame" > /srv/client.tok; virt-vgpu driver token add /srv/client.tok --pool cad; rm /srv/client.tok'
mine=/var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-cad.iso
assert_eq 'libvirt-qemu:root 400' "stat -c '%U:%G %a' $mine"
assert_eq 'root:root 700
root:root 600' "stat -c '%U:%G %a' /var/lib/virt-vgpu/tokens /var/lib/virt-vgpu/tokens/pool-cad.json"
assert "grep -q sesame $mine && ! grep -q sesame $disc"
assert "! setpriv --reuid=65534 --clear-groups cat $mine > /dev/null 2>&1"
assert_eq "domain 'ws1' would get $mine" 'virt-vgpu driver iso nvidia-580.65.05 --update-running --dry-run'
assert "ls -l /proc/\$(qemu_pid ws1)/fd | has ' $disc\$'"
assert_eq "domain 'ws1' has now $mine" 'virt-vgpu driver iso nvidia-580.65.05 --update-running'
assert "ls -l /proc/\$(qemu_pid ws1)/fd | has ' $mine\$'"
assert "! ls -l /proc/\$(qemu_pid ws1)/fd | has ' $disc\$'"
assert_eq "domain 'ws1' has $mine" 'virt-vgpu driver iso nvidia-580.65.05 --update-running'
assert_eq '{"set":"nvidia-580.65.05","token":{"scope":"pool","pool":"cad"}}' 'virt-vgpu status --json | jq -c ".claims[0].guest_disc"'
# The next start has it from the beginning, and libvirt leaves its owner and mode as they are.
on_lab 'virsh -q destroy ws1; start_vm ws1'
assert "ls -l /proc/\$(qemu_pid ws1)/fd | has ' $mine\$'"
on_lab 'virsh -q destroy ws1'
assert_eq 'libvirt-qemu:root 400' "stat -c '%U:%G %a' $mine"
on_lab 'start_vm ws1'
said=$(refuse 'virt-vgpu driver remove nvidia-580.65.05 --yes')
[[ $said == *"pool 'cad' lends it to VMs (guest-driver); give the pools another one first"* ]] || fail "it said: $said"
on_lab 'virsh -q destroy ws1; virsh -q undefine ws1; virt-vgpu driver token remove --pool cad --yes
	virt-vgpu pool delete cad --yes > /dev/null; virt-vgpu driver remove nvidia-580.65.05 --yes'
assert_eq '' 'ls -A /var/lib/virt-vgpu/drivers'
assert_eq '' 'ls -A /var/lib/virt-vgpu/tokens'
assert '! journalctl -b -t virt-vgpu -t virt-vgpu-hook -t virt-vgpud | grep -q sesame'
