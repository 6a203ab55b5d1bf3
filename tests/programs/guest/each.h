// The functions of one type: included once for each by libm.c.

static R T(table)[2 * HARD + 8];
static unsigned T(entries);

// Bits of a number: sign and exponent above, fraction below; the third type keeps its leading one.
typedef union {
    R number;
    struct { uint64_t low; uint16_t high; } extended;
    uint64_t d;
    uint32_t f;
} T(bits);

static void T(number)(R value) {
    T(bits) bits;
    memset(&bits, 0, sizeof bits);
    bits.number = value;
    if (LETTER == 'l') {
        hex(bits.extended.high, 4);
        at--;
        hex(bits.extended.low, 16);
    } else if (LETTER == 'd') {
        hex(bits.d, 16);
    } else {
        hex(bits.f, 8);
    }
}

// The number `steps` further in the order of its bits.
static R T(beside)(R value, int steps) {
    T(bits) bits;
    memset(&bits, 0, sizeof bits);
    bits.number = value;
    if (LETTER == 'l') {
        uint64_t one = bits.extended.low & 1ULL << 63;
        bits.extended.low = ((bits.extended.low + (uint64_t)steps) & ~(1ULL << 63)) | one;
    } else if (LETTER == 'd') {
        bits.d += (uint64_t)steps;
    } else {
        bits.f += (uint32_t)steps;
    }
    return bits.number;
}

static R T(raw)(uint64_t fraction, unsigned exponent, unsigned sign) {
    T(bits) bits;
    memset(&bits, 0, sizeof bits);
    if (LETTER == 'l') {
        exponent &= 0x7fff;
        bits.extended.high = (uint16_t)(exponent | sign << 15);
        bits.extended.low = (fraction & ~(1ULL << 63)) | (uint64_t)(exponent != 0) << 63;
    } else if (LETTER == 'd') {
        bits.d = (fraction & ~0ULL >> 12) | (uint64_t)(exponent & 0x7ff) << 52 | (uint64_t)sign << 63;
    } else {
        bits.f = (uint32_t)(fraction & 0x7fffff) | (exponent & 0xff) << 23 | sign << 31;
    }
    return bits.number;
}

static void T(inputs)(void) {
    unsigned top = LETTER == 'l' ? 0x7fff : LETTER == 'd' ? 0x7ff : 0xff;
    for (unsigned i = 0; i < HARD; i++) {
        // Conversions that overflow give the largest number or infinity; both are wanted.
        R value = (R)hard[i];
        T(table)[T(entries)++] = value;
        T(table)[T(entries)++] = -value;
    }
    uint64_t quiet = LETTER == 'l' ? 1ULL << 62 : LETTER == 'd' ? 1ULL << 51 : 1ULL << 22;
    for (unsigned sign = 0; sign < 2; sign++) {
        T(table)[T(entries)++] = T(raw)(0, top, sign);
        T(table)[T(entries)++] = T(raw)(quiet, top, sign);
        T(table)[T(entries)++] = T(raw)(quiet | 0x1234, top, sign);
        T(table)[T(entries)++] = T(raw)(0x1234, top, sign);
    }
}

static R T(random)(void) {
    uint64_t fraction = next(), choice = next();
    unsigned bias = LETTER == 'l' ? 0x3fff : LETTER == 'd' ? 0x3ff : 0x7f;
    unsigned sign = choice >> 8 & 1;
    switch (choice % 6) {
    case 0: return T(raw)(fraction, (unsigned)(choice >> 16), sign);
    case 1: return T(raw)(fraction, bias - 4 + (choice >> 16) % 8, sign);
    case 2: return T(beside)(T(table)[(choice >> 16) % (2 * HARD)], (int)(choice >> 40 & 7) - 4);
    case 3: return T(beside)((R)(1.57079632679489661923L * (long double)(choice >> 44)), (int)(fraction & 7) - 4) * (sign ? -1 : 1);
    case 4: return T(beside)((R)((long double)(choice >> 16 & 0x1fff) / 2), (int)(fraction % 3) - 1) * (sign ? -1 : 1);
    default: return T(raw)(fraction, bias - 32 + (choice >> 16) % 64, sign);
    }
}

// Input `i` of a function: the table first, then random ones.
static R T(input)(unsigned i) { return i < T(entries) ? T(table)[i] : T(random)(); }

// Pairs: the table against itself, more often the more random inputs there are; then random ones.
#define PAIRS ((1 + (count < 100 ? count : 100) / 20) * T(entries))
static void T(pair)(unsigned i, R *a, R *b) {
    if (i < PAIRS) {
        *a = T(table)[i % T(entries)];
        *b = T(table)[(i % T(entries) + i / T(entries) * 37 + i * 11) % T(entries)];
    } else {
        *a = T(random)();
        // Half of the pairs are of one size: where differences cancel.
        *b = next() & 1 ? T(random)() : T(beside)(*a, (int)(next() % 64) - 32);
    }
}

