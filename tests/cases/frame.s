# What every program of cases begins with: a multiboot kernel that runs its cases one after another, each from a fresh state, and
# prints how each ended on the first serial port. A case ends with `int 0x40` (a gate of level 3) or with an exception.
.intel_syntax noprefix
.code32
.set MAGIC, 0x1badb002
.section .head, "ax"
        .long MAGIC, 0, -MAGIC
.globl _start
_start:
        mov esp, offset stack_end
        lgdt [start_gdtr]
        ljmp 0x08, offset begin
begin:
        # The timer's interrupt comes or does not come while a case has interrupts on.
        mov al, 0xff
        out 0x21, al
        out 0xa1, al
        mov esi, offset begin_text
        call text
        mov ebp, offset cases
next_case:
        cmp ebp, offset cases_end
        jae finish
        call fresh
        mov esi, [ebp]
        call text
        mov eax, [ebp + 4]
        add ebp, 8
        mov [resume], ebp
        xor ebx, ebx
        xor ecx, ecx
        xor edx, edx
        xor esi, esi
        xor edi, edi
        xor ebp, ebp
        mov [start], eax
        push eax
        push 2
        xor eax, eax
        popfd
        ret
finish:
        mov esi, offset end_text
        call text
        mov al, 0x10
        out 0xf4, al
        hlt

# The state that each case begins with: tables from their templates, control registers, segments.
fresh:
        pop edx
        cli
        mov eax, 0x11
        mov cr0, eax
        xor eax, eax
        mov cr4, eax
        mov dr7, eax
        mov dr6, eax
        mov cr3, eax
        cld
        mov esi, offset gdt_template
        mov edi, offset gdt
        mov ecx, (gdt_end - gdt_template) / 4
        rep movsd
        mov edi, 0x180000
        mov ecx, 0x1000
        rep stosd
        mov dword ptr [0x181000], 0x40cd
        mov eax, 0x180000
        mov edi, offset gdt + 0x30
        call base
        mov edi, offset gdt + 0x38
        call base
        mov edi, offset gdt + 0x40
        call base
        mov edi, offset gdt + 0xc0
        call base
        mov eax, offset tss
        mov edi, offset gdt + 0x60
        call base
        mov eax, offset tss2
        mov edi, offset gdt + 0x68
        call base
        mov edi, offset gdt + 0xa8
        call base
        mov eax, offset tss16
        mov edi, offset gdt + 0x70
        call base
        mov eax, offset ldt
        mov edi, offset gdt + 0x78
        call base
        mov eax, offset gate_target
        mov edi, offset gdt + 0x80
        call gate
        mov edi, offset gdt + 0x88
        call gate
        mov edi, offset gdt + 0x98
        call gate
        mov edi, offset gdt + 0xc8
        call gate
        mov edi, offset tss
        mov ecx, (tss_end - tss) / 4
        xor eax, eax
        rep stosd
        mov dword ptr [tss + 4], offset inner_end
        mov dword ptr [tss + 8], 0x10
        mov dword ptr [tss + 12], offset inner_end
        mov dword ptr [tss + 16], 0xa1
        mov word ptr [tss + 102], 104
        mov byte ptr [tss + 104 + 0x80 / 8], 0xfe
        mov byte ptr [tss + 104 + 32], 0xff
        mov dword ptr [tss2 + 4], offset inner_end
        mov dword ptr [tss2 + 8], 0x10
        mov dword ptr [tss2 + 32], offset task_target
        mov dword ptr [tss2 + 36], 2
        mov dword ptr [tss2 + 40], 0x1111
        mov dword ptr [tss2 + 56], offset stack_end
        mov dword ptr [tss2 + 72], 0x10
        mov dword ptr [tss2 + 76], 0x08
        mov dword ptr [tss2 + 80], 0x10
        mov dword ptr [tss2 + 84], 0x10
        mov word ptr [tss2 + 102], 104
        mov edi, offset idt
        mov eax, offset stubs
        mov ecx, 0x41
