# shellcheck shell=bash
# What a VM in the lab boots: Debian's kernel, unpacked so that the VM need not do it, and a small root in
# memory, whose first process is nested/init. Both are on a disk of the lab host, labelled nested.

nested_key() { hash_of "$(image_key)" "$LAB/nested" "$LAB/lib/nested.sh"; }

ensure_nested() {
	NESTED=$CACHE/nested-$(nested_key)
	[[ -e $NESTED/nested.img ]] || with_build_lock build_nested
}

build_nested() {
	local name log
	name=nested-$(nested_key)
	[[ ! -e $CACHE/$name/nested.img ]] || return 0
	begin_artefact "$name"
	log=$WORK/build.log
	build_step 'kernel and root of VMs' "$log" nested_write || die "making the disk with a VM's kernel failed"
	finish_artefact "$name" nested
}

nested_write() {
	local tree=$IMAGE/tree root=$WORK/root release file
	release=$(< "$IMAGE/kernel-release")
	mkdir -p "$WORK/disk" "$root/bin" "$root/modules.d" "$root/lib64" "$root/lib/x86_64-linux-gnu"
	unpacked_kernel "$IMAGE/vmlinuz" > "$WORK/disk/vmlinux"
	install -m 755 "$tree/usr/bin/busybox" "$root/bin/busybox"
	install -m 755 "$LAB/nested/init" "$LAB/nested/disc" "$root/"
	install -m 755 "$tree/lib64/ld-linux-x86-64.so.2" "$root/lib64/"
	for file in libc.so.6 libresolv.so.2; do install -m 755 "$tree/usr/lib/x86_64-linux-gnu/$file" "$root/lib/x86_64-linux-gnu/"; done
	nested_modules "$root" "$release" modules nvme igb
	nested_modules "$root" "$release" modules.disc ahci sr_mod isofs
	(cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) > "$WORK/disk/root.cpio"
	truncate -s 96M "$WORK/nested.img"
	mke2fs -q -t ext4 -O ^has_journal -L nested -d "$WORK/disk" "$WORK/nested.img"
	rm -rf "$root" "$WORK/disk"
}

# nested_modules ROOT RELEASE LIST MODULE...: these modules and what they need into ROOT, and their names into the file
# LIST there, in the order in which they are loaded: modprobe names what a module needs before the module.
nested_modules() {
	local root=$1 release=$2 list=$3 tree=$IMAGE/tree file module
	shift 3
	for module in "$@"; do
		TREE=$tree in_tree modprobe --show-depends --set-version "$release" "$module"
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
		module=$(basename "$file" .xz)
		xz -dc "$tree$file" > "$root/modules.d/$module"
		printf '/modules.d/%s\n' "$module" >> "$root/$list"
	done
}

# unpacked_kernel FILE: the ELF file that is packed inside a bzImage, whose header says where
# (Documentation/arch/x86/boot.rst): a zstd frame, and its unpacked length in four bytes
unpacked_kernel() {
	local sectors offset length
	sectors=$(od -A n -t u1 -j $((0x1f1)) -N 1 "$1")
	read -r offset length < <(od -A n -t u4 -j $((0x248)) -N 8 "$1")
	tail -c +$(((sectors + 1) * 512 + offset + 1)) "$1" | { head -c $((length - 4)); cat > /dev/null; } | zstd -dc
}
