# Define, request and start immediately after each other, as Terraform and virt-install do: the start gets
# its device or is refused with the reason, and the next start after virt-vgpud's edit gets it. A VM never
# runs without its device.
# needs: product
# deadline: 2400
on_lab 'create_pool cad --type nvidia-232 --device $T4A --device $T4B --device $T4C
	start_daemon'

# The functions below are for the lab host, where one call runs all rounds.
words=$(
	cat << 'WORDS'
request="<devices xmlns='urn:virt-vgpu:devices:1'><device name='gpu0' pool='cad'/></devices>"

# wrong TEXT: fails the scenario
wrong() {
	printf '%s\n' "$1" >&2
	exit 1
}

# refusal VM UUID: virsh's error when there is no placeholder yet
refusal() {
	printf '%s\n' "error: Failed to start domain '$1'" \
		"error: Hook script execution failed: internal error: Child process (/etc/libvirt/hooks/qemu.d/50-virt-vgpu $1 prepare begin -) unexpected exit status 1: virt-vgpu: $(reason "$1" "$2")"
}

reason() {
	printf '%s\n' "domain '$1' asks for device 'gpu0' in its metadata but has no <hostdev> with UUID $2; virt-vgpud adds it a moment after the domain is defined, 'virt-vgpu sync $1' by hand; then start it again"
}

# said FILE: the output of the clients, without the environment of the hook
said() { sed '/^$/d; s:(LC_ALL=C [^)]* /etc/libvirt/hooks/:(/etc/libvirt/hooks/:' "$1"; }

# has_device VM UUID: QEMU, the live XML, the claim and the kernel have exactly this device
has_device() {
	local pid live claim
	pid=$(qemu_pid "$1")
	tr '\0' '\n' < "/proc/$pid/cmdline" | has -F "/sys/bus/mdev/devices/$2" || wrong "QEMU of $1 has no $2"
	live=$(virsh -q dumpxml "$1" | sed -n "/<hostdev/,/<\/hostdev>/s/.*uuid='\(.*\)'.*/\1/p")
	[ "$live" = "$2" ] || wrong "$1 runs with '$live'"
	claim=$(jq -r '.state, .devices[].uuid' "$(claim_of "$1")" | paste -sd ' ')
	[ "$claim" = "committed $2" ] || wrong "the claim of $1 says '$claim'"
	[ -e "/sys/bus/mdev/devices/$2" ] || wrong "there is no $2"
}

# started_or_refused VM UUID: checks the first start, and starts again after a refusal
started_or_refused() {
	if [ "$(state_of "$1")" = paused ]; then
		at_once=$((at_once + 1))
	else
		[ "$(said /run/lab-said)" = "$(refusal "$1" "$2")" ] || wrong "$1 was refused with: $(said /run/lab-said)"
		refused=$((refused + 1))
		settled "[ \"\$(placeholder_of $1)\" = $2 ]"
		virsh -q start --paused "$1" > /run/lab-said 2>&1 || wrong "$1 has its placeholder and is refused: $(said /run/lab-said)"
	fi
	has_device "$1" "$2"
}
WORDS
)

