// Every function of glibc's libm, in float, double and long double and in all four rounding modes, over hard inputs and seeded random ones:
// one line a call with the bits of arguments and result, the floating-point exceptions it raised and errno. Whoever runs this twice, on
// different processors, compares the lines.
//
// usage: libm [COUNT [SEED]]     COUNT random inputs a function, type and rounding mode (default 100)
#define _GNU_SOURCE
#include <complex.h>
#include <errno.h>
#include <fenv.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned count = 100;
static uint64_t seed = 1, state;

static const struct { int mode; char letter; } modes[] = {
    {FE_TONEAREST, 'n'}, {FE_DOWNWARD, 'd'}, {FE_UPWARD, 'u'}, {FE_TOWARDZERO, 'z'},
};
static char letter;

// xorshift64*: small, and the same everywhere.
static uint64_t next(void) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1dULL;
}

// Each function has its own sequence, so that one can be looked at alone.
static void begin(const char *name) {
    state = seed * 0x9e3779b97f4a7c15ULL + 1;
    for (; *name; name++) state = (state ^ (unsigned char)*name) * 0x100000001b3ULL;
    if (!state) state = 1;
}

static char line[256], *at;

static void hex(uint64_t value, int digits) {
    for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) *at++ = "0123456789abcdef"[value >> shift & 15];
    *at++ = ' ';
}

static void text(const char *word) {
    while (*word) *at++ = *word++;
    *at++ = ' ';
}

static void open_line(const char *name, char type) {
    at = line;
    text(name);
    *at++ = type, *at++ = letter, *at++ = ' ';
}

// What a call raised, and the end of its line.
static void close_line(int raised, int error) {
    hex((unsigned)raised, 2);
    hex((unsigned)error, 2);
    at[-1] = '\n';
    fwrite(line, 1, (size_t)(at - line), stdout);
}

// Numbers at which functions change their way: limits of ranges, exact cases, and multiples of pi/2 that lie next to a number.
static const long double hard[] = {
    0.0L, 0x1p-16445L, 0x1p-16382L, 0x1p-1074L, 0x1.8p-1074L, 0x0.fffffffffffffp-1022L, 0x1p-1022L, 0x1p-149L, 0x0.fffffep-126L, 0x1p-126L,
    0x1p-70L, 0x1p-64L, 0x1p-53L, 0x1p-33L, 0x1p-29L, 0x1p-27L, 0x1p-24L, 0x1p-12L, 1e-5L, 0.1L, 0.25L, 0x1.fffffffffffffp-2L, 0.5L,
    0x1.0000000000001p-1L, 0.6931471805599453094L, 0.7071067811865475244L, 0.75L, 0.78539816339744830962L, 0x1.fffffep-1L,
    0x1.fffffffffffffp-1L, 0x1.fffffffffffffffep-1L, 1.0L, 0x1.0000000000000002p0L, 0x1.0000000000001p0L, 0x1.000002p0L, 1.25L, 1.5L,
    1.57079632679489661923L, 1.8L, 2.0L, 2.5L, 2.71828182845904523536L, 3.0L, 3.14159265358979323846L, 3.5L, 4.0L, 6.28318530717958647693L,
    7.0L, 8.0L, 10.0L, 17.0L, 22.0L, 33.3L, 88.72L, 89.5L, 100.0L, 103.98L, 128.0L, 171.62L, 171.7L, 707.5L, 709.78L, 709.79L, 710.48L, 745.13L,
    745.14L, 1023.999L, 1024.0L, 1074.5L, 1755.5L, 4503599627370495.5L, 4503599627370496.5L, 0x1p23L, 8388609.5L, 0x1p24L, 0x1p31L, 2147483647.5L,
    0x1p32L, 0x1p52L, 0x1p53L, 0x1.fffffffffffffp53L, 0x1p62L, 0x1p63L, 0x1.fffffffffffffffep62L, 0x1p64L, 11356.523L, 11356.524L, 11399.5L,
    16383.5L, 16445.0L, 1e10L, 1e16L, 1e22L, 1e100L, 5.319372648326541e255L, 0x1.6ac5b262ca1ffp849L, 0x1p1000L, 0x1.fffffep127L, 0x1p128L,
    0x1.fffffffffffffp1023L, 0x1p1024L, 0x1p16000L, 0x1.fffffffffffffffep16383L,
};
#define HARD (sizeof hard / sizeof *hard)

#define UNARY(X) \
    X(acos) X(asin) X(atan) X(cos) X(sin) X(tan) X(acosh) X(asinh) X(atanh) X(cosh) X(sinh) X(tanh) X(exp) X(exp2) X(exp10) X(expm1) X(log) \
    X(log2) X(log10) X(log1p) X(logb) X(cbrt) X(sqrt) X(fabs) X(erf) X(erfc) X(tgamma) X(ceil) X(floor) X(rint) X(nearbyint) X(round) \
    X(roundeven) X(trunc) X(j0) X(j1) X(y0) X(y1) X(significand)
#define BINARY(X) \
    X(atan2) X(pow) X(hypot) X(fmod) X(remainder) X(copysign) X(nextafter) X(fdim) X(fmax) X(fmin) X(fmaxmag) X(fminmag) X(scalb)
#define WHOLE(X) X(lrint) X(llrint) X(lround) X(llround)
#define COMPLEX(X) \
    X(cacos) X(casin) X(catan) X(ccos) X(csin) X(ctan) X(cacosh) X(casinh) X(catanh) X(ccosh) X(csinh) X(ctanh) X(cexp) X(clog) X(clog10) \
    X(csqrt) X(cproj)

#define JOIN(a, b) a##b
#define JOINED(a, b) JOIN(a, b)

// One pass over each.h a type: R the type, SUFFIX of its functions, LETTER of its lines.
#define R float
#define LETTER 'f'
#define F(name) name##f
#define T(name) name##_f
#include "each.h"
#define R double
#define LETTER 'd'
#define F(name) name
#define T(name) name##_d
#include "each.h"
#define R long double
#define LETTER 'l'
#define F(name) name##l
#define T(name) name##_l
#include "each.h"

int main(int argc, char **argv) {
    if (argc > 1) count = (unsigned)strtoul(argv[1], 0, 0);
    if (argc > 2) seed = strtoull(argv[2], 0, 0);
    inputs_f();
    inputs_d();
    inputs_l();
    for (unsigned mode = 0; mode < sizeof modes / sizeof *modes; mode++) {
        letter = modes[mode].letter;
        fesetround(modes[mode].mode);
        all_f();
        all_d();
        all_l();
    }
    puts("end");
    return fflush(stdout) || ferror(stdout);
}
