# shellcheck shell=bash
# The simulator module, built in the image's tree against the image's kernel, as an archive that
# `lab up` appends to the initrd.

module_key() { hash_of "$(image_key)" "$LAB/kmod" "$LAB/nvidia/boards" "$LAB/lib/module.sh"; }

ensure_module() {
	MODULE=$CACHE/module-$(module_key)
	[[ -e $MODULE/overlay.cpio ]] || with_build_lock build_module
}

build_module() {
	local name log
	name=module-$(module_key)
	[[ ! -e $CACHE/$name/overlay.cpio ]] || return 0
	((EUID == 0)) || die "building the simulator module needs root (chroot)"
	begin_artefact "$name"
	log=$WORK/build.log
	build_step 'simulator module' "$log" module_compile || die "compiling tests/lab/kmod failed"
	finish_artefact "$name" module
}

module_compile() {
	local release source overlay
	release=$(< "$IMAGE/kernel-release")
	source=$IMAGE/tree/usr/src/virt-vgpu-sim
	overlay=$WORK/overlay/lab-overlay/usr/lib/modules/$release
	module_source "$source"
	TREE=$IMAGE/tree in_tree make -C "/lib/modules/$release/build" M=/usr/src/virt-vgpu-sim modules
	mkdir -p "$overlay/updates"
	install -m 644 "$source/virt_vgpu_sim.ko" "$overlay/updates/"
	# modprobe finds a module through the index, so the index travels with it.
	install -D -m 644 "$source/virt_vgpu_sim.ko" "$IMAGE/tree/usr/lib/modules/$release/updates/virt_vgpu_sim.ko"
	TREE=$IMAGE/tree in_tree depmod "$release"
	cp "$IMAGE/tree/usr/lib/modules/$release"/modules.dep{,.bin} "$overlay/"
	# For driver_package.
	install -D -m 644 "$source/nvidia.ko" "$WORK/overlay/lab-overlay/usr/lib/virt-vgpu-lab/nvidia.ko"
	rm -rf "$source"
	pack_overlay "$WORK/overlay" "$WORK/overlay.cpio"
	rm -rf "$WORK/overlay"
}

# module_source FOLDER: all that the module is compiled from, to FOLDER
module_source() {
	rm -rf "$1"
	cp -r "$LAB/kmod" "$1"
	awk -f "$LAB/kmod/boards.awk" "$LAB"/nvidia/boards/* > "$1/boards.c"
}

# pack_overlay FOLDER FILE: FOLDER/lab-overlay as an archive for the initrd
pack_overlay() {
	(cd "$1" && find lab-overlay | cpio --quiet -o -H newc -R 0:0) > "$2"
}
