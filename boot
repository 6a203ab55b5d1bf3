#!/bin/bash
# Builds Bulkhead and boots Debian's kernel with a busybox shell on this terminal. Leave with `poweroff`, or C-a x.
#
# usage: ./boot [amd64|686|686-pae] [qemu options]...
set -euo pipefail
cd "$(dirname "$0")"
. tests/packages

flavour=amd64
case "${1:-}" in amd64 | 686 | 686-pae) flavour=$1; shift ;; esac
need_packages "${GUEST_PACKAGES[@]}"
step "building (the first time takes some minutes)"
cargo build --release --locked
step "making the guest"
tests/guests/make target/guests "$flavour"
program=qemu-system-x86_64
[ "$flavour" = amd64 ] || program=qemu-system-i386
step "booting; C-a h lists the keys, C-a x ends the machine"
exec "target/release/$program" -nographic -m 256 -kernel "target/guests/$flavour/vmlinuz" \
    -initrd "target/guests/$flavour/initrd.gz" -append "console=ttyS0" "$@"
