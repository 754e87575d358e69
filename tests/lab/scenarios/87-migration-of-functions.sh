# Live migration of a VM whose vGPU is a virtual function, to a host without that address: the hook changes
# the XML.
# needs: product peer
# deadline: 900
# gate
here=0000:3b:00.0 there=0000:86:00.0
board='unload_boards; load_boards l40s@%s/0 framework=vendor-vfio
	create_pool cad --profile L40S-12Q --device %s; virt-vgpu host apply --all'
# shellcheck disable=SC2059  # the format is the commands
on_lab "$(printf "$board" $here $here); attached_vm ws1 cad; start_vm ws1"
# shellcheck disable=SC2059
on_peer "$(printf "$board" $there $there)"
a=$(on_lab "function_of ws1")
crc=$(on_lab "cat \$SIM/vgpus/$a/framebuffer_crc")
b=$(on_peer "vf $there 0")
on_lab "virsh -q migrate --live --persistent --undefinesource ws1 $(migrate_arguments)"
assert_eq '0' "vf_type $a"
assert_eq '' 'left_over'
same 'the function there' "$(on_peer "sed -n 's/.*\"type\": \"\(.*\)\".*/\1/p' \$(claim_of ws1)")" "$(on_peer "vf_type $b")"
same 'its contents' "$crc" "$(on_peer "cat \$SIM/vgpus/$b/framebuffer_crc")"
same 'the claim there' "ws1 committed prepare true cad $b" \
	"$(on_peer 'jq -r "[.domain_name, .state, .origin, .launched, .devices[0].pool, .devices[0].parent] | join(\" \")" /run/virt-vgpu/claims/*')"
on_peer 'virsh -q destroy ws1'
same 'left over there' '0' "$(on_peer "vf_type $b; left_over")"
# libvirt copies the persistent definition unchanged, without calling a hook: 'virt-vgpu start' runs the VM
# with a function of that host, and 'virt-vgpu sync' corrects the definition, as the daemon does.
on_peer 'virt-vgpu start ws1'
same 'the function there' "$b" "$(on_peer 'jq -r .devices[0].parent $(claim_of ws1)')"
on_peer 'virsh -q destroy ws1; virt-vgpu sync ws1'
same 'the definition there' "$b" "$(on_peer 'function_of ws1')"
