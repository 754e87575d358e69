# attach and detach edit the persistent definition and nothing else, whatever state the VM is in.
# needs: product
# gate
on_lab 'create_pool cad --type nvidia-232 --device $T4A
	vm_xml ws1 | sed "s:<devices>:<metadata><app\:note xmlns\:app=\"urn\:example\"><!-- keep  me --><app\:x a=\"1\"   b=\"2\"/></app\:note></metadata>&:" > /run/ws1.xml
	virsh -q define /run/ws1.xml
	virsh -q dumpxml --inactive ws1 > /run/ws1.before
	start_vm ws1'
uuid=$(on_lab 'device_uuid ws1')
uuid_b=$(on_lab 'device_uuid ws1 b')

# On a running VM, for the next start; the second time there is nothing to do.
assert_eq "attached gpu0 (uuid $uuid) from pool cad to ws1; ws1 is running: takes effect after it is shut down and started again" \
	'virt-vgpu attach ws1 --pool cad'
assert_eq 'nothing to do: ws1 has gpu0 from pool cad' 'virt-vgpu attach ws1 --pool cad'
assert_eq '' 'left_over; virsh -q dumpxml ws1 | grep vgpu || true'
assert 'virsh -q dumpxml --inactive ws1 | has -F "<!-- keep  me -->"'
on_lab 'virt-vgpu attach ws1 --pool cad --name b > /dev/null
	virsh -q destroy ws1; start_vm ws1'
assert_eq "$(printf '%s 0000:3b:00.0 nvidia-232\n' "$uuid" "$uuid_b" | sort)" 'devices | sort'
# Detached while it runs: it keeps its devices until it stops.
assert_eq "detached b (uuid $uuid_b) of pool cad from ws1; ws1 is running and keeps its devices until it stops
detached gpu0 (uuid $uuid) of pool cad from ws1; ws1 is running and keeps its devices until it stops" \
	'virt-vgpu detach ws1 --all'
assert_eq 'nothing to do: ws1 has no such device' 'virt-vgpu detach ws1 --all'
assert_eq '2' 'devices | wc -l'
on_lab 'virsh -q destroy ws1'
assert_eq '' 'left_over'
# The only difference is the controllers that libvirt added for the hostdevs.
assert_eq '' 'diff <(virsh -q dumpxml --inactive ws1) /run/ws1.before | grep "^>" || true'
assert_eq '' 'virsh -q dumpxml --inactive ws1 | grep -i vgpu || true'

# Refusals, with the next step.
refuse_with 'virt-vgpu attach ws1 --pool cat' "virt-vgpu: there is no pool 'cat' (did you mean 'cad'?); there are: cad"
on_lab 'create_pool other --type nvidia-232 --device $T4B
	virt-vgpu attach ws1 --pool cad > /dev/null'
refuse_with 'virt-vgpu attach ws1 --pool other --name gpu0' "virt-vgpu: cannot attach to domain 'ws1': the domain has a device 'gpu0' of pool 'cad'; detach it or choose another name"
on_lab 'vm_xml brief > /run/brief.xml; virsh -q create /run/brief.xml'
refuse_with 'virt-vgpu attach brief --pool cad' "virt-vgpu: domain 'brief' is transient: it has no definition that could be edited; 'virt-vgpu attach --live' adds a device while it runs, 'detach --live' removes one, 'virt-vgpu create' makes a domain from XML that asks for one, 'virsh define' keeps it"
on_lab 'virsh -q destroy brief'

# A request without its placeholder: the refused start names the command that adds it.
on_lab 'vm_xml bare | sed "s:<devices>:<metadata><v\:devices xmlns\:v=\"urn\:virt-vgpu\:devices\:1\"><v\:device name=\"gpu0\" pool=\"cad\"/></v\:devices></metadata>&:" > /run/bare.xml
	virsh -q define /run/bare.xml'
bare=$(on_lab 'device_uuid bare')
refuse_start bare "domain 'bare' asks for device 'gpu0' in its metadata but has no <hostdev> with UUID $bare; virt-vgpud adds it a moment after the domain is defined, 'virt-vgpu sync bare' by hand; then start it again"
assert_eq "completed gpu0 (uuid $bare) of bare: its hostdev was missing; takes effect at the next start" \
	'virt-vgpu attach bare --pool cad --name gpu0'

# A clone has the placeholder of its original VM.
on_lab 'virt-clone -q --original ws1 --name twin --auto-clone > /dev/null'
twin=$(on_lab 'device_uuid twin')
refuse_start twin "domain 'twin' asks for device 'gpu0' in its metadata but has no <hostdev> with UUID $twin; virt-vgpud adds it a moment after the domain is defined, 'virt-vgpu sync twin' by hand; then start it again"
assert_eq "corrected gpu0 (uuid $twin) of twin: its hostdev had the UUID of another domain; takes effect at the next start" \
	'virt-vgpu attach twin --pool cad --name gpu0'
# Renaming changes nothing: the device's UUID depends on the domain's UUID.
on_lab 'virsh -q domrename ws1 renamed
	start_vm renamed & start_vm twin & start_vm bare & wait'
assert_eq "$(printf '%s 0000:3b:00.0 nvidia-232\n' "$uuid" "$twin" "$bare" | sort)" 'devices | sort'
assert_eq 'bare renamed twin' 'virt-vgpu status --json | jq -r "[.claims[].domain] | sort | join(\" \")"'
