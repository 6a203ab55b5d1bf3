# Protected mode: segments, transfers, tasks, levels, debugging, control registers, undefined encodings, virtual-8086 mode.
.include "frame.s"
.text
# ---- loads of segment registers ----
.macro load seg selector
        case mov \seg,\selector
        mov eax, \selector
        mov \seg, ax
        mov bx, \seg
        done
.endm
.irp selector, 0, 3, 0x08, 0x10, 0x13, 0x18, 0x20, 0x23, 0x38, 0x40, 0x48, 0x50, 0x53, 0x58, 0x60, 0x78, 0x80, 0xa0, 0xb0, 0xb8, 0xd0, 0xe0, 0xf8, 0xfff8, 0x0c, 0x04
        load ds, \selector
        load ss, \selector
.endr
case the accessed bit is set by a load
        mov eax, 0xd0
        mov es, ax
        mov eax, [gdt + 0xd4]
        done
case selectors of the local table
        mov eax, 0x78
        lldt ax
        mov eax, 0x0f
        mov es, ax
        mov ebx, es
        mov eax, 0x17
        mov es, ax
        done
.irp selector, 0, 3, 0x78, 0x7c, 0x10, 0x60, 0xf8
case lldt \selector
        mov eax, \selector
        lldt ax
        sldt bx
        done
.endr
.irp selector, 0, 0x68, 0x70, 0x60, 0xa8, 0x78, 0x10, 0xf8, 0x6c
case ltr \selector
        mov eax, \selector
        ltr ax
        str bx
        mov ecx, [gdt + 0x6c]
        done
.endr
# ---- limits and types ----
case the last byte of a segment
        mov ax, 0x30
        mov es, ax
        mov al, es:[0xfff]
        done
case a word at the last byte
        mov ax, 0x30
        mov es, ax
        mov ax, es:[0xfff]
        done
case a doubleword wrapping at 4 GiB
        mov eax, es:[0xfffffffe]
        done
case a null segment
        xor eax, eax
        mov es, ax
        mov al, es:[0]
        done
case below an expand-down limit
        mov ax, 0x40
        mov es, ax
        mov al, es:[0xfff]
        done
case above an expand-down limit
        mov ax, 0x40
        mov es, ax
        mov al, es:[0x1000]
        done
case a write to read-only data
        mov ax, 0x38
        mov es, ax
        mov es:[0], al
        done
case a read-modify-write of read-only data
        mov ax, 0x38
        mov es, ax
        add es:[0], al
        done
case a write to code
        mov cs:[0x180000], al
        done
case a read of code
        mov eax, cs:[0x180000]
        done
case code that cannot be read
        mov eax, offset 1f
        push 0x48
        push eax
        retf
1:      mov eax, cs:[0x180000]
        done
case beyond the stack segment
        mov ax, 0x30
        mov ss, ax
        mov esp, 0x1000
        mov eax, [esp]
        done
case ebp uses the stack segment
        mov ax, 0x30
        mov ss, ax
        mov esp, 0x800
        mov ebp, 0x1000
        mov eax, [ebp]
        done
# ---- far transfers ----
.macro jumpto selector offset
        case jmp \selector:\offset
        .byte 0xea
        .long \offset
        .word \selector
.endm
.macro callto selector offset
        case call \selector:\offset
        .byte 0x9a
        .long \offset
        .word \selector
.endm
.irp selector, 0, 0x10, 0x18, 0x0b, 0x50, 0x53, 0xb0, 0xb8, 0xc0, 0x58, 0x60, 0x68, 0x78, 0x80, 0x88, 0x90, 0xa8, 0xc8, 0xd8, 0xe0, 0xf8, 0x0c
        jumpto \selector gate_target
        callto \selector gate_target
.endr
        jumpto 0xc0 0x1000
case a near jump beyond the limit
        mov dword ptr [0x180000], 0x0001fbe9
        mov word ptr [0x180200], 0x40cd
        .byte 0xea
        .long 0
        .word 0xc0
case code runs into its limit
        mov word ptr [0x1800fe], 0x9090
        mov word ptr [0x180100], 0x40cd
        .byte 0xea
        .long 0xfe
        .word 0xc0
case a far pointer at the end of a segment
        mov ax, 0x30
        mov es, ax
        jmp fword ptr es:[0xffc]
