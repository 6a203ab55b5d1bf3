# Code that one processor writes and others run (Intel SDM volume 3, "Handling Self- and Cross-Modifying Code"). Every number is how often
# something else was seen than the manual says.
.include "smp/frame.s"
.set ROUNDS, 1000
# Those that run on without a PAUSE keep a processor of the host each for their time, so an interrupt for all takes that of several.
.set INTERRUPTS, 100
.set IPI, 0x40
# Pages for code in low memory.
.set PAGES, 0x50000
.set PAGES_END, 0x80000

main:
        mov ecx, 3
        mov edx, offset trap
        call gate
        mov ecx, IPI
        mov edx, offset news
        call gate
        call start_others
        mov dword ptr [serialise], offset by_cpuid
        call handed_over
        say after CPUID
        show [wrong]
        line
        mov dword ptr [serialise], offset by_iret
        call handed_over
        say after IRET
        show [wrong]
        line
        mov dword ptr [serialise], offset by_cr3
        call handed_over
        say after MOV to CR3
        show [wrong]
        line
        mov dword ptr [fresh], 1
        mov dword ptr [serialise], offset by_cpuid
        call handed_over
        say in fresh pages
        show [wrong]
        line
        call across
        say across pages
        show [wrong]
        line
        call interrupted
        say after an interrupt
        show [wrong]
        line
        call patched
        say patched by INT3
        show [wrong]
        line
        mov dword ptr [wrong], 0
        mov eax, offset own
        call all
        say own code on a shared page
        show [wrong]
        line
        mov dword ptr [wrong], 0
        mov dword ptr [data], 0
        mov eax, offset beside
        call all
        say data beside code
        mov eax, ROUNDS
        mul dword ptr [cpus]
        sub eax, [data]
        add eax, [wrong]
        call number
        line
        ret

# Writes `mov eax, EAX; ret` to EDI, in two parts.
write:
        mov byte ptr [edi], 0xb8
        mov [edi + 1], eax
        mov byte ptr [edi + 5], 0xc3
        ret

# The algorithm of the manual: code, then a flag; the others see the flag, serialise, and run the code. The writer runs it too.
handed_over:
        mov dword ptr [wrong], 0
        mov dword ptr [round], 0
        mov dword ptr [place], PAGES + 0x7c
        mov dword ptr [ready], 0
        mov eax, offset follow
        call give
        xor ebp, ebp
1:      inc ebp
        mov dword ptr [seen], 0
        mov edi, [place]
        cmp dword ptr [fresh], 0
        je 2f
        add edi, 0x1000
        cmp edi, PAGES_END
        jb 2f
        sub edi, PAGES_END - PAGES
2:      mov [place], edi
        mov eax, ebp
        call write
        mov [round], ebp
        call edi
        cmp eax, ebp
        je 3f
        lock inc dword ptr [wrong]
3:      call until_seen
        cmp ebp, ROUNDS
        jne 1b
        jmp await
follow:
        xor ebp, ebp
1:      inc ebp
2:      pause
        cmp [round], ebp
        jne 2b
        call [serialise]
        call [place]
        cmp eax, ebp
        je 3f
        lock inc dword ptr [wrong]
3:      lock inc dword ptr [seen]
        cmp ebp, ROUNDS
        jne 1b
        ret

by_cpuid:
        push ebx
        xor eax, eax
        cpuid
        pop ebx
        ret
by_iret:
        pushfd
        push 0x08
        push offset 1f
        iretd
1:      ret
by_cr3:
        xor eax, eax
        mov cr3, eax
        ret

# One instruction that begins on one page and ends on the next.
across:
        mov dword ptr [fresh], 0
        mov dword ptr [wrong], 0
        mov dword ptr [round], 0
        mov dword ptr [serialise], offset by_cpuid
        mov dword ptr [place], PAGES + 0x8000 - 3
        mov eax, offset follow
        call give
        xor ebp, ebp
1:      inc ebp
        mov dword ptr [seen], 0
        mov edi, [place]
        # Numbers that differ on either side of the boundary.
        mov eax, ebp
        call write
        mov [round], ebp
        call until_seen
        cmp ebp, ROUNDS
        jne 1b
        jmp await

# The others run the code all the time. An interrupt tells them of the new one: from their return on they must not run the old one.
interrupted:
        mov dword ptr [wrong], 0
        mov dword ptr [round], 0
        mov edi, PAGES + 0x18
        mov [place], edi
        xor eax, eax
        call write
        mov edi, offset told
        mov ecx, 256
        rep stosd
        mov eax, offset run_on
        call give
        xor ebp, ebp
1:      inc ebp
        mov [PAGES + 0x19], ebp
        mov [round], ebp
        call tell
        cmp ebp, INTERRUPTS
        jne 1b
        mov dword ptr [round], -1
        call tell
        jmp await
run_on:
        sti
1:      mov ebp, [told + ebx * 4]
        cmp ebp, -1
        je 3f
        call [place]
        cmp eax, ebp
        jge 2f
        lock inc dword ptr [wrong]
