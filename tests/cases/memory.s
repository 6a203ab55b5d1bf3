# Memory that is none, and accesses that are not of one piece: code in devices, in ROM and where nothing is, page tables there, operands,
# instructions and tables across the end of a page that is missing or cannot be written.
.include "frame.s"
.text
# Window of the IOAPIC's registers, through which the low half of its first entry is a device register that keeps what is written.
.set SELECT, 0xfec00000
.set WINDOW, 0xfec00010
.set RAM_END, 64 << 20
.set NOWHERE, 0x10000000

# Puts a value into that register.
.macro register value
        mov dword ptr [SELECT], 0x10
        mov dword ptr [WINDOW], \value
.endm
# Paging: the first 4 MiB as they are; from 400000 on a page, one that is missing, one that is read-only, one more that is missing, and one.
.macro paging
        mov dword ptr [tables], 0x87
        mov dword ptr [tables + 4], offset tables + 0x1007
        mov edi, offset tables + 0x1000
        mov ecx, 1024
        xor eax, eax
        rep stosd
        mov dword ptr [tables + 0x1000], 0x400007
        mov dword ptr [tables + 0x1008], 0x402005
        mov dword ptr [tables + 0x1010], 0x404007
        mov eax, 0x10
        mov cr4, eax
        mov eax, offset tables
        mov cr3, eax
        mov dword ptr [0x400ff8], 0x11111111
        mov dword ptr [0x400ffc], 0x22222222
        mov eax, 0x80010011
        mov cr0, eax
        xor eax, eax
        xor ecx, ecx
        xor edi, edi
.endm
# An instruction or two with paging on; the registers show how far it came, and the last eight bytes of the first page.
.macro across name, insn
        case across: \name
        paging
        mov eax, 0x33333333
        \insn
        mov ecx, [0x400ff8]
        mov edx, [0x400ffc]
        done
.endm
# The same at level 3, whose faults do not need its stack.
.macro user_across name, insn
        case across at level 3: \name
        paging
        user
        mov eax, 0x33333333
        \insn
        mov ecx, [0x400ff8]
        mov edx, [0x400ffc]
        done
.endm

# ---- code ----
case a jump to where nothing is
        mov eax, NOWHERE
        jmp eax
case a call to where nothing is
        mov eax, NOWHERE
        call eax
case code runs off the end of memory
        mov byte ptr [RAM_END - 1], 0x90
        mov eax, RAM_END - 1
        jmp eax
case an instruction that ends where nothing is
        # mov eax, and no constant
        mov byte ptr [RAM_END - 1], 0xb8
        mov ebx, RAM_END - 1
        jmp ebx
case code in a register of a device
        # int3
        register 0x100cc
        mov eax, WINDOW
        jmp eax
case the register of a device changes under the code in it
        # ret
        register 0x100c3
        mov eax, WINDOW
        call eax
        register 0x10040
        mov ebx, WINDOW
        mov dword ptr [WINDOW], 0x100cc
        jmp ebx
case code in read-only memory
        # The first ret of the firmware.
        mov edi, 0xf0000
        mov ecx, 0x10000
        mov al, 0xc3
        repne scasb
        dec edi
        call edi
        mov eax, 1
        xor ecx, ecx
        done
case a store to read-only memory changes nothing
        mov eax, [0xfffffff0]
        not eax
        mov [0xfffffff0], eax
        not eax
        xor eax, [0xfffffff0]
        done
case the local apic over memory
        mov dword ptr [0x300030], 0x11223344
        mov ecx, 0x1b
        rdmsr
        mov esi, eax
        and eax, 0xfff
        or eax, 0x300000
        mov ebx, [0x300030]
        wrmsr
        mov edi, [0x300030]
        mov dword ptr [0x300030], 0
        mov eax, esi
        wrmsr
        mov eax, edi
        mov ecx, [0x300030]
        mov edx, [0xfee00030]
        sub edx, eax
        done
case reserved bits of the base of the local apic
        mov ecx, 0x1b
        rdmsr
        or eax, 0x400
        wrmsr
case a store to where nothing is
        mov dword ptr [NOWHERE], 0
        mov eax, [NOWHERE]
        mov bl, [NOWHERE + 1]
        done