.macro gateto selector code
case a gate to \selector
        mov word ptr [gdt + 0x82], \selector
        \code
.endm
.irp selector, 0, 0x10, 0x18, 0x50, 0xb0, 0xb8, 0x60, 0xf8, 0x0b
        gateto \selector "call 0x80:0"
.endr
case a return to the same level
        push 0x08
        push offset 1f
        retf
1:      done
.irp selector, 0, 0x10, 0x18, 0x1b, 0x50, 0x53, 0xb8, 0x60, 0xf8, 0x0a
case retf to \selector
        push 0x23
        push offset user_end
        push \selector
        push offset 1f
        retf
1:      mov ax, cs
        mov bx, ss
        done
.endr
.irp selector, 0, 3, 0x10, 0x20, 0x13, 0x22, 0x38, 0x3b, 0x58, 0x5b, 0x1b, 0xf8
case retf to level 3 with stack \selector
        push \selector
        push offset user_end
        push 0x1b
        push offset 1f
        retf
1:      mov ax, ss
        done
.endr
case a return to level 3 nulls what it may not use
        mov ax, 0x10
        mov ds, ax
        mov ax, 0xb0
        mov fs, ax
        push 0x23
        push offset user_end
        push 0x1b
        push offset 1f
        retf 0
1:      mov eax, ds
        mov ebx, es
        mov ecx, fs
        mov edx, gs
        done
case a return that releases
        push 4
        push 3
        push 0x23
        push offset user_end - 8
        push 2
        push 1
        push 0x1b
        push offset 1f
        retf 8
1:      mov eax, esp
        sub eax, offset user_end
        done
# ---- level 3 ----
.macro in3 name:vararg
        case level 3: \name
        user
        \name
        done
.endm
.irp insn, cli, sti, hlt, clts, invd, wbinvd, rdmsr, wrmsr, iretd, pushfd
        in3 \insn
.endr
        in3 mov eax, cr0
        in3 mov cr0, eax
        in3 mov eax, dr0
        in3 lmsw ax
        in3 smsw ax
        in3 sldt ax
        in3 lgdt [0x180000]
        in3 sgdt [0x180000]
        in3 lldt ax
        in3 ltr ax
        in3 invlpg [0]
        in3 out 0x80, al
        in3 in al, 0x81
        in3 in ax, 0x87
        in3 out 0x80, al
        in3 in eax, 0xf0
        in3 int 0x20
        in3 int 3
        in3 int 0x41
        in3 int 0xff
        in3 rdpmc
        in3 sysexit
        in3 .byte 0x0f, 0x07
        in3 .byte 0x0f, 0x05
        in3 sysenter
        in3 .byte 0xf1
        in3 mov ds, cx
case level 3 cannot load level 0
        user
        mov eax, 0x13
        mov ds, ax
case level 3 uses a gate
        user
        call 0x83:0
case level 3 uses a gate with parameters
        user
        push 0x2222
        push 0x1111
        call 0x8b:0
case the stack that a gate leads to
        user
        call 0x83:0
case level 3 with a 16-bit gate
        mov eax, offset gate16
        sub eax, 0x100000
        mov [gdt + 0x98], ax
        mov word ptr [gdt + 0x9e], 0
        mov word ptr [gdt + 0x9a], 0x28
        user
        call 0x9b:0
.code16
gate16: mov eax, [esp]
        mov ebx, [esp + 4]
        int 0x40
.code32
case level 3 with a 16-bit gate and parameters
        # The upper half of its offset means nothing.
        mov eax, offset 1f
        sub eax, 0x100000
        mov [gdt + 0x98], ax
        mov word ptr [gdt + 0x9e], 0xffff
        mov word ptr [gdt + 0x9a], 0x28
        mov byte ptr [gdt + 0x9c], 2
        user
        pushw 0x1122
        pushw 0x3344
        call 0x9b:0
.code16
1:      movzx eax, word ptr [esp + 2]
        mov ebx, [esp + 4]
        movzx ecx, word ptr [esp + 10]
        mov edx, esp
        sub edx, offset inner_end
        int 0x40
.code32
case a gate without an inner stack
        mov dword ptr [tss + 16], 0
        mov word ptr [gdt + 0x82], 0xe8
        user
        call 0x83:0
