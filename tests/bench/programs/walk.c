/* Reads of a working set, for the benchmark: each takes a word that the next one's place does not depend on. usage: walk sequential|random KIB COUNT */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **args)
{
    if (count != 4)
        return 2;
    size_t words = strtoul(args[2], 0, 10) * 128;
    unsigned long reads = strtoul(args[3], 0, 10);
    uint64_t *set = malloc(8 * words), sum = 0, x = 88172645463325252ull;
    if (!set || !words)
        return 2;
    for (size_t i = 0; i < words; i++)
        set[i] = i * 2654435761u;
    puts("begin"), fflush(stdout);
    if (!strcmp(args[1], "random"))
        for (unsigned long i = 0; i < reads; i++) {
            /* Marsaglia's xorshift64. */
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            sum += set[(x >> 20) % words];
        }
    else
        for (unsigned long i = 0, at = 0; i < reads; i++) {
            sum += set[at] ^ i;
            if (++at == words)
                at = 0;
        }
    printf("%llu end\n", (unsigned long long)sum);
    return 0;
}