turns=$(
	cat << 'TURNS'
# client COMMANDS: a client with one connection, or one for each step
client() {
	if ((client_stays)); then
		virsh -q "$1" > /run/lab-said 2>&1 || true
	else
		while read -r command; do virsh -q "$command"; done <<< "${1//; /$'\n'}" > /run/lab-said 2>&1 || true
	fi
}

at_once=0 refused=0
for n in 1 2 3 4; do
	# Without a profile of AppArmor a start takes half the time on an emulated host.
	vm_xml ws$n | sed "s:<name>:<uuid>$(uuid $n)</uuid>&:; s:<devices>:<seclabel type='none'/>&:" > /run/without.$n
	sed "s|<devices>|<metadata>$request</metadata>&|" /run/without.$n > /run/with.$n
	virsh -q define /run/without.$n
	ids[n]=$(device_uuid ws$n)
	virsh -q undefine ws$n
done
for ((turn = 0; turn < 50; turn++)); do
	n=$((turn % 4 + 1)) vm=ws$((turn % 4 + 1))
	in_xml=$((turn / 4 % 2)) afresh=$((turn / 8 % 2)) client_stays=$((turn % 2))
	if ((in_xml)); then
		client "define /run/with.$n; start --paused $vm"
	else
		client "define /run/without.$n; metadata $vm urn:virt-vgpu:devices:1 --config --key vgpu --set \"$request\"; start --paused $vm"
	fi
	started_or_refused $vm "${ids[n]}"
	virsh -q destroy $vm
	if ((afresh)); then virsh -q undefine $vm; fi
	[ -z "$(left_over)" ] || wrong "left over after turn $turn: $(left_over)"
done
printf '%s starts in one breath: %s had their device at once, %s were refused and had it with the next start\n' \
	"$turn" "$at_once" "$refused"
TURNS
)
counts=$(on_lab "$words
$turns")
report "$counts"
assert_eq '' 'for vm in $(virsh -q list --all --name); do virsh -q undefine $vm; done; left_over'

# virt-install starts before it defines. Then nothing can be added, and the refusal says so; but the XML
# that it prints can be defined and started.
install='virt-install --name vi --metadata uuid=$(uuid 5) --memory 64 --vcpus 1 --virt-type qemu --machine q35 --import --disk none --network none --graphics none --osinfo detect=off,require=off --noautoconsole'
asks='--xml ./metadata/devices/@xmlns=urn:virt-vgpu:devices:1 --xml ./metadata/devices/device/@name=gpu0 --xml ./metadata/devices/device/@pool=cad'
on_lab "$words
	if $install $asks > /run/lab-said 2>&1; then wrong 'virt-install has started a domain without its device'; fi
	virsh() { [ \"\$*\" = '-q domuuid vi' ] && uuid 5 || command virsh \"\$@\"; }
	grep -qF \"virt-vgpu: \$(reason vi \$(device_uuid vi))\" /run/lab-said || wrong \"virt-install said: \$(cat /run/lab-said)\""
assert_eq ' ' 'echo "$(left_over) $(virsh -q list --all --name)"'
on_lab "$words
	at_once=0 refused=0
	$install $asks --print-xml 1 > /run/vi.xml
	virsh -q 'define /run/vi.xml; start --paused vi' > /run/lab-said 2>&1 || true
	started_or_refused vi \$(device_uuid vi)"

# virt-install with the placeholder in its XML, as written by a program that knows our UUIDs: one start.
on_lab "$words
	id=\$(device_uuid vi)
	virsh -q destroy vi
	virsh -q undefine vi
	$install $asks --xml ./devices/hostdev/@mode=subsystem --xml ./devices/hostdev/@type=mdev \\
		--xml ./devices/hostdev/@model=vfio-pci --xml ./devices/hostdev/source/address/@uuid=\$id \\
		--xml ./devices/hostdev/alias/@name=ua-vgpu-gpu0 > /run/lab-said 2>&1 || wrong \"\$(cat /run/lab-said)\"
	has_device vi \$id
	virsh -q destroy vi"
assert_eq '' 'left_over'

# virt-xml: adds the request and starts the domain in one call.
on_lab "$words
	at_once=0 refused=0
	define_vm edited
	virt-xml edited --edit $asks --define --start > /run/lab-virt-xml 2>&1 || true
	[ \"\$(state_of edited)\" = running ] || {
		grep -qF \"virt-vgpu: \$(reason edited \$(device_uuid edited))\" /run/lab-virt-xml || wrong \"virt-xml said: \$(cat /run/lab-virt-xml)\"
		settled '[ -n \"\$(placeholder_of edited)\" ]'
		start_vm edited
	}
	has_device edited \$(device_uuid edited)
	virsh -q destroy edited"
# When it removes the request, the placeholder is removed too.
on_lab "virt-xml edited --edit --xml xpath.delete=./metadata > /dev/null
	settled '[ -z \"\$(placeholder_of edited)\" ]'
	start_vm edited"
assert_eq '' 'left_over'

# virt-clone gives the clone the request and its original's placeholder: it gets its own.
on_lab "$words
	define_vm original
	ask original cad
	settled '[ -n \"\$(placeholder_of original)\" ]'
	virt-clone -q --original original --name twin --auto-clone > /dev/null
	settled '[ \"\$(placeholder_of twin)\" = \$(device_uuid twin) ]'
	start_vm original & start_vm twin & wait
	has_device original \$(device_uuid original)
	has_device twin \$(device_uuid twin)
	[ \$(device_uuid original) != \$(device_uuid twin) ]"
# Cloned and started immediately.
on_lab "$words
	at_once=0 refused=0
	virsh -q destroy original
	virt-clone -q --original original --name third --auto-clone > /dev/null; virsh -q start --paused third > /run/lab-said 2>&1 || true
	started_or_refused third \$(device_uuid third)
	for vm in \$(virsh -q list --name); do virsh -q destroy \$vm; done"
assert_eq '' 'left_over'
assert_eq '' 'virt-vgpu status --json | jq -r ".problems[]"'
