# shellcheck shell=bash
# Sourced on the lab host before every command of a scenario: words for what scenarios do there.

SIM=/sys/kernel/debug/virt_vgpu_sim
# The boards of image/root/etc/modprobe.d, and one UUID per letter for mdevs made by hand.
T4A=0000:3b:00.0 T4B=0000:5e:00.0 T4C=0000:86:00.0

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

# wait_until COMMAND SECONDS: polls; fails with COMMAND's text
wait_until() {
	local end=$((SECONDS + $2))
	until eval "$1" > /dev/null 2>&1; do
		if ((SECONDS >= end)); then
			printf 'still not so after %s s: %s\n' "$2" "$1" >&2
			return 1
		fi
		sleep 0.1
	done
}

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

# vm_xml NAME [MDEV-UUID...]: a VM that costs nearly nothing and runs for ever in its firmware
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

define_vm() {
	vm_xml "$@" > "/run/$1.xml"
	virsh -q define "/run/$1.xml"
}

start_vm() { virsh -q start "$1"; }

state_of() { virsh -q domstate "$1" | head -n 1; }

qemu_pid() { cat "/run/libvirt/qemu/$1.pid"; }

# No VM, no mdev, no fault, no claim, no pool: where every scenario begins.
clean_state() {
	local vm left
	systemctl start libvirtd
	# A remove that waits for QEMU ends with QEMU, a delayed one with its delay.
	virsh -q list --name | while read -r vm; do
		[ -n "$vm" ] && virsh -q destroy "$vm" > /dev/null 2>&1
	done || true
	virsh -q list --all --name | while read -r vm; do
		[ -n "$vm" ] && virsh -q undefine "$vm" --managed-save --nvram > /dev/null
	done || true
	if ! [ -d "$SIM" ] || [ "$(ls "$SIM/boards")" != "$(printf '%s\n' $T4A $T4B $T4C)" ]; then
		modprobe -r virt_vgpu_sim
		modprobe virt_vgpu_sim
	fi
	echo 1 > "$SIM/reset"
	for left in $(mdevs); do remove_mdev "$left" 2> /dev/null || true; done
	rm -f /run/virt-vgpu/claims/* /run/virt-vgpu/quarantine/* /etc/virt-vgpu/pools.d/*.toml
	wait_until '[ -z "$(virsh -q list --all --name)" ] && [ -z "$(mdevs)" ]' 30
}
