# shellcheck shell=bash
# Sourced on the lab host before every command of a scenario: words for what scenarios do there.

SIM=/sys/kernel/debug/virt_vgpu_sim
# The boards of image/root/etc/modprobe.d, and one UUID per letter for mdevs made by hand.
T4A=0000:3b:00.0 T4B=0000:5e:00.0 T4C=0000:86:00.0
DEFAULT_BOARDS=t4@$T4A/0,t4@$T4B/0,t4@$T4C/1

# uuid N: the Nth UUID of this run of the tests, always the same
uuid() { printf '11111111-2222-4333-8444-%012d\n' "$1"; }

# type_path BOARD TYPE: TYPE is an id (nvidia-232)
type_path() { printf '/sys/class/mdev_bus/%s/mdev_supported_types/%s\n' "$1" "$2"; }

available() { cat "$(type_path "$1" "$2")/available_instances"; }

mdevs() { ls /sys/bus/mdev/devices 2> /dev/null || true; }

# try_write FILE TEXT: "OK", or the words of the errno that the one write(2) got
try_write() {
	local answer
	if answer=$( (printf '%s' "$2" > "$1") 2>&1); then
		printf 'OK\n'
	else
		printf '%s\n' "${answer##*: }"
	fi
}

create_mdev() { printf '%s' "$3" > "$(type_path "$1" "$2")/create"; }

remove_mdev() { printf 1 > "/sys/bus/mdev/devices/$1/remove"; }

# wait_until COMMAND SECONDS: polls, longer on a slow host; fails with COMMAND's text
wait_until() {
	local end=$((SECONDS + $2 * ${LAB_SLOW:-1}))
	until eval "$1" > /dev/null 2>&1; do
		if ((SECONDS >= end)); then
			printf 'still not so after %s s: %s\n' "$2" "$1" >&2
			return 1
		fi
		sleep 0.1
	done
}

# has [OPTION...] PATTERN: whether standard input has a match. All of it is read: behind `| grep -q` or `| head`
# whoever still writes is killed, and the pipeline fails (pipefail).
has() {
	local text
	text=$(cat)
	grep -q "$@" <<< "$text"
}

# elapsed_ms COMMAND: runs it and prints how long it took
elapsed_ms() {
	local start=${EPOCHREALTIME/./}
	eval "$1"
	printf '%s\n' $(((${EPOCHREALTIME/./} - start) / 1000))
}

# status_of COMMAND...: its exit status, without what it says
status_of() {
	local status=0
	"$@" > /dev/null 2>&1 || status=$?
	printf '%s\n' "$status"
}

# last_line_of COMMAND...: the last line that it prints, whether or not it succeeds
last_line_of() { { "$@" 2>&1 || true; } | tail -n 1; }

# try_read FILE: its text, or the words of the errno
try_read() { { cat "$1" 2>&1 || true; } | sed 's/^cat: .*: //'; }

# in_background NAME COMMAND: starts COMMAND; nothing of it holds the connection of the caller open
in_background() {
	rm -f "/run/lab-$1.status"
	(
		status=0
		eval "$2" || status=$?
		printf '%s\n' "$status" > "/run/lab-$1.status"
	) > "/run/lab-$1.out" 2>&1 < /dev/null &
}

# ended NAME: whether that command has ended; its status is in /run/lab-NAME.status
ended() { [ -s "/run/lab-$1.status" ]; }

# vm_xml NAME [MDEV-UUID...]: a VM that costs nearly nothing and runs forever in its firmware
vm_xml() {
	local name=$1 id
	shift
	cat <<-XML
		<domain type='qemu'>
		  <name>$name</name>
		  <memory unit='MiB'>64</memory>
		  <vcpu>1</vcpu>
		  <os><type arch='x86_64' machine='q35'>hvm</type></os>
		  <features><acpi/></features>
		  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
		  <devices>
	XML
	for id in "$@"; do
		cat <<-XML
			    <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='off'>
			      <source><address uuid='$id'/></source>
			    </hostdev>
		XML
	done
	cat <<-XML
		    <memballoon model='none'/>
		  </devices>
		</domain>
	XML
}

