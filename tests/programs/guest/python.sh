# Python's own test modules, as Debian packages them; not those that take minutes on any processor.
units() {
    echo test_math test_cmath test_float test_complex test_strtod test_struct test_decimal test_fractions test_statistics test_int test_long \
        test_pow test_numeric_tower test_random test_array test_audioop test_bytes test_memoryview test_bool test_unary test_format \
        test_zlib test_bz2 test_hashlib test_hmac test_binascii test_base64 test_re test_json \
        test_pickle test_marshal test_copy test_unicode test_codecs test_unicodedata test_charmapcodec test_sort test_heapq test_bisect \
        test_set test_dict test_list test_tuple test_deque test_itertools test_functools test_collections test_generators test_coroutines \
        test_exceptions test_grammar test_ast test_dis test_peepholer test_gc test_weakref test_datetime test_time test_calendar \
        test_thread test_threading test_threading_local test_threadsignals test_threadedtempfile test_queue test_sched test_signal test_eintr \
        test_select test_poll test_epoll test_selectors test_subprocess test_popen test_fork1 test_wait3 test_wait4 test_posix test_os test_pty \
        test_fcntl test_mmap test_io test_fileio test_largefile test_file_eintr test_socket test_asyncio test_concurrent_futures \
        test_multiprocessing_fork test_ctypes test_sqlite3 test_xml_etree_c test_pyexpat test_faulthandler test_resource test_crypt test_difflib
}
# Without -j: one process and one order. The working folder is a memory file system.
unit() { cd /tmp && PYTHONHASHSEED=0 python3 -m test -v --tempdir /tmp "$1"; }
