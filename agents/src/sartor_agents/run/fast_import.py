"""A commit as a stream for `git fast-import` (git-fast-import(1)), which makes it whole or not at all."""

import io
from collections.abc import Mapping

AUTHOR = "Sartor <sartor@sartor.invalid>"


def commit_stream(
    branch: str, parent: str | None, files: Mapping[str, bytes], message: str, when: float, *, whole: bool
) -> bytes:
    """One commit on `refs/heads/BRANCH`, from `parent` (None: without one), at `when` (Unix s).

    `whole` replaces the tree by `files` instead of adding them to it. The same arguments give the same bytes, in
    whatever order the files come, and so the same commit.
    """
    stream = io.BytesIO()
    text = message.encode()
    stream.write(b"feature done\ncommit refs/heads/%s\n" % branch.encode())
    stream.write(b"committer %s %d +0000\ndata %d\n%s\n" % (AUTHOR.encode(), int(when), len(text), text))
    if parent is not None:
        stream.write(b"from %s\n" % parent.encode())
    if whole:
        stream.write(b"deleteall\n")
    for path, data in sorted(files.items()):
        stream.write(b"M 100644 inline %s\ndata %d\n" % (_quoted(path), len(data)))
        stream.write(data + b"\n")
    stream.write(b"done\n")
    return stream.getvalue()


def _quoted(path: str) -> bytes:
    return b'"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").encode() + b'"'
