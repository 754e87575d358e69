# The parameters of a request, or of its pool, reach NVIDIA's driver before QEMU starts, and disappear with
# the device.
# needs: product
on_lab 'create_pool cad --type nvidia-232 --device $T4A
	printf "\n[defaults]\nframe-rate-limit = 0\nconsole-vnc = true\n" >> /etc/virt-vgpu/pools.d/cad.toml
	attached_vm ws1 cad'
params="/sys/bus/mdev/devices/$(on_lab 'device_uuid ws1')/nvidia/vgpu_params"
on_lab 'start_vm ws1'
assert_eq 'frame_rate_limiter=0,disable_vnc=0' "cat $params"
on_lab "virsh -q destroy ws1
	virsh -q metadata ws1 urn:virt-vgpu:devices:1 --key vgpu --config --set \
		\"<devices><device name='gpu0' pool='cad' console-vnc='no' profilers='yes'/></devices>\"
	start_vm ws1"
assert_eq 'frame_rate_limiter=0,disable_vnc=1,enable_profiling=1' "cat $params"
on_lab 'virsh -q destroy ws1'
assert_eq '' 'left_over'
# A driver that refuses them: no start, and nothing is left.
on_lab 'echo "1 EPERM" > $SIM/fail_params'
refuse_start ws1 "cannot make device 'gpu0' of domain 'ws1': $params: Operation not permitted (os error 1)"
assert_eq '' 'left_over'
# A driver that reports success but ignores them is noticed, and the other boards are tried.
on_lab 'echo "9 OK" > $SIM/fail_params'
said=$(refuse 'virsh start ws1')
[[ $said == *"0000:3b:00.0: the created device is not the requested one; see 'virt-vgpu explain ws1'"* ]] || fail "virsh said: $said"
assert_eq '' 'left_over'
on_lab 'echo 1 > $SIM/reset; start_vm ws1'
