"""Where the parts of a run lie."""

from dataclasses import dataclass
from pathlib import Path

from sartor_agents.transcripts.store import TranscriptStore


@dataclass(frozen=True)
class RunLayout:
    """Paths below one run's folder (see docs/architecture.md)."""

    root: Path

    @property
    def manifest(self) -> Path:
        """The file that was asked for, word for word."""
        return self.root / "synthesis.yaml"

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    @property
    def control(self) -> Path:
        """What a human asks of the run (`sartor steer`)."""
        return self.root / "control.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def work(self) -> Path:
        return self.root / "work"

    def worktree(self, round_number: int) -> Path:
        return self.work / f"{round_number:03d}"

    @property
    def sealed(self) -> Path:
        return self.root / "sealed"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def stack(self) -> Path:
        return self.root / "stack"

    @property
    def evidence(self) -> Path:
        """Bundles of confirmed winners, each named by its hash."""
        return self.root / "evidence"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def models(self) -> Path:
        """What the model proxy keeps: where the models are, its books, and the transcripts (`run.model_proxy`)."""
        return self.root / "models"

    def transcripts(self, run: str) -> Path:
        """Of the run's conversations: a file for each step."""
        return TranscriptStore.folder_of(self.models / "transcripts", run)

    @property
    def conversations(self) -> Path:
        """The transcripts as pages, beside the report."""
        return self.root / "conversations"

    @property
    def exchange(self) -> Path:
        """Requests and responses of role processes."""
        return self.root / "exchange"

    def make(self) -> None:
        """Create the folders; what judge and evaluator hold is closed to everybody else."""
        for folder in (self.root, self.work, self.samples, self.logs, self.exchange):
            folder.mkdir(parents=True, exist_ok=True)
        self.sealed.mkdir(mode=0o700, exist_ok=True)
        self.sealed.chmod(0o700)
