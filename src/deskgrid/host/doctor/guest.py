"""A guest of 200 bytes that proves an accelerator: a boot sector, written here byte by byte.

What it does, and what each step proves:
- "1" on the serial port, in real mode: the firmware ran and has started us. This alone proves nothing.
- Page tables, then long mode, then "2": the accelerator runs what every Linux guest begins with.
- An interrupt table, then sleep until the timer has rung three times, then "3": interrupts reach the guest and wake it.
- The debug-exit port: QEMU ends with `EXIT_CODE`, which nothing else gives.

Source: Intel's and AMD's manuals for the bytes; QEMU's isa-debug-exit: writing N ends it with code 2N + 1.
"""

EXIT_PORT = 0xF4
EXIT_CODE = 0x20 * 2 + 1
STEPS = b"123"
SECTOR_BYTES, DISK_BYTES = 512, 1 << 20

_REAL_MODE = (
    ("fa", "cli"),
    ("31 c0", "xor ax, ax"),
    ("8e d8", "mov ds, ax"),
    ("8e c0", "mov es, ax"),
    ("8e d0", "mov ss, ax"),
    ("bc 00 7c", "mov sp, 0x7c00"),
    ("fc", "cld"),
    ("ba f8 03", "mov dx, 0x3f8        ; the first serial port"),
    ("b0 31", "mov al, '1'"),
    ("ee", "out dx, al"),
    ("bf 00 10", "mov di, 0x1000       ; clear 16 KiB for tables"),
    ("b9 00 20", "mov cx, 0x2000"),
    ("31 c0", "xor ax, ax"),
    ("f3 ab", "rep stosw"),
    ("c7 06 00 10 03 20", "mov word [0x1000], 0x2003   ; level 4 -> level 3"),
    ("c7 06 00 20 03 30", "mov word [0x2000], 0x3003   ; level 3 -> level 2"),
    ("c7 06 00 30 83 00", "mov word [0x3000], 0x0083   ; one page of 2 MiB, at its own address"),
    ("66 b8 20 00 00 00", "mov eax, 0x20"),
    ("0f 22 e0", "mov cr4, eax         ; physical address extension"),
    ("66 b8 00 10 00 00", "mov eax, 0x1000"),
    ("0f 22 d8", "mov cr3, eax"),
    ("66 b9 80 00 00 c0", "mov ecx, 0xc0000080  ; EFER"),
    ("0f 32", "rdmsr"),
    ("80 cc 01", "or ah, 1             ; long mode enable"),
    ("0f 30", "wrmsr"),
    ("66 0f 01 16 ba 7c", "lgdt [gdtr]"),
    ("66 b8 01 00 00 80", "mov eax, 0x80000001"),
    ("0f 22 c0", "mov cr0, eax         ; paging and protection: long mode begins"),
    ("66 ea 65 7c 00 00 08 00", "jmp 8:long"),
)

_LONG_MODE = (
    ("b8 10 00 00 00", "long: mov eax, 16"),
    ("8e d0", "mov ss, ax"),
    ("8e d8", "mov ds, ax"),
    ("ba f8 03 00 00", "mov edx, 0x3f8"),
    ("b0 32", "mov al, '2'"),
    ("ee", "out dx, al"),
    (
        "c7 04 25 80 40 00 00 00 00 08 00",
        "mov dword [0x4080], 0x80000   ; gate 8, the BIOS's for the timer",
    ),
    ("66 c7 04 25 80 40 00 00 b2 7c", "mov word [0x4080], tick"),
    ("c7 04 25 84 40 00 00 00 8e 00 00", "mov dword [0x4084], 0x8e00     ; an interrupt gate"),
    ("0f 01 1c 25 c0 7c 00 00", "lidt [idtr]"),
    ("31 db", "xor ebx, ebx"),
    ("fb", "sti"),
    ("f4", "wait: hlt"),
    ("83 fb 03", "cmp ebx, 3"),
    ("72 fa", "jb wait"),
    ("fa", "cli"),
    ("b0 33", "mov al, '3'"),
    ("ee", "out dx, al"),
    ("b0 20", "mov al, 0x20"),
    ("e6 f4", "out 0xf4, al         ; QEMU ends"),
    ("f4", "stay: hlt"),
    ("eb fd", "jmp stay"),
    ("ff c3", "tick: inc ebx"),
    ("b0 20", "mov al, 0x20"),
    ("e6 20", "out 0x20, al         ; end of interrupt"),
    ("48 cf", "iretq"),
)

_TABLES = (
    ("17 00 d0 7c 00 00", "gdtr: 3 entries at gdt"),
    ("8f 00 00 40 00 00 00 00 00 00", "idtr: 9 gates at 0x4000"),
    ("00 00 00 00 00 00", "up to a multiple of 8"),
    ("00 00 00 00 00 00 00 00", "gdt: nothing"),
    ("00 00 00 00 00 9a 20 00", "8: code, 64 bits"),
    ("00 00 00 00 00 92 00 00", "16: data"),
)


def boot_sector() -> bytes:
    """The guest, with the mark by which a BIOS knows a boot sector."""
    code = b"".join(bytes.fromhex(part) for part, _ in (*_REAL_MODE, *_LONG_MODE, *_TABLES))
    return code.ljust(SECTOR_BYTES - 2, b"\0") + b"\x55\xaa"


def disk() -> bytes:
    """A disk that a BIOS boots it from."""
    return boot_sector().ljust(DISK_BYTES, b"\0")
