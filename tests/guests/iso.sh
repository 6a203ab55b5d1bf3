# Makes a bootable CD-ROM image: GRUB from El Torito, the amd64 guest's kernel and initramfs. Sourced by `make`.

# make_iso: DIR/iso/boot.iso
make_iso() {
    local out=$dir/iso recipe
    # With that of the guest on it.
    recipe=$(recipe_of "$here/iso.sh" "$here/make")
    is_made "$out/boot.iso" "$recipe" && return
    make_guest amd64
    say "guests: making the CD-ROM image"
    local tree=$out/tree
    rm -rf "$tree"
    mkdir -p "$tree/boot/grub"
    cp "$dir/amd64/vmlinuz" "$dir/amd64/initrd.gz" "$tree/"
    (cd "$tree" && sha256sum vmlinuz initrd.gz > SHA256SUMS)
    cat > "$tree/boot/grub/grub.cfg" <<'END'
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=1
menuentry "CD-ROM" {
    linux /vmlinuz console=ttyS0,115200
    initrd /initrd.gz
}
END
    grub-mkimage -O i386-pc-eltorito -p /boot/grub -o "$tree/boot/grub/eltorito.img" \
        biosdisk iso9660 normal linux configfile serial terminal echo test
    xorriso -as mkisofs -quiet -R -J -V BULKHEAD -b boot/grub/eltorito.img -no-emul-boot -boot-load-size 4 -boot-info-table \
        --grub2-boot-info -o "$out/boot.iso.new" "$tree" >&2
    mv "$out/boot.iso.new" "$out/boot.iso"
    printf '%s\n' "$recipe" > "$out/recipe"
    rm -rf "$tree"
}

# make_memtest: DIR/memtest/{memtest.bin,memtest.iso}, the 64-bit program as a kernel and the 32-bit one as a CD-ROM.
make_memtest() {
    local out=$dir/memtest recipe
    recipe=$(recipe_of "$here/iso.sh")
    is_made "$out/memtest.bin" "$recipe" && return
    say "guests: fetching memtest86+"
    mkdir -p "$out"
    fetch memtest86+ amd64 "$out/package"
    cp "$out/package/usr/lib/memtest86+/memtest86+ia32.iso" "$out/memtest.iso"
    cp "$out/package/boot/memtest86+x64.bin" "$out/memtest.bin"
    printf '%s\n' "$recipe" > "$out/recipe"
    rm -rf "$out/package"
}
