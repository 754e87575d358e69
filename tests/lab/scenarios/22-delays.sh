# A slow driver; and a writer that dies in it leaves a vGPU that appears after its death.
elapsed='t=${EPOCHREALTIME/./}; %s; echo $(((${EPOCHREALTIME/./} - t) / 1000))'
on_lab 'echo 1 1500 > $SIM/delay_create; echo 1 1500 > $SIM/boards/$T4A/delay_remove'
ms=$(on_lab "$(printf "$elapsed" 'create_mdev $T4A nvidia-232 $(uuid 1)')")
((ms >= 1500 && ms < 5000)) || fail "create took $ms ms"
ms=$(on_lab "$(printf "$elapsed" 'remove_mdev $(uuid 1)')")
((ms >= 1500 && ms < 5000)) || fail "remove took $ms ms"
ms=$(on_lab "$(printf "$elapsed" 'create_mdev $T4A nvidia-232 $(uuid 1)')")
((ms < 1000)) || fail "the delay was to be spent, but create took $ms ms"

on_lab 'echo 1 2000 > $SIM/delay_create'
on_lab 'create_mdev $T4A nvidia-232 $(uuid 2) > /dev/null 2>&1 & sleep 0.5; kill -KILL $!; wait $! || true'
assert 'wait_until "test -e /sys/bus/mdev/devices/$(uuid 2)/mdev_type" 10'
