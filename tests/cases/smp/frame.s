# What every program for several processors begins with: a firmware of 64 KiB that each processor enters at F000:0000, the first by the
# reset vector, the others by a start-up message with vector F0. In 32-bit mode EBX is the number of the processor, for good. The first
# calls `main`, which starts the others when it wants them; they wait for jobs. In the end port F4 ends the machine.
.intel_syntax noprefix
.set APIC, 0xfee00000
.set APIC_ID, APIC + 0x20
.set APIC_EOI, APIC + 0xb0
.set APIC_LDR, APIC + 0xd0
.set APIC_SVR, APIC + 0xf0
.set APIC_ICR, APIC + 0x300
.set APIC_ICR_TO, APIC + 0x310
# Stacks of 512 bytes from here on, for 255 processors at most.
.set STACKS, 0x20000
# Message to all others, with the other bits of the command.
.set OTHERS, 0x000c4000
.set INIT, 0x500
.set STARTUP, 0x600
.set NMI, 0x400

.section .reset, "ax"
.code16
        .byte 0xea
        .word 0, 0xf000

.section .head, "ax"
enter:
        cli
        lgdt cs:[gdtr - enter]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        .byte 0x66, 0xea
        .long protected
        .word 0x08
.code32
protected:
        mov ax, 0x10
        mov ds, ax
        mov es, ax
        mov fs, ax
        mov gs, ax
        mov ss, ax
        mov ebx, [APIC_ID]
        shr ebx, 24
        mov esp, ebx
        shl esp, 9
        add esp, STACKS + 512
        lidt [idtr]
        cld
        mov dword ptr [APIC_SVR], 0x1ff
        test ebx, ebx
        jz boot
        mov esi, [turn]
        lock inc dword ptr [online]
# What the others do: each job once.
serve:
        cmp esi, [turn]
        je 1f
        mov esi, [turn]
        push esi
        call [job]
        pop esi
        lock inc dword ptr [ready]
1:      pause
        jmp serve

boot:
        mov edi, offset bss
        mov ecx, offset bss_end
        sub ecx, edi
        shr ecx, 2
        xor eax, eax
        rep stosd
        xor ecx, ecx
        mov edx, offset unexpected
1:      call gate
        inc ecx
        cmp ecx, 32
        jb 1b
        # How many there are is in the clock's memory.
        mov al, 0x5f
        out 0x70, al
        in al, 0x71
        movzx eax, al
        inc eax
        mov [cpus], eax
        call main
        mov esi, offset end_text
        call text
finish:
        call sent
        mov al, 0x10
        out 0xf4, al
        hlt

unexpected:
        mov esi, offset unexpected_text
        call text
        mov eax, ebx
        call number
        jmp finish

# Interrupt ECX leads to EDX.
gate:
        mov [idt + ecx * 8], dx
        mov dword ptr [idt + ecx * 8 + 2], 0x8e000000 + 0x08
        mov eax, edx
        shr eax, 16
        mov [idt + ecx * 8 + 6], ax
        ret

# Starts all others and waits until they are there.
start_others:
        mov eax, [cpus]
        dec eax
        jz 2f
        mov dword ptr [APIC_ICR], OTHERS + INIT
        mov dword ptr [APIC_ICR], OTHERS + STARTUP + 0xf0
        mov dword ptr [APIC_ICR], OTHERS + STARTUP + 0xf0
1:      pause
        cmp [online], eax
        jne 1b
2:      ret

# All processors, the caller too, do what is at EAX.
all:
        call give
        call eax
# Until the others have done it.
await:
        mov eax, [cpus]
        dec eax
1:      pause
        cmp [ready], eax
        jne 1b
        ret
# The others begin with what is at EAX.
give:
        mov [job], eax
        mov dword ptr [ready], 0
        lock inc dword ptr [turn]
        ret

# EAX in decimal digits, and a space.
number:
        push ebx
        mov ebx, 10
        xor ecx, ecx
1:      xor edx, edx
        div ebx
        push edx
        inc ecx
        test eax, eax
        jnz 1b
2:      pop eax
        add al, '0'
        call put
        loop 2b
        mov al, ' '
        call put
        pop ebx
        ret
.include "text.s"
# Until the last byte has left: what ends or resets the machine takes it away.
sent:
        mov dx, 0x3fd
1:      in al, dx
        test al, 0x40
        jz 1b
        ret
.balign 8
gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:   .word 23
        .long gdt
idtr:   .word 2047
        .long idt

# Prints words, as they are, and a space.
.macro say words:vararg
        mov esi, offset 9f
        call text
.pushsection .rodata
9:      .asciz "\words "
.popsection
.endm
# Prints a word of memory, or a register.
.macro show what
        mov eax, \what
        call number
.endm
.macro line
        mov al, 10
        call put
.endm

.section .rodata
end_text:        .asciz "end\n"
unexpected_text: .asciz "unexpected exception on "

.section .bss
idt:    .skip 2048
cpus:   .skip 4
online: .skip 4
job:    .skip 4
.balign 64
turn:   .skip 4
.balign 64
ready:  .skip 4
.balign 64
.section .text
