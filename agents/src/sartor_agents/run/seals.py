"""Sealed seeds: derived from a key that only the driver reads, committed to by hash before they are used.

The key's own hash is in the run's first commit, so every seed that the run will ever use was settled before its first
round; the hash of each step's seed is committed before that step begins. Both are revealed in the evidence, when the run
has ended. A canary, derived from the key, lies with everything that is sealed, so that a leak is recognised.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

from sartor_agents.run.errors import DamagedRepositoryError
from sartor_agents.run.storage import write_atomic
from sartor_api.search.leaks import canary_of
from sartor_api.search.records import SeedCommitment

KEY_COMMITMENT = "seeds/key.json"
"""Where the run's first commit keeps the hash of the key."""
CANARY_FILE = "canary"


def seed_path(step: str) -> str:
    """Where the commitment to a step's seed stands on `main`."""
    return f"seeds/{step.replace('/', '-')}.json"


def seed_of(key: str, step: str) -> str:
    """The seed of a step from the run's key (hexadecimal): 64 hexadecimal digits. A repeated step has another name."""
    return hmac.new(bytes.fromhex(key), step.encode(), hashlib.sha256).hexdigest()


class Seals:
    """The seeds of one run. A repeated step has another name, so another seed."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the run's sealed folder; key and canary are made at first use."""
        self._path = folder / "key"
        if not self._path.is_file():
            write_atomic(self._path, secrets.token_hex(32).encode(), mode=0o600)
        self.key = self._path.read_text(encoding="ascii").strip()
        planted = folder / CANARY_FILE
        if not planted.is_file():
            write_atomic(planted, (self.canary + "\n").encode(), mode=0o600)

    @property
    def canary(self) -> str:
        """What is planted in sealed data and must be found nowhere else."""
        return canary_of(self.key)

    def seed(self, step: str) -> str:
        """The seed of the step with this id: 64 hexadecimal digits."""
        return seed_of(self.key, step)

    def commitment(self, step: str) -> SeedCommitment:
        """The hash of that seed, without its value."""
        return SeedCommitment.of(self.seed(step), revealed=False)

    def key_commitment(self) -> str:
        """The hash of the key as the first commit keeps it."""
        return SeedCommitment.of(self.key, revealed=False).model_dump_json() + "\n"

    def check(self, committed: str | None) -> None:
        """Raise `DamagedRepositoryError` when the key is not the one that the run's first commit stands for."""
        if (
            committed is None
            or SeedCommitment.model_validate_json(committed).digest != SeedCommitment.of(self.key).digest
        ):
            raise DamagedRepositoryError(
                f"{self._path}: the key of this run's seeds is not the one that was committed to",
                "restore the folder `sealed` from a copy, or start a new run",
            )
