# Over the first serial port: `text` sends the string at ESI, up to a zero; `put` sends AL.
text:
        lodsb
        test al, al
        jz 1f
        call put
        jmp text
put:
        push edx
        push eax
        mov edx, 0x3fd
2:      in al, dx
        test al, 0x20
        jz 2b
        pop eax
        mov edx, 0x3f8
        out dx, al
        pop edx
1:      ret
