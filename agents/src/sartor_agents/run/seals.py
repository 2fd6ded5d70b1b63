"""Sealed seeds: derived from a key that only the driver reads, committed to by hash before they are used."""

import hashlib
import hmac
import secrets
from pathlib import Path

from sartor_agents.run.storage import write_atomic
from sartor_api.search.records import SeedCommitment


class Seals:
    """The seeds of one run. A repeated step has another name, so another seed."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the run's sealed folder; the key is made at first use."""
        self._path = folder / "key"
        if not self._path.is_file():
            write_atomic(self._path, secrets.token_hex(32).encode(), mode=0o600)
        self._key = bytes.fromhex(self._path.read_text(encoding="ascii"))

    def seed(self, step: str) -> str:
        """The seed of the step with this id: 64 hexadecimal digits."""
        return hmac.new(self._key, step.encode(), hashlib.sha256).hexdigest()

    def commitment(self, step: str) -> SeedCommitment:
        """The hash of that seed, without its value."""
        return SeedCommitment.of(self.seed(step), revealed=False)
