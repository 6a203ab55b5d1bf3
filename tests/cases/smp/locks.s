# Locked instructions and orders of memory, by all processors at once. Each sum is that of the rounds of all, each other number zero.
.include "smp/frame.s"
.set ROUNDS, 20000

main:
        call start_others
        mov eax, offset locks
        call all
        say rounds
        mov eax, ROUNDS
        mul dword ptr [cpus]
        call number
        line
        say inc
        show [counter]
        say dec
        mov eax, [fallen]
        neg eax
        call number
        say xadd
        show [added]
        say sub
        mov eax, [taken]
        neg eax
        call number
        line
        say cmpxchg
        show [compared]
        say cmpxchg8b
        show [pair]
        show [pair + 4]
        say byte
        movzx eax, byte ptr [small]
        call number
        say word
        movzx eax, word ptr [small + 2]
        call number
        line
        say bts
        show [under_bit]
        say xchg
        show [under_swap]
        line
        say unaligned
        show [lines + 5]
        say across lines
        show [lines + 62]
        say across pages
        show [pages + 4094]
        line
        say adc carries
        show [carries]
        say own bits lost
        show [lost]
        line
        mov eax, offset in_turns
        call all
        say fences
        mov eax, [in_turn]
        call number
        line
        ret

locks:
        mov ebp, ROUNDS
1:
        lock inc dword ptr [counter]
        lock dec dword ptr [fallen]
        mov eax, 1
        lock xadd [added], eax
        mov eax, 1
        lock sub [taken], eax
        mov eax, [compared]
2:      lea edx, [eax + 1]
        lock cmpxchg [compared], edx
        jne 2b
        # Both halves count, by one instruction.
        push ebx
        mov eax, [pair]
        mov edx, [pair + 4]
2:      lea ebx, [eax + 1]
        lea ecx, [edx + 2]
        lock cmpxchg8b [pair]
        jne 2b
        pop ebx
        lock inc byte ptr [small]
        lock add word ptr [small + 2], 3
        # A critical section by each kind of lock.
2:      lock bts dword ptr [bit_lock], 7
        jnc 4f
3:      pause
        test dword ptr [bit_lock], 0x80
        jnz 3b
        jmp 2b
4:      inc dword ptr [under_bit]
        lock btr dword ptr [bit_lock], 7
2:      mov eax, 1
        xchg [swap_lock], eax
        test eax, eax
        jz 4f
3:      pause
        cmp dword ptr [swap_lock], 0
        jne 3b
        jmp 2b
4:      inc dword ptr [under_swap]
        mov dword ptr [swap_lock], 0
        lock inc dword ptr [lines + 5]
        lock inc dword ptr [lines + 62]
        lock inc dword ptr [pages + 4094]
        # A number of 64 bits in two parts: the carry of the lower half is added to the upper half by who caused it.
        lock add dword ptr [low_half], 0x80000000
        lock adc dword ptr [carries], 0
        # Every processor's own bit comes and goes; those of others in the same word must not take it along.
        lock bts [bits], ebx
        jc 5f
        bt [bits], ebx
        jnc 5f
        lock btc [bits], ebx
        jnc 5f
        bt [bits], ebx
        jnc 6f
5:      lock inc dword ptr [lost]
6:
        dec ebp
        jnz 1b
        ret

# Peterson's lock of the first two processors: it needs a fence between a store and a load of something else.
in_turns:
        cmp ebx, 2
        jae 4f
        mov ebp, ROUNDS
        mov edi, ebx
        xor edi, 1
1:      mov dword ptr [wants + ebx * 4], 1
        mov [whose], edi
        mfence
2:      cmp dword ptr [wants + edi * 4], 0
        je 3f
        cmp [whose], edi
        jne 3f
        pause
        jmp 2b
3:      inc dword ptr [in_turn]
        mov dword ptr [wants + ebx * 4], 0
        dec ebp
        jnz 1b
4:      ret

.section .bss
counter:    .skip 4
fallen:     .skip 4
added:      .skip 4
taken:      .skip 4
compared:   .skip 4
small:      .skip 4
.balign 8
pair:       .skip 8
.balign 64
bit_lock:   .skip 4
under_bit:  .skip 4
swap_lock:  .skip 4
under_swap: .skip 4
low_half:   .skip 4
carries:    .skip 4
bits:       .skip 32
lost:       .skip 4
wants:      .skip 8
whose:      .skip 4
in_turn:    .skip 4
.balign 64
lines:      .skip 128
.balign 4096
pages:      .skip 8192
