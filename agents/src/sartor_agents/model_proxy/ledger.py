"""What was reserved and what was paid, and the recorded answers, in one SQLite file.

The order of writes is what makes a kill at any instant harmless: 1. the worst case is reserved (committed), 2. the provider
is asked, 3. usage and answer are recorded together (committed). Killed before 1, nothing happened; between 1 and 3, the
reservation is charged in full when the proxy starts again, since what was spent is unknown; after 3, the same call gets the
recorded answer and nothing is paid. A reservation that a budget does not allow is not made, so budgets cannot be overdrawn
by calls in flight.

Money is kept in thousand-millionths of the currency, so that sums are exact.
"""

import contextlib
import sqlite3
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from sartor_agents.backends.conversation.accounting import TokenUse
from sartor_agents.run.storage import storage_errors
from sartor_api.search.grants import Allowance, Grant

NANO = 1_000_000_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL, id TEXT NOT NULL, role TEXT NOT NULL, step TEXT NOT NULL, model TEXT NOT NULL, api TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'recorded', 'failed', 'lost')),
    tokens INTEGER NOT NULL, money INTEGER NOT NULL,
    input INTEGER NOT NULL DEFAULT 0, cached_input INTEGER NOT NULL DEFAULT 0,
    output INTEGER NOT NULL DEFAULT 0, reasoning INTEGER NOT NULL DEFAULT 0,
    estimated INTEGER NOT NULL DEFAULT 0, endpoint TEXT NOT NULL DEFAULT '',
    begun REAL NOT NULL, ended REAL,
    status INTEGER, content_type TEXT, request BLOB, answer BLOB
);
CREATE UNIQUE INDEX IF NOT EXISTS one_answer ON calls (run, id) WHERE state IN ('open', 'recorded');
CREATE INDEX IF NOT EXISTS by_run ON calls (run, role, step);
"""


class BudgetError(Exception):
    """A budget does not allow the call; the message says which, what is spent of it and what the call could take."""


@dataclass(frozen=True)
class Recorded:
    """An answer as it came: what the provider sent, byte for byte."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Spent:
    """Tokens, and money in thousand-millionths; reservations of calls under way included."""

    tokens: int = 0
    money: int = 0

    @property
    def amount(self) -> Decimal:
        return Decimal(self.money) / NANO


@dataclass(frozen=True)
class Exchange:
    """One recorded call with its request, for replaying."""

    run: str
    step: str
    id: str
    api: str
    model: str
    request: bytes
    answer: Recorded


