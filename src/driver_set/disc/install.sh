#!/bin/sh
# Installs the NVIDIA driver of this disc in a Linux guest. Run it as root: sh install.sh
# It may be run again at any time: what is there already stays.
set -eu

say() { printf 'install.sh: %s\n' "$*"; }
fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

# Tests put another root directory before all paths.
root=${INSTALL_ROOT-}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
version=@VERSION@

if [ "$(id -u)" != 0 ] && [ -z "$root" ]; then
    fail "only root can install a driver; run: sudo sh $0"
fi

first() {
    for file in "$here"/$1; do
        if [ -e "$file" ]; then
            printf '%s\n' "$file"
            return
        fi
    done
}

installed() {
    if [ -r "$root/sys/module/nvidia/version" ]; then
        cat "$root/sys/module/nvidia/version"
    else
        modinfo -F version nvidia 2> /dev/null || true
    fi
}

install_driver() {
    if [ ! -e "$root/lib/modules/$(uname -r)/build" ]; then
        fail "the headers of this kernel are missing, which the driver is built with; install linux-headers-$(uname -r) (Debian, Ubuntu) or kernel-devel-$(uname -r) (Red Hat), then run this again"
    fi
    if command -v mokutil > /dev/null && mokutil --sb-state 2> /dev/null | grep -q enabled; then
        say "Secure Boot is on: the kernel loads the driver only if its modules are signed with a key that this guest trusts; see 'mokutil --import'"
    fi
    deb=$(first '*.deb')
    rpm=$(first '*.rpm')
    run=$(first '*-grid.run')
    if [ -n "$deb" ] && command -v dpkg > /dev/null; then
        say "installing $(basename "$deb")"
        if command -v apt-get > /dev/null; then
            apt-get install -y "$deb"
        else
            dpkg -i "$deb"
        fi
    elif [ -n "$rpm" ] && command -v rpm > /dev/null; then
        say "installing $(basename "$rpm")"
        if command -v dnf > /dev/null; then
            dnf install -y "$rpm"
        else
            rpm -U "$rpm"
        fi
    elif [ -n "$run" ]; then
        say "installing $(basename "$run")"
        if command -v dkms > /dev/null; then
            sh "$run" --silent --dkms
        else
            sh "$run" --silent
        fi
    else
        fail "this disc has no driver for this system"
    fi
}

if [ "$(installed)" = "$version" ]; then
    say "driver $version is installed already"
else
    install_driver
fi

token=$(first 'token/*.tok')
if [ -n "$token" ]; then
    directory=$root/etc/nvidia/ClientConfigToken
    mkdir -p "$directory"
    if cmp -s "$token" "$directory/$(basename "$token")"; then
        say "the licence token is in place already"
    else
        cp "$token" "$directory/"
        chmod 744 "$directory/$(basename "$token")"
        say "put the licence token into /etc/nvidia/ClientConfigToken"
    fi
    config=$root/etc/nvidia/gridd.conf
    if [ ! -e "$config" ]; then
        # NVIDIA's template says 0: without a licence.
        grep -v '^FeatureType=' "$config.template" > "$config" 2> /dev/null || true
    fi
    # 1: as the type of the vGPU says. A setting of the guest's administrator stays.
    grep -q '^FeatureType=' "$config" || printf 'FeatureType=1\n' >> "$config"
    if command -v systemctl > /dev/null; then
        systemctl restart nvidia-gridd || say "nvidia-gridd does not run yet; it starts with the driver"
    fi
fi

if grep -q '^nouveau ' "$root/proc/modules" 2> /dev/null; then
    say "reboot this guest: another driver (nouveau) has the GPU until then"
else
    say "done; 'nvidia-smi' shows the GPU, 'nvidia-smi -q | grep License' the licence"
fi
