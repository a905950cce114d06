"""What this computer is: its processor and what is known of its virtualisation, its maker, its firmware; Linux.

Rules:
- Asks, changes nothing, never raises for what it finds; what can't be known is None.
- The kernel takes the flags vmx and svm away when the firmware has switched them off; the processor's own word (CPUID,
  which anybody may ask) still has them. Where both can be had, "absent" and "off in firmware" are told apart.

Sources: Intel's manual for CPUID leaf 1, AMD's for leaf 0x80000001; Linux arch/x86/kernel/cpu/feat_ctl.c and amd.c for
the words in the kernel's log; VirtualBox's manual for vboxdrv.
"""

import ctypes
import mmap
import os
import platform
import re
from pathlib import Path

import msgspec

from deskgrid.host.system.process import run

_SECONDS = 5
_DMI = Path("/sys/class/dmi/id")
_OFF = re.compile(
    r"kvm: (?:disabled by bios|support for .* disabled)|VMX .*disabled by BIOS|SVM disabled \(by BIOS\)", re.I
)
_CPUID = bytes.fromhex(
    "53"  # push rbx
    "89 f8"  # mov eax, edi
    "31 c9"  # xor ecx, ecx
    "49 89 f0"  # mov r8, rsi
    "0f a2"  # cpuid
    "41 89 00"  # mov [r8], eax
    "41 89 58 04"  # mov [r8 + 4], ebx
    "41 89 48 08"  # mov [r8 + 8], ecx
    "41 89 50 0c"  # mov [r8 + 12], edx
    "5b"  # pop rbx
    "c3"  # ret
)
_VMX_LEAF, _VMX_BIT = 1, 5
_SVM_LEAF, _SVM_BIT = 0x80000001, 2


class Computer(msgspec.Struct, frozen=True):
    """What `look` found.

    flag: the kernel shows vmx or svm. offered: the processor says that it has it. said_off: the kernel's log says that
    the firmware has switched it off. vboxdrv, kvm_loaded: kernel modules. virtualbox: VBoxManage's version.
    """

    processor: str = ""
    vendor: str = ""
    cpus: int = 1
    flag: bool = False
    hypervised: bool = False
    offered: bool | None = None
    said_off: bool | None = None
    vboxdrv: bool = False
    kvm_loaded: bool = False
    virtualbox: str = ""
    kernel: str = ""
    maker: str = ""
    product: str = ""
    firmware: str = ""


def look(dmi: Path = _DMI) -> Computer:
    """Ask this computer."""
    cpu = _text(Path("/proc/cpuinfo"))
    flags = _field(cpu, "flags").split()
    modules = set(re.findall(r"^(\w+) ", _text(Path("/proc/modules")), re.MULTILINE))
    said = run(["VBoxManage", "--version"], _SECONDS).stdout.strip().splitlines()
    log = run(["dmesg"], _SECONDS)
    return Computer(
        processor=_field(cpu, "model name"),
        vendor=_field(cpu, "vendor_id"),
        cpus=os.cpu_count() or 1,
        flag=bool({"vmx", "svm"} & set(flags)),
        hypervised="hypervisor" in flags,
        offered=_offered(),
        said_off=_OFF.search(log.stdout) is not None if log.ok and log.stdout else None,
        vboxdrv="vboxdrv" in modules,
        kvm_loaded="kvm" in modules or Path("/sys/module/kvm").exists(),
        virtualbox=said[-1] if said else "",
        kernel=f"{platform.system()} {platform.release()}",
        maker=_text(dmi / "sys_vendor").strip(),
        product=_text(dmi / "product_name").strip(),
        firmware=" ".join(f"{_text(dmi / 'bios_vendor').strip()} {_text(dmi / 'bios_version').strip()}".split()),
    )


def _offered() -> bool | None:
    """The processor's own word; None where it can't be asked."""
    if platform.machine() != "x86_64" or os.name != "posix":
        return None
    try:
        highest = cpuid(0x80000000)[0]
        vmx = cpuid(_VMX_LEAF)[2] >> _VMX_BIT & 1
        svm = cpuid(_SVM_LEAF)[2] >> _SVM_BIT & 1 if highest >= _SVM_LEAF else 0
    except (OSError, ValueError):  # memory that can be written and run is forbidden here
        return None
    return bool(vmx or svm)


def cpuid(leaf: int) -> tuple[int, int, int, int]:
    """EAX, EBX, ECX, EDX of the instruction CPUID. Raises: OSError, ValueError, where code can't be made here."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(_CPUID)
        start = ctypes.c_char.from_buffer(page)
        answer = (ctypes.c_uint32 * 4)()
        try:
            ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_void_p)(ctypes.addressof(start))(leaf, answer)
        finally:
            del start
    return answer[0], answer[1], answer[2], answer[3]


def _field(table: str, name: str) -> str:
    match = re.search(rf"^{name}\s*:\s*(.*)$", table, re.MULTILINE)
    return match[1].strip() if match else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
