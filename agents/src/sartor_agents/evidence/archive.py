"""A bundle as bytes: a plain tar whose every byte follows from the files in it, so that its hash is its name.

Sorted names, no times, no owners, no compression: what is unpacked is never larger than what was given, so no archive can
blow up, and a bundle that differs from what packing its own files again gives (a flipped bit in a header, bytes after the
end, a second file of the same name) is refused as a whole.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from sartor_agents.evidence.errors import BundleUnreadableError, EvidenceError

LARGEST = 1 << 30
"""Bytes of a bundle."""
MOST_FILES = 6_000
FOLDERS = frozenset({"stack", "parent", "model", "steps"})
FILES = frozenset({"provenance.json", "provenance.dsse.json", "run.json", "seeds.json", "diff.patch", "history.git"})
_PART = re.compile(r"[^\x00-\x1f\x7f\\]+")


def pack(files: Mapping[str, bytes]) -> bytes:
    """The tar of these files by path. Raises `EvidenceError` for a path that no bundle has, or too much of it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(files):
            if (problem := _bad_path(path)) is not None:
                raise EvidenceError(problem)
            member = tarfile.TarInfo(path)
            member.size = len(files[path])
            tar.addfile(member, io.BytesIO(files[path]))
    content = out.getvalue()
    if len(content) > LARGEST or len(files) > MOST_FILES:
        raise EvidenceError(
            f"the bundle would have {len(files)} files and {len(content) >> 20} MiB; "
            f"at most {MOST_FILES} files and {LARGEST >> 20} MiB are allowed"
        )
    return content


def unpack(content: bytes) -> dict[str, bytes]:
    """The files of a bundle by path, nothing written anywhere. Raises `BundleUnreadableError`."""
    if len(content) > LARGEST:
        raise BundleUnreadableError(f"the bundle has {len(content) >> 20} MiB; at most {LARGEST >> 20} are read")
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                if not member.isreg() or member.issparse():
                    raise BundleUnreadableError(f"{member.name!r} is not a plain file; a bundle holds nothing else")
                if (problem := _bad_path(member.name)) is not None:
                    raise BundleUnreadableError(problem)
                if member.name in files:
                    raise BundleUnreadableError(f"{member.name!r} is in the bundle twice")
                if len(files) >= MOST_FILES:
                    raise BundleUnreadableError(f"the bundle has more than {MOST_FILES} files")
                file = tar.extractfile(member)
                data = file.read() if file is not None else b""
                if len(data) != member.size:
                    raise BundleUnreadableError(f"the bundle is cut off within {member.name!r}")
                files[member.name] = data
    except (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError, MemoryError) as error:
        raise BundleUnreadableError(f"the bundle is no tar archive, or a damaged one: {error}") from None
    if not files:
        raise BundleUnreadableError("the bundle is empty")
    if pack(files) != content:
        raise BundleUnreadableError(
            "the archive is not as Sartor packs it: headers or padding were changed, it was cut off, or something follows"
        )
    return files


def read(path: Path) -> bytes:
    """The bytes of a bundle's file. Raises `BundleUnreadableError` before anything large is read."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise BundleUnreadableError(f"{path} is not a file")
        if size > LARGEST:
            raise BundleUnreadableError(f"{path} has {size >> 20} MiB; at most {LARGEST >> 20} are read")
        return path.read_bytes()
    except OSError as error:
        raise BundleUnreadableError(f"{path} cannot be read: {error.strerror}") from None


def digest(content: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _bad_path(path: str) -> str | None:
    parts = PurePosixPath(path).parts
    sound = (
        path == "/".join(parts)
        and all(_PART.fullmatch(part) and part not in (".", "..") for part in parts)
        and not path.startswith("/")
        and (path in FILES if len(parts) == 1 else bool(parts) and parts[0] in FOLDERS)
    )
    return None if sound else f"{path!r} is no path that a bundle has"
