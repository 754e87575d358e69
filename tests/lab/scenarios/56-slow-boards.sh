# 32 concurrent starts on eight boards whose driver takes 300 ms per creation: all get their device, four on
# each board, eight made at a time. A board that hangs delays no others. The benchmark has 64 starts, which
# would exceed a hook's deadline on a slow machine.
# needs: product
# hosts: uml
# deadline: 600
boards=(0000:3b:00.0 0000:5e:00.0 0000:86:00.0 0000:af:00.0 0000:18:00.0 0000:1f:00.0 0000:8a:00.0 0000:d8:00.0)
on_lab "unload_boards; load_boards $(printf 't4@%s/0,' "${boards[@]}" | sed 's/,$//')"
on_lab "virt-vgpu pool create cad --type nvidia-222 --placement spread $(printf -- '--device %s ' "${boards[@]}") > /dev/null
	for n in \$(seq 70); do
		domain=\$(uuid \$n) device=\$(device_uuid_in \$domain gpu0)
		printf '%s' \"<domain type='kvm'><name>slow\$n</name><uuid>\$domain</uuid><metadata>\
<v:devices xmlns:v='urn:virt-vgpu:devices:1'><v:device name='gpu0' pool='cad'/></v:devices></metadata><devices>\
<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='\$device'/></source></hostdev>\
</devices></domain>\" > /run/lab-slow\$n.xml
	done"
begin='hook() { virt-vgpu-hook slow$1 $2 - < /run/lab-slow$1.xml; }'

on_lab 'echo 32 300 > $SIM/delay_create'
ms=$(on_lab "$begin"'; elapsed_ms "for n in \$(seq 32); do hook \$n \"prepare begin\" > /run/lab-slow\$n.out 2>&1 || echo \$n >> /run/lab-slow.refused & done; wait"')
trace "32 starts took $ms ms; four creations one after another take 1200"
assert_eq '' 'cat /run/lab-slow*.out /run/lab-slow.refused 2> /dev/null || true'
assert_eq '32' 'mdevs | wc -l'
assert_eq '      8 4' "for board in ${boards[*]}; do devices | grep -c \" \$board \"; done | sort | uniq -c"
assert_eq '0' 'virt-vgpu status --json | jq "[.problems[] | select(contains(\"is not running\") | not)] | length"'

# The driver of the next board hangs: of boards with equally many devices, the one with the lowest address
# is next. Later starts go to another board.
hangs=0000:18:00.0
on_lab "echo 1 30000 > \$SIM/boards/$hangs/delay_create
	$begin"'; in_background first "hook 65 \"prepare begin\""
	wait_until "grep -q ^0 $SIM/boards/'"$hangs"'/delay_create" 10'
on_lab "$begin"'; hook 66 "prepare begin"'
assert "jq -e '.devices[0].board != \"$hangs\"' /run/virt-vgpu/claims/\$(uuid 66).json"
# The start that waits for it gives up in the end: its device may still appear, so it gets no other.
assert 'wait_until "ended first" 60; grep -q "no answer from the driver within" /run/lab-first.out'
assert_eq '1' 'cat /run/lab-first.status'

# All are given back at once.
on_lab "$begin"'; for n in $(seq 66); do hook $n "release end" & done; wait'
assert 'wait_until "virt-vgpu reconcile --grace 0 > /dev/null 2>&1; test -z \"\$(mdevs)\"" 60'
assert_eq '' 'ls /run/virt-vgpu/claims'
