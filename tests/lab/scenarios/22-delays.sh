# A slow driver; if the writer is killed meanwhile, the vGPU appears after its death.
on_lab 'echo 1 3000 > $SIM/delay_create; echo 1 3000 > $SIM/boards/$T4A/delay_remove'
ms=$(on_lab 'elapsed_ms "create_mdev $T4A nvidia-232 $(uuid 1)"')
((ms >= 3000)) || fail "create took $ms ms"
ms=$(on_lab 'elapsed_ms "remove_mdev $(uuid 1)"')
((ms >= 3000)) || fail "remove took $ms ms"
assert_eq '0 3000' 'cat $SIM/delay_create'
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1)'

on_lab 'echo 1 2000 > $SIM/delay_create'
on_lab 'create_mdev $T4A nvidia-232 $(uuid 2) > /dev/null 2>&1 &
	wait_until "grep -q ^0 $SIM/delay_create" 10; kill -KILL $!; wait $! || true'
assert 'wait_until "test -e /sys/bus/mdev/devices/$(uuid 2)/mdev_type" 10'