class Ledger:
    """Opened by one process at a time; calls of another life that were under way are charged as lost."""

    def __init__(self, path: Path, *, recorded_bytes: int = 512 << 20) -> None:
        self._recorded_bytes = recorded_bytes
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)
        lost = self._db.execute("UPDATE calls SET state = 'lost', ended = begun, request = NULL WHERE state = 'open'")
        self.lost = lost.rowcount
        """Calls that were under way when the last life ended."""

    def close(self) -> None:
        self._db.close()

    # --- one call -----------------------------------------------------------------------------------------------------

    def reserve(
        self, grant: Grant, call: str, *, model: str, api: str, tokens: int, money: int, request: bytes, now: float
    ) -> int | Recorded:
        """Reserve the worst case of a call and give its number, or the answer that was recorded under its name.

        Raises `BudgetError`; then nothing was reserved.
        """
        with self._transaction():
            known = self._db.execute(
                "SELECT state, status, content_type, answer FROM calls "
                "WHERE run = ? AND id = ? AND state IN ('open', 'recorded')",
                (grant.run, call),
            ).fetchone()
            if known is not None:
                assert known[0] == "recorded", "a call that is under way is joined, not reserved again"
                if known[3] is not None:
                    return Recorded(known[1], known[2], zlib.decompress(known[3]))
                # Recorded long ago and dropped for room: it is asked for again, and paid again.
                self._db.execute(
                    "UPDATE calls SET state = 'failed' WHERE run = ? AND id = ? AND state = 'recorded'",
                    (grant.run, call),
                )
            self._check(grant, tokens, money)
            made = self._db.execute(
                "INSERT INTO calls (run, id, role, step, model, api, state, tokens, money, begun, request) "
                "VALUES (?, ?, ?, ?, ?, ?, 'open', ?, ?, ?, ?)",
                (grant.run, call, grant.role, grant.step, model, api, tokens, money, now, zlib.compress(request)),
            )
            assert made.lastrowid is not None, "a row was inserted"
            return made.lastrowid

    def _check(self, grant: Grant, tokens: int, money: int) -> None:
        scopes: tuple[tuple[str, Allowance, Spent], ...] = (
            (f"step {grant.step}", grant.of_step, self.spent(grant.run, step=grant.step)),
            (f"role {grant.role}", grant.of_role, self.spent(grant.run, role=grant.role)),
            (f"run {grant.run}", grant.of_run, self.spent(grant.run)),
        )
        for name, allowance, spent in scopes:
            if allowance.tokens is not None and spent.tokens + tokens > allowance.tokens:
                raise BudgetError(
                    f"the tokens of {name} are spent: {spent.tokens:,} of {allowance.tokens:,} are used, and this call "
                    f"could take {tokens:,}"
                )
            if allowance.money is not None and spent.money + money > allowance.money * NANO:
                raise BudgetError(
                    f"the money of {name} is spent: {spent.amount:.4f} of {allowance.money:.4f} is used, and this call "
                    f"could take {Decimal(money) / NANO:.4f}"
                )

    def lose(self, run: str, call: str, *, now: float) -> None:
        """Charge a call that is open, and that nobody works on any more, with all that was reserved for it."""
        self._db.execute(
            "UPDATE calls SET state = 'lost', ended = ?, request = NULL WHERE run = ? AND id = ? AND state = 'open'",
            (now, run, call),
        )

    def record(
        self, number: int, use: TokenUse, money: int, answer: Recorded, *, endpoint: str, estimated: bool, now: float
    ) -> None:
        """Replace the reservation by what the call cost, together with its answer."""
        with self._transaction():
            self._settle(number, "recorded", use, money, endpoint, estimated, now)
            self._db.execute(
                "UPDATE calls SET status = ?, content_type = ?, answer = ? WHERE number = ?",
                (answer.status, answer.content_type, zlib.compress(answer.body), number),
            )
            self._make_room(number)

    def fail(self, number: int, use: TokenUse, money: int, *, endpoint: str, now: float) -> None:
        """The call gave no answer; `use` and `money` are what it is charged with. It may be made again."""
        with self._transaction():
            self._settle(number, "failed", use, money, endpoint, bool(use.total), now)
            # Only a recorded call is replayed; the requests of the others would fill the disk in a long outage.
            self._db.execute("UPDATE calls SET request = NULL WHERE number = ?", (number,))

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _settle(
        self, number: int, state: str, use: TokenUse, money: int, endpoint: str, estimated: bool, now: float
    ) -> None:
        self._db.execute(
            "UPDATE calls SET state = ?, tokens = ?, money = ?, input = ?, cached_input = ?, output = ?, reasoning = ?, "
            "estimated = ?, endpoint = ?, ended = ? WHERE number = ? AND state = 'open'",
            (
                state, use.total, money, use.input, use.cached_input, use.output, use.reasoning, int(estimated), endpoint,
                now, number,
            ),
        )  # fmt: skip

    def _make_room(self, newest: int) -> None:
        """Drop the oldest answers beyond `recorded_bytes`; what was paid stays in the books."""
        held = self._db.execute("SELECT coalesce(sum(length(answer) + length(request)), 0) FROM calls").fetchone()[0]
        if held <= self._recorded_bytes:
            return
        for number, size in self._db.execute(
            "SELECT number, length(answer) + length(request) FROM calls WHERE answer IS NOT NULL AND number <> ? "
            "ORDER BY number",
            (newest,),
        ).fetchall():
            if held <= self._recorded_bytes:
                return
            self._db.execute("UPDATE calls SET answer = NULL, request = NULL WHERE number = ?", (number,))
            held -= size

    # --- the books ----------------------------------------------------------------------------------------------------

    def spent(self, run: str, *, role: str | None = None, step: str | None = None, since: float = 0.0) -> Spent:
        """What was paid and is reserved, of a run, of a role in it, or of a step; of calls begun at `since` or later."""
        row = self._db.execute(
            "SELECT coalesce(sum(tokens), 0), coalesce(sum(money), 0) FROM calls WHERE run = ? "
            "AND (? IS NULL OR role = ?) AND (? IS NULL OR step = ?) AND begun >= ?",
            (run, role, role, step, step, since),
        ).fetchone()
        return Spent(int(row[0]), int(row[1]))

    def runs(self) -> tuple[str, ...]:
        return tuple(row[0] for row in self._db.execute("SELECT DISTINCT run FROM calls ORDER BY run"))

    def exchanges(self, run: str) -> Iterator[Exchange]:
        """The recorded calls of a run whose answers are still there, in order."""
        rows = self._db.execute(
            "SELECT run, step, id, api, model, request, status, content_type, answer FROM calls "
            "WHERE run = ? AND state = 'recorded' AND answer IS NOT NULL ORDER BY number",
            (run,),
        )
        for row in rows:
            yield Exchange(
                *row[:5], request=zlib.decompress(row[5]), answer=Recorded(row[6], row[7], zlib.decompress(row[8]))
            )