case a doubleword that begins in memory and ends where nothing is
        mov word ptr [RAM_END - 2], 0x5544
        mov eax, [RAM_END - 2]
        mov dword ptr [RAM_END - 1], 0x44332211
        mov bx, [RAM_END - 2]
        done
case locked where nothing is
        mov eax, 1
        lock xadd [NOWHERE], eax
        mov ebx, 2
        xchg [NOWHERE], ebx
        done
case code where a page leads to nothing
        paging
        mov dword ptr [tables + 0x1004], NOWHERE + 7
        mov ebx, 0x401000
        jmp ebx

# ---- page tables ----
case a page table where nothing is
        # All ones: a page at fffff000, which is the end of the firmware.
        paging
        mov dword ptr [tables + 8], NOWHERE + 7
        mov al, [0x800ff0]
        done
case a page directory of PAE where nothing is
        # All ones: reserved bits.
        mov dword ptr [tables], offset tables + 0x1001
        mov dword ptr [tables + 4], 0
        mov dword ptr [tables + 8], NOWHERE + 1
        mov dword ptr [tables + 12], 0
        mov dword ptr [tables + 0x1000], 0x83
        mov dword ptr [tables + 0x1004], 0
        mov dword ptr [tables + 0x1008], 0x200083
        mov dword ptr [tables + 0x100c], 0
        mov eax, 0x20
        mov cr4, eax
        mov eax, offset tables
        mov cr3, eax
        mov eax, 0x80000011
        mov cr0, eax
        mov [0x40000000], eax
        done
case a page table in a device
        # Its fifth entry is the register: accessed and dirty bits are written there.
        mov dword ptr [0x12004], 0x12345678
        register 0x12007
        paging
        mov dword ptr [tables + 8], SELECT + 7
        mov eax, [0x804004]
        mov ebx, cr0
        and ebx, 0x7fffffff
        mov cr0, ebx
        mov ebx, [WINDOW]
        mov ecx, cr0
        or ecx, 0x80000000
        mov cr0, ecx
        mov [0x804008], eax
        and ecx, 0x7fffffff
        mov cr0, ecx
        mov ecx, [WINDOW]
        mov edx, [0x12008]
        done
case tables in read-only memory cannot be marked
        paging
        mov dword ptr [tables + 8], 0xf0007
        mov eax, cr3
        mov cr3, eax
        mov ecx, [0xf0000]
        mov eax, [0x800000]
        xor ecx, [0xf0000]
        xor eax, eax
        done

