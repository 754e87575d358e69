# shellcheck shell=bash
# The user space of the simulated NVIDIA host (nvidia/): built by cargo on the outer machine, packed as
# an archive that `lab up` appends to the initrd.

nvidia_key() { hash_of "$LAB/nvidia" "$LAB/lib/nvidia.sh" "$LAB/../../Cargo.lock"; }

ensure_nvidia() {
	NVIDIA=$CACHE/nvidia-$(nvidia_key)
	[[ -e $NVIDIA/overlay.cpio ]] || with_build_lock build_nvidia
}

build_nvidia() {
	local name
	name=nvidia-$(nvidia_key)
	[[ ! -e $CACHE/$name/overlay.cpio ]] || return 0
	command -v cargo > /dev/null ||
		die "building the simulated NVIDIA host needs cargo: packaging/build-deps installs it"
	begin_artefact "$name"
	# Not isolated: cargo's own caches lie where they lie.
	step 'NVIDIA user space' "$WORK/build.log" nvidia_compile || die "building tests/lab/nvidia failed"
	finish_artefact "$name" nvidia
}

nvidia_compile() {
	local top=$WORK/overlay/lab-overlay built
	built=$(cd "$LAB/../.." && cargo build --locked -p lab-nvidia-ml -p lab-nvidia-smi -p lab-nvidia-opener \
		--message-format=json | sed -nE 's/.*"(filenames":\["|executable":")([^"]*)".*/\2/p' | sort -u)
	mkdir -p "$top"
	cp -rP "$LAB/nvidia/root/." "$top/"
	chmod 755 "$top"/usr/bin/* "$top/usr/lib/nvidia/sriov-manage"
	nvidia_program libnvidia_ml.so usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1
	nvidia_program nvidia-smi usr/bin/nvidia-smi
	nvidia_program nvml-command usr/bin/nvml-command
	nvidia_program vfio-opener usr/bin/vfio-opener
	pack_overlay "$WORK/overlay" "$WORK/overlay.cpio"
	rm -rf "$WORK/overlay"
}

# nvidia_program NAME PATH: one of what cargo has built, to PATH on the lab host
nvidia_program() {
	local file
	file=$(grep "/$1\$" <<< "$built" | tail -n 1)
	[[ -e $file ]]
	install -D -m 755 -s "$file" "$top/$2"
}
