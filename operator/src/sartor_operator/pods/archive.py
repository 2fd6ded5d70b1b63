"""A stack as ConfigMaps: one deterministic archive, cut into parts that the API server takes, and an index.

An object in etcd may have 1 MiB of data. The archive is compressed, so a stack of ordinary source (some hundred kilobytes)
is one part. `MOST_PARTS` bounds it; beyond that the clear path is an image or git (`spec.delivery.mode`), and the refusal
says so.
"""

import base64
import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence

from sartor_api.search.leaks import find_in_files
from sartor_api.search.records import FailureClass
from sartor_operator import names
from sartor_operator.kinds import Manifest
from sartor_operator.pods.unpack import content_hash
from sartor_operator.wire import StackIndex, StackPart, failed

PART_BYTES = 900 * 1024
MOST_PARTS = 8
INDEX_KEY = "index.json"
PART_KEY = "part"


def archive(files: Mapping[str, bytes]) -> bytes:
    """A tar.gz of the files, the same bytes for the same files: sorted, no times, no owners."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(files):
            member = tarfile.TarInfo(path)
            member.size = len(files[path])
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(files[path]))
    return gzip.compress(plain.getvalue(), compresslevel=6, mtime=0)


def extract(data: bytes) -> dict[str, bytes]:
    """The plain files of a tar (compressed or not). Raises `tarfile.TarError` or `ValueError`."""
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as tar:
        for member in tar:
            if member.isdir():
                continue
            content = tar.extractfile(member) if member.isfile() else None
            if content is None:
                raise ValueError(f"{member.name} is not a plain file")
            files[member.name.removeprefix("./")] = content.read()
    return files


def index_of(
    commit: str, expected_hash: str, files: Mapping[str, bytes], name: str, secrets: Sequence[str] = ()
) -> tuple[StackIndex, list[bytes]]:
    """The index of a stack and its parts, or an index that says what is wrong with it: one that holds `secrets`, say."""
    found = content_hash(dict(files))
    if found != expected_hash:
        message = f"commit {commit[:12]} holds the content {found[:12]}, committed was {expected_hash[:12]}"
        return refused(commit, expected_hash, "ContentChanged", message), []
    if secrets and (leak := find_in_files(secrets, files)) is not None:
        return refused(commit, expected_hash, "SealedDataLeaked", f"sealed data of this run was found in {leak}"), []
    data = archive(files)
    parts = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
    if len(parts) > MOST_PARTS:
        message = (
            f"the stack is {len(data) >> 10} KiB compressed; at most {MOST_PARTS * PART_BYTES >> 10} KiB fit into "
            "ConfigMaps. Keep generated data out of stack/, or deliver with spec.delivery.mode git or an image"
        )
        return refused(commit, expected_hash, "StackTooLarge", message), []
    index = StackIndex(
        commit=commit,
        content_hash=expected_hash,
        archive_sha256=hashlib.sha256(data).hexdigest(),
        files=len(files),
        bytes=len(data),
        # A name says the content: a part that another version of the operator packed otherwise is another part.
        parts=tuple(
            StackPart(name=f"{name}-{number:02d}-{hashlib.sha256(part).hexdigest()[:8]}", bytes=len(part))
            for number, part in enumerate(parts)
        ),
    )
    return index, parts


def refused(commit: str, expected_hash: str, reason: str, message: str) -> StackIndex:
    """An index without a stack."""
    problem = failed("content", reason, message, FailureClass.CANDIDATE)
    return StackIndex(commit=commit, content_hash=expected_hash, problem=problem)


def part_manifest(owner: Manifest, name: str, data: bytes) -> Manifest:
    """The immutable ConfigMap of one part. It carries no label that the operator watches."""
    meta = names.metadata(name, owner, {names.MANAGED_BY: names.ARTEFACT})
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta,
        "immutable": True,
        "binaryData": {PART_KEY: base64.b64encode(data).decode()},
    }


def index_manifest(owner: Manifest, name: str, labels: dict[str, str], index: StackIndex) -> Manifest:
    """The immutable ConfigMap that makes a stack count: it is written after its parts."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": names.metadata(name, owner, {names.PART_LABEL: names.STACK, **labels}),
        "immutable": True,
        "data": {INDEX_KEY: index.model_dump_json()},
    }