# hot_vm NAME PORTS [DEVICE]: the XML of a VM with free ports and perhaps one more device
hot_vm() {
	local port='<controller type="pci" model="pcie-root-port"/>' i
	local more='<controller type="usb" model="none"/><controller type="pci" model="pcie-root"/>'
	for ((i = 0; i < $2; i++)); do more+=$port; done
	vm_xml "$1" | sed "s:<memballoon:$more${3-}\n    &:"
}

define_hot() {
	hot_vm "$@" > "/run/$1.xml"
	virsh -q define "/run/$1.xml"
}

# letting_go: a disk for a VM that lets go of what is unplugged. Its boot sector does what an operating
# system's ACPI driver does, for each bus: it reads which slots shall be emptied (0xcc4) and empties them (0xcc8).
letting_go() {
	local disk=/var/lib/libvirt/images/eject.img
	printf '\xfb\x31\xdb\xf4\xba\xd0\x0c\x66\x0f\xb7\xc3\x66\xef\xba\xc4\x0c\x66\xed\x66\x85\xc0\x74\x05\xba\xc8\x0c\x66\xef\x43\x83\xe3\x07\x75\xe2\xeb\xdf' > $disk
	truncate -s 510 $disk
	printf '\x55\xaa' >> $disk
	truncate -s 10M $disk
	printf '<disk type="file"><source file="%s"/><target dev="sda" bus="sata"/><shareable/></disk>' $disk
}

define_vm() {
	vm_xml "$@" > "/run/$1.xml"
	virsh -q define "/run/$1.xml"
}

start_vm() { virsh -q start "$1"; }

state_of() { virsh -q domstate "$1" | sed -n 1p; }

qemu_pid() { cat "/run/libvirt/qemu/$1.pid"; }

# create_pool NAME OPTION...
create_pool() { virt-vgpu pool create "$@" > /dev/null; }

# vgpu_pool NAME PROFILE BOARD [LINE...]: a pool of vGPUs on that board, with further lines in its file
vgpu_pool() {
	local name=$1 profile=$2 board=$3
	shift 3
	{
		printf "kind = 'nvidia-vgpu'\nprofile = '%s'\n" "$profile"
		printf '%s\n' "$@"
		printf "[[rule]]\nwhere = [{ field = 'address', op = 'equal', value = '%s' }]\n" "$board"
	} > "/etc/virt-vgpu/pools.d/$name.toml"
}

# write_vgpu_pool NAME BOARD [LINE...]: the same where the profile does not matter
write_vgpu_pool() { vgpu_pool "$1" L40S-12Q "${@:2}"; }

# functions_of BOARD: how many virtual functions it has
functions_of() { cat "/sys/bus/pci/devices/$1/sriov_numvfs"; }

# The GPU instances that there are, as 2g.48gb+gfx@0:6, in the order of their memory slots.
gpu_instances() {
	nvidia-smi mig -lgi | sed -n 's/^| *[0-9]* *MIG \([^ ]*\) .* \([0-9]*:[0-9]*\) *|$/\1@\2/p' |
		sort -t@ -k2n | paste -sd' '
}

# mode_of BOARD: whether sizes are mixed on it, as NVIDIA's program says
mode_of() { nvidia-smi -q -i "$1" | sed -n 's/.*vGPU Heterogeneous Mode *: //p'; }

# attached_vm NAME POOL [OPTION...]: a VM that asks for a device of POOL
attached_vm() {
	local name=$1
	shift
	define_vm "$name"
	virt-vgpu attach "$name" --pool "$@" > /dev/null
}

# device_uuid VM [NAME]: the UUID that its device has to have
device_uuid() { device_uuid_in "$(virsh -q domuuid "$1" | tr -d '\n')" "${2-gpu0}"; }

