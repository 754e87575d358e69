# 500 random operations on 20 domains, with failing drivers and killed programs: running domains always have
# their devices, and in the end definitions, claims, sysfs and libvirt agree without any help.
# needs: product
# deadline: 3600
# LAB_SOAK_SEED makes other choices, LAB_SOAK_OPERATIONS shortens it; the lab host keeps the log in
# /run/soak.log.
seed=${LAB_SOAK_SEED:-1} operations=${LAB_SOAK_OPERATIONS:-500}
in_guest 'cat > /run/soak.py' < "$LAB/lib/soak.py"

# 12 vGPUs of one size for 20 domains, and two boards on which another size may block a type.
on_lab 'create_pool cad --type nvidia-232 --device $T4A --device $T4B --device $T4C
	create_pool big --type nvidia-233 --device $T4B --device $T4C
	systemctl list-units --plain --no-legend --state=failed > /run/soak.failed
	start_daemon'
status=0
on_lab "python3 /run/soak.py $seed $operations > /run/soak.log 2>&1" || status=$?
report "$(on_lab 'sed -n "s/^COUNTS //p" /run/soak.log')"
if ((status)); then
	on_lab 'cat /run/soak.log' > /dev/null
	fail "not all was as it should be; LAB_SOAK_SEED=$seed repeats the choices$(on_lab 'sed -n "s/^COUNTS UNEXPECTED/; unexpected:/p" /run/soak.log')"
fi

# Nothing has crashed, and nothing is left over.
assert_eq '' 'systemctl list-units --plain --no-legend --state=failed | diff /run/soak.failed -'
assert_eq '' 'journalctl -q --after-cursor "$(cat /run/lab-cursor)" | grep -E "virt-vgpu.*(panicked|fatal signal)" || true'
assert_eq '' 'journalctl -q -k --after-cursor "$(cat /run/lab-cursor)" | grep -E "WARNING: |Oops|BUG: (kernel|unable|KASAN|sleeping)|refcount_t" || true'
assert_eq '' 'left_over'