case a gate whose inner stack has another level
        mov dword ptr [tss + 16], 0x20
        mov word ptr [gdt + 0x82], 0xe8
        user
        call 0x83:0
case a gate whose inner stack is read-only
        mov dword ptr [tss + 16], 0x38
        mov word ptr [gdt + 0x82], 0xe8
        user
        call 0x83:0
case a gate to level 1
        mov word ptr [gdt + 0x82], 0xe8
        user
        call 0x83:0
case level 3 jumps through a gate to level 0
        user
        jmp 0x83:0
case level 3 far call to level 0
        user
        call 0x08:0
case level 3 far call to conforming code
        user
        push 0x53
        push offset 1f
        retf
1:      mov eax, cs
        done
case popf at level 3 leaves IOPL and IF
        user
        push 0x3202
        popfd
        done
case popf at level 0
        push 0x247202
        popfd
        cli
        done
case iopl 3 opens cli and ports
        user 0x3002
        cli
        in al, 0x81
        sti
        done
case alignment is checked at level 3 only
        mov eax, cr0
        or eax, 0x40000
        mov cr0, eax
        push 0x40002
        popfd
        mov eax, [0x180001]
        user 0x40002
        mov eax, [0x180004]
        mov ax, [0x180001]
        done
case alignment of a stack at level 3
        mov eax, cr0
        or eax, 0x40000
        mov cr0, eax
        user 0x40002
        sub esp, 2
        push eax
# ---- interrupts and exceptions ----
case a gate that is not present
        mov byte ptr [idt + 0x20 * 8 + 5], 0x0e
        int 0x20
case a gate of no known type
        mov byte ptr [idt + 0x20 * 8 + 5], 0x80
        int 0x20
case a gate to data
        mov word ptr [idt + 0x20 * 8 + 2], 0x10
        int 0x20
case a gate to absent code
        mov word ptr [idt + 0x20 * 8 + 2], 0xb8
        int 0x20
case a gate to nothing
        mov word ptr [idt + 0x20 * 8 + 2], 0
        int 0x20
case a double fault
        mov byte ptr [idt + 13 * 8 + 5], 0x0e
        mov word ptr [0], ax
        mov ax, 0xf8
        mov ds, ax
case divide error whose gate is absent
        mov byte ptr [idt + 5], 0x0e
        div cl
case a divide error
        mov ax, 0x100
        div cl
case aam 0
        aam 0
case the most negative by -1
        mov eax, 0x80000000
        cdq
        mov ecx, -1
        idiv ecx
case into
        mov al, 0x7f
        inc al
        into
case bound
        mov dword ptr [0x180000], 5
        mov dword ptr [0x180004], 7
        mov eax, 8
        bound eax, [0x180000]
case breakpoint instruction
        int3
case icebp
        .byte 0xf1
case icebp leaves DR6 alone
        mov eax, 0x4000
        mov dr6, eax
        .byte 0xf1
case icebp at level 3 through a gate of level 0
        user
        .byte 0xf1
case icebp without a gate
        mov dword ptr [idt + 1 * 8 + 4], 0
        .byte 0xf1
case icebp through a gate that is not present
        mov byte ptr [idt + 1 * 8 + 5], 0x0e
        .byte 0xf1
case icebp a hundred times
        mov eax, offset 2f
        mov [idt + 1 * 8], ax
        shr eax, 16
        mov [idt + 1 * 8 + 6], ax
        mov ecx, 100
1:      .byte 0xf1
        loop 1b
        done
2:      inc ebx
        iretd
case an interrupt through a task gate
        mov dword ptr [idt + 0x20 * 8], 0x00680000
        mov dword ptr [idt + 0x20 * 8 + 4], 0x00008500
        int 0x20
case a fault with an error code through a task gate
        mov dword ptr [idt + 13 * 8], 0x00680000
        mov dword ptr [idt + 13 * 8 + 4], 0x00008500
        mov dword ptr [tss2 + 32], offset 1f
        mov ax, 0xf8
        mov ds, ax
1:      pop eax
        str bx
        done
case an interrupt from level 3 changes the stack
        mov byte ptr [idt + 0x20 * 8 + 5], 0xee
        mov eax, offset 1f
        mov [idt + 0x20 * 8], ax
        shr eax, 16
        mov [idt + 0x20 * 8 + 6], ax
        user
        int 0x20
