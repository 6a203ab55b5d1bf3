# INIT and start-up messages (Intel SDM volume 3, "Multiple-Processor Initialization", and table "Processor State Following INIT").
.include "smp/frame.s"
# What survives the start of the first processor: memory that `boot` does not clear.
.set AGAIN, 0x800
# Where a program of 16 bits leaves what it finds.
.set FOUND, 0x810
.set PAGE, 0x9000

main:
        cmp dword ptr [AGAIN], 0
        jne again
        inc dword ptr [AGAIN]
        # A start-up message for who does not wait for one has no effect: the first processor.
        mov dword ptr [APIC_ICR_TO], 0
        mov dword ptr [APIC_ICR], 0x4000 + STARTUP + 0xf0
        mov ebp, 1
1:      cmp ebp, [cpus]
        jae 2f
        mov eax, ebp
        call init
        call start
        mov eax, ebp
        call await_online
        inc ebp
        jmp 1b
2:      say online
        show [online]
        # The same for processors that run: another page would be noticed.
        call copy
        mov dword ptr [APIC_ICR], OTHERS + STARTUP + PAGE / 0x1000
        mov eax, offset nothing
        call all
        say unmoved
        show [ready]
        line
        cmp dword ptr [cpus], 1
        je last
        # What INIT leaves alone: the cache bits of CR0, registers of MMX, model-specific ones, the number of the APIC.
        mov eax, offset set_up
        call all
        mov dword ptr [online], 0
        mov eax, offset stand
        call give
        mov eax, 1
        call init
        # One that waits for its start takes no other interrupt for a start.
        mov dword ptr [APIC_ICR], 0x4000 + NMI
        mov dword ptr [APIC_ICR], 0x4000 + 0x50
        mov dword ptr [APIC_ICR], 0x4000 + STARTUP + PAGE / 0x1000
        mov eax, 1
        call await_online
        say segment
        movzx eax, word ptr [FOUND]
        call number
        say CR0
        show [FOUND + 4]
        say MMX
        show [FOUND + 8]
        say MSR
        show [FOUND + 12]
        say signature
        push ebx
        mov eax, 1
        cpuid
        pop ebx
        xor eax, [FOUND + 16]
        call number
        line
        # From the sleep with interrupts off.
        say asleep
        mov eax, 1
        call init
        call start
        mov eax, 2
        call await_online
        show [online]
last:
        # The others must not see its memory cleared under their feet.
        mov dword ptr [APIC_ICR], OTHERS + INIT
        # The first processor does not wait for a start.
        say first
        mov dword ptr [APIC_ICR_TO], 0
        mov dword ptr [APIC_ICR], 0x4000 + INIT
1:      pause
        jmp 1b
again:
        say again
        line
        ret

# INIT for processor EAX; the next command has the same address.
init:
        shl eax, 24
        mov [APIC_ICR_TO], eax
        mov dword ptr [APIC_ICR], 0x4000 + INIT
        # The end of the level, which is for old buses.
        mov dword ptr [APIC_ICR], 0x8000 + INIT
        ret
start:
        mov dword ptr [APIC_ICR], 0x4000 + STARTUP + 0xf0
        mov dword ptr [APIC_ICR], 0x4000 + STARTUP + 0xf0
        ret
await_online:
1:      pause
        cmp [online], eax
        jne 1b
        ret
nothing:
        ret
set_up:
        mov eax, cr0
        and eax, 0x9fffffff
        mov cr0, eax
        lea eax, [ebx + 4000]
        movd mm3, eax
        mov ecx, 0x175
        xor edx, edx
        wrmsr
        ret
# For good.
stand:
        cli
        hlt
        jmp stand

# The program of 16 bits to its page.
copy:
        mov esi, offset look
        mov edi, PAGE
        mov ecx, look_end - look
        rep movsb
        ret
.code16
look:
        xor ax, ax
        mov ds, ax
        mov ax, cs
        mov [FOUND], ax
        mov [FOUND + 16], edx
        mov eax, cr0
        mov [FOUND + 4], eax
        movd eax, mm3
        mov [FOUND + 8], eax
        mov ecx, 0x175
        rdmsr
        mov [FOUND + 12], eax
        .byte 0xea
        .word 0, 0xf000
look_end:
.code32
