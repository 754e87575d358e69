# The disc of guest drivers, with a licence token, in a VM that boots: Linux reads its names, modes and sums, and its
# installer takes what suits each guest, once, and puts the token into place. nested/disc has the guest's side.
# needs: product
# deadline: 1200
run=NVIDIA-Linux-x86_64-580.65.06-grid.run deb=nvidia-linux-grid-580_580.65.06_amd64.deb
rpm=nvidia-linux-grid-580-580.65.06-1.x86_64.rpm
windows=580.88_grid_win10_win11_server2022_server2025_dch_64bit_international.exe
same 'length of the name for Windows' 73 ${#windows}
# Names and first bytes as of NVIDIA's. The installer for Linux is one, with what a guest of this lab has.
on_lab "mkdir -p /srv/disc-bundle/Host_Drivers /srv/disc-bundle/Guest_Drivers
	cd /srv/disc-bundle
	printf '#!/bin/sh\n# Graphics Driver for Linux-x86_64 580.65.05\n' > Host_Drivers/NVIDIA-Linux-x86_64-580.65.05-vgpu-kvm.run
	cd Guest_Drivers
	cat > $run <<-'RUN'
		#!/bin/sh
		# Graphics Driver for Linux-x86_64 580.65.06
		echo \"asked: \${0##*/} \$*\"
		driver_comes 580.65.06
	RUN
	printf '!<arch>\ndebian-binary   1700000000  0     0     100644  4         \`\n2.0\n' > $deb
	{ printf '\355\253\356\333\3\0\0\0\0\1%s' ${rpm%.x86_64.rpm}; head -c 96 /dev/zero; } > $rpm
	{ printf 'MZ'; head -c 58 /dev/zero; printf '\200\0\0\0'; head -c 64 /dev/zero; printf 'PE\0\0'; } > $windows
	head -c 100000 /dev/zero >> $windows
	virt-vgpu driver add /srv/disc-bundle
	create_pool cad --type nvidia-232 --device \$T4A --guest-driver nvidia-580.65.05
	printf 'licence.token.of-cad\n' > /srv/client.tok
	virt-vgpu driver token add /srv/client.tok --pool cad; rm /srv/client.tok"
disc=/var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest-pool-cad.iso
files="$windows $run README.txt SHA256SUMS install.cmd install.sh $rpm $deb token/client.tok"

# What Windows reads, by another program than Linux' kernel.
assert_eq "$(printf "'/%s'\n" $files)" \
	"{ xorriso -abort_on FATAL -read_fs joliet -indev $disc -find / -type f 2> /dev/null || true; } | LC_ALL=C sort"

on_lab "BOOTING=lab.disc booting_vm guest > /run/guest.xml
	virsh -q define /run/guest.xml
	virt-vgpu attach guest --pool cad --guest-drivers > /dev/null
	start_vm guest
	heard guest 'disc end'"
# told PATTERN: what follows it in the lines that begin so
told() { on_lab "guest_said guest | sed -n 's/^guest: [0-9.]* disc $1//p'"; }
same 'names by Joliet' "$(printf '%s\n' $files)" "$(told 'joliet ')"
expected=
for file in $files; do
	mode=r--r--r--
	[[ $file != "$run" && $file != install.sh ]] || mode=r-xr-xr-x
	expected+="-$mode $file"$'\n'
done
same 'names and modes by Rock Ridge' "${expected%?}" "$(told 'file ')"
same 'sums' "$(for file in $files; do [[ $file == SHA256SUMS ]] || echo "$file: OK"; done)" "$(told 'sums: ' | LC_ALL=C sort)"

# A guest that has nothing that the driver is built with, then one of each kind, twice.
kernel=$(on_lab "guest_said guest | sed -n 's/.*the headers of this kernel are missing.*linux-headers-\([^ ]*\) (Debian.*/\1/p'")
[[ -n $kernel ]] || fail 'the guest does not say which headers it lacks'
same 'a guest without headers' "install.sh: the headers of this kernel are missing, which the driver is built with; install linux-headers-$kernel (Debian, Ubuntu) or kernel-devel-$kernel (Red Hat), then run this again
exit 1" "$(told 'bare: ')"
# installed FILE LINE...: what the installer says of it, with these lines of who is asked for it, when it is run twice,
# and what is there then
installed() {
	local finished="install.sh: done; 'nvidia-smi' shows the GPU, 'nvidia-smi -q | grep License' the licence
exit 0"
	printf '%s\n' "install.sh: installing $1" "${@:2}" \
		'install.sh: put the licence token into /etc/nvidia/ClientConfigToken' "$finished" \
		'install.sh: driver 580.65.06 is installed already' 'install.sh: the licence token is in place already' "$finished" \
		'has -rwxr--r-- /etc/nvidia/ClientConfigToken/client.tok' 'has it: licence.token.of-cad' \
		'has -rw-r--r-- /etc/nvidia/gridd.conf' 'has it: # NVIDIA' 'has it: FeatureType=1'
}
same 'a guest with dpkg' "$(installed $deb "asked: dpkg -i /media/disc/$deb" 'it begins: 213c617263683e')" "$(told 'dpkg: ')"
same 'a guest with rpm' "$(installed $rpm "asked: rpm -U /media/disc/$rpm" 'it begins: edabeedb030000')" "$(told 'rpm: ')"
same 'another guest' "$(installed $run "asked: $run --silent")" "$(told 'run: ')"

# The guest has the disc mounted, and its kernel has locked the drive: it keeps its disc, unless it is told to let go.
# What QEMU has open, which may not have a name any more.
# shellcheck disable=SC2016  # expanded on the lab host
of_guest() { on_lab 'for file in /proc/$(qemu_pid guest)/fd/*; do [[ $(readlink "$file") != *.iso* ]] || stat -Lc %i "$file"; done | sort -u'; }
before=$(of_guest)
on_lab "printf 'licence.token.of-more\n' > /srv/client.tok
	virt-vgpu driver token add /srv/client.tok --pool cad --yes; rm /srv/client.tok"
said=$(refuse 'virt-vgpu driver iso nvidia-580.65.05 --update-running')
[[ $said == *"domain 'guest': "*"; it keeps its disc; if the guest has locked the drive, eject the disc in the guest and run this again, or try again with --force"* ]] ||
	fail "it said: $said"
assert_eq '["failed"]' "{ virt-vgpu driver iso nvidia-580.65.05 --update-running --json || true; } | jq -c '[.running[].outcome]'"
same 'the disc of the guest' "$before" "$(of_guest)"
assert "virt-vgpu driver iso nvidia-580.65.05 --update-running --force | grep -x \"domain 'guest' has now $disc\""
same 'the disc of the guest' "$(on_lab "stat -c %i $disc")" "$(of_guest)"
[[ $(of_guest) != "$before" ]] || fail 'it is the same disc'
assert_eq '' "virsh dumpxml guest | grep \"tray='open'\" || true"

# It has the GPU that the driver is for.
on_lab "heard guest '+ pci 0000:[0-9a-f:.]* 10de:1eb8'
	virsh -q destroy guest; virsh -q undefine guest; virt-vgpu driver token remove --pool cad --yes > /dev/null
	virt-vgpu pool delete cad --yes > /dev/null; virt-vgpu driver remove nvidia-580.65.05 --yes > /dev/null"