# device_uuid_in UUID NAME: version 5, made from the VM's UUID and the device's name. Worked out here
# once more, so that it cannot change unseen.
device_uuid_in() {
	local space=${1//-/} hash
	# shellcheck disable=SC2001,SC2059  # the format is the bytes
	hash=$({ printf "$(sed 's/../\\x&/g' <<< "$space")" && printf '%s' "$2"; } | sha1sum)
	printf '%s-%s-5%s-%x%s-%s\n' "${hash:0:8}" "${hash:8:4}" "${hash:13:3}" \
		"$((0x${hash:16:1} & 3 | 8))" "${hash:17:3}" "${hash:20:12}"
}

# function_of VM [NAME]: the address of the virtual function that its definition names
function_of() {
	virsh -q dumpxml --inactive "$1" |
		awk -v alias="'ua-vgpu-${2-gpu0}'" '/<hostdev/ { at = "" } /<address/ && at == "" { at = $0 } index($0, alias) { print at }' |
		sed -E "s/.*domain='0x([^']*)' bus='0x([^']*)' slot='0x([^']*)' function='0x([^']*)'.*/\\1:\\2:\\3.\\4/"
}

# guest_place_of VM [NAME]: bus, slot and function of its device in the guest
guest_place_of() {
	virsh -q dumpxml --inactive "$1" | sed -n "/'ua-vgpu-${2-gpu0}'/,/<address/ s/.*<address.* bus='\([^']*\)' slot='\([^']*\)' function='\([^']*\)'.*/\1 \2 \3/p"
}

# claim_of VM: the file
claim_of() { printf '/run/virt-vgpu/claims/%s.json\n' "$(virsh -q domuuid "$1")"; }

# devices: all mdevs of the host, "UUID PARENT TYPE"
devices() {
	local device
	for device in $(mdevs); do
		printf '%s %s %s\n' "$device" "$(basename "$(readlink -f "/sys/bus/mdev/devices/$device/..")")" \
			"$(basename "$(readlink "/sys/bus/mdev/devices/$device/mdev_type")")"
	done
}

# left_over: whatever the product has to take away when no VM with a request runs; nothing is right
left_over() {
	find /sys/devices -maxdepth 4 -name '????????-????-????-????-????????????'
	find /run/virt-vgpu/claims /var/lib/virt-vgpu/media -mindepth 1 2> /dev/null || true
	hook_processes || true
}

# hook_processes: the pids of running hooks, and (exe) of the children that ask drivers for them, or did.
# virt-vgpud has such a child whenever it looks at the host.
hook_processes() {
	local pid parent status=1
	for pid in $(pgrep -x '50-virt-vgpu|exe'); do
		parent=$(ps -o ppid= -p "$pid") || continue
		[ "$(cat "/proc/${parent// /}/comm" 2> /dev/null)" != virt-vgpud ] || continue
		printf '%s\n' "$pid"
		status=0
	done
	return $status
}

# events [FIELD...]: what the product has logged since the scenario began, the named fields of each
# entry (default: MESSAGE_ID and MESSAGE)
events() {
	local fields
	(($#)) || set -- MESSAGE_ID MESSAGE
	fields=$(printf '.%s,' "$@")
	journalctl -q -o json --after-cursor "$(cat /run/lab-cursor)" -t virt-vgpu-hook -t virt-vgpu -t virt-vgpud |
		jq -r "[${fields%,} // \"-\"] | join(\" \")"
}

# load_boards BOARDS [PARAMETER=VALUE...]: the simulator's module and NVIDIA's services; none of the boards
# was in the host before
load_boards() {
	rm -f /var/lib/virt_vgpu_sim.mig.*
	modprobe virt_vgpu_sim boards="$1" "${@:2}"
	printf '%s\n' "$*" > /run/lab-boards
	systemctl restart nvidia-vgpud nvidia-vgpu-mgr
}

# unload_boards: also takes what is made on them
unload_boards() {
	# What udev has started for a board has its driver open.
	wait_until "! systemctl --plain --no-legend list-units --state=activating 'virt-vgpu-host@*' | has ." 120
	systemctl stop nvidia-vgpu-mgr
	modprobe -r virt_vgpu_sim
}

# driver_package FOLDER VERSION [builds-not | loads-not | waits]: a package as NVIDIA's of its driver for hosts, with
# the simulator in it; it is made for the running kernel when it is installed, as DKMS does. With the word, that
# fails, gives a module that the kernel does not take, or waits for /run/lab-go-on. VERSION is as in 580.65.05.
driver_package() {
	local folder=$1 version=$2 kind=${3-} branch=${2%%.*} top
	top=$(mktemp -d)
	mkdir -p "$folder" "$top/DEBIAN" "$top/usr/src/nvidia-$version"
	LC_ALL=C sed "s/000\.00\.00/$version/g" /usr/lib/virt-vgpu-lab/nvidia.ko > "$top/usr/src/nvidia-$version/nvidia.ko"
	[[ $kind != loads-not ]] || LC_ALL=C sed -i 's/vermagic=./vermagic=X/' "$top/usr/src/nvidia-$version/nvidia.ko"
	cat > "$top/DEBIAN/control" <<-CONTROL
		Package: nvidia-vgpu-ubuntu-$branch
		Version: $version
		Architecture: amd64
		Maintainer: nobody <nobody@example.org>
		Description: simulated driver for hosts
	CONTROL
	cat > "$top/DEBIAN/postinst" <<-POSTINST
		#!/bin/sh
		set -e
		[ "\$1" = configure ] || exit 0
		kernel=\$(uname -r)
		echo "Building initial module for \$kernel"
		if [ ! -e "/lib/modules/\$kernel/build" ]; then
			echo "Error! Your kernel headers for kernel \$kernel cannot be found." >&2
			exit 1
		fi
		if [ '$kind' = builds-not ]; then
			echo "Error! Bad return status for module build on kernel: \$kernel (x86_64)" >&2
			exit 10
		fi
		if [ '$kind' = waits ]; then
			touch /run/lab-is-waiting
			until [ -e /run/lab-go-on ]; do sleep 0.1; done
		fi
		mkdir -p "/lib/modules/\$kernel/updates/dkms"
		cp /usr/src/nvidia-$version/nvidia.ko "/lib/modules/\$kernel/updates/dkms/"
		depmod
	POSTINST
	cat > "$top/DEBIAN/prerm" <<-PRERM
		#!/bin/sh
		rm -f /lib/modules/*/updates/dkms/nvidia.ko
		depmod
	PRERM
	chmod 755 "$top/DEBIAN/postinst" "$top/DEBIAN/prerm"
	dpkg-deb --root-owner-group -Znone --build "$top" "$folder/nvidia-vgpu-ubuntu-${branch}_${version}_amd64.deb" > /dev/null
	rm -r "$top"
}

# obeying VM: has it end when its guest is asked to shut down; no guest of the lab does
obeying() {
	in_background "$1" "virsh -q qemu-monitor-event $1 --event POWERDOWN --timeout 600 && virsh -q destroy $1"
}

# vf BOARD N: the address of its Nth VF
vf() { basename "$(readlink "/sys/bus/pci/devices/$1/virtfn$2")"; }

# vf_type VF: what current_vgpu_type says
vf_type() { cat "/sys/bus/pci/devices/$1/nvidia/current_vgpu_type"; }

# write_type VF TEXT: "OK", or the words of the errno
write_type() { try_write "/sys/bus/pci/devices/$1/nvidia/current_vgpu_type" "$2"; }

# creatable VF: the names of the types that it can be given, on one line
creatable() { sed -n 's/^[0-9]* *: //p' "/sys/bus/pci/devices/$1/nvidia/creatable_vgpu_types" | paste -sd, -; }

# without_symbols SYMBOL...: prints a folder with an NVML library that lacks them, for LD_LIBRARY_PATH.
# Their names are changed in place: the linker finds the old name's hash, and another name.
without_symbols() {
	local symbol script=''
	mkdir -p /var/tmp/lab-nvml
	for symbol in "$@"; do script+="s/\\b$symbol\\b/x${symbol:1}/g;"; done
	LC_ALL=C sed "$script" /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1 > /var/tmp/lab-nvml/libnvidia-ml.so.1
	printf '/var/tmp/lab-nvml\n'
}

# define_vf_vm NAME VF: a VM with that virtual function
define_vf_vm() {
	local address="domain='0x${2:0:4}' bus='0x${2:5:2}' slot='0x${2:8:2}' function='0x${2:11:1}'"
	local hostdev="<hostdev mode='subsystem' type='pci' managed='no'><source><address $address/></source></hostdev>"
	vm_xml "$1" | sed "s|<memballoon|$hostdev&|" > "/run/$1.xml"
	virsh -q define "/run/$1.xml"
}

# pci_of NAME: the address of a device of ../lib/pci.sh
pci_of() {
	case $1 in
		nvme0) echo 0000:01:00.0 ;;
		card) echo 0000:02:00.0 ;;
		card.?) echo "0000:02:00.${1#card.}" ;;
		shared) echo 0000:04:01.0 ;;
		disk) echo 0000:04:02.0 ;;
		igb) echo 0000:e1:00.0 ;;
		nvme1) echo 0000:e2:00.0 ;;
		*)
			echo "no PCI device '$1' in the lab" >&2
			return 1
			;;
	esac
}

# port_of NAME: the port that device is in
port_of() {
	case $1 in
		nvme0) echo 0000:00:08.0 ;;
		card*) echo 0000:00:09.0 ;;
		igb) echo 0000:e0:00.0 ;;
		nvme1) echo 0000:e0:01.0 ;;
	esac
}

# driver_of ADDRESS: the name of its driver, or -
driver_of() {
	if [ -e "/sys/bus/pci/devices/$1/driver" ]; then basename "$(readlink "/sys/bus/pci/devices/$1/driver")"; else echo -; fi
}

# group_of ADDRESS: all devices of its IOMMU group, on one line
group_of() { find "/sys/bus/pci/devices/$1/iommu_group/devices/" -mindepth 1 -printf '%f\n' | sort | paste -sd' '; }

# bind_driver ADDRESS DRIVER: binds it to that driver and no other, - to none, and prints the driver that it has
bind_driver() {
	local device=/sys/bus/pci/devices/$1
	[ "$2" = - ] || printf '%s' "$2" > "$device/driver_override"
	if [ -e "$device/driver" ]; then printf '%s' "$1" > "$device/driver/unbind"; fi
	if [ "$2" != - ]; then printf '%s' "$1" > /sys/bus/pci/drivers_probe; fi
	printf '\n' > "$device/driver_override"
	driver_of "$1"
}

# own_driver NAME: the driver that device has when the host is up
own_driver() {
	case $1 in
		nvme?) echo nvme ;;
		igb) echo igb ;;
		shared) echo e1000 ;;
		disk) echo ahci ;;
		card.1) echo snd_hda_intel ;;
		card.2) echo xhci_hcd ;;
		*) echo - ;;
	esac
}

# pull NAME: takes it out by surprise; of the card, all of it. CAP_EXP+18 is the slot control of its port. When the
# power and its indicator go off (0700), QEMU takes the device away. They are on again (0100) before the kernel hears
# of it (0020: its interrupt): it would take a slot without power for one that it has emptied itself.
pull() { setpci -s "$(port_of "$1")" CAP_EXP+18.w=0000:0020 CAP_EXP+18.w=0700:0700 CAP_EXP+18.w=0100:0700 CAP_EXP+18.w=0020:0020; }

# forget_silent: the kernel lets go of devices that it believes in and that are not there
forget_silent() {
	local device
	for device in nvme0 card card.1 card.2 igb nvme1; do
		device=$(pci_of $device)
		[ -e "/sys/bus/pci/devices/$device" ] || continue
		[ "$(setpci -s "$device" 0.w)" != ffff ] || printf 1 > "/sys/bus/pci/devices/$device/remove"
	done
}

# clean_pci: the devices of pci.sh as they are when the host is up, the shared disk mounted, and a libvirtd that has
# not seen any of them yet
clean_pci() {
	local name
	modprobe vfio-pci
	udevadm settle
	printf 0 > "/sys/bus/pci/devices/$(pci_of igb)/sriov_numvfs" 2> /dev/null || true
	for name in nvme0 nvme1 igb card card.1 card.2 shared disk; do
		[ "$(driver_of "$(pci_of $name)")" = "$(own_driver $name)" ] ||
			bind_driver "$(pci_of $name)" "$(own_driver $name)" > /dev/null
	done
	mkdir -p /srv/shared
	wait_until 'test -e /dev/disk/by-label/shared-disk' 30
	mountpoint -q /srv/shared || mount /dev/disk/by-label/shared-disk /srv/shared
	udevadm settle
	systemctl restart libvirtd
	# shellcheck disable=SC2016  # evaluated again and again
	wait_until '[ "$(virsh -q nodedev-list --cap pci | grep -c .)" = "$(ls /sys/bus/pci/devices | wc -l)" ]' 30
}

# slots_settled: whether the kernel has done with what came and went: its thread for a port is not busy, and not in the
# second that it waits after it has switched a slot off, in which it would miss the next device
slots_settled() { ! ps -eo stat=,comm= | has '^[DR].*pciehp'; }

# silence NAME: it is gone, and the kernel does not notice: all that is read from it is ones, as of a device that
# does not come back from a reset or from D3cold
silence() { setpci -s "$(port_of "$1")" CAP_EXP+18.w=0700:0700; }

# pci_hostdev ADDRESS [ATTRIBUTE...]: the element of a domain's XML, with managed='no' unless they say otherwise
pci_hostdev() {
	local address="domain='0x${1:0:4}' bus='0x${1:5:2}' slot='0x${1:8:2}' function='0x${1:11:1}'"
	printf "<hostdev mode='subsystem' type='pci' %s><source><address %s/></source></hostdev>" "${2-"managed='no'"}" "$address"
}

# define_pci_vm NAME ELEMENT...: a VM with these elements among its devices
define_pci_vm() {
	local name=$1
	shift
	vm_xml "$name" | sed "s|<memballoon|$*&|" > "/run/$name.xml"
	virsh -q define "/run/$name.xml"
}

# booting_vm NAME [ELEMENT...]: the XML of a VM whose kernel boots (nested/init), with four ports and these
# elements among its devices. BOOTING: more arguments of its kernel.
booting_vm() {
	local name=$1 boot
	shift
	mkdir -p /srv/nested
	mountpoint -q /srv/nested || mount -o ro LABEL=nested /srv/nested
	boot="<kernel>/srv/nested/vmlinux</kernel><initrd>/srv/nested/root.cpio</initrd>"
	boot+="<cmdline>console=ttyS0 quiet mitigations=off nokaslr no_timer_check lpj=4000000 ${BOOTING-}</cmdline>"
	rm -f "/var/log/libvirt/qemu/$name.console"
	hot_vm "$name" 4 "$*<serial type='file'><source path='/var/log/libvirt/qemu/$name.console'/></serial>" |
		sed "s|</os>|$boot&|; s|<memory unit='MiB'>64|<memory unit='MiB'>224|"
}

# guest_said NAME: what that VM has told on its console
guest_said() { tr -d '\r' < "/var/log/libvirt/qemu/$1.console" | grep -a '^guest'; }

# heard NAME TEXT: waits until the VM has told a line that begins so, after its time, and prints it; as long as the
# scenario has time, since a VM that is emulated on an emulated host is slow beyond measure. A look each second: more
# of them would take the time that the VM needs.
heard() {
	until guest_said "$1" | grep "^guest: [0-9.]* $2"; do
		if [[ ! -e /run/libvirt/qemu/$1.pid ]] || ((SECONDS + 15 >= LAB_LEFT)); then
			printf 'domain %s has not told: %s (%s)\n' "$1" "$2" "$(virsh domstate --reason "$1" 2>&1 | head -n 1)" >&2
			return 1
		fi
		sleep 1
	done
}

# start_daemon: virt-vgpud, which has looked at everything when this returns
start_daemon() { systemctl start virt-vgpud; }

# settled COMMAND: waits until COMMAND is so, as soon as virt-vgpud has done its work
settled() { wait_until "$1" 30; }

# placeholder_of VM [NAME]: what stands for the device in the persistent definition, a UUID or an address
placeholder_of() {
	virsh -q dumpxml --inactive "$1" | awk -v alias="'ua-vgpu-${2-gpu0}'" '
		/<hostdev/ { at = "" } /<address/ && at == "" { at = $0 } index($0, alias) { print at }' |
		sed -E "s/.*uuid='([^']*)'.*/\\1/; s/.*domain='0x([^']*)' bus='0x([^']*)' slot='0x([^']*)' function='0x([^']*)'.*/\\1:\\2:\\3.\\4/"
}

# at_rest: whether each stopped VM names a device that it could have now. It asks the daemon nothing.
at_rest() {
	local said
	said=$(virt-vgpu sync --all --dry-run) || true
	[[ $said != *' gets '* ]]
}

# ask VM POOL [NAME...]: writes the request alone into the metadata, as a client that knows nothing of ours
ask() {
	local vm=$1 pool=$2 name requests=''
	shift 2
	(($#)) || set -- gpu0
	for name in "$@"; do requests+="<device name='$name' pool='$pool'/>"; done
	virsh -q metadata "$vm" urn:virt-vgpu:devices:1 --config --key vgpu --set "<devices>$requests</devices>"
}

# No VM, no mdev, no fault, no claim, no pool, the default boards: where every scenario begins.
clean_state() {
	local vm left changed=
	# Scenarios show what the hook does alone, unless they start it.
	[ -e /usr/sbin/virt-vgpud ] && systemctl stop virt-vgpud
	systemctl start libvirtd
	# A remove that waits for QEMU ends with QEMU, a delayed one with its delay.
	virsh -q list --name | while read -r vm; do
		[ -n "$vm" ] && virsh -q destroy "$vm" > /dev/null 2>&1
	done || true
	virsh -q list --all --name | while read -r vm; do
		[ -n "$vm" ] && virsh -q undefine "$vm" --managed-save --nvram --snapshots-metadata > /dev/null
	done || true
	rm -f /etc/modprobe.d/zz-lab-boot.conf
	for left in /run/systemd/system/virt-vgpu-host@*.service; do
		if [ -L "$left" ]; then systemctl unmask --quiet --runtime "${left##*/}"; fi
	done
	# Before boards appear, which are set up for the pools that there are.
	[ -d /etc/virt-vgpu ] && rm -rf /etc/virt-vgpu/pools.d && mkdir /etc/virt-vgpu/pools.d
	local parameter=/sys/module/virt_vgpu_sim/parameters/boards
	if ! [ -d "$SIM" ] || [ "$(cat /run/lab-boards 2> /dev/null || cat "$parameter")" != "$DEFAULT_BOARDS" ]; then
		[ -d "$SIM" ] && echo 1 > "$SIM/reset"
		unload_boards
		load_boards "$DEFAULT_BOARDS"
		changed=yes
	fi
	echo 1 > "$SIM/reset"
	systemctl start nvidia-vgpu-mgr
	for left in $(mdevs); do remove_mdev "$left" 2> /dev/null || true; done
	if [ -d /etc/virt-vgpu ]; then
		rm -rf /run/virt-vgpu /var/lib/virt-vgpu
		systemd-tmpfiles --create virt-vgpu.conf
	fi
	# shellcheck disable=SC2016  # evaluated again and again
	wait_until '[ -z "$(virsh -q list --all --name)" ] && [ -z "$(mdevs)" ]' 30
	systemctl reset-failed
	# For each device that is gone when libvirtd comes to look at it, libvirtd waits a second: what the scenario
	# before has left it to look at would be in the way of this one's devices.
	if [ -n "$changed" ] || journalctl -q -u libvirtd --since=-3s | has 'failed to wait for file'; then
		udevadm settle
		systemctl restart libvirtd
	fi
	# shellcheck disable=SC2016  # evaluated again and again
	wait_until '[ "$(virsh -q nodedev-list --cap pci | grep -c .)" = "$(ls /sys/bus/pci/devices | wc -l)" ]' 30
}
