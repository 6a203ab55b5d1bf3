# Runs the units of one suite in the guest and writes what each says to a disk, so that nothing else stands between its lines.
#
# usage: sh run.sh SUITE DISK    SUITE.sh prints its units with `units` and runs one with `unit NAME`
# ONLY   patterns of units (default: all); SECONDS_LEFT  no unit begins after so many seconds (default: 3600); LIMIT  of one unit (300)
#
# The disk gets a record a unit in blocks of 64 KiB: a line `unit NAME status N ms N bytes N`, then the output from the next block on; behind the last
# one a line `end` or, where time was over, `rest N` for the units that did not run.
suite=$1 disk=$2 block=65536 at=0
cd /suite || exit
. "./$suite.sh"

# Whether a unit is wanted.
wanted() {
    set -f
    # shellcheck disable=SC2086
    set -- "$1" ${ONLY:-*}
    local name=$1 pattern
    shift
    for pattern in "$@"; do
        # shellcheck disable=SC2254
        case $name in $pattern) return 0 ;; esac
    done
    return 1
}

now() { echo $(($(date +%s%N) / 1000000)); }

write() { dd of="$disk" bs=$block seek=$at conv=notrunc,sync,fsync iflag=fullblock 2> /dev/null; }

began=$(now) left=0
for name in $(units); do
    (wanted "$name") || continue
    if [ $(($(now) - began)) -gt $((${SECONDS_LEFT:-3600} * 1000)) ]; then
        left=$((left + 1))
        continue
    fi
    echo "unit: $name"
    start=$(now)
    # A shell of its own: a unit may change its folder and must not end this one.
    timeout -k 10 "${LIMIT:-300}" sh -c 'cd /suite; . "./$1.sh"; unit "$2"' sh "$suite" "$name" > /tmp/output 2>&1 < /dev/null
    status=$?
    bytes=$(stat -c %s /tmp/output)
    echo "unit $name status $status ms $(($(now) - start)) bytes $bytes" | write
    at=$((at + 1))
    write < /tmp/output
    at=$((at + (bytes + block - 1) / block))
done
if [ $left -gt 0 ]; then echo "rest $left"; else echo end; fi | write
echo "suite: done"
