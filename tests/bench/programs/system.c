/* What the kernel is asked for: fork, calls, faults, switches, pipes. usage: system PROGRAM COUNT */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Processes that each execute /bin/true. */
static long forks(int count)
{
    long good = 0;
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            execl("/bin/true", "true", (char *)0);
            _exit(1);
        }
        int status = -1;
        waitpid(child, &status, 0);
        good += status == 0;
    }
    return good;
}

static long calls(int count)
{
    long good = 0;
    for (int i = 0; i < count; i++)
        good += syscall(SYS_getppid) > 0;
    return good;
}

/* Pages of anonymous memory, each touched once. */
static long faults(int count)
{
    enum { PAGES = 256 };
    long sum = 0;
    for (int i = 0; i < count; i += PAGES) {
        char *memory = mmap(0, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            exit(1);
        for (int page = 0; page < PAGES; page++)
            sum += ++memory[page * 4096];
        munmap(memory, PAGES * 4096);
    }
    return sum;
}

/* One byte goes back and forth between two processes. */
static long switches(int count)
{
    int there[2], back[2];
    char byte = 0;
    if (pipe(there) || pipe(back))
        exit(1);
    if (fork() == 0) {
        for (int i = 0; i < count; i++)
            if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1)
                _exit(1);
        _exit(0);
    }
    long good = 0;
    for (int i = 0; i < count; i++)
        good += write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1;
    wait(0);
    return good;
}

/* Blocks of 64 KiB through a pipe. */
static long pipes(int mib)
{
    static unsigned char block[1 << 16];
    int ends[2];
    if (pipe(ends))
        exit(1);
    if (fork() == 0) {
        for (int i = 0; i < mib * 16; i++) {
            memset(block, i, sizeof block);
            for (size_t at = 0; at < sizeof block;) {
                ssize_t done = write(ends[1], block + at, sizeof block - at);
                if (done <= 0)
                    _exit(1);
                at += done;
            }
        }
        _exit(0);
    }
    close(ends[1]);
    long sum = 0;
    ssize_t have;
    while ((have = read(ends[0], block, sizeof block)) > 0)
        sum += have;
    wait(0);
    return sum;
}

int main(int count, char **args)
{
    if (count != 3)
        return 2;
    int size = atoi(args[2]);
    long result;
    if (!strcmp(args[1], "forks")) result = forks(size);
    else if (!strcmp(args[1], "calls")) result = calls(size);
    else if (!strcmp(args[1], "faults")) result = faults(size);
    else if (!strcmp(args[1], "switches")) result = switches(size);
    else if (!strcmp(args[1], "pipes")) result = pipes(size);
    else return 2;
    printf("%ld\n", result);
    return 0;
}
