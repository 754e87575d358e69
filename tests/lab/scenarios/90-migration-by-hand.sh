# Live migration to a second lab host, where a vGPU of the same UUID waits, and back.
# needs: peer
# deadline: 600
here=$(on_lab 'virsh capabilities | sed -n "s:.*<uuid>\(.*\)</uuid>:\1:p"')
there=$(on_peer 'virsh capabilities | sed -n "s:.*<uuid>\(.*\)</uuid>:\1:p"')
[[ $here != "$there" ]] || fail "both hosts have the UUID $here"

on_lab 'create_mdev $T4A nvidia-232 $(uuid 1)
	define_vm ws1 $(uuid 1) && start_vm ws1'
on_peer 'create_mdev $T4C nvidia-232 $(uuid 1)'
crc=$(on_lab 'cat $SIM/vgpus/$(uuid 1)/framebuffer_crc')
on_lab "virsh -q migrate --live ws1 $(migrate_arguments)"
assert_eq 'shut off' 'state_of ws1'
same 'state on the other host' running "$(on_peer 'state_of ws1')"
same 'frame buffer on the other host' "$crc" "$(on_peer 'cat $SIM/vgpus/$(uuid 1)/framebuffer_crc')"
assert_eq '0' 'cat $SIM/vgpus/$(uuid 1)/open'

# Without a vGPU on the other host the migration is refused there, and the VM stays.
on_lab 'create_mdev $T4B nvidia-232 $(uuid 2)
	define_vm ws2 $(uuid 2) && start_vm ws2'
said=$(refuse "virsh -q migrate --live ws2 $(migrate_arguments)")
[[ $said == *'not found'* ]] || fail "virsh said: $said"
assert_eq 'running' 'state_of ws2'