2:      # Never what has not been written yet.
        cmp eax, INTERRUPTS
        jbe 1b
        lock inc dword ptr [wrong]
        jmp 1b
3:      cli
        ret
# An interrupt for all others, and that they have taken it.
tell:
        mov dword ptr [seen], 0
        mov dword ptr [APIC_ICR], OTHERS + IPI
# Until all others have said that they have.
until_seen:
        mov eax, [cpus]
        dec eax
        jz 2f
1:      pause
        cmp [seen], eax
        jne 1b
2:      ret
news:
        push eax
        mov eax, [round]
        mov [told + ebx * 4], eax
        mov dword ptr [APIC_EOI], 0
        lock inc dword ptr [seen]
        pop eax
        iretd

# As operating systems do it: INT3 over the first byte, the rest, the first byte, and an interrupt after each step. What `told` has:
# 0 either; 1 or 2 this one only; -1 the end.
.set SITE, PAGES + 0x100
patched:
        mov dword ptr [wrong], 0
        mov dword ptr [round], 0
        # nop of five bytes; mov eax, 1; ret; and at 20h: mov eax, 2; ret
        mov dword ptr [SITE], 0x00441f0f
        mov dword ptr [SITE + 4], 0x0001b800
        mov dword ptr [SITE + 8], 0x00c30000
        mov edi, SITE + 0x20
        mov eax, 2
        call write
        mov edi, offset told
        xor eax, eax
        mov ecx, 256
        rep stosd
        mov eax, offset run_patched
        call give
        xor ebp, ebp
1:      inc ebp
        mov dword ptr [round], 0
        call tell
        mov byte ptr [SITE], 0xcc
        call tell
        mov eax, 0x0000001b
        mov dl, 0xe9
        mov ecx, 2
        test ebp, 1
        jnz 2f
        mov eax, 0x0000441f
        mov dl, 0x0f
        mov ecx, 1
2:      mov [SITE + 1], eax
        call tell
        mov [SITE], dl
        mov [round], ecx
        call tell
        cmp ebp, INTERRUPTS / 4
        jne 1b
        mov dword ptr [round], -1
        call tell
        jmp await
run_patched:
        sti
1:      mov ebp, [told + ebx * 4]
        cmp ebp, -1
        je 3f
        mov eax, SITE
        call eax
        # While it was told something else, it may have run either.
        cmp ebp, [told + ebx * 4]
        jne 1b
        test ebp, ebp
        jz 2f
        cmp eax, ebp
        je 1b
        lock inc dword ptr [wrong]
        jmp 1b
2:      dec eax
        cmp eax, 1
        jbe 1b
        lock inc dword ptr [wrong]
        jmp 1b
3:      cli
        ret
# The nop in its place.
trap:
        cmp dword ptr [esp], SITE + 1
        jne unexpected
        mov dword ptr [esp], SITE + 5
        iretd

# Each processor writes code of its own, all of it on one page, and runs it at once.
own:
        mov ebp, ROUNDS
        mov edi, ebx
        shl edi, 4
        add edi, PAGES + 0x2000
1:      mov eax, ebp
        call write
        call edi
        cmp eax, ebp
        je 2f
        lock inc dword ptr [wrong]
2:      dec ebp
        jnz 1b
        ret

# All run the same code, which counts on its own page.
.set BESIDE, PAGES + 0x3000
beside:
        mov ebp, ROUNDS
        test ebx, ebx
        jnz 1f
        # mov eax, 5; lock inc dword ptr [ahead]; ret; the others see the end of it, or wait.
        mov dword ptr [BESIDE + 0x400], 0
        mov dword ptr [BESIDE], 0x000005b8
        mov dword ptr [BESIDE + 4], 0x05fff000
        mov dword ptr [BESIDE + 8], BESIDE + 0x400
        mov byte ptr [BESIDE + 12], 0xc3
        mov dword ptr [BESIDE + 0x500], 1
1:      pause
        cmp dword ptr [BESIDE + 0x500], 1
        jne 1b
2:      mov eax, BESIDE
        call eax
        cmp eax, 5
        je 3f
        lock inc dword ptr [wrong]
3:      inc dword ptr [BESIDE + 0x600 + ebx * 4]
        dec ebp
        jnz 2b
        mov eax, [BESIDE + 0x600 + ebx * 4]
        cmp eax, ROUNDS
        je 4f
        lock inc dword ptr [wrong]
4:      mov eax, [BESIDE + 0x400]
        cmp ebx, 0
        jne 5f
        # The first one counts last: the others' rounds may still come.
        call await
        mov eax, [BESIDE + 0x400]
        mov [data], eax
5:      ret

.section .bss
round:     .skip 4
.balign 64
seen:      .skip 4
.balign 64
place:     .skip 4
serialise: .skip 4
fresh:     .skip 4
wrong:     .skip 4
data:      .skip 4
.balign 64
told:      .skip 1024
