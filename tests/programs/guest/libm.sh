# glibc's mathematical functions: see libm.c.
units() { echo libm; }
# No fused operations, so that every processor takes the same ways through the functions.
unit() { GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4 ./libm "${COUNT:-100}" "${SEED:-1}"; }
