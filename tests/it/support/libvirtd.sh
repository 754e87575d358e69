# Runs a libvirtd of its own below $1: own mounts, own processes. bash, because
# process 1 must reap what libvirtd orphans. Ends, with every process in here,
# when its standard input does: when the test is over or was killed.
set -e
dir=$1
mkdir "$dir/etc" "$dir/run" "$dir/lib" "$dir/log" "$dir/cache"
printf 'auth_unix_rw = "none"\nauth_unix_ro = "none"\n' > "$dir/etc/libvirtd.conf"
printf '%s\n' 'stdio_handler = "file"' 'user = "root"' 'group = "root"' \
	'security_driver = "none"' 'cgroup_controllers = [ ]' 'namespaces = [ ]' > "$dir/etc/qemu.conf"
# libvirt looks these up whatever qemu.conf says.
cp /etc/passwd /etc/group "$dir"
grep -q ^libvirt-qemu: "$dir/passwd" ||
	echo libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin >> "$dir/passwd"
for group in kvm libvirt-qemu; do
	grep -q "^$group:" "$dir/group" || echo "$group:x:6405${#group}:" >> "$dir/group"
done
mount --bind "$dir/passwd" /etc/passwd
mount --bind "$dir/group" /etc/group
mkdir -p /etc/libvirt /run/libvirt /var/{lib,log,cache}/libvirt
mount --bind "$dir/etc" /etc/libvirt
mount --bind "$dir/run" /run/libvirt
for part in lib log cache; do
	mount --bind "$dir/$part" "/var/$part/libvirt"
done
# Its lock would keep a second daemon from starting.
libvirtd --pid-file "$dir/run/libvirtd.pid" < /dev/null > "$dir/libvirtd.log" 2>&1 &
disown # or bash says that it was killed
read -r || true
kill -KILL -1 || true
rm -rf "$dir"
