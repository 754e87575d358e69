# The daemon: a domain with only the metadata gets the placeholder, and the daemon does not fight other
# edits.
# needs: product
# gate
on_lab 'create_pool cad --type "GRID T4-4Q" --device $T4A; define_vm early; ask early cad; start_daemon'
# Defined before the daemon runs; a domain with the request in its XML; metadata set later.
early=$(on_lab 'device_uuid early')
assert 'settled "[ \"\$(placeholder_of early)\" = '"$early"' ]"'
metadata="<metadata><v:devices xmlns:v='urn:virt-vgpu:devices:1'><v:device name='gpu0' pool='cad'/></v:devices></metadata>"
on_lab "vm_xml late | sed \"s|<memory|$metadata&|\" > /run/late.xml; virsh -q define /run/late.xml; define_vm bare"
assert 'settled "[ \"\$(placeholder_of late)\" = \"\$(device_uuid late)\" ]"'
assert_eq '' 'placeholder_of bare'
on_lab 'ask bare cad gpu0 second'
assert 'settled "[ \"\$(placeholder_of bare second)\" = \"\$(device_uuid bare second)\" ]"'
assert_eq "$(on_lab 'device_uuid bare')" 'placeholder_of bare'
on_lab 'start_vm bare'
assert_eq '2' 'devices | wc -l'

# Running: an edit is for the next start. If a request is removed, its placeholder is removed too.
on_lab 'ask bare cad'
assert 'settled "[ -z \"\$(placeholder_of bare second)\" ]"'
assert_eq '2' 'devices | wc -l'
on_lab 'virsh -q destroy bare; start_vm bare; virsh -q destroy bare'
assert_eq '' 'left_over'
on_lab 'virsh -q metadata bare urn:virt-vgpu:devices:1 --config --remove'
assert 'settled "[ -z \"\$(placeholder_of bare)\" ]"'

# A placeholder that is removed by hand comes back as long as the metadata asks for it; without the request
# it stays away.
on_lab 'virsh -q dumpxml --inactive late | sed -n "/<hostdev/,/<\/hostdev>/p" > /run/hostdev.xml
	virsh -q detach-device late /run/hostdev.xml --config'
assert 'settled "[ \"\$(placeholder_of late)\" = \"\$(device_uuid late)\" ]"'
on_lab 'vm_xml late | sed "s|<name>|<uuid>$(virsh -q domuuid late)</uuid>&|" > /run/late.xml; virsh -q define /run/late.xml'
assert 'settled "[ -z \"\$(virsh -q dumpxml --inactive late | grep ua-vgpu)\" ]"'

# Each edit was made once: the daemon does not react to its own edits.
assert_eq '4 bare
1 early
2 late' 'events MESSAGE_ID DOMAIN_NAME | sed -n "s/^9b0c6d1f2a5e4c0f8f6d3a7b1e94c258 //p" | sort | uniq -c | sed "s/^ *//"'
assert_eq '[]' 'jq -c .problems /run/virt-vgpu/daemon.json'

# A missing pool is reported, and the rest of the domain is served.
on_lab 'define_vm odd; virsh -q metadata odd urn:virt-vgpu:devices:1 --config --key vgpu \
	--set "<devices><device name=\"a\" pool=\"none\"/><device name=\"b\" pool=\"cad\"/></devices>"'
assert 'settled "[ \"\$(placeholder_of odd b)\" = \"\$(device_uuid odd b)\" ]"'
assert 'settled "[ \"\$(virt-vgpu status --json | jq -c .problems)\" = \"[\\\"domain '"'odd'"': there is no pool '"'none'; see 'virt-vgpu pool list'"'\\\"]\" ]"'
on_lab 'virsh -q undefine odd'
assert 'settled "[ \"\$(virt-vgpu status --json | jq -c .problems)\" = \"[]\" ]"'

# Killed, restarted, without libvirt, with libvirt again: all changes meanwhile are found.
on_lab 'systemctl kill -s KILL virt-vgpud; ask bare cad'
assert 'settled "[ \"\$(placeholder_of bare)\" = \"\$(device_uuid bare)\" ]"'
on_lab 'start_vm early; systemctl stop libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket
	kill -9 $(qemu_pid early)'
assert 'settled "[ \"\$(jq .connected /run/virt-vgpu/daemon.json)\" = false ]"'
assert 'systemctl is-active virt-vgpud'
assert_eq 'inactive' 'systemctl is-active libvirtd || true'
on_lab 'systemctl start libvirtd.socket libvirtd'
assert 'wait_until "[ \"\$(jq .connected /run/virt-vgpu/daemon.json)\" = true ]" 90'
assert 'wait_until "[ -z \"\$(left_over)\" ]" 90'
on_lab 'ask bare cad only'
assert 'settled "[ \"\$(placeholder_of bare only)\" = \"\$(device_uuid bare only)\" ]"'
assert_eq '' 'placeholder_of bare'

# Idle: the main thread sleeps; the other thread answers libvirtd's keepalive every 5 s.
on_lab 'sleep 1; strace -q -o /run/lab-strace -p $(pidof virt-vgpud) & sleep 5; kill $!'
assert_eq 'futex' 'sed "s/(.*//" /run/lab-strace | sort -u'
assert_eq 'notify 3min strict yes' 'systemctl show -P Type -P WatchdogUSec -P NoNewPrivileges -P ProtectSystem virt-vgpud | paste -sd" "'
assert_eq '' 'systemctl --failed --plain --no-legend'