gates:
        mov [edi], ax
        mov word ptr [edi + 2], 0x08
        mov word ptr [edi + 4], 0x8e00
        ror eax, 16
        mov [edi + 6], ax
        ror eax, 16
        add eax, 16
        add edi, 8
        loop gates
        mov byte ptr [idt + 0x40 * 8 + 5], 0xee
        mov byte ptr [idt + 3 * 8 + 5], 0xee
        mov byte ptr [idt + 4 * 8 + 5], 0xee
        lgdt [gdtr]
        lidt [idtr]
        xor eax, eax
        lldt ax
        mov ax, 0x10
        mov ds, ax
        mov es, ax
        mov fs, ax
        mov gs, ax
        mov ss, ax
        mov esp, offset stack_end
        mov ax, 0x60
        ltr ax
        jmp edx

# Base of the descriptor at EDI.
base:
        mov [edi + 2], ax
        ror eax, 16
        mov [edi + 4], al
        mov [edi + 7], ah
        ror eax, 16
        ret
# Offset of the gate at EDI.
gate:
        mov [edi], ax
        ror eax, 16
        mov [edi + 6], ax
        ror eax, 16
        ret

# Vectors 0 to 3f, and 40 as the end of a case: 16 bytes each.
.balign 16
stubs:
.set vector, 0
.rept 0x41
.balign 16
        .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17
        .else
        push 0
        .endif
        push vector
        jmp report
.set vector, vector + 1
.endr

report:
        pushad
        mov ax, 0x10
        mov ds, ax
        mov es, ax
        cld
        mov edi, esp
        mov bx, ss
        cmp bx, 0x30
        jne 1f
        and edi, 0xffff
        add edi, 0x180000
        mov ss, ax
        mov esp, offset inner_end
1:      mov esi, offset vector_text
        mov eax, [edi + 32]
        call field
        mov esi, offset error_text
        mov eax, [edi + 36]
        call field
        mov esi, offset pc_text
        # Relative to the case where it is in it.
        mov eax, [edi + 40]
        mov ecx, eax
        sub ecx, [start]
        cmp ecx, 0x400
        jae 1f
        mov eax, ecx
1:
        call field
        mov esi, offset cs_text
        movzx eax, word ptr [edi + 44]
        call field
        mov esi, offset flags_text
        mov eax, [edi + 48]
        # The arithmetic flags are the business of other tests; RF is set for faults, which not every emulator does.
        and eax, 0xfef700
        call field
        mov esi, offset eax_text
        mov eax, [edi + 28]
        call register
        mov esi, offset ebx_text
        mov eax, [edi + 16]
        call register
        mov esi, offset ecx_text
        mov eax, [edi + 24]
        call register
        mov esi, offset edx_text
        mov eax, [edi + 20]
        call register
        cmp dword ptr [edi + 32], 14
        jne 1f
        mov esi, offset cr2_text
        mov eax, cr2
        call field
1:      cmp dword ptr [edi + 32], 1
        jne 1f
        mov esi, offset dr6_text
        mov eax, dr6
        call field
1:      mov al, 10
        call put
        # Out of whatever mode the case was in.
        mov esp, offset stack_end
        mov ebp, [resume]
        jmp next_case

# A register that is not zero.
register:
        test eax, eax
        jz none
field:
        push eax
        call text
        pop eax
# A number without leading zeros.
number:
        push edx
        bsr ecx, eax
        jnz 3f
        xor ecx, ecx
3:      shr ecx, 2
        lea edx, [ecx + 1]
        neg ecx
        lea ecx, [ecx * 4 + 28]
        rol eax, cl
        mov ecx, edx
        pop edx
1:      rol eax, 4
        push eax
        and al, 15
        add al, '0'
        cmp al, '9'
        jbe 2f
        add al, 'a' - '9' - 1
2:      call put
        pop eax
        loop 1b
none:   ret
.include "text.s"

