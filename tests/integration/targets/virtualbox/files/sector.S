/* Copyright (c) 2026 The minicloud.local authors
 * GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A guest of one sector for VirtualBox's BIOS: it greets on its first serial port, counts the seconds there, and
 * switches its machine off when the power button is pressed.
 */
        .code16
        .globl _start
_start: cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x7c00, %sp
        movw    $hello, %si
        call    say
        movw    $0x442e, %dx            /* ACPI on: the machine's SMI port takes 0xa1 */
        movb    $0xa1, %al
        outb    %al, %dx
        sti
next:   movb    $18, %cl                /* ticks of the BIOS's clock in about a second */
sleep:  hlt
        movw    $0x4000, %dx            /* PM1 status: bit 8 is the power button */
        inw     %dx, %ax
        testb   $1, %ah
        jnz     off
        decb    %cl
        jnz     sleep
        movw    $dot, %si
        call    say
        jmp     next
off:    movw    $bye, %si
        call    say
        movw    $0x4004, %dx            /* PM1 control: sleep enable, type S5 */
        movw    $0x3400, %ax
        outw    %ax, %dx
end:    hlt
        jmp     end

say:    lodsb
        testb   %al, %al
        jz      said
        movb    %al, %bl
        movw    $0x3fd, %dx             /* line status: bit 5 tells that there is room for a byte */
wait:   inb     %dx, %al
        testb   $0x20, %al
        jz      wait
        movb    %bl, %al
        movw    $0x3f8, %dx
        outb    %al, %dx
        jmp     say
said:   ret

hello:  .asciz  "hello from one sector\r\n"
dot:    .asciz  "."
bye:    .asciz  "power button\r\n"
        .org    510
        .word   0xaa55