1:      mov eax, [esp]
        mov ebx, [esp + 12]
        mov ecx, [esp + 16]
        mov edx, esp
        sub edx, offset inner_end
        mov ax, 0x10
        mov ds, ax
        done
# Interrupt 20h leads through a 16-bit gate to 1 ahead.
.macro small_gate
        # The upper half of its offset means nothing.
        mov eax, offset 1f
        sub eax, 0x100000
        mov [idt + 0x20 * 8], ax
        mov word ptr [idt + 0x20 * 8 + 2], 0x28
        mov dword ptr [idt + 0x20 * 8 + 4], 0xffffe600
.endm
case an interrupt from level 3 through a 16-bit gate
        small_gate
        user
        int 0x20
.code16
1:      movzx eax, word ptr [esp + 2]
        movzx ebx, word ptr [esp + 4]
        movzx ecx, word ptr [esp + 8]
        mov edx, esp
        sub edx, offset inner_end
        int 0x40
.code32
case a trap gate leaves IF
        mov byte ptr [idt + 0x20 * 8 + 5], 0x8f
        mov eax, offset 1f
        mov [idt + 0x20 * 8], ax
        shr eax, 16
        mov [idt + 0x20 * 8 + 6], ax
        in al, 0x21
        mov bl, al
        mov al, 0xff
        out 0x21, al
        out 0xa1, al
        sti
        int 0x20
1:      pushfd
        pop eax
        and eax, 0x200
        cli
        done
# ---- tasks ----
case a jump to a task
        mov eax, 0x1234
        jmp 0x68:0
case a call to a task
        mov eax, 0x1234
        call 0x68:0
case a call to a task and back
        mov dword ptr [tss2 + 32], offset 1f
        mov ebx, 0x77
        call 0x68:0
        str cx
        mov edx, [gdt + 0x6c]
        done
1:      mov ebx, 0x99
        iretd
case a task goes on behind the jump that left it
        mov dword ptr [tss2 + 32], offset 1f
        jmp 0x68:0
        str cx
        done
1:      jmp 0x60:0
case a task goes on behind the iret that left it
        mov dword ptr [tss2 + 32], offset 1f
        call 0x68:0
        call 0x68:0
        mov ebx, [0x180000]
        done
1:      add dword ptr [0x180000], 1
        iretd
        add dword ptr [0x180000], 0x100
        iretd
case a task gate
        call 0x90:0
case a jump to a busy task
        jmp 0xa8:0
case a call to the own task
        call 0x60:0
case a task that is too short
        jmp 0xd8:0
# A 16-bit task that begins at 2 ahead.
.macro small_task
        mov eax, offset 2f
        sub eax, 0x100000
        mov [tss16 + 0x0e], ax
        mov word ptr [tss16 + 0x10], 2
        # A 16-bit stack: the upper half of ESP is undefined.
        mov byte ptr [gdt + 0x36], 0
        mov word ptr [tss16 + 0x1a], 0x800
        mov word ptr [tss16 + 0x22], 0x10
        mov word ptr [tss16 + 0x24], 0x28
        mov word ptr [tss16 + 0x26], 0x30
        mov word ptr [tss16 + 0x28], 0x10
.endm
case a 16-bit task
        small_task
        mov word ptr [tss16 + 0x12], 0x1111
        jmp 0x70:0
.code16
2:      mov bx, ss
        movzx ecx, ax
        xor eax, eax
        str ax
        int 0x40
.code32
case a call to a 16-bit task and back
        small_task
        call 0x70:0
        movzx eax, word ptr [tss16]
        movzx ebx, word ptr [tss16 + 0x10]
        movzx ecx, byte ptr [gdt + 0x75]
        movzx edx, byte ptr [gdt + 0x65]
        done
.code16
2:      iret
.code32
case a jump to a task keeps NT and writes no link
        mov dword ptr [tss2 + 32], offset 1f
        mov dword ptr [tss2], 0xdead
        push 0x4002
        popfd
        jmp 0x68:0
1:      pushfd
        pop eax
        mov ebx, [tss + 36]
        mov ecx, [tss2]
        movzx edx, byte ptr [gdt + 0x65]
        done
.macro badtask name field value
case a task with \name
        mov dword ptr [tss2 + \field], \value
        jmp 0x68:0
