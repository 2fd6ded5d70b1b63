"""Puts a stack from its ConfigMaps onto a volume, and refuses bytes that are not the ones that passed the gates.

Runs as an init container in the image of stacks, which has Python and no Sartor code; this file is its whole program
(`python3 -c`). Standard library only. Exit codes: 0 done, 10 the content is not what the hash says.

    unpack.py PARTS_FOLDER TARGET_FOLDER CONTENT_HASH

PARTS_FOLDER has the parts of a tar.gz, named so that they sort in order. CONTENT_HASH is the SHA-256 over the sorted paths
and contents of the files, each with its length (`sartor_agents.run.content.content_hash`).
"""

import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

CONTENT_CHANGED = 10


def content_hash(files: "dict[str, bytes]") -> str:
    """SHA-256 (hexadecimal) over the sorted paths and contents."""
    total = hashlib.sha256()
    for path in sorted(files):
        name, data = path.encode(), files[path]
        total.update(b"%d:%s%d:" % (len(name), name, len(data)))
        total.update(data)
    return total.hexdigest()


def read(parts: Path) -> "dict[str, bytes]":
    """Path and content of every plain file in the archive."""
    folders = sorted(folder for folder in parts.iterdir() if not folder.name.startswith("."))
    data = b"".join((folder / "part").read_bytes() for folder in folders)
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is None or member.name.startswith("/") or ".." in member.name.split("/"):
                raise ValueError(f"{member.name} is not a plain file below the stack")
            files[member.name] = content.read()
    return files


def main(parts: Path, target: Path, expected: str) -> int:
    try:
        files = read(parts)
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        return complain(f"the archive cannot be read: {error}")
    found = content_hash(files)
    if found != expected:
        return complain(f"the content is {found[:12]}, what passed the gates is {expected[:12]}")
    for path, data in files.items():
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (target / "stack" / "build").mkdir(parents=True, exist_ok=True)
    return 0


def complain(message: str) -> int:
    """Says it on standard error and in the termination message."""
    sys.stderr.write(message + "\n")
    log = Path(os.environ.get("TERMINATION_LOG", "/dev/termination-log"))
    if log.exists():
        log.write_text(message[:4000])
    return CONTENT_CHANGED


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
