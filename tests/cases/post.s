# A 128 KiB ROM as test suites for real mode are: it begins at the reset vector in the copy below 4 GiB, tells how far it is by POST codes
# at ports 80h and 190h, looks for the mark of its lower half, and says the outcome over the
# first serial and the first parallel port. Port F4 ends.
.intel_syntax noprefix
.macro post code
        mov al, \code
        out 0x80, al
        mov dx, 0x190
        out dx, al
.endm

.section .lower, "ax"
        .ascii "lower half"

.section .head, "ax"
.code16
begin:
        cli
        post 1
        # The last code is still in the page register behind port 80h (PIIX3 datasheet, DMA page registers; Debian's QEMU forgets it); no
        # device answers at 190h.
        mov ah, al
        in al, 0x80
        cmp al, ah
        jne bad
        mov dx, 0x190
        in al, dx
        cmp al, 0xff
        jne bad
        post 2
        # The lower half stands at E000:0000.
        mov ax, 0xe000
        mov ds, ax
        cmp dword ptr [0], 0x65776f6c
        jne bad
        post 3
        mov si, offset good - begin
say:
        mov ax, cs
        mov ds, ax
1:      lodsb
        test al, al
        jz 3f
        mov ah, al
        mov dx, 0x3fd
2:      in al, dx
        test al, 0x20
        jz 2b
        mov dx, 0x3f8
        mov al, ah
        out dx, al
        # Printed by a strobe, when the printer is not busy.
        mov dx, 0x379
4:      in al, dx
        test al, 0x80
        jz 4b
        dec dx
        mov al, ah
        out dx, al
        inc dx
        inc dx
        mov al, 0x0d
        out dx, al
        dec al
        out dx, al
        jmp 1b
3:      post 0xff
        mov al, 0x10
        out 0xf4, al
        hlt
bad:
        mov si, offset wrong - begin
        jmp say
good:   .asciz "post: good\n"
wrong:  .asciz "post: bad\n"

.section .reset, "ax"
        # Near jumps leave CS at FFFF0000h: the first instructions run in the copy below 4 GiB, then the far jump leaves it.
        jmp 1f
        .byte 0xf4
1:      .byte 0xea
        .word 0, 0xf000
