/* Integer programs of the benchmark: sieve, crc, sha256, data. usage: integer PROGRAM SIZE */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 88172645463325252ull;

/* Marsaglia's xorshift64. */
static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void sieve(int rounds)
{
    enum { LIMIT = 1 << 20 };
    static uint8_t composite[LIMIT];
    int count = 0;
    for (int round = 0; round < rounds; round++) {
        memset(composite, 0, sizeof composite);
        count = 0;
        for (int i = 2; i < LIMIT; i++) {
            if (composite[i])
                continue;
            count++;
            for (int j = 2 * i; j < LIMIT; j += i)
                composite[j] = 1;
        }
    }
    printf("%d primes\n", count);
}

/* CRC-32 (IEEE 802.3), one table look-up a byte. */
static void crc(int mib)
{
    static uint32_t table[256];
    static uint8_t data[1 << 20];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
        table[i] = c;
    }
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)next();
    uint32_t c = ~0u;
    for (int round = 0; round < mib; round++)
        for (size_t i = 0; i < sizeof data; i++)
            c = table[(c ^ data[i]) & 255] ^ c >> 8;
    printf("%08x\n", ~c);
}

/* FIPS 180-4. The constants are the fractional parts of the cube roots of the first 64 primes. */
static uint32_t constants[64];

static void make_constants(void)
{
    int n = 0;
    for (unsigned p = 2; n < 64; p++) {
        int prime = 1;
        for (unsigned q = 2; q * q <= p; q++)
            prime &= p % q != 0;
        if (!prime)
            continue;
        /* The largest x with x^3 <= p * 2^96, by bisection. */
        unsigned __int128 low = 0, high = (unsigned __int128)8 << 32;
        while (high - low > 1) {
            unsigned __int128 x = (low + high) / 2;
            if (x * x * x <= (unsigned __int128)p << 96)
                low = x;
            else
                high = x;
        }
        constants[n++] = (uint32_t)low;
    }
}

#define ROTATE(x, n) ((x) >> (n) | (x) << (32 - (n)))

static void compress(uint32_t h[8], const uint8_t *block)
{
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = ROTATE(w[i - 15], 7) ^ ROTATE(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t b = ROTATE(w[i - 2], 17) ^ ROTATE(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    memcpy(s, h, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t e = ROTATE(s[4], 6) ^ ROTATE(s[4], 11) ^ ROTATE(s[4], 25);
        uint32_t t = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + constants[i] + w[i];
        uint32_t a = ROTATE(s[0], 2) ^ ROTATE(s[0], 13) ^ ROTATE(s[0], 22);
        uint32_t u = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        s[7] = s[6], s[6] = s[5], s[5] = s[4], s[4] = s[3] + t;
        s[3] = s[2], s[2] = s[1], s[1] = s[0], s[0] = t + u;
    }
    for (int i = 0; i < 8; i++)
        h[i] += s[i];
}

static void sha256(int mib)
{
    static uint8_t data[1 << 16];
    uint32_t h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
    make_constants();
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)next();
    for (int round = 0; round < mib * 16; round++)
        for (size_t i = 0; i < sizeof data; i += 64)
            compress(h, data + i);
    for (int i = 0; i < 8; i++)
        printf("%08x", h[i]);
    printf("\n");
}

/* Text with the repetitions that compressors look for. */
static void data(int mib)
{
    static const char *words[] = { "process", "ring", "the", "device", "of", "a", "is", "memory", "written", "when",
                                   "guest", "page", "and", "to", "register", "interrupt", "line", "0x1f", "\n", ", " };
    for (long left = (long)mib << 20; left > 0;) {
        uint64_t n = next();
        const char *word = words[(n >> 8) % 20 * (n % 3 + 1) % 20];
        left -= n % 41 == 0 ? printf("%llx ", (unsigned long long)(n >> 20)) : printf("%s ", word);
    }
}

int main(int count, char **args)
{
    if (count != 3)
        return 2;
    int size = atoi(args[2]);
    if (!strcmp(args[1], "sieve")) sieve(size);
    else if (!strcmp(args[1], "crc")) crc(size);
    else if (!strcmp(args[1], "sha256")) sha256(size);
    else if (!strcmp(args[1], "data")) data(size);
    else return 2;
    return 0;
}
