"""Small root trees as tars, made by hand."""

import io
import tarfile
from pathlib import Path

EPOCH = 1735689600


def member(path: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.mtime = kind, mode, EPOCH + 5000
    for key, value in more.items():
        setattr(info, key, value)
    return info


def write(path: Path, *files: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in files:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def folder(path: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(path, tarfile.DIRTYPE, 0o755), b""


def plain(path: str, data: bytes = b"x", **more: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(path, **more), data  # type: ignore[arg-type]
