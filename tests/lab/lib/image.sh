# shellcheck shell=bash
# The lab host's disk image: Debian packages, configured, as one ext4 file, with its kernel and
# initrd beside it, and the tree it came from (plus a compiler) for building modules.

readonly SUITE=trixie
readonly IMAGE_SIZE=4G

image_key() { hash_of "$SUITE" "$IMAGE_SIZE" "$LAB/image" "$LAB/lib/image.sh"; }

image_folder() { printf '%s/image-%s\n' "$CACHE" "$(image_key)"; }

ensure_image() {
	IMAGE=$(image_folder)
	[[ -e $IMAGE/lab.img ]] || with_build_lock build_image
}

# Everything below $IMAGE: lab.img, vmlinuz, initrd.img, kernel-release, ssh-key(.pub), tree/
build_image() {
	local name log start mirror
	name=image-$(image_key)
	# Somebody else may have finished it while this one waited for the lock.
	[[ ! -e $CACHE/$name/lab.img ]] || return 0
	((EUID == 0)) || die "building the image needs root (debootstrap)"
	start=$(now_ms)
	mirror=$(debian_mirror)
	begin_artefact "$name"
	log=$WORK/build.log
	say "building the image ($SUITE, once; kept in $CACHE)"
	ssh-keygen -q -t ed25519 -N '' -C virt-vgpu-lab -f "$WORK/ssh-key"
	build_step 'base system' "$log" image_bootstrap "$mirror" || die "debootstrap failed"
	build_step 'packages' "$log" image_packages "$LAB/image/packages" || die "installing packages failed"
	build_step 'configuration' "$log" image_configure || die "configuring the image failed"
	build_step 'disk image' "$log" image_write || die "writing the disk image failed"
	build_step 'compiler for modules' "$log" image_packages "$LAB/image/build-packages" ||
		die "installing the compiler failed"
	finish_artefact "$name" image
	say "image ready after $(seconds_since "$start") s, $(du -h "$CACHE/$name/lab.img" | cut -f1) on disk"
}

image_bootstrap() {
	local tree=$WORK/tree mirror=$1
	# --force-check-gpg: without a keyring debootstrap would only warn.
	debootstrap --variant=minbase --force-check-gpg \
		--keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
		"$SUITE" "$tree" "$mirror"
	printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' \
		"$mirror" "$SUITE" /usr/share/keyrings/debian-archive-keyring.gpg \
		> "$tree/etc/apt/sources.list.d/debian.sources"
	rm -f "$tree/etc/apt/sources.list"
	# Proxy and freshness settings of the machine hold for its lab as well.
	apt-config dump Acquire | grep -E '^Acquire::(Check-|http::Proxy|https::Proxy|ftp::Proxy)' \
		> "$tree/etc/apt/apt.conf.d/99lab" || true
	# The tree is thrown away when the build fails: no need to flush every file.
	echo force-unsafe-io > "$tree/etc/dpkg/dpkg.cfg.d/lab"
	printf 'path-exclude=%s\n' '/usr/share/doc/*' '/usr/share/man/*' '/usr/share/locale/*' \
		'/usr/share/info/*' >> "$tree/etc/dpkg/dpkg.cfg.d/lab"
	# Nothing is started while packages install.
	printf '#!/bin/sh\nexit 101\n' > "$tree/usr/sbin/policy-rc.d"
	chmod 755 "$tree/usr/sbin/policy-rc.d"
}

# image_packages FILE: installs the packages listed in FILE into the tree
image_packages() {
	local packages
	mapfile -t packages < <(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$1")
	with_network in_tree sh -ec 'apt-get update -q; apt-get install -qy --no-install-recommends "$@"; apt-get clean' \
		packages "${packages[@]}"
	rm -rf "$WORK"/tree/var/lib/apt/lists/*
}

# with_network COMMAND...: in the tree (TREE) with this machine's resolver; its own comes back afterwards
with_network() {
	local tree=${TREE:-$WORK/tree} kept=
	if [[ -e $tree/etc/resolv.conf ]]; then
		kept=yes
		cp -P "$tree/etc/resolv.conf" "$WORK/resolv.conf"
	fi
	rm -f "$tree/etc/resolv.conf"
	cp /etc/resolv.conf "$tree/etc/resolv.conf"
	"$@"
	if [[ -n $kept ]]; then mv "$WORK/resolv.conf" "$tree/etc/resolv.conf"; fi
}

image_configure() {
	local tree=$WORK/tree
	# Modes are set here: a checkout keeps neither them nor the owner.
	cp -r --no-preserve=ownership,mode "$LAB/image/root/." "$tree/"
	install -m 600 "$WORK/ssh-key" "$tree/root/.ssh/id_ed25519"
	install -m 600 "$WORK/ssh-key.pub" "$tree/root/.ssh/authorized_keys"
	install -m 755 "$LAB/image/configure" "$tree/tmp/configure"
	in_tree /tmp/configure
	rm -f "$tree/tmp/configure"
}

image_write() {
	local tree=$WORK/tree release
	release=$(basename "$tree"/lib/modules/*)
	printf '%s\n' "$release" > "$WORK/kernel-release"
	cp "$tree/boot/vmlinuz-$release" "$WORK/vmlinuz"
	cp "$tree/boot/initrd.img-$release" "$WORK/initrd.img"
	truncate -s "$IMAGE_SIZE" "$WORK/lab.img"
	mke2fs -q -t ext4 -L lab -E lazy_itable_init=1,lazy_journal_init=1 -d "$tree" "$WORK/lab.img"
}

# in_tree COMMAND...: runs it inside the tree being built (or TREE); only in a build_step, with which
# the mounts go.
in_tree() {
	local tree=${TREE:-$WORK/tree}
	mountpoint -q "$tree/proc" || mount -t proc proc "$tree/proc"
	mountpoint -q "$tree/sys" || mount -t sysfs -o ro sysfs "$tree/sys"
	env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
		DEBIAN_FRONTEND=noninteractive chroot "$tree" "$@"
}
