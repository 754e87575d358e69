#!/bin/bash
# The main job, narrated: a real libvirtd starts a real QEMU VM, which gets a
# mediated device from a pool, and gives it back. Builds what is missing, ends
# with a non-zero status when any step is not as it should be.
#
# usage: demo.sh [DEB]    (called by `lab demo`)
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SOURCE=$(cd "$HERE/../.." && pwd)
NAME=demo
LAB=("$HERE/lab" --name "$NAME")
STEPS=0
BUILD='' PACKAGE=''

if [[ -t 1 ]]; then BOLD=$'\e[1m' DIM=$'\e[2m' PLAIN=$'\e[0m'; else BOLD='' DIM='' PLAIN=''; fi

heading() {
	STEPS=$((STEPS + 1))
	printf '\n%s%d. %s%s\n' "$BOLD" "$STEPS" "$1" "$PLAIN"
}

wrong() {
	printf '\n%sNot as it should be: %s%s\n' "$BOLD" "$1" "$PLAIN" >&2
	exit 1
}

# host COMMAND: runs it on the lab host and shows both
host() {
	printf '%s$ %s%s\n' "$DIM" "$1" "$PLAIN"
	"${LAB[@]}" ssh "$1" | sed 's/^/    /'
}

# expect WANTED COMMAND: its whole output must be WANTED
expect() {
	local found
	found=$("${LAB[@]}" ssh "$2") || wrong "'$2' failed"
	[[ $found == "$1" ]] || wrong "'$2' says '$found', not '$1'"
}

finish() {
	local status=$?
	[[ -z $PACKAGE ]] || kill "$PACKAGE" 2> /dev/null || true
	[[ -z $BUILD ]] || rm -rf "$BUILD"
	"${LAB[@]}" down > /dev/null 2>&1 || true
	if ((status == 0)); then
		printf '\n%sDone: all %d steps as they should be, in %d s.%s\n' "$BOLD" "$STEPS" "$SECONDS" "$PLAIN"
	else
		printf '\n%sFailed in step %d, after %d s.%s\n' "$BOLD" "$STEPS" "$SECONDS" "$PLAIN" >&2
	fi
}
trap finish EXIT

heading "Build virt-vgpu as it is shipped, and the KVM host to try it on"
"$SOURCE/packaging/build-deps"
printf 'The first time this takes 4 minutes, on a slow machine 10; after that seconds.\n'
BUILD=$(mktemp -d)
if (($#)); then
	deb=$1
else
	# Beside the lab host's image, which waits for the network much of the time.
	"$SOURCE/packaging/build" > "$BUILD/log" 2>&1 &
	PACKAGE=$!
fi
"${LAB[@]}" build --host fast
if ((!$#)); then
	printf 'waiting for the package '
	while kill -0 "$PACKAGE" 2> /dev/null; do
		printf '.'
		timeout 5 tail --pid="$PACKAGE" -f /dev/null || true
	done
	printf '\n'
	if ! wait "$PACKAGE"; then
		cat "$BUILD/log" >&2
		wrong "the package cannot be built"
	fi
	PACKAGE=''
	tail -n 1 "$BUILD/log"
	deb=$(echo "$SOURCE"/target/package/virt-vgpu_*.deb)
fi
[[ -f $deb ]] || wrong "there is no package $deb"

heading "Start a KVM host: Debian 13, libvirt, QEMU, three simulated NVIDIA T4 boards"
"${LAB[@]}" down > /dev/null 2>&1 || true
"${LAB[@]}" up --host fast
host "virsh version --daemon | tail -n 3; lspci -d 10de:"

heading "Install the package: libvirtd learns of the hook without a restart"
"${LAB[@]}" install "$deb" > /dev/null
host "ls -l /etc/libvirt/hooks/qemu.d | tail -n 1 | cut -d ' ' -f 9-"

heading "A pool: shares of 4 GiB, of two of the boards"
host "virt-vgpu pool create cad --type 'GRID T4-4Q' --device 0000:3b:00.0 --device 0000:5e:00.0"
host "cat /etc/virt-vgpu/pools.d/cad.toml"

heading "A VM that asks for one of them"
"${LAB[@]}" ssh "cat > /root/ws7.xml" <<'XML'
<domain type='qemu'>
  <name>ws7</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices><memballoon model='none'/></devices>
</domain>
XML
host "virsh define /root/ws7.xml"
host "virt-vgpu attach ws7 --pool cad"
host "virsh dumpxml --inactive ws7 | grep -A 4 '<metadata>'"
uuid=$("${LAB[@]}" ssh "virsh dumpxml --inactive ws7 | sed -n \"s/.*<address uuid='\(.*\)'.*/\1/p\"")
printf 'The device has the UUID %s, and does not exist yet:\n' "$uuid"
host "virt-vgpu explain ws7"
expect "" "ls /sys/bus/mdev/devices"

heading "virsh start: the hook makes the device before QEMU is started"
host "virsh start ws7"
expect "$uuid" "ls /sys/bus/mdev/devices"
expect nvidia-232 "basename \$(readlink /sys/bus/mdev/devices/$uuid/mdev_type)"
printf 'The device as QEMU has it:\n'
host "virsh qemu-monitor-command --hmp ws7 'info qtree' | grep -E 'vfio-pci|sysfsdev' | head -n 2"
expect "/sys/bus/mdev/devices/$uuid" \
	"virsh qemu-monitor-command --hmp ws7 'info qtree' | sed -n 's/.*sysfsdev = \"\(.*\)\".*/\1/p'"
printf 'The claim, which proves whose it is:\n'
host "cat /run/virt-vgpu/claims/*.json"
host "virt-vgpu status"
expect '["ws7","in-use",true]' \
	"virt-vgpu status --json | jq -c '.claims[0] | [.domain, .state, .devices[0].present]'"

heading "virsh destroy: the device goes back"
host "virsh destroy ws7"
expect "" "ls /sys/bus/mdev/devices /run/virt-vgpu/claims | grep -v : || true"
host "virt-vgpu status"
host "journalctl -t virt-vgpu-hook -o cat --no-pager"
expect 8 "virt-vgpu status --json | jq .pools[0].free"