.endm
        badtask ds_level_0_code 84 0x48
        badtask ds_absent 84 0x58
        badtask es_outside 72 0xf8
        badtask ldt_good 96 0x78
case a task with the trap bit
        mov word ptr [tss2 + 100], 1
        jmp 0x68:0
case iret with NT and no link
        push 0x4002
        popfd
        iretd
case iret with NT to a task that is not busy
        mov word ptr [tss], 0x68
        push 0x4002
        popfd
        iretd
# ---- selector tests ----
.irp selector, 0, 0x08, 0x0b, 0x10, 0x13, 0x18, 0x38, 0x40, 0x48, 0x50, 0x53, 0x58, 0x60, 0x70, 0x78, 0x80, 0x90, 0x98, 0xa0, 0xa8, 0xb0, 0xe0, 0xf8, 0x0c
case look at \selector
        mov ecx, \selector
        mov edi, 0x55555555
        lar edi, ecx
        setz al
        mov ebx, edi
        mov edi, 0x55555555
        lsl edi, ecx
        setz ah
        rol eax, 16
        verr cx
        setz al
        verw cx
        setz ah
        mov edx, edi
        done
case level 3 looks at \selector
        user
        mov ecx, \selector | 3
        mov edi, 0x55555555
        lar edi, ecx
        setz al
        mov ebx, edi
        mov edi, 0x55555555
        lsl edi, ecx
        setz ah
        rol eax, 16
        verr cx
        setz al
        verw cx
        setz ah
        mov edx, edi
        done
.endr
case arpl
        mov eax, 0x10
        mov ecx, 3
        arpl ax, cx
        setz bl
        arpl ax, cx
        setz bh
        done
case arpl of what stays in read-only data
        mov ax, 0x38
        mov es, ax
        mov word ptr [0x180000], 0x13
        mov ecx, 2
        arpl es:[0], cx
        setz bl
        mov edx, [0x180000]
        done
case arpl of what changes in read-only data
        mov ax, 0x38
        mov es, ax
        mov word ptr [0x180000], 0x12
        mov ecx, 3
        arpl es:[0], cx
        done
case sidt and lidt with 16-bit operands
        mov dword ptr [0x180000], 0x5678aabb
        mov word ptr [0x180004], 0x1234
        lidt [0x180000]
        .byte 0x66
        sidt [0x180008]
        .byte 0x66
        lidt [0x180000]
        sidt [0x180010]
        lidt [idtr]
        movzx eax, word ptr [0x180008]
        mov ebx, [0x18000a]
        mov ecx, [0x180012]
        done
# ---- debugging ----
case single step
        push 0x102
        popfd
        inc eax
        inc eax
case single step over a load of SS
        push 0x102
        popfd
        mov cx, ss
        mov ss, cx
        inc eax
        inc eax
case single step of hlt
        push 0x102
        popfd
        hlt
        inc eax
        done
case single step of a software interrupt
        push offset 1f
        push 0x102
        popfd
        int 0x40
1:      nop
case an instruction breakpoint
        mov eax, offset 1f
        mov dr0, eax
        mov eax, 1
        mov dr7, eax
        nop
1:      inc eax
        done
case RF passes an instruction breakpoint
        mov eax, offset 1f
        mov dr0, eax
        mov eax, 1
        mov dr7, eax
        push 0x10002
        push 8
        push offset 1f
        iretd
1:      inc ebx
        done
case a write breakpoint
        mov eax, 0x180004
        mov dr1, eax
        mov eax, 0xd0000c
        mov dr7, eax
        mov eax, [0x180004]
        mov [0x180008], eax
        mov [0x180006], al
        inc ebx
        done
case a write that begins below a write breakpoint
        mov eax, 0x180004
        mov dr1, eax
        mov eax, 0xd0000c
        mov dr7, eax
        mov [0x180001], eax
        inc ebx
        done
case a read breakpoint
        mov eax, 0x180004
        mov dr2, eax
        mov eax, 0x3000020
        mov dr7, eax
        mov bl, [0x180003]
        mov bl, [0x180004]
        inc ecx
        done
case a port breakpoint
        mov eax, 8
        mov cr4, eax
        mov eax, 0x80
        mov dr3, eax
        mov eax, 0x20000080
        mov dr7, eax
        out 0x81, al
        out 0x80, al
        inc ecx
        done
