# All processors but the first compute without a pause, so that whatever else has to run waits for long. The first asks a device the while.
.include "smp/frame.s"

main:
        call start_others
        mov eax, offset spin
        call give
        mov edi, 4
        say asked
        # The seconds of the clock.
1:      xor al, al
        out 0x70, al
        in al, 0x71
        cmp al, 0x60
        jae 2f
        # A while without any access.
        mov ecx, 3000000
3:      dec ecx
        jnz 3b
        dec edi
        jnz 1b
        say answered
2:      line
        mov dword ptr [stop], 1
        ret

spin:
        cmp dword ptr [stop], 0
        je spin
        ret

.section .bss
stop:   .skip 4
