# The last processor cannot go on.
.include "smp/frame.s"
.set AGAIN, 0x800

main:
        cmp dword ptr [AGAIN], 0
        jne 1f
        inc dword ptr [AGAIN]
        call start_others
        say fault
        line
        call sent
        mov eax, offset fall
        call all
        hlt
1:      say again
        line
        ret

# A table without room for an entry: #BP, #GP and the double fault fail.
fall:
        lea eax, [ebx + 1]
        cmp eax, [cpus]
        jne 1f
        mov eax, 0xfa11
        lidt [none]
        int3
1:      pause
        jmp 1b
.section .rodata
none:   .word 0
        .long 0