case a hit clears the bits of earlier ones
        mov eax, 0x180004
        mov dr1, eax
        mov eax, 0x4001
        mov dr6, eax
        mov eax, 0xd0000c
        mov dr7, eax
        mov [0x180004], eax
        inc ebx
        done
case a write breakpoint hit by a step
        mov eax, 0x180004
        mov dr1, eax
        mov eax, 0xd0000c
        mov dr7, eax
        push 0x102
        popfd
        mov [0x180004], eax
        inc ebx
        done
case a breakpoint hit by a load of SS waits for one instruction
        mov word ptr [0x180004], 0x10
        mov eax, 0x180004
        mov dr1, eax
        mov eax, 0xf0000c
        mov dr7, eax
        mov ss, [0x180004]
        inc ebx
        inc ebx
        inc ebx
        done
case a breakpoint hit by a load of SS before icebp
        mov word ptr [0x180004], 0x10
        mov eax, 0x180004
        mov dr1, eax
        mov eax, 0xf0000c
        mov dr7, eax
        mov ss, [0x180004]
        .byte 0xf1
        inc ebx
        done
case an instruction breakpoint after a load of SS
        mov eax, offset 1f
        mov dr0, eax
        mov eax, 1
        mov dr7, eax
        mov cx, ss
        mov ss, cx
1:      inc ebx
        done
case general detection
        mov eax, 0x2000
        mov dr7, eax
        mov eax, dr7
        done
case dr4 without debugging extensions
        mov eax, 0x1234
        mov dr4, eax
        mov ebx, dr6
        mov ecx, dr5
        done
case dr4 with debugging extensions
        mov eax, 8
        mov cr4, eax
        mov eax, dr4
        done
case a repetition is stepped once each time
        mov ecx, 3
        mov edi, 0x180000
        push 0x102
        popfd
        rep stosb
        done
# ---- control registers ----
.macro setcr register value
case \register gets \value
        mov eax, \value
        mov \register, eax
        mov ebx, \register
        done
.endm
        setcr cr0 0x20000011
        setcr cr0 0x60000011
        setcr cr0 0x0000ffd1
        setcr cr3 0x00123fff
        setcr cr4 0x80000000
        setcr cr4 0x00000800
        setcr cr4 0x00000100
        setcr cr4 0x000000f0
        setcr cr2 0x12345678
case lmsw cannot leave protected mode
        mov ax, 0
        lmsw ax
        smsw eax
        done
case lmsw sets TS
        mov ax, 0xf
        lmsw ax
        smsw eax
        fnop
case clts
        mov ax, 0x9
        lmsw ax
        clts
        smsw eax
        done
case wait with MP and TS
        mov ax, 0xb
        lmsw ax
        fwait
case mmx with EM
        mov ax, 5
        lmsw ax
        emms
case sse without OSFXSR
        xorps xmm0, xmm0
case an unmasked sse exception without OSXMMEXCPT
        mov eax, 0x200
        mov cr4, eax
        mov dword ptr [0x180000], 0
        ldmxcsr [0x180000]
        xorps xmm0, xmm0
        divss xmm0, xmm0
case an unmasked sse exception
        mov eax, 0x600
        mov cr4, eax
        mov dword ptr [0x180000], 0
        ldmxcsr [0x180000]
        xorps xmm0, xmm0
        divss xmm0, xmm0
case reserved bits of mxcsr
        mov eax, 0x600
        mov cr4, eax
        mov dword ptr [0x180000], 0x10000
        ldmxcsr [0x180000]
case an unaligned sse operand
        mov eax, 0x600
        mov cr4, eax
        movaps xmm0, [0x180004]
case a pending x87 exception
        mov eax, 0x31
        mov cr0, eax
        fninit
        mov word ptr [0x180000], 0x37b
        fldcw [0x180000]
        fld1
        fldz
        fdivp
        inc ebx
        fwait
case rdtsc at level 3 with TSD
        mov eax, 4
        mov cr4, eax
        user
        rdtsc
case an unknown msr
        mov ecx, 0x12345
        rdmsr
case reserved bits of efer
        mov ecx, 0xc0000080
        mov eax, 0x80000000
        wrmsr
case a reserved type in pat
        mov ecx, 0x277
        mov eax, 2
        wrmsr