# Where call gates and tasks lead: what they find is shown by the registers.
gate_target:
        mov eax, [esp]
        mov ebx, [esp + 4]
        mov ecx, [esp + 8]
        mov edx, [esp + 12]
        int 0x40
task_target:
        str bx
        mov cx, [tss2]
        pushfd
        pop edx
        mov eax, cr0
        int 0x40

.section .rodata
begin_text:     .asciz "begin\n"
end_text:       .asciz "end\n"
vector_text:    .asciz " v="
error_text:     .asciz " e="
pc_text:        .asciz " pc="
cs_text:        .asciz " cs="
flags_text:     .asciz " fl="
eax_text:       .asciz " a="
ebx_text:       .asciz " b="
ecx_text:       .asciz " c="
edx_text:       .asciz " d="
cr2_text:       .asciz " cr2="
dr6_text:       .asciz " dr6="
.balign 8
start_gdtr:     .word gdt_end - gdt_template - 1
                .long gdt_template
gdtr:           .word gdt_end - gdt_template - 1
                .long gdt
idtr:           .word 0x41 * 8 - 1
                .long idt
.section .data
.balign 8
gdt_template:
        .quad 0
        .quad 0x00cf9b000000ffff        # 08 code
        .quad 0x00cf93000000ffff        # 10 data
        .quad 0x00cffb000000ffff        # 18 code, level 3
        .quad 0x00cff3000000ffff        # 20 data, level 3
        .quad 0x00009b100000ffff        # 28 16-bit code at 100000
        .quad 0x0040930000000fff        # 30 data at 180000, 4 KiB
        .quad 0x0040910000000fff        # 38 the same, read-only
        .quad 0x0040970000000fff        # 40 the same, expanding down
        .quad 0x00cf99000000ffff        # 48 code, not readable
        .quad 0x00cf9f000000ffff        # 50 conforming code
        .quad 0x00cf13000000ffff        # 58 data, not present
        .quad 0x00008900000000a8        # 60 task
        .quad 0x0000890000000067        # 68 second task
        .quad 0x000081000000002b        # 70 16-bit task
        .quad 0x0000820000000017        # 78 local table
        .quad 0x0000ec0000080000        # 80 call gate, level 3
        .quad 0x0000ec0200080000        # 88 with two parameters
        .quad 0x0000e50000680000        # 90 task gate
        .quad 0x0000e40000080000        # 98 16-bit call gate
        .quad 0x00cfb3000000ffff        # a0 data, level 1
        .quad 0x00008b0000000067        # a8 busy task
        .quad 0x00cfff000000ffff        # b0 conforming code, level 3
        .quad 0x00cf1b000000ffff        # b8 code, not present
        .quad 0x00409b00000000ff        # c0 code at 180000, 256 bytes
        .quad 0x00006c0000080000        # c8 call gate, not present
        .quad 0x00cf92000000ffff        # d0 data, not accessed
        .quad 0x0000890000000066        # d8 task, too short
        .quad 0x0000800000000000        # e0 reserved type
        .quad 0x00cfbb000000ffff        # e8 code, level 1
gdt_end:
ldt:    .quad 0, 0x00cff3000000ffff, 0x00cf13000000ffff
.section .bss
.balign 4096
tables: .skip 4 * 4096
gdt:    .skip 4096
idt:    .skip 4096
.balign 16
tss:    .skip 256
tss2:   .skip 128
tss16:  .skip 64
tss_end:
resume: .skip 4
start:  .skip 4
.balign 16
        .skip 4096
stack_end:
        .skip 4096
inner_end:
        .skip 4096
user_end:

# A case: its name, then its code up to the next one.
.macro case name:vararg
        .section .names, "a"
9:      .asciz "\name"
        .section .table, "a"
        .long 9b, 8f
        .text
8:
.endm
.macro done
        int 0x40
.endm
# Goes to level 3 with the given flags.
.macro user flags=2
        push 0x23
        push offset user_end
        push \flags
        push 0x1b
        push offset 7f
        iretd
7:      mov ax, 0x23
        mov ds, ax
        mov es, ax
.endm