# ---- across pages ----
        across "mov ebx, [0x400ffd]", "mov ebx, [0x400ffd]"
        across "mov ebx, [0x400ffe]", "mov ebx, [0x400ffe]"
        across "mov bx, [0x400fff]", "mov bx, [0x400fff]"
        across "mov [0x400ffd], eax", "mov [0x400ffd], eax"
        across "mov [0x401ffd], eax", "mov [0x401ffd], eax"
        across "mov [0x402ffd], eax", "mov [0x402ffd], eax"
        across "mov [0x403ffd], eax", "mov [0x403ffd], eax"
        across "add [0x400ffe], eax", "add [0x400ffe], eax"
        across "lock add [0x400ffe], eax", "lock add [0x400ffe], eax"
        across "xchg [0x400ffe], eax", "xchg [0x400ffe], eax"
        across "not dword ptr [0x400ffe]", "not dword ptr [0x400ffe]"
        across "bts dword ptr [0x400ffe], 3", "bts dword ptr [0x400ffe], 3"
        across "cmpxchg [0x400ffe], ebx", "cmpxchg [0x400ffe], ebx"
        across "cmpxchg8b [0x400ffc]", "cmpxchg8b [0x400ffc]"
        across "fld tbyte ptr [0x400ff8]", "fld tbyte ptr [0x400ff8]"
        across "fstp tbyte ptr [0x400ff8]", "fstp tbyte ptr [0x400ff8]"
        across "fnstenv [0x400ff0]", "fnstenv [0x400ff0]"
        across "fnsave [0x400ff8]", "fnsave [0x400ff8]"
        across "fldenv [0x400ff8]", "fldenv [0x400ff8]"
        across "fild qword ptr [0x400ffc]", "fild qword ptr [0x400ffc]"
        across "bound eax, [0x400ffc]", "bound eax, [0x400ffc]"
        across "les ebx, [0x400ffc]", "les ebx, [0x400ffc]"
        across "lgdt [0x400ffc]", "lgdt [0x400ffc]"
        across "sgdt [0x400ffc]", "sgdt [0x400ffc]"
        across "lidt [0x400ffc]", "lidt [0x400ffc]"
        user_across "push eax with esp 0x401002", "mov esp, 0x401002; push eax"
        user_across "pop ebx with esp 0x400ffe", "mov esp, 0x400ffe; pop ebx"
        user_across "pushad with esp 0x401008", "mov esp, 0x401008; pushad"
        user_across "popad with esp 0x400ffc", "mov esp, 0x400ffc; popad"
        user_across "iretd with esp 0x400ffc", "mov esp, 0x400ffc; iretd"
        user_across "retf with esp 0x400ffc", "mov esp, 0x400ffc; retf"
        user_across "ret with esp 0x400ffe", "mov esp, 0x400ffe; ret"
        user_across "call eax with esp 0x401002", "mov esp, 0x401002; call eax"
        user_across "enter 8, 2 with esp 0x401004", "mov esp, 0x401004; enter 8, 2"
        user_across "leave with ebp 0x400ffe", "mov ebp, 0x400ffe; leave"
        user_across "push dword ptr [0x400ffe]", "push dword ptr [0x400ffe]"
        user_across "pop dword ptr [0x400ffe]", "pop dword ptr [0x400ffe]"
        user_across "ljmp [0x400ffc] with esp 0x401004", "mov esp, 0x401004; ljmp [0x400ffc]"
        across "rep movsd with esi 0x400ff8, edi 0x404000, ecx 4", "mov esi, 0x400ff8; mov edi, 0x404000; mov ecx, 4; rep movsd"
        across "rep stosd with edi 0x400ff6, ecx 4", "mov edi, 0x400ff6; mov ecx, 4; rep stosd"
        across "lodsd with esi 0x400ffe", "mov esi, 0x400ffe; lodsd"
        across "cmpsd with esi 0x180000, edi 0x400ffe", "mov esi, 0x180000; mov edi, 0x400ffe; cmpsd"
case across: an instruction into a missing page
        paging
        mov word ptr [0x400ffe], 0xb890
        mov ebx, 0x400ffe
        jmp ebx
case across: an instruction that ends with the page
        paging
        mov word ptr [0x400ffe], 0x40cd
        mov ebx, 0x400ffe
        jmp ebx
case across: a prefix is all that is there
        paging
        mov byte ptr [0x400fff], 0x66
        mov ebx, 0x400fff
        jmp ebx
case across: a branch to a missing page
        paging
        mov ebx, 0x401000
        jmp ebx
case across: a call to a missing page
        paging
        mov ebx, 0x401000
        call ebx
# The descriptor table again, at the end of a page, up to BASE + 1fff.
.macro moved_table base
        mov esi, offset gdt
        mov edi, \base
        mov ecx, 60
        rep movsd
        mov word ptr [0x180000], 0x1fff
        mov dword ptr [0x180002], \base
        lgdt [0x180000]
.endm
case across: a descriptor in a missing page
        paging
        moved_table 0x400f00
        mov eax, 0x100
        mov es, ax
        done
case across: a descriptor in two pages, the second of which is missing
        paging
        moved_table 0x400f04
        mov eax, 0xf8
        mov es, ax
        done
case across: a descriptor of a far jump in a missing page
        paging
        moved_table 0x400f00
        ljmp 0x100, 0
case across: a gate in a missing page
        paging
        mov esi, offset idt
        mov edi, 0x400f00
        mov ecx, 0x40
        rep movsd
        mov word ptr [0x180000], 0x41 * 8 - 1
        mov dword ptr [0x180002], 0x400f00
        lidt [0x180000]
        int 0x20
case across: the accessed bit of a descriptor that cannot be written
        # With CR0.WP the processor may not write it either.
        mov dword ptr [0x402000], 0x0000ffff
        mov dword ptr [0x402004], 0x00cf9200
        paging
        mov dword ptr [tables + 0x1004], 0x401007
        moved_table 0x401f00
        mov eax, 0x100
        mov es, ax
        done
case the end of the list
        done
