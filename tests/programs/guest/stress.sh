# stress-ng with verification: bounded by operations, not by time, with the same random numbers each time. A unit is a stressor or STRESSOR:METHOD.
methods() {
    local method
    for method in $(stress-ng "--$1-method" list 2>&1 | sed -n 's/.*must be one of: //p'); do
        case $1:$method in
        # All in turn say no more than each; these two take minutes on any processor.
        *:all | vm:cache-lines | vm:prime-incdec) ;;
        *) echo "$1:$method" ;;
        esac
    done
}
units() {
    local stressor
    for stressor in cpu matrix matrix-3d vecshuf vm memcpy memthrash str wcs misaligned hash tree funccall funcret zlib qsort \
        rotate prefetch cacheline; do
        methods "$stressor"
    done
    # Arithmetic, memory, branches.
    # fp and vecfp count operations only when all methods take turns.
    printf '%s\n' fp vecfp vecmath vecwide regs branch goto far-branch icache bsearch lsearch hsearch tsearch heapsort mergesort radixsort shellsort \
        judy list skiplist sparsematrix crypt jpeg stream cache l1cache flushcache mcontend longjmp nop opcode:inc opcode:mixed opcode:text \
        randlist memrate
    # What the processor says of itself, and what it must refuse.
    printf '%s\n' x86cpuid x86syscall usersyscall priv-instr rdrand tsc vdso smi sigfpe sigsegv sigtrap vm-segv bad-altstack fault mprotect
    # Locks and several threads.
    printf '%s\n' atomic futex mutex sem sem-sysv pthread dekker peterson lockbus membarrier switch context yield syncload waitcpu resched
    # Processes, signals, timers.
    printf '%s\n' fork forkheavy vfork vforkmany clone daemon exec spawn exit-group kill wait zombie session sigabrt sigchld sigfd sigio signal \
        signest sigpending sigpipe sigq sigrt sigsuspend alarm clock hrtimers itimer timer timerfd nanosleep sleep poll pipe pipeherd \
        ring-pipe eventfd epoll select msg mq shm shm-sysv ptrace
    # Memory management.
    printf '%s\n' mmap mmapaddr mmapfixed mmapfork mmapmany mremap munmap madvise mincore mlock mlockmany msync remap stack stackmmap brk \
        malloc bigheap pagemove pageswap userfaultfd tlb-shootdown vm-addr vm-rw vm-splice physpage memfd dev-shm secretmem numa env full \
        get zero null urandom getrandom sendfile splice tee
}
# So many operations that each does its work at least once, and most some tens of times.
unit() {
    local stressor=${1%%:*} ops=20
    case $1 in
    cpu:* | matrix:* | matrix-3d:* | vm:* | zlib:*) ops=2 ;;
    memrate | stream | bigheap | jpeg | judy | sparsematrix | memthrash:* | cacheline:* | l1cache | hsearch | lsearch | tsearch | mergesort | \
        heapsort | qsort:* | bsearch | radixsort | shellsort | skiplist | list | tree:* | cache | icache | opcode:*) ops=3 ;;
    sleep | waitcpu | alarm | pipeherd | mmapmany) ops=4 ;;
    fp | vecfp) ops=90 ;;
    atomic | futex | mutex | sem | switch | context | signal | sigq | sigrt | timer | fault | hrtimers) ops=1000 ;;
    esac
    local name=$1
    set -- stress-ng --no-rand-seed --verify "--$stressor" 1 "--$stressor-ops" "$ops"
    case $name in *:*) set -- "$@" "--$stressor-method" "${name#*:}" ;; esac
    case $stressor in
    vm | vm-rw | vm-splice | mmap | mremap | mmapfork | madvise | bigheap) set -- "$@" "--$stressor-bytes" 4m ;;
    matrix | matrix-3d) set -- "$@" "--$stressor-size" 32 ;;
    memrate) set -- "$@" --memrate-bytes 4m ;;
    esac
    cd /tmp && "$@" --timeout 100 --temp-path /tmp
}