case pat and mtrr keep their values
        mov ecx, 0x277
        mov eax, 0x01040506
        mov edx, 0x07000607
        wrmsr
        xor eax, eax
        rdmsr
        mov ebx, eax
        mov ecx, 0x2ff
        mov eax, 0xc06
        xor edx, edx
        wrmsr
        xor eax, eax
        rdmsr
        done
case sysenter without a segment
        mov ecx, 0x174
        xor eax, eax
        xor edx, edx
        wrmsr
        sysenter
case sysenter and sysexit
        mov ecx, 0x174
        mov eax, 8
        xor edx, edx
        wrmsr
        mov ecx, 0x175
        mov eax, offset stack_end
        wrmsr
        mov ecx, 0x176
        mov eax, offset 1f
        wrmsr
        user
        sysenter
1:      mov ax, cs
        mov bx, ss
        mov edx, offset 2f
        mov ecx, offset user_end
        sysexit
2:      mov ecx, cs
        mov edx, ss
        done
# ---- encodings that are no instructions ----
.macro bad bytes:vararg
case bytes \bytes
        .byte \bytes
        done
.endm
        bad 0x0f, 0x0b
        bad 0x0f, 0xff, 0xc0
        bad 0x0f, 0xb9, 0xc0
        bad 0xf0, 0x90
        bad 0xf0, 0x01, 0xc0
        bad 0xf0, 0x39, 0x00
        bad 0xf0, 0x8b, 0x00
        bad 0xf0, 0x0f, 0xa3, 0x00
        bad 0xf0, 0xc7, 0x00, 0, 0, 0, 0
        bad 0xf0, 0xff, 0x30
        bad 0xf0, 0x0f, 0x20, 0xc0
        bad 0x8e, 0xc8
        bad 0x8e, 0xf0
        bad 0x8c, 0xf0
        bad 0x8d, 0xc0
        bad 0x62, 0xc0
        bad 0xc5, 0xc0
        bad 0xc4, 0xc0
        bad 0xc6, 0xc8, 0
        bad 0xc7, 0xc8, 0, 0, 0, 0
        bad 0x8f, 0xc8
        bad 0xfe, 0xd0
        bad 0xff, 0xf8
        bad 0xff, 0xd8
        bad 0xff, 0xe8
        bad 0x0f, 0xba, 0xc0, 0
        bad 0x0f, 0xc7, 0xc8
        bad 0x0f, 0x00, 0xf0
        bad 0x0f, 0x01, 0xe8
        bad 0x0f, 0x01, 0xf8
        bad 0x0f, 0x04
        bad 0x0f, 0x0a
        bad 0x0f, 0x0c
        bad 0x0f, 0x24, 0xc0
        bad 0x0f, 0x20, 0xc8
        bad 0x0f, 0x22, 0xf8
        bad 0x0f, 0xae, 0x28
        bad 0x0f, 0x36
        bad 0x0f, 0x39
        bad 0x0f, 0xa6, 0xc0
        bad 0x0f, 0xa7, 0xc0
        bad 0xd6
        bad 0xd9, 0xd1
        bad 0xd9, 0xe2
        bad 0xd9, 0xe6
        bad 0xda, 0xe0
        bad 0xdb, 0xe5
        bad 0xdb, 0xf8
        bad 0xdd, 0xf0
        bad 0xde, 0xd8
        bad 0xdf, 0xe1
        bad 0xdf, 0xf8
        bad 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90
        bad 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90
        bad 0x0f, 0xaa
        bad 0x0f, 0x78, 0xc0
        bad 0x0f, 0x01, 0xc1
        bad 0x0f, 0x01, 0xd9
        bad 0x0f, 0x01, 0xdd
        bad 0x0f, 0x0d, 0x00
        bad 0x0f, 0x0d, 0xc0
        bad 0x0f, 0x18, 0xc0
        bad 0x0f, 0x1f, 0xc0
# ---- virtual-8086 mode ----
# The code lies at 1 MiB: it is copied to 8000h.
.macro v86 name flags
case v86: \name
        virtual \flags
.endm
.macro virtual flags
        mov esi, offset 6f
        mov edi, 0x8000
        mov ecx, 64
        rep movsb
        push 0
        push 0
        push 0x1800
        push 0x1000
        push 0x900
        push 0x1000
        push 0x20002 | \flags
        push 0x800
        push 0
        iretd
.code16
6:
.endm
.macro end86
        int 0x40
