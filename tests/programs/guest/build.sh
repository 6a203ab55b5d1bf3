# Programs of Debian's sources, built by the guest's gcc; their own tests; checksums of what was built.
units() { echo zlib bzip2 lua5.4; }
unit() {
    cp -r "sources/$1" /tmp/build && cd /tmp/build || return
    case $1 in
    zlib) ./configure && make && make test && ./minigzip < Makefile | cksum ;;
    # Its makefile runs the test as part of `all`.
    bzip2) make ;;
    lua5.4) make linux && ./src/lua -e '
        local sum = 0
        for i = 1, 200000 do sum = (sum * 31 + i) % 1000003 + math.sin(i) % 1e-9 end
        print(sum, string.format("%.17g", math.exp(1) ^ 10), #string.rep("ab", 1000):gsub("a", "xyz"))
        print(pcall(error, { code = 1 }), string.pack("<i4d", 7, 0.1):byte(1, -1))' ;;
    esac
    echo "status $?"
    find . -name '*.o' -o -name '*.a' -o -perm -100 -type f | LC_ALL=C sort | xargs cksum
    rm -rf /tmp/build
}
