# MONITOR and MWAIT: the first processor and each other one pass a number to and fro through a line of memory, both asleep until it comes.
# Then all wait for lines that nobody writes, for as long as the outside likes, until the first hears from there.
.include "smp/frame.s"
.set LAPS, 200

main:
        call start_others
        say passed
        mov eax, offset answer
        call give
        mov edi, 1
1:      cmp edi, [cpus]
        jae 3f
        mov esi, LAPS
2:      mov edx, edi
        shl edx, 6
        add edx, offset lines
        # Its turn: an odd number. Its answer is the even one above.
        inc dword ptr [edx]
        call even
        dec esi
        jnz 2b
        inc edi
        jmp 1b
3:      call await
        show [laps]
        line
        # A line that nobody writes; the first one looks at the serial port in between.
        mov eax, offset doze
        call give
        say asleep
        line
1:      mov edx, offset quiet
        call wait_once
        mov dx, 0x3fd
        in al, dx
        test al, 1
        jz 1b
        mov dword ptr [stop], 1
        call await
        ret

# Waits until the number at EDX is even, or odd.
even:
        test dword ptr [edx], 1
        jz 1f
        call wait_once
        jmp even
odd:
        test dword ptr [edx], 1
        jnz 1f
        call wait_once
        jmp odd
1:      ret
# Sleeps, unless the number at EDX has its last bit as it had when the line was armed.
wait_once:
        push edx
        mov eax, edx
        mov ebp, [edx]
        xor ecx, ecx
        xor edx, edx
        monitor
        cmp ebp, [eax]
        jne 1f
        xor eax, eax
        mwait
1:      pop edx
        ret

answer:
        mov esi, LAPS
        mov edx, ebx
        shl edx, 6
        add edx, offset lines
1:      call odd
        lock inc dword ptr [laps]
        inc dword ptr [edx]
        dec esi
        jnz 1b
        ret

doze:
        mov edx, offset quiet
        call wait_once
        cmp dword ptr [stop], 0
        je doze
        ret

.section .bss
laps:   .skip 4
stop:   .skip 4
.balign 64
quiet:  .skip 64
lines:  .skip 16384