.code32
.endm
        v86 cli 0
        cli
        end86
        v86 cli_iopl_3 0x3000
        cli
        mov ax, ss
        end86
        v86 sti_hlt 0x3000
        hlt
        end86
        v86 pushf 0
        pushf
        end86
        v86 pushf_iopl_3 0x3000
        pushf
        pop ax
        end86
        v86 popf_iopl_3 0x3000
        push 0x7fd7
        popf
        pushf
        pop ax
        and ax, 0xf700
        end86
        v86 int 0
        int 0x20
        end86
case v86: int through a 16-bit gate
        small_gate
        virtual 0x3000
        mov ax, 0x700
        mov ds, ax
        int 0x20
1:      mov eax, [esp]
        mov ebx, [esp + 4]
        mov ecx, [esp + 8]
        mov edx, [esp + 12]
        int 0x40
.code32
        v86 int3 0
        int3
        end86
        v86 icebp 0
        .byte 0xf1
        end86
        v86 iret_iopl_3 0x3000
        pushf
        push 0x800
        push 20
        iret
        .fill 13, 1, 0x90
        mov ax, cs
        end86
        v86 lldt 0x3000
        lldt ax
        end86
        v86 lar 0x3000
        lar ax, ax
        end86
        v86 smsw 0
        smsw ax
        end86
        v86 cr0 0x3000
        mov eax, cr0
        end86
        v86 in 0x3000
        in al, 0x81
        end86
        v86 in_allowed 0
        in al, 0x80
        end86
        v86 a_word_at_ffff 0x3000
        mov ax, ds:[0xffff]
        end86
        v86 a_word_at_ffff_of_the_stack 0x3000
        mov bp, 0xffff
        mov ax, [bp]
        end86
        v86 a_32_bit_offset 0x3000
        mov ebx, 0x10000
        mov al, [ebx]
        end86
        v86 segments 0x3000
        mov ax, 0x1234
        mov es, ax
        mov bx, es
        mov cx, cs
        mov dx, ds
        end86
        v86 far_call 0x3000
        call 0x800:20
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        pop ax
        pop bx
        end86
        v86 lock_nop 0x3000
        lock
        nop
        end86
.macro vme name flags
case vme: \name
        mov eax, 1
        mov cr4, eax
        mov esi, offset 6f
        mov edi, 0x8000
        mov ecx, 64
        rep movsb
        # Interrupt 21h stays in the program, 20h goes to the supervisor. Vector 21h leads to 800:30.
        mov dword ptr [0x84], 0x08000030
        mov word ptr [tss + 102], 136
        # So does 40h, which ends the case as a protection fault then.
        mov byte ptr [tss + 104 + 4], 1
        mov byte ptr [tss + 104 + 8], 1
        push 0
        push 0
        push 0x1800
        push 0x1000
        push 0x900
        push 0x1000
        push 0x20002 | \flags
        push 0x800
        push 0
        iretd
.code16
6:
.endm
        vme cli 0x80000
        cli
        end86
        vme sti 0
        sti
        end86
        vme sti_with_an_interrupt_pending 0x100000
        sti
        end86
        vme pushf_shows_vif 0x80000
        pushf
        pop ax
        and ax, 0xf700
        end86
        vme popf_sets_vif 0
        push 0x0202
        popf
        end86
        vme popf_with_tf 0
        push 0x0102
        popf
        end86
        vme popf_with_an_interrupt_pending 0x100000
        push 0x0202
        popf
        end86
        vme popfd 0
        pushfd
        end86
        vme int_20_to_the_supervisor 0x80000
        int 0x20
        end86
        vme icebp_goes_to_the_supervisor 0x80000
        .byte 0xf1
        end86
        vme int_21_stays 0x80000
        int 0x21
        nop
        .fill 45, 1, 0x90
        pop ax
        pop bx
        pop cx
        and cx, 0xf700
        end86
        vme iret 0
        push 0x0202
        push 0x800
        push 30
        iret
        .fill 30, 1, 0x90
        end86
case pvi: cli and sti
        mov eax, 2
        mov cr4, eax
        user
        sti
        pushfd
        pop ebx
        cli
        pushfd
        pop ecx
        done
case pvi: sti with an interrupt pending
        mov eax, 2
        mov cr4, eax
        user 0x100002
        sti
        done
case the end of the list
        done
