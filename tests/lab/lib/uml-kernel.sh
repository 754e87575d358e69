# shellcheck shell=bash
# What a lab host that is a User-mode Linux starts from: a kernel of the image's own version, compiled
# in the image's tree from Debian's source with the edits of uml/patches, and the simulator for it.

uml_key() { hash_of "$(image_key)" "$LAB/uml/config" "$LAB/uml/patches" "$LAB/lib/uml-kernel.sh"; }

uml_module_key() { hash_of "$(uml_key)" "$LAB/kmod" "$LAB/nvidia/boards" "$LAB/uml/monitor-read.c"; }

uml_built() { [[ -e $CACHE/umlkernel-$(uml_key)/linux ]]; }

# Sets UML to the folder of the kernel: linux, release, build/ (for modules).
ensure_uml() {
	UML=$CACHE/umlkernel-$(uml_key)
	uml_built || with_build_lock build_uml
	UML_MODULE=$CACHE/umlmodule-$(uml_module_key)
	[[ -e $UML_MODULE/overlay.cpio ]] || with_build_lock build_uml_module
}

build_uml() {
	local name log
	name=umlkernel-$(uml_key)
	[[ ! -e $CACHE/$name/linux ]] || return 0
	((EUID == 0)) || die "building the kernel of a User-mode Linux needs root (chroot)"
	begin_artefact "$name"
	log=$WORK/build.log
	build_step 'source of the User-mode Linux kernel' "$log" uml_fetch || die "there is no linux-source package"
	build_step 'User-mode Linux kernel' "$log" uml_compile || die "compiling the User-mode Linux kernel failed"
	finish_artefact "$name" umlkernel
}

uml_fetch() {
	local tree=$IMAGE/tree package version
	version=$(sed -E 's/^([0-9]+\.[0-9]+).*/\1/' "$IMAGE/kernel-release")
	TREE=$tree with_network in_tree sh -ec "apt-get update -q; cd /tmp; rm -f linux-source-*.deb; apt-get download linux-source-$version"
	rm -rf "$tree"/var/lib/apt/lists/*
	package=$(echo "$tree"/tmp/linux-source-*.deb)
	mkdir -p "$WORK/build"
	# Not what is for other processors, or is tests and pages; their Kconfig files are read all the same.
	dpkg-deb --fsys-tarfile "$package" | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' |
		TREE=$tree in_tree xz -dc |
		tar -x -C "$WORK/build" --strip-components=1 --wildcards --exclude='*/drivers/gpu/*.[ch]' \
			--exclude='*/drivers/net/*/*.[ch]' --exclude='*/drivers/media/*.[ch]' --exclude='*/sound/*.[ch]' \
			--exclude='*/Documentation/*/*' --exclude='*/tools/testing/*' --exclude='*/dts/*'
	rm -f "$package"
}

uml_compile() {
	local tree=$IMAGE/tree source=$IMAGE/tree/usr/src/linux-uml edit line
	mkdir -p "$source"
	mount --bind "$WORK/build" "$source"
	for edit in "$LAB"/uml/patches/*.patch; do TREE=$tree in_tree patch -p1 --fuzz=0 -d /usr/src/linux-uml < "$edit"; done
	cp "$LAB/uml/config" "$source/lab.config"
	TREE=$tree in_tree make -C /usr/src/linux-uml ARCH=um KCONFIG_ALLCONFIG=lab.config allnoconfig
	# A setting that this version of the kernel does not know, or that needs another, would go unseen.
	while read -r line; do
		if [[ $line == CONFIG_* ]]; then grep -qxF "$line" "$source/.config" || die "the kernel does not take $line"; fi
	done < "$LAB/uml/config"
	TREE=$tree in_tree make -C /usr/src/linux-uml ARCH=um -j"$(nproc)" linux modules
	install -m 755 -s "$source/linux" "$WORK/linux"
	cp "$source/include/config/kernel.release" "$WORK/release"
	# What modules are compiled against stays.
	(
		cd "$source"
		find . -type f ! -path './scripts/*' \( -name '*.[coS]' -o -name '*.a' -o -name '*.cmd' \) -delete
		rm -rf Documentation drivers fs net sound block crypto ipc certs tools samples rust virt vmlinux* linux \
			System.map .tmp_*
		mkdir -p tools
	)
}

build_uml_module() {
	local name log
	name=umlmodule-$(uml_module_key)
	[[ ! -e $CACHE/$name/overlay.cpio ]] || return 0
	begin_artefact "$name"
	log=$WORK/build.log
	build_step 'simulator module for it' "$log" uml_module_compile || die "compiling tests/lab/kmod for User-mode Linux failed"
	finish_artefact "$name" umlmodule
}

uml_module_compile() {
	local tree=$IMAGE/tree release folder
	release=$(< "$UML/release")
	mkdir -p "$tree/usr/src/linux-uml"
	mount --bind "$UML/build" "$tree/usr/src/linux-uml"
	module_source "$tree/usr/src/virt-vgpu-sim"
	TREE=$tree in_tree make -C /usr/src/linux-uml ARCH=um M=/usr/src/virt-vgpu-sim modules
	# In namespaces of its own: the tree keeps nothing of it.
	folder=$tree/usr/lib/modules/$release
	mkdir -p "$folder"
	mount -t tmpfs none "$folder"
	mkdir "$folder/updates"
	install -m 644 "$tree/usr/src/virt-vgpu-sim/virt_vgpu_sim.ko" "$folder/updates/"
	cp "$UML/build"/modules.builtin* "$UML/build/modules.order" "$folder/"
	TREE=$tree in_tree depmod "$release"
	mkdir -p "$WORK/overlay/lab-overlay/usr/lib/modules"
	cp -r "$folder" "$WORK/overlay/lab-overlay/usr/lib/modules/"
	# For driver_package.
	install -D -m 644 "$tree/usr/src/virt-vgpu-sim/nvidia.ko" "$WORK/overlay/lab-overlay/usr/lib/virt-vgpu-lab/nvidia.ko"
	umount "$folder"
	rmdir "$folder"
	rm -rf "$tree/usr/src/virt-vgpu-sim"
	uml_monitor_read "$tree" "$WORK/overlay/lab-overlay"
	pack_overlay "$WORK/overlay" "$WORK/overlay.cpio"
	rm -rf "$WORK/overlay"
}

# uml_monitor_read TREE FOLDER: what makes VMs start three times as fast there. Of all programs only QEMU does
# what it changes.
uml_monitor_read() {
	local tree=$1 overlay=$2 library=usr/lib/x86_64-linux-gnu/lab-monitor-read.so
	cp "$LAB/uml/monitor-read.c" "$tree/usr/src/"
	TREE=$tree in_tree gcc -O2 -Wall -Wextra -Werror -fPIC -shared -o /usr/src/monitor-read.so /usr/src/monitor-read.c
	install -D -m 644 "$tree/usr/src/monitor-read.so" "$overlay/$library"
	rm -f "$tree"/usr/src/monitor-read.*
	mkdir -p "$overlay/etc"
	echo "/$library" > "$overlay/etc/ld.so.preload"
}
