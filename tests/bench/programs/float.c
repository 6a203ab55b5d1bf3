/* Floating-point programs of the benchmark: nbody, matrix, mandelbrot, fft. usage: float PROGRAM SIZE
 * They compute in REAL: double is SSE2 code; long double, and double with -mfpmath=387, are x87 code. */
#include <complex.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef REAL
#define REAL double
#endif
typedef REAL real;

static void show(real x)
{
    printf("%a\n", (double)x);
}

/* Five bodies that attract each other, leapfrog steps. */
static void nbody(int steps)
{
    enum { N = 5 };
    real p[N][3], v[N][3], m[N];
    for (int i = 0; i < N; i++) {
        m[i] = (real)1 / (1 + i * i);
        for (int k = 0; k < 3; k++) {
            p[i][k] = (real)((i * 7 + k * 3) % 11) - 5;
            v[i][k] = (real)((i * 5 + k * 2) % 7 - 3) / 16;
        }
    }
    for (int step = 0; step < steps; step++) {
        for (int i = 0; i < N; i++)
            for (int j = i + 1; j < N; j++) {
                real d[3], square = (real)0.01;
                for (int k = 0; k < 3; k++) {
                    d[k] = p[i][k] - p[j][k];
                    square += d[k] * d[k];
                }
                real pull = (real)0.001 / (square * (real)sqrtl(square));
                for (int k = 0; k < 3; k++) {
                    v[i][k] -= d[k] * m[j] * pull;
                    v[j][k] += d[k] * m[i] * pull;
                }
            }
        for (int i = 0; i < N; i++)
            for (int k = 0; k < 3; k++)
                p[i][k] += (real)0.001 * v[i][k];
    }
    for (int i = 0; i < N; i++)
        show(p[i][0]);
}

static void matrix(int rounds)
{
    enum { N = 128 };
    static real a[N][N], b[N][N], c[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (real)(i + j) / N;
            b[i][j] = (real)(i - j) / N;
        }
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                real sum = c[i][j] / 2;
                for (int k = 0; k < N; k++)
                    sum += a[i][k] * b[k][j];
                c[i][j] = sum;
            }
    show(c[3][5] + c[N - 1][N - 2]);
}

static void mandelbrot(int size)
{
    long inside = 0, steps = 0;
    for (int y = 0; y < size; y++)
        for (int x = 0; x < size; x++) {
            real cr = (real)3 * x / size - 2, ci = (real)2 * y / size - 1, r = 0, i = 0;
            int n = 0;
            while (n < 200 && r * r + i * i < 4) {
                real t = r * r - i * i + cr;
                i = 2 * r * i + ci;
                r = t;
                n++;
            }
            inside += n == 200;
            steps += n;
        }
    printf("%ld %ld\n", inside, steps);
}

/* Radix 2, in place. */
static void fft(int rounds)
{
    enum { N = 4096 };
    static real re[N], im[N], wr[N / 2], wi[N / 2];
    for (int i = 0; i < N; i++)
        re[i] = (real)(i % 37) - 18;
    for (int i = 0; i < N / 2; i++) {
        wr[i] = (real)cosl(6.283185307179586476925286766559L * i / N);
        wi[i] = -(real)sinl(6.283185307179586476925286766559L * i / N);
    }
    for (int round = 0; round < rounds; round++) {
        for (int i = 1, j = 0; i < N; i++) {
            int bit = N >> 1;
            for (; j & bit; bit >>= 1)
                j ^= bit;
            j ^= bit;
            if (i < j) {
                real t = re[i]; re[i] = re[j]; re[j] = t;
                t = im[i]; im[i] = im[j]; im[j] = t;
            }
        }
        for (int half = 1; half < N; half *= 2)
            for (int start = 0; start < N; start += 2 * half)
                for (int k = 0; k < half; k++) {
                    int a = start + k, b = a + half, w = k * (N / 2 / half);
                    real tr = re[b] * wr[w] - im[b] * wi[w], ti = re[b] * wi[w] + im[b] * wr[w];
                    re[b] = re[a] - tr, im[b] = im[a] - ti;
                    re[a] += tr, im[a] += ti;
                }
        for (int i = 0; i < N; i++)
            re[i] /= 64, im[i] /= 64;
    }
    real sum = 0;
    for (int i = 0; i < N; i++)
        sum += re[i] * (i % 5) + im[i];
    show(sum);
}

/* What the Whetstone benchmark is made of: array elements, transcendental functions, conversions, procedure calls. */
static void __attribute__((noinline)) procedure(real x, real y, real *z)
{
    x = (x + y) * (real)0.499975;
    y = (x + y) * (real)0.499975;
    *z = (x + y) / 2;
}

static void whetstone(int rounds)
{
    real e[4] = { 1, -1, -1, -1 }, x = (real)0.5, y = (real)0.5, z = 0;
    long sum = 0;
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < 12; i++) {
            e[0] = (e[0] + e[1] + e[2] - e[3]) * (real)0.499975;
            e[1] = (e[0] + e[1] - e[2] + e[3]) * (real)0.499975;
            e[2] = (e[0] - e[1] + e[2] + e[3]) * (real)0.499975;
            e[3] = (-e[0] + e[1] + e[2] + e[3]) * (real)0.499975;
        }
        x = (real)0.499975 * atanl(2 * sinl(x) * cosl(x) / (cosl(x + y) + cosl(x - y) - 1));
        y = (real)0.499975 * atanl(2 * sinl(y) * cosl(y) / (cosl(x + y) + cosl(x - y) - 1));
        for (int i = 0; i < 9; i++)
            procedure(1 + x, 1 + y, &z);
        x = sqrtl(expl(logl((real)0.75 + x * x) / (real)1.9));
        sum += (long)(z * 1000) + (long)(x * 1000);
        x = (real)0.5, y = (real)0.5 - z / 1000;
    }
    show(e[0] + e[3]);
    show(z);
    printf("%ld\n", sum);
}

int main(int count, char **args)
{
    if (count != 3)
        return 2;
    int size = atoi(args[2]);
    if (!strcmp(args[1], "nbody")) nbody(size);
    else if (!strcmp(args[1], "matrix")) matrix(size);
    else if (!strcmp(args[1], "mandelbrot")) mandelbrot(size);
    else if (!strcmp(args[1], "fft")) fft(size);
    else if (!strcmp(args[1], "whetstone")) whetstone(size);
    else return 2;
    return 0;
}
