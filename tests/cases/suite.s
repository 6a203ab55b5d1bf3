# A multiboot kernel as test suites are: POST codes at ports 80h and 190h; its command line over the first serial port.
# Port F4 ends it.
.intel_syntax noprefix
.section .text
        .align 4
        .long 0x1badb002, 0, -0x1badb002
.global start
start:
        mov al, 1
        out 0x80, al
        mov dx, 0x190
        mov al, 2
        out dx, al
        mov al, 3
        out 0x80, al
        mov esi, [ebx + 16]
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
        jmp 1b
3:      mov al, 0xff
        out 0x80, al
        mov al, 0x10
        out 0xf4, al
        hlt
