# shellcheck shell=bash
# The outer machine: the packages it must have, its Debian mirror, its accelerator, free ports.

# program:package, for everything the lab runs on the outer machine
HOST_PROGRAMS=(
	debootstrap:debootstrap
	gpgv:gpgv
	mke2fs:e2fsprogs
	ssh:openssh-client
	ssh-keygen:openssh-client
	cpio:cpio
	flock:util-linux
	unshare:util-linux
	ip:iproute2
	xz:xz-utils
	zstd:zstd
)

# Installs what is missing when allowed to, else names all of it at once.
ensure_host_packages() {
	local entry missing=() wanted=
	for entry in "${HOST_PROGRAMS[@]}"; do
		command -v "${entry%%:*}" > /dev/null || missing+=("${entry##*:}")
	done
	[[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || missing+=(debian-archive-keyring)
	((${#missing[@]})) || return 0
	wanted=$(printf '%s\n' "${missing[@]}" | sort -u | paste -sd' ')
	((EUID == 0)) || die "missing packages: $wanted; run as root, or: apt-get install $wanted"
	command -v apt-get > /dev/null ||
		die "missing programs of the Debian packages: $wanted; install them with this system's package manager"
	say "installing on this machine: $wanted"
	local log
	log=$(mktemp)
	# shellcheck disable=SC2086  # a list of package names
	step "apt-get install" "$log" install_host_packages $wanted ||
		die "apt-get could not install: $wanted (see $log)"
	rm -f "$log"
}

install_host_packages() {
	export DEBIAN_FRONTEND=noninteractive
	apt-get install -qy --no-install-recommends "$@" || {
		apt-get update -q && apt-get install -qy --no-install-recommends "$@"
	}
}

# Prints the URI of the Debian archive this machine's apt uses. Only an index that calls itself
# Debian's main archive counts: a third-party source never does.
debian_mirror() {
	local found
	if [[ -n ${VIRT_VGPU_LAB_MIRROR-} ]]; then
		printf '%s\n' "$VIRT_VGPU_LAB_MIRROR"
		return
	fi
	found=$(list_debian_sites)
	if [[ -z $found ]] && ((EUID == 0)); then
		# A machine whose package lists were never fetched knows no origin yet.
		apt-get update -q > /dev/null 2>&1 || true
		found=$(list_debian_sites)
	fi
	[[ -n $found ]] ||
		die "apt knows no Debian archive here; set VIRT_VGPU_LAB_MIRROR to the URI of one"
	printf '%s\n' "$found"
}

list_debian_sites() {
	# shellcheck disable=SC2016  # apt's own placeholders
	apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(CODENAME)|$(SITE)' \
		'Created-By: Packages' 2> /dev/null |
		awk -F'|' '$1 == "Debian" && $2 == "Debian" && $3 == "main" && $4 !~ /-/ { print $5; exit }'
}

# accelerator KERNEL: prints the -accel argument for QEMU.
# A /dev/kvm alone proves little: under the PVM flavour stock kernels die in their decompressor.
accelerator() {
	local kernel=$1 proven
	case ${VIRT_VGPU_LAB_ACCEL-} in
		kvm) printf 'kvm\n'; return ;;
		tcg) printf 'tcg,thread=multi\n'; return ;;
		'') ;;
		*) die "VIRT_VGPU_LAB_ACCEL is '$VIRT_VGPU_LAB_ACCEL'; it may be kvm or tcg" ;;
	esac
	if [[ -r /dev/kvm && -w /dev/kvm && ! -e /sys/module/kvm_pvm ]]; then
		proven=$RUN_ROOT/kvm-works.$(< /proc/sys/kernel/random/boot_id)
		if [[ ! -e $proven ]]; then
			if kvm_boots "$kernel"; then echo yes > "$proven"; else echo no > "$proven"; fi
		fi
		if [[ $(< "$proven") == yes ]]; then
			printf 'kvm\n'
			return
		fi
	fi
	printf 'tcg,thread=multi\n'
}

# Boots the lab's kernel without a root: it works when the kernel gets as far as missing it.
kvm_boots() {
	QEMU_UNDER='timeout 20' lab_qemu -M q35 -accel kvm -cpu host -m 512 -nodefaults -display none \
		-no-reboot -serial stdio -kernel "$1" -append 'console=ttyS0 panic=-1' < /dev/null 2>&1 |
		grep -q 'Unable to mount root fs'
}

# free_port: prints a port of 127.0.0.1 that nothing listens on and no lab host has taken.
free_port() {
	local port
	for port in $(shuf -i 20000-29999 -n 200); do
		grep -qsx "$port" "$RUN_ROOT"/*/ports && continue
		(exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null && continue
		printf '%s\n' "$port"
		return
	done
	die "no free port found on 127.0.0.1"
}
