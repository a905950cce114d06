"""What a disk's own first bytes say of it: its form, and whether it leans on anything else.

Rules, told first
- Asked before any program of QEMU's sees the disk: some versions open what a header names while they only look at it.
- A form is known by its mark, never by trial; what has no mark is raw.

Sources: QEMU's docs/interop/qcow2; VMware, Virtual Disk Format 5.0; VirtualBox's VDICore.h; Microsoft's VHD and VHDX.
"""

import os
import struct

HEAD_BYTES = 4096
_VHD_FOOTER_BYTES = 512
_QCOW2_DATA_FILE = 1 << 2
_VDI_MARK = struct.pack("<I", 0xBEDA107F)
_VMDK_MARKS = (b"KDMV", b"COWD")
_VMDK_TEXT = b"# disk descriptorfile"


def form_of(handle: int) -> tuple[str, str]:
    """Return the form of an open disk, and why it may not be read; "" when it may. Raises: OSError."""
    head = os.pread(handle, HEAD_BYTES, 0)
    size = os.fstat(handle).st_size
    tail = os.pread(handle, _VHD_FOOTER_BYTES, max(0, size - _VHD_FOOTER_BYTES))
    return form(head, tail), leaning(head)


def form(head: bytes, tail: bytes) -> str:
    """Return the form by the first bytes and the last 512."""
    if head.startswith(b"QFI\xfb"):
        return "qcow2"
    if head.startswith(_VMDK_MARKS) or _VMDK_TEXT in head.lower():
        return "vmdk"
    if head.startswith(b"vhdxfile"):
        return "vhdx"
    if head[64:68] == _VDI_MARK:
        return "vdi"
    return "vpc" if head.startswith(b"conectix") or tail.startswith(b"conectix") else "raw"


def leaning(head: bytes) -> str:
    """Return on what else a disk leans, by its first bytes; "" when it is whole."""
    if head.startswith(b"QFI\xfb") and len(head) >= 104:
        version, backing = struct.unpack_from(">IQ", head, 4)
        features = struct.unpack_from(">Q", head, 72)[0] if version >= 3 else 0
        if backing or features & _QCOW2_DATA_FILE:
            return "got one that leans on another file, expected a whole one; see qemu-img convert"
    text = _VMDK_TEXT in head.lower() and not head.startswith(_VMDK_MARKS)
    flat = head.startswith(b"KDMV") and len(head) >= 20 and struct.unpack_from("<Q", head, 12)[0] == 0
    if text or flat:
        return "got one in several files, expected a single one; join it with qemu-img convert"
    return ""