#define CALL(expression) \
    do { \
        errno = 0; \
        feclearexcept(FE_ALL_EXCEPT); \
        expression; \
    } while (0)

#define LINE_END close_line(raised, error)
#define AFTER int raised = fetestexcept(FE_ALL_EXCEPT), error = errno

static void T(unary)(const char *name, R (*f)(R)) {
    begin(name);
    for (unsigned i = 0; i < T(entries) + count; i++) {
        R x = T(input)(i), y;
        CALL(y = f(x));
        AFTER;
        open_line(name, LETTER);
        T(number)(x), T(number)(y);
        LINE_END;
    }
}

static void T(binary)(const char *name, R (*f)(R, R)) {
    begin(name);
    for (unsigned i = 0; i < PAIRS + count; i++) {
        R a, b, y;
        T(pair)(i, &a, &b);
        CALL(y = f(a, b));
        AFTER;
        open_line(name, LETTER);
        T(number)(a), T(number)(b), T(number)(y);
        LINE_END;
    }
}

static void T(whole)(const char *name, long long (*f)(R)) {
    begin(name);
    for (unsigned i = 0; i < T(entries) + count; i++) {
        R x = T(input)(i);
        long long y;
        CALL(y = f(x));
        AFTER;
        open_line(name, LETTER);
        T(number)(x), hex((uint64_t)y, 16);
        LINE_END;
    }
}

static void T(complex)(const char *name, R complex (*f)(R complex)) {
    begin(name);
    for (unsigned i = 0; i < PAIRS + count; i++) {
        R a, b;
        T(pair)(i, &a, &b);
        R complex z, y;
        __real__ z = a, __imag__ z = b;
        CALL(y = f(z));
        AFTER;
        open_line(name, LETTER);
        T(number)(a), T(number)(b), T(number)(__real__ y), T(number)(__imag__ y);
        LINE_END;
    }
}

#define WRAP(name) static long long T(whole_##name)(R x) { return F(name)(x); }
WHOLE(WRAP)
#undef WRAP
static long long T(whole_ilogb)(R x) { return F(ilogb)(x); }
static R T(sincos_sin)(R x) { R s, c; F(sincos)(x, &s, &c); return s; }
static R T(sincos_cos)(R x) { R s, c; F(sincos)(x, &s, &c); return c; }
static R T(frexp_fraction)(R x) { int e; return F(frexp)(x, &e); }
static R T(modf_fraction)(R x) { R whole; return F(modf)(x, &whole); }
static R T(modf_whole)(R x) { R whole; F(modf)(x, &whole); return whole; }
static R T(lgamma_value)(R x) { return F(lgamma)(x); }
static R T(jn_3)(R x) { return F(jn)(3, x); }
static R T(yn_3)(R x) { return F(yn)(3, x); }
static R T(remquo_value)(R a, R b) { int quotient; return F(remquo)(a, b, &quotient); }
static R T(nexttoward_value)(R a, R b) { return F(nexttoward)(a, (long double)b); }
static R T(scalbn_value)(R a, R b) { return F(scalbn)(a, (int)(b > -30000 && b < 30000 ? b : 5)); }
// A product with its negation nearly added: what a fused operation is for.
static R T(fma_close)(R a, R b) { return F(fma)(a, b, -(R)(a * b)); }
static R T(fma_far)(R a, R b) { return F(fma)(a, a, b); }

static void T(all)(void) {
#define DO(name) T(unary)(#name, F(name));
    UNARY(DO)
#undef DO
#define DO(name) T(binary)(#name, F(name));
    BINARY(DO)
#undef DO
#define DO(name) T(whole)(#name, T(whole_##name));
    WHOLE(DO)
#undef DO
#define DO(name) T(complex)(#name, F(name));
    COMPLEX(DO)
#undef DO
    T(whole)("ilogb", T(whole_ilogb));
    T(unary)("sincos.sin", T(sincos_sin));
    T(unary)("sincos.cos", T(sincos_cos));
    T(unary)("frexp", T(frexp_fraction));
    T(unary)("modf.fraction", T(modf_fraction));
    T(unary)("modf.whole", T(modf_whole));
    T(unary)("lgamma", T(lgamma_value));
    T(unary)("jn3", T(jn_3));
    T(unary)("yn3", T(yn_3));
    T(binary)("remquo", T(remquo_value));
    T(binary)("nexttoward", T(nexttoward_value));
    T(binary)("scalbn", T(scalbn_value));
    T(binary)("fma.close", T(fma_close));
    T(binary)("fma.far", T(fma_far));
}

#undef CALL
#undef AFTER
#undef LINE_END
#undef PAIRS
#undef R
#undef LETTER
#undef F
#undef T
