# The lab host is a complete host with default settings, so that it can prove the product.
# needs: emulated (Debian's own kernel, two NUMA nodes)
# gate
assert_eq '' 'systemctl --failed --plain --no-legend'
assert_eq "lab-$NAME" 'hostname'
# libvirt's own default security driver, and libvirtd itself confined by it.
assert_eq 'apparmor' 'virsh capabilities | sed -n "s:.*<model>\(apparmor\)</model>:\1:p"'
assert_eq 'libvirtd (enforce)' 'cat /proc/$(pidof -s libvirtd)/attr/current'
assert_eq '2' 'ls -d /sys/devices/system/node/node? | wc -l'
assert_eq '0000:3b:00.0 0
0000:5e:00.0 0
0000:86:00.0 1' 'for b in $T4A $T4B $T4C; do echo $b $(cat /sys/bus/pci/devices/$b/numa_node); done'
assert_eq '3b:00.0 3D controller [0302]: NVIDIA Corporation TU104GL [Tesla T4] [10de:1eb8] (rev a1)
5e:00.0 3D controller [0302]: NVIDIA Corporation TU104GL [Tesla T4] [10de:1eb8] (rev a1)
86:00.0 3D controller [0302]: NVIDIA Corporation TU104GL [Tesla T4] [10de:1eb8] (rev a1)' 'lspci -nn -d 10de:'
