# Every board lists its types in the driver's own form.
for board in 0000:3b:00.0 0000:5e:00.0 0000:86:00.0; do
	assert_eq 'nvidia-222 GRID T4-1B 16
nvidia-223 GRID T4-2B 8
nvidia-225 GRID T4-1A 16
nvidia-230 GRID T4-1Q 16
nvidia-231 GRID T4-2Q 8
nvidia-232 GRID T4-4Q 4
nvidia-233 GRID T4-8Q 2
nvidia-234 GRID T4-16Q 1
nvidia-319 GRID T4-4C 4
nvidia-320 GRID T4-8C 2
nvidia-321 GRID T4-16C 1' "cd /sys/class/mdev_bus/$board/mdev_supported_types
		for t in *; do echo \$t \$(cat \$t/name) \$(cat \$t/available_instances); done"
done
assert_eq 'num_heads=4, frl_config=60, framebuffer=4096M, max_resolution=7680x4320, max_instance=4' \
	'cat $(type_path $T4A nvidia-232)/description'
assert_eq 'vfio-pci' 'cat $(type_path $T4A nvidia-232)/device_api'
