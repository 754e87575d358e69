# Mediated devices that others made, by hand, with mdevctl or with virsh: they count, and they stay.
# needs: product
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1)
	mdevctl start -u $(uuid 2) -p $T4A -t nvidia-232
	printf "<device><parent>pci_0000_3b_00_0</parent><capability type=\"mdev\"><type id=\"nvidia-232\"/><uuid>%s</uuid></capability></device>" $(uuid 3) > /run/mdev.xml
	virsh -q nodedev-create /run/mdev.xml
	create_pool cad --type nvidia-232 --device $T4A
	attached_vm ws1 cad; attached_vm ws2 cad'
foreign='11111111-2222-4333-8444-000000000001 0000:3b:00.0 nvidia-232
11111111-2222-4333-8444-000000000002 0000:3b:00.0 nvidia-232
11111111-2222-4333-8444-000000000003 0000:3b:00.0 nvidia-232'
assert_eq '{"in_use":0,"free":1}' 'virt-vgpu status --json | jq -c ".pools[0] | {in_use, free}"'
# `status` names them, mdevctl's definitions, and the devices that mdevctl will make at the next boot.
on_lab 'mdevctl define -u $(uuid 2) --auto
	mdevctl define -u $(uuid 4) -p $T4A -t nvidia-232 --auto
	mdevctl define -u $(uuid 5) -p $T4A -t nvidia-232'
assert_eq "note: pool 'cad': 0000:3b:00.0 has 3 mediated devices that are not ours: \
11111111-2222-4333-8444-000000000001 (nvidia-232), \
11111111-2222-4333-8444-000000000002 (nvidia-232, defined in mdevctl with autostart), \
11111111-2222-4333-8444-000000000003 (nvidia-232)
note: pool 'cad': mdevctl will make 1 mediated device on 0000:3b:00.0 at the next boot: \
11111111-2222-4333-8444-000000000004 (nvidia-232)
note: pool 'cad': mdevctl has 1 mediated device defined on 0000:3b:00.0, to be started by hand only: \
11111111-2222-4333-8444-000000000005 (nvidia-232)" 'virt-vgpu status | grep ^note'
on_lab 'for number in 2 4 5; do mdevctl undefine -u $(uuid $number); done'
assert_eq '["0000:3b:00.0",["cad"],3]' \
	'virt-vgpu status --json | jq -c ".foreign[] | [.parent, .pools, (.devices | length)]"'
on_lab 'start_vm ws1'
refuse_start ws2 "pool 'cad' has no free nvidia-232 for domain 'ws2': 0000:3b:00.0: no nvidia-232 left; see 'virt-vgpu explain ws2'"
on_lab 'virsh -q destroy ws1; virt-vgpu reconcile --grace 0 > /dev/null'
assert_eq "$foreign" 'devices'

# A foreign device can even have the UUID that a VM needs: the start is refused, and the device stays.
on_lab 'create_mdev $T4A nvidia-232 $(device_uuid ws2)'
uuid=$(on_lab 'device_uuid ws2')
refuse_start ws2 "device 'gpu0' of domain 'ws2' needs the UUID $uuid, but a mediated device on 0000:3b:00.0 that is not ours has it; remove that device, or detach 'gpu0' and attach it under another name"
assert_eq "$(printf '%s\n' "$foreign" "$uuid 0000:3b:00.0 nvidia-232" | LC_ALL=C sort)" 'devices | LC_ALL=C sort'
assert_eq '' 'ls /run/virt-vgpu/claims'
on_lab 'remove_mdev $(device_uuid ws2); start_vm ws2; virsh -q destroy ws2'
assert_eq "$foreign" 'devices'
