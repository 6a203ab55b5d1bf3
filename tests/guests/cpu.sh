# Makes the root file system that the benchmark of the CPU runs in. Sourced by `make`; needs root for debootstrap's chroot.

# Packages that the benchmark installs in the guest, each one's dependencies before it.
CPU_INSTALLED="vim-common vim-tiny nano"

# make_cpu: DIR/cpu/disk.img, an ext4 file system without a partition table; /bench holds the programs.
make_cpu() {
    local out=$dir/cpu programs=$here/../bench/programs recipe
    recipe=$(recipe_of "$here/cpu.sh" "$programs"/*)
    is_made "$out/disk.img" "$recipe" && return
    if [ "$(id -u)" != 0 ]; then
        say "guests: debootstrap needs root. Run this first: sudo $here/make $dir cpu"
        exit 1
    fi
    local mirror root package
    mirror=$(debian_mirror bookworm)
    [ -n "$mirror" ] || { say "guests: apt knows no mirror of Debian 12"; exit 1; }
    root=$out/root
    rm -rf "$root"
    mkdir -p "$root/bench/packages"
    say "guests: debootstrap (some minutes)"
    /usr/sbin/debootstrap --arch=amd64 --variant=minbase --include=gcc,libc6-dev,python3,perl,sqlite3,xz-utils,bzip2,libncursesw6 \
        bookworm "$root" "$mirror" > "$out/debootstrap.log" 2>&1 || { tail -n 20 "$out/debootstrap.log" >&2; exit 1; }
    for package in $CPU_INSTALLED; do
        (cd "$root/bench/packages" && apt-get -qq -o APT::Sandbox::User=root download "$package" >&2)
    done
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/usr/share/{doc,locale} "$root"/dev/*
    cp "$programs"/* "$root/bench/"
    python3 "$programs/functions.py" 200 > "$root/bench/functions.c"
    chroot "$root" /bin/sh -ec 'cd /bench
        gcc -O2 -o integer integer.c
        gcc -O2 -o float float.c -lm
        gcc -O2 -DREAL="long double" -o extended float.c -lm
        gcc -O2 -mfpmath=387 -o x87 float.c -lm
        gcc -O2 -o system system.c
        ./integer data 16 > data'
    say "guests: making the disk"
    rm -f "$out/disk.img.new"
    truncate -s 1536M "$out/disk.img.new"
    /sbin/mke2fs -q -t ext4 -O '^metadata_csum_seed,^orphan_file' -L cpu -d "$root" -E lazy_itable_init=1,nodiscard "$out/disk.img.new"
    mv "$out/disk.img.new" "$out/disk.img"
    printf '%s\n' "$recipe" > "$out/recipe"
    rm -rf "$root"
}
