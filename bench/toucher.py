"""A program for guests that touches memory fast: under emulation busybox would need minutes for 8 GiB.

It is compiled here with gcc, linked statically; where there is no gcc, guests fill a tmpfs, a tenth as fast.
"""

import shutil
import subprocess
from pathlib import Path

# Half the work of touching is the guest kernel's clearing of pages: in large pages, by plain stores (see WORDS).
_SOURCE = """
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* MiB, file: touch so many, make the file, keep them. */
int main(int count, char **words)
{
    size_t bytes = count == 3 ? strtoull(words[1], 0, 10) << 20 : 0;
    char *memory = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 1;
    madvise(memory, bytes, MADV_HUGEPAGE);
    for (size_t at = 0; at < bytes; at += 4096)
        memory[at] = 1;
    close(open(words[2], O_CREAT | O_WRONLY, 0600));
    for (;;)
        pause();
}
"""
WORDS = "transparent_hugepage=always clearcpuid=erms,fsrm,rep_good"
"""For the guest kernel's command line: emulated string instructions are slow."""


def toucher(folder: Path) -> bytes | None:
    """The program, compiled in this folder; None when that can't be done here."""
    if shutil.which("gcc") is None:
        return None
    source, program = folder / "touch.c", folder / "touch"
    source.write_text(_SOURCE)
    done = subprocess.run(
        ["gcc", "-O2", "-static", "-o", str(program), str(source)], capture_output=True, timeout=60, check=False
    )
    if done.returncode:
        return None
    content = program.read_bytes()
    source.unlink()
    program.unlink()
    return content
