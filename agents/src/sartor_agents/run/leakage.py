"""Whether sealed data got out: the run's secrets are looked for in what agents and candidates leave behind.

Looked through are a candidate's files, what building and serving it left in its folder, everything in the run's repository
(messages and notes included, each object once), and the agents' transcripts: their conversations with models, the logs and
messages of planner, implementer and candidate. Judge and evaluator hold the secrets by right, so what they write is not
looked at.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from sartor_agents.run.layout import RunLayout
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.seals import Seals
from sartor_api.search.leaks import LEAKED, Leak, find, find_in_files
from sartor_api.search.records import FailureClass, Verdict

LARGEST = 32 << 20
"""Bytes of one file that are looked through; of a larger one the beginning and the end."""
_TRANSCRIPTS = ("planner", "implementer", "candidate")


class LeakWatch:
    """Looks for the secrets of one run. What was looked through once and cannot change is not looked through again."""

    def __init__(self, layout: RunLayout, repository: RunRepository, seals: Seals) -> None:
        self._layout = layout
        self._repository = repository
        self._seals = seals
        self._seen: set[str] = set()
        self._read: dict[Path, int] = {}

    def secrets(self) -> tuple[str, ...]:
        """What nobody but judge and evaluator may hold: seeds are revealed one by one, their key and the canary are not."""
        return (self._seals.canary, self._seals.key)

    def files(self, files: Mapping[str, bytes], gate: str) -> Verdict | None:
        """A candidate's files, the repository and the transcripts so far."""
        leak = find_in_files(self.secrets(), files) or find(self.secrets(), self._objects())
        leak = leak or find(self.secrets(), self._transcripts())
        return _verdict(gate, leak)

    def folder(self, folder: Path, gate: str) -> Verdict | None:
        """What building and serving a candidate left in its folder, and the transcripts so far."""
        return _verdict(gate, find(self.secrets(), _contents(folder)) or find(self.secrets(), self._transcripts()))

    def _objects(self) -> Iterator[tuple[str, bytes]]:
        for name, path in self._repository.objects(()):
            if name in self._seen:
                continue
            kind, content = self._repository.object(name)
            self._seen.add(name)
            yield f"{path or 'the message'} of {kind} {name[:12]}", content
        self._repository.close()

    def _transcripts(self) -> Iterator[tuple[str, bytes]]:
        logs = (*self._layout.logs.glob("*.log"), *self._layout.exchange.glob("*/*.json"))
        for path in (*sorted(logs), *sorted((self._layout.models / "transcripts").glob("*/*.jsonl"))):
            role = path.parent.name if path.suffix == ".json" else path.stem
            if not (path.suffix == ".jsonl" or role.endswith(_TRANSCRIPTS)) or path.is_symlink():
                continue
            try:
                size = path.stat().st_size
                # A log grows; what stood in it before was looked through, but for a secret that was cut by the end then.
                if (known := self._read.get(path)) == size:
                    continue
                with path.open("rb") as file:
                    file.seek(max(0, (known or 0) - 4096))
                    content = file.read(LARGEST)
            except FileNotFoundError:
                continue  # the model proxy drops the oldest transcripts when it has too much of them
            self._read[path] = size
            yield f"{path.parent.name}/{path.name}", content


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        name = str(path.relative_to(folder))
        with path.open("rb") as file:
            yield name, file.read(LARGEST)
            if path.stat().st_size > LARGEST:
                file.seek(-min(LARGEST, path.stat().st_size - LARGEST), 2)
                yield f"the end of {name}", file.read(LARGEST)


def _verdict(gate: str, leak: Leak | None) -> Verdict | None:
    if leak is None:
        return None
    return Verdict(
        gate=gate,
        passed=False,
        reason=LEAKED,
        message=f"sealed data of this run was found in {leak}; a candidate may know nothing of seeds and sealed prompts",
        failure_class=FailureClass.CANDIDATE,
    )
