"""A wheel and its unpacking: every file is compared with what RECORD says of it (PEP 427)."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from pathlib import Path, PurePosixPath

from noa.sdk import ActionFailed

__all__ = ["unpack_wheel"]

_HASHED = "sha256="
_UNHASHED = ("RECORD", "RECORD.jws", "RECORD.p7s")


def unpack_wheel(wheel: Path, folder: Path) -> int:
    """Unpack a wheel of pure Python into a folder that is new or empty; how many files it has.

    Raises:
        ActionFailed: WHEEL_INVALID: it is damaged, leads out of the folder, or needs more than being unpacked.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            hashes = _record(archive)
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            for name in names:
                _write(folder, name, _verified(name, archive.read(name), hashes))
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise _invalid(f"it cannot be read: {error}") from error
    if missing := sorted(set(hashes) - set(names)):
        raise _invalid(f"RECORD names {missing[0]}, which is not in it")
    return len(names)


def _record(archive: zipfile.ZipFile) -> dict[str, str]:
    """The hash of each file by its name; empty for the files of which there is none."""
    found = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith(".dist-info/RECORD")]
    if len(found) != 1:
        raise _invalid(f"it has {len(found)} files RECORD, expected one")
    metadata = archive.read(found[0].replace("RECORD", "WHEEL")).decode()
    if "Root-Is-Purelib: true" not in metadata:
        raise _invalid("it is not of pure Python: a target folder could not tell for which machine it is")
    rows = csv.reader(io.StringIO(archive.read(found[0]).decode()))
    return {row[0]: row[1] for row in rows if len(row) >= 2}


def _verified(name: str, data: bytes, hashes: dict[str, str]) -> bytes:
    expected = hashes.get(name)
    if expected is None:
        raise _invalid(f"{name} is not in RECORD")
    if not expected and PurePosixPath(name).name in _UNHASHED:
        return data
    found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    if expected != _HASHED + found:
        raise _invalid(f"{name} is not what RECORD says")
    return data


def _write(folder: Path, name: str, data: bytes) -> None:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name:
        raise _invalid(f"{name} leads out of the folder")
    if parts[0].endswith(".data"):
        raise _invalid(f"{name} needs an installer: a release is unpacked only")
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _invalid(why: str) -> ActionFailed:
    return ActionFailed("WHEEL_INVALID", f"the wheel cannot be used: {why}. Build it anew")
