# Makes a disk with a whole Debian system, booted by GRUB. Sourced by `make`; needs root for debootstrap's chroot, but mounts
# nothing itself and no loop device.

# First sector of the partition; GRUB lies between it and the partition table.
PARTITION_START=2048
# Sectors of the whole disk: 2 GiB, most of it holes.
DISK_SECTORS=4194304

# The address that the host's apt has its Debian release from.
debian_mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $1" 'Component: main' | head -n 1
}

# le VALUE BYTES: a little-endian number as printf escapes.
le() {
    local value=$1 count=$2
    while [ "$count" -gt 0 ]; do
        printf '\\x%02x' $((value & 255))
        value=$((value >> 8)) count=$((count - 1))
    done
}

# A partition table with one bootable Linux partition. The cylinder fields say "beyond 1024 cylinders": addresses are by sector.
partition_table() {
    local entry
    entry="\\x80\\xfe\\xff\\xff\\x83\\xfe\\xff\\xff$(le "$PARTITION_START" 4)$(le $((DISK_SECTORS - PARTITION_START)) 4)"
    printf "$entry"
    head -c 48 /dev/zero
    printf '\x55\xaa'
}

# What an administrator would set after debootstrap: passwords, terminals, the root's file system, a boot loader's menu.
configure_debian() {
    local root=$1
    sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"
    echo bulkhead > "$root/etc/hostname"
    echo '/dev/sda1 / ext4 errors=remount-ro 0 1' > "$root/etc/fstab"
    rm -f "$root"/etc/motd "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb
    rm -rf "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale} "$root"/dev/*
    mkdir -p "$root/boot/grub"
    cat > "$root/boot/grub/grub.cfg" <<'END'
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=1
menuentry "Debian" {
    linux /vmlinuz root=/dev/sda1 ro console=tty0 console=ttyS0,115200
    initrd /initrd.img
}
END
}

# make_debian: DIR/debian/disk.img
make_debian() {
    local out=$dir/debian recipe
    recipe=$(recipe_of "$here/debian.sh")
    is_made "$out/disk.img" "$recipe" && return
    if [ "$(id -u)" != 0 ]; then
        say "guests: debootstrap needs root. Run this first: sudo $here/make $dir debian"
        exit 1
    fi
    local mirror root
    mirror=$(debian_mirror bookworm)
    [ -n "$mirror" ] || { say "guests: apt knows no mirror of Debian 12"; exit 1; }
    root=$out/root
    rm -rf "$root"
    mkdir -p "$root/etc/initramfs-tools/conf.d"
    # The initramfs is Debian's own, with the drivers that this machine needs instead of every driver there is.
    printf 'MODULES=list\nRESUME=none\nFSTYPE=ext4\n' > "$root/etc/initramfs-tools/conf.d/guest"
    printf '%s\n' ata_piix ata_generic sd_mod sr_mod ext4 > "$root/etc/initramfs-tools/modules"
    say "guests: debootstrap (some minutes)"
    /usr/sbin/debootstrap --arch=amd64 --variant=minbase \
        --include=systemd-sysv,udev,kmod,login,util-linux,e2fsprogs,linux-image-amd64,initramfs-tools \
        bookworm "$root" "$mirror" > "$out/debootstrap.log" 2>&1 || { tail -n 20 "$out/debootstrap.log" >&2; exit 1; }
    configure_debian "$root"

    say "guests: making the disk"
    local disk=$out/disk.img.new grub=/usr/lib/grub/i386-pc
    rm -f "$disk"
    truncate -s $((DISK_SECTORS * 512)) "$disk"
    # Features that GRUB of Debian 12 cannot read are left out.
    /sbin/mke2fs -q -t ext4 -O '^metadata_csum_seed,^orphan_file' -L debian -d "$root" \
        -E "offset=$((PARTITION_START * 512)),lazy_itable_init=1,nodiscard" "$disk" $(((DISK_SECTORS - PARTITION_START) / 2))k
    grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o "$out/core.img" \
        biosdisk part_msdos ext2 normal linux configfile serial terminal echo test
    # What grub-install does: boot.img in the boot sector, core.img right after it. Their block lists point there as built.
    dd if="$grub/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
    partition_table | dd of="$disk" bs=1 seek=446 conv=notrunc status=none
    dd if="$out/core.img" of="$disk" bs=512 seek=1 conv=notrunc status=none
    mv "$disk" "$out/disk.img"
    printf '%s\n' "$recipe" > "$out/recipe"
    rm -rf "$root" "$out/core.img"
}
