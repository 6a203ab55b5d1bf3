# Interrupts between processors. Each number is how many were taken: of the fixed ones by processors that sleep, then by some that run.
.include "smp/frame.s"
.set COUNT, 0x50
.set PASS, 0x51
.set TICK, 0x52
.set LAPS, 50
.set LOWEST, 20
.set TICKS, 3

main:
        mov ecx, COUNT
        mov edx, offset count
        call gate
        mov ecx, PASS
        mov edx, offset pass
        call gate
        mov ecx, TICK
        mov edx, offset tick
        call gate
        mov ecx, 0x53
        mov edx, offset wake_up
        call gate
        mov ecx, 2
        mov edx, offset nmi
        call gate
        call start_others
        mov eax, offset name
        call all
        say to sleepers:
        mov eax, offset sleep
        call give
        call fixed
        say to runners:
        mov eax, offset run
        call give
        call fixed
        # With interrupts off.
        mov eax, offset closed
        call give
        mov eax, [cpus]
        dec eax
        jz 2f
        # Nobody else is meant by a command that an idle processor has not come to yet.
        mov dword ptr [APIC_ICR], OTHERS + NMI
2:      call settle
        say NMI
        show [hits]
        mov dword ptr [stop], 1
        call await
        mov dword ptr [stop], 0
        mov dword ptr [hits], 0
        say ring
        mov eax, offset sleep
        call give
        mov eax, [cpus]
        imul eax, eax, LAPS
        mov [left], eax
        # The first one passes it on to the second, and so on.
        mov eax, 0x00044000 + PASS
        mov [APIC_ICR], eax
1:      call idle
        cmp dword ptr [left], 0
        jne 1b
        call wake
        show [hits]
        mov dword ptr [hits], 0
        say timers
        mov eax, offset timer
        call all
        show [ticks]
        line
        ret

# Logical addresses.
name:
        mov ecx, ebx
        and ecx, 7
        mov eax, 0x01000000
        shl eax, cl
        mov [APIC_LDR], eax
        ret

# Fixed interrupts of every address. The others take them, unless they end in between.
fixed:
        mov dword ptr [hits], 0
        mov ebp, [cpus]
        dec ebp
        # Each by its number.
        mov edi, ebp
1:      test edi, edi
        jz 2f
        mov eax, edi
        shl eax, 24
        mov [APIC_ICR_TO], eax
        mov dword ptr [APIC_ICR], 0x4000 + COUNT
        dec edi
        jmp 1b
2:      mov eax, ebp
        call expect
        say numbers
        call result
        # By logical addresses, which eight may share, but for the one of the sender.
        mov dword ptr [APIC_ICR_TO], 0xfe000000
        mov dword ptr [APIC_ICR], 0x4800 + COUNT
        lea eax, [ebp + 8]
        shr eax, 3
        sub eax, ebp
        dec eax
        neg eax
        call expect
        say names
        call result
        mov eax, ebp
        test eax, eax
        jz 2f
        mov dword ptr [APIC_ICR], OTHERS + COUNT
2:      call expect
        say others
        call result
        sti
        mov dword ptr [APIC_ICR], 0x00084000 + COUNT
        lea eax, [ebp + 1]
        call expect
        say all
        call result
        mov dword ptr [APIC_ICR], 0x00044000 + COUNT
        mov eax, 1
        call expect
        say self
        call result
        # One of all takes each of these.
        mov edi, LOWEST
1:      mov dword ptr [APIC_ICR_TO], 0xff000000
        mov dword ptr [APIC_ICR], 0x4900 + COUNT
        mov eax, LOWEST + 1
        sub eax, edi
        call expect
        dec edi
        jnz 1b
        cli
        say lowest
        call result
        call wake
        line
        ret
# Until there were EAX.
expect:
1:      pause
        cmp [hits], eax
        jb 1b
        ret
result:
        show [hits]
        mov dword ptr [hits], 0
        ret
# Until all others have taken the one that is on its way.
settle:
        mov eax, [cpus]
        dec eax
        jmp expect

# Ends what the others do.
wake:
        mov dword ptr [stop], 1
        cmp dword ptr [cpus], 1
        je 1f
        mov dword ptr [APIC_ICR], OTHERS + 0x53
1:      call await
        mov dword ptr [stop], 0
        ret

sleep:
        cli
        cmp dword ptr [stop], 0
        jne 2f
        call idle
        jmp sleep
2:      ret
# Sleeps with interrupts on; they come after HLT has begun.
idle:
        sti
        hlt
        cli
        ret
run:
        sti
1:      cmp dword ptr [stop], 0
        je 1b
        cli
        ret
closed:
1:      pause
        cmp dword ptr [stop], 0
        je 1b
        ret

count:
        lock inc dword ptr [hits]
wake_up:
        mov dword ptr [APIC_EOI], 0
        iretd
nmi:
        lock inc dword ptr [hits]
        iretd
# To the next one.
pass:
        push eax
        lock inc dword ptr [hits]
        mov dword ptr [APIC_EOI], 0
        dec dword ptr [left]
        jz 2f
        lea eax, [ebx + 1]
        cmp eax, [cpus]
        jb 1f
        xor eax, eax
1:      shl eax, 24
        mov [APIC_ICR_TO], eax
        mov dword ptr [APIC_ICR], 0x4000 + PASS
        pop eax
        iretd
        # The first one sleeps for it.
2:      mov dword ptr [APIC_ICR_TO], 0
        mov dword ptr [APIC_ICR], 0x4000 + 0x53
        pop eax
        iretd

# Each processor's own timer, by one.
timer:
        xor edi, edi
        mov dword ptr [own + ebx * 4], 0
1:      inc edi
        mov dword ptr [APIC + 0x3e0], 0xb
        mov dword ptr [APIC + 0x320], TICK
        mov dword ptr [APIC + 0x380], 200000
        # Something else may still be on its way and end the sleep.
2:      call idle
        cmp [own + ebx * 4], edi
        jne 2b
        cmp edi, TICKS
        jb 1b
        mov eax, [own + ebx * 4]
        lock add [ticks], eax
        ret
tick:
        inc dword ptr [own + ebx * 4]
        mov dword ptr [APIC_EOI], 0
        iretd

.section .bss
hits:   .skip 4
stop:   .skip 4
left:   .skip 4
ticks:  .skip 4
own:    .skip 1024
