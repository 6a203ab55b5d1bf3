# Makes the root file system in which programs are proof of the processor. Sourced by `make`; needs root for debootstrap's chroot.

# Debian's own: compiler, interpreters with their test modules, stress-ng.
PROGRAMS_PACKAGES=gcc,libc6-dev,make,python3,libpython3.11-testsuite,perl,stress-ng

# What is built in the guest, and where Perl's test files come from.
PROGRAMS_SOURCES="zlib bzip2 lua5.4 perl"

# sources MIRROR FOLDER: the original tar files of PROGRAMS_SOURCES, with lists of apt's own: the host's need not have sources.
sources() {
    local lists=$2/lists opts
    mkdir -p "$lists/partial"
    printf 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s bookworm main\n' "$1" > "$2/sources.list"
    opts=(-qq -o APT::Sandbox::User=root -o Dir::Etc::SourceList="$2/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$lists"
        -o Dir::Cache::srcpkgcache= -o Dir::Cache::pkgcache=)
    apt-get "${opts[@]}" update >&2
    # shellcheck disable=SC2086
    (cd "$2" && apt-get "${opts[@]}" source --download-only $PROGRAMS_SOURCES >&2)
    rm -rf "$lists" "$2/sources.list"
}

# perl_tests TAR ROOT: Perl's test files under ROOT/suite/perl, laid out as in its source, but with the modules that ROOT has.
perl_tests() {
    local perl=$2/suite/perl folder
    mkdir -p "$perl/lib"
    for folder in usr/share/perl/5.36 usr/lib/x86_64-linux-gnu/perl/5.36 usr/lib/x86_64-linux-gnu/perl-base; do
        cp -rL "$2/$folder/." "$perl/lib/"
    done
    tar -xf "$1" -C "$perl" --strip-components=1 --wildcards '*/t/*' 'perl-*/lib/*.t' 'perl-*/lib/unicore/*' 'perl-*/MANIFEST'
}

# make_programs: DIR/programs/disk.img, an ext4 file system without a partition table; /suite holds what is run. Beside it DIR/programs/libm, the
# program of /suite that the host runs too.
make_programs() {
    local out=$dir/programs programs=$here/../programs/guest recipe
    recipe=$(recipe_of "$here/programs.sh" "$programs"/*)
    is_made "$out/disk.img" "$recipe" && return
    if [ "$(id -u)" != 0 ]; then
        say "guests: debootstrap needs root. Run this first: sudo $here/make $dir programs"
        exit 1
    fi
    local mirror root package
    mirror=$(debian_mirror bookworm)
    [ -n "$mirror" ] || { say "guests: apt knows no mirror of Debian 12"; exit 1; }
    root=$out/root
    rm -rf "$root" "$out/sources"
    mkdir -p "$root/suite/sources" "$out/sources"
    say "guests: fetching sources"
    sources "$mirror" "$out/sources"
    say "guests: debootstrap (some minutes)"
    /usr/sbin/debootstrap --arch=amd64 --variant=minbase "--include=$PROGRAMS_PACKAGES" \
        bookworm "$root" "$mirror" > "$out/debootstrap.log" 2>&1 || { tail -n 20 "$out/debootstrap.log" >&2; exit 1; }
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/usr/share/{doc,locale} "$root"/dev/*
    for package in zlib bzip2 lua5.4; do
        mkdir -p "$root/suite/sources/$package"
        tar -xf "$(echo "$out/sources/$package"_*.orig.tar.*[xz2])" -C "$root/suite/sources/$package" --strip-components=1
    done
    perl_tests "$(echo "$out/sources"/perl_*.orig.tar.xz)" "$root"
    cp "$programs"/* "$root/suite/"
    chroot "$root" /bin/sh -ec 'cd /suite && gcc -O1 -fno-builtin -frounding-math -static -o libm libm.c -lm'
    cp "$root/suite/libm" "$out/libm"
    say "guests: making the disk"
    rm -f "$out/disk.img.new"
    truncate -s 2560M "$out/disk.img.new"
    /sbin/mke2fs -q -t ext4 -O '^metadata_csum_seed,^orphan_file' -L programs -d "$root" -E lazy_itable_init=1,nodiscard "$out/disk.img.new"
    mv "$out/disk.img.new" "$out/disk.img"
    printf '%s\n' "$recipe" > "$out/recipe"
    rm -rf "$root" "$out/sources"
}
