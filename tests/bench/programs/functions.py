"""Writes a C file of many different functions, to be compiled. usage: functions.py COUNT"""
import sys

value = 1


def number(limit):
    global value
    value = (value * 1103515245 + 12345) % 2**31
    return (value >> 12) % limit


def expression(depth, names):
    if depth == 0:
        return names[number(len(names))] if number(3) else "%du" % (1 + number(1000))
    operator = "+-*&|^"[number(6)]
    return "(%s %s %s)" % (expression(depth - 1, names), operator, expression(depth - 1, names))


def function(index):
    names = ["a", "b", "c", "s->x", "s->y", "t[a & 15]"]
    lines = ["unsigned f%d(unsigned a, unsigned b, struct s *s)" % index, "{", "    unsigned c = %s, t[16] = { 0 };" % index]
    for _ in range(1):
        kind = number(4)
        if kind == 0:
            lines.append("    if (%s < %s) c = %s; else s->x += %s;" % tuple(expression(n, names) for n in (1, 2, 2, 1)))
        elif kind == 1:
            lines.append("    for (unsigned i = 0; i < (%s & 15); i++) t[i] += %s;" % (expression(1, names), expression(2, names)))
        elif kind == 2:
            cases = " ".join("case %d: c ^= %s; break;" % (n, expression(2, names)) for n in range(3 + number(3)))
            lines.append("    switch (b & 7) { %s default: s->y = %s; }" % (cases, expression(1, names)))
        else:
            callee = number(index) if index else None
            call = "0" if callee is None else "f%d(a / 2, %s, s)" % (callee, expression(1, names))
            lines.append("    if (a > %d) c += %s;" % (50 + number(50), call))
    lines += ["    return c + %s;" % expression(2, names), "}"]
    return "\n".join(lines)


print("struct s { unsigned x, y; };")
for index in range(int(sys.argv[1])):
    print(function(index))
