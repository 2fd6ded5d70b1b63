"""From `kubectl apply` to the end of the rollout, with users at the Gateway.

Users come as soon as the route is accepted with everything on the baseline, and stay a little longer than the rollout: what
moves traffic has to be seen doing it under load. What decides here is what the cluster says, as it comes.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sartor_demo import show
from sartor_demo.board import Board, View
from sartor_demo.errors import DemoError
from sartor_demo.follow import Events, Json, News, over, phase_of, stuck
from sartor_demo.load import Load, outcome_of
from sartor_demo.slow import STANDS
from sartor_demo.traffic import STREAM_TOKENS, STREAMS, WORDS, Plan
from sartor_devcluster import DevCluster

PROMOTED, ROLLED_BACK, ERROR = "Promoted", "RolledBack", "Error"
_WITH_ROLLOUT = ("RollingOut", "Serving", ROLLED_BACK)
LOOKS = 0.5
"""Seconds between two looks at the access log while nothing else happens."""
STAYS = 10.0
"""How long users stay after the rollout has ended (seconds)."""
STUCK_SECONDS = 20.0
"""How long a synthesis says that somebody must act before that is believed."""
EDITED = tuple(f"{word} {number}:" for number, word in enumerate(WORDS[:6]))
"""How the prompts of users that edit end."""
SLOW_AT = 50
"""Per cent of the traffic from which the planted stack is slow."""


@dataclass(frozen=True)
class Users:
    """How the load generator is to be."""

    rate: float = 3.0
    seed: int = 1
    arrivals: str = "poisson"
    streams: float = STREAMS
    outside: float = 0.0


@dataclass(frozen=True)
class Ending:
    """How it ended. `outcome`: `Promoted`, `RolledBack`, the phase of a synthesis that came to no rollout, or `Error` with
    the sentence in `problem`; what users got until then is counted in any case."""

    outcome: str
    synthesis: Json
    rollout: Json
    load: Load | None
    problem: str = ""


def ended(rollout: Json) -> str | None:
    """`Promoted` or `RolledBack`, when a rollout is there for good."""
    status = rollout.get("status") or {}
    if status.get("phase") == PROMOTED and status.get("promotedAt"):
        return PROMOTED
    return ROLLED_BACK if status.get("phase") == ROLLED_BACK and status.get("finishedAt") else None


def accepted(rollout: Json) -> bool:
    """Whether the Gateway has taken the route: from then on it answers."""
    status = rollout.get("status") or {}
    weights = [int((status.get(arm) or {}).get("weight", 0)) for arm in ("baseline", "candidate")]
    return sum(weights) == 100


class Stage:
    """One synthesis. `brake`: the file that makes the planted stack slow, None without one; `wants_traffic`: whether the
    synthesis rolls its winner out at all."""

    def __init__(
        self,
        cluster: DevCluster,
        synthesis: Json,
        view: View,
        users: Users,
        *,
        brake: Path | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        meta: dict[str, Any] = synthesis["metadata"]
        self.name, self.namespace = str(meta["name"]), str(meta.get("namespace", "default"))
        self._cluster, self._view, self._users, self._brake, self._clock = cluster, view, users, brake, clock
        policy = synthesis["spec"].get("rollout") or {}
        self.wants_traffic = bool(policy.get("parentRefs"))
        self._host = str((policy.get("hostnames") or ["demo.example.com"])[0])
        self._synthesis: Json = {}
        self._load: Load | None = None
        self._board = Board()
        self._ended_at: float | None = None
        self._stuck_since: float | None = None
        self._last = ""

    def play(self, *, since: float, seconds: float) -> Ending:
        """Until it is over: an error after `seconds`, too, and when the load generator fails. Raises `DemoError` when that
        one does not end."""
        deadline, events, problem = self._clock() + seconds, Events(since), ""
        with News(self._cluster, self.namespace, self.name) as news:
            try:
                while (outcome := self._over()) is None:
                    found = news.get(LOOKS)
                    while found is not None:
                        self._take(found, news, events)
                        found = news.get(0)
                    self._look()
                    if self._clock() > deadline:
                        raise DemoError(
                            f"{self.name} was not done after {seconds / 60:.0f} minutes (last: {self._last}); look at it "
                            f"with kubectl -n {self.namespace} describe ssyn,sroll"
                        )
            except DemoError as error:
                outcome, problem = ERROR, str(error)
            finally:
                if self._brake is not None:
                    self._brake.unlink(missing_ok=True)
                if self._load is not None:
                    self._load.stop()
            if self._load is not None:
                for found in news.rest():
                    self._take(found, news, events)
                self._load.settle()
                self._view.look(self._board)
        return Ending(outcome, self._synthesis, self._board.rollout, self._load, problem)

    def _over(self) -> str | None:
        outcome = ended(self._board.rollout)
        if outcome is not None:
            if self._ended_at is None:
                self._ended_at = self._clock()
            return outcome if self._clock() >= self._ended_at + STAYS else None
        if not self._synthesis or not over(self._synthesis):
            self._stuck_since = None
            return None
        if stuck(self._synthesis):
            # Objects of several kinds are not seen in the order in which they were applied: what it lacks may be there.
            self._stuck_since = self._clock() if self._stuck_since is None else self._stuck_since
            if self._clock() < self._stuck_since + STUCK_SECONDS:
                return None
        phase = phase_of(self._synthesis)
        if self.wants_traffic and phase in _WITH_ROLLOUT and self._board.status.get("phase") != "Failed":
            return None  # the rollout says how it ends
        return phase

    def _take(self, found: Json, news: News, events: Events) -> None:
        match found.get("kind"):
            case "Event":
                if (line := events.line(found)) is not None:
                    self._view.say(f"  {line.subject}: {line.word}: {line.text}")
            case "ServingSynthesis":
                self._synthesis = found
                # Nothing was said before the operator saw it.
                if found.get("status") and (phase := phase_of(found)) != self._last:
                    self._last = phase
                    text = found["status"].get("message", "")
                    self._view.say(f"  ServingSynthesis {self.name}: {phase}: {text}")
            case "ServingRollout":
                self._rollout(found, news)
            case "Outcome" if self._load is not None:
                self._load.seen.outcome(outcome_of(found))
            case _:
                pass

    def _rollout(self, found: Json, news: News) -> None:
        born = str(found["metadata"].get("creationTimestamp", ""))
        if born < str(self._board.rollout.get("metadata", {}).get("creationTimestamp", "")):
            return  # an older one, of another winner
        self._board.rollout = found
        if self._load is None and accepted(found):
            self._begin(found, news)
        share = int(((found.get("status") or {}).get("candidate") or {}).get("weight", 0))
        if self._brake is not None and share >= SLOW_AT and ended(found) is None and not self._brake.exists():
            self._brake.touch()
            self._view.say(
                f"  PLANTED: at {share} % the new stack is stopped for {STANDS:g} s again and again from now on"
            )

    def _begin(self, rollout: Json, news: News) -> None:
        with suppress(PermissionError):  # as an ordinary user: then it stays behind
            # Nothing is measured any more. Beside two busy engines a control plane without the processor loses its leases.
            self._cluster.step_back(0)
        where = self._cluster.gateway_address()
        if where is None:
            raise DemoError("the cluster has no Gateway; end it (make demo-down) and begin again")
        url = f"http://{where[0]}:{where[1]}"
        model = show.model(self._cluster, url, self._host)
        plan = Plan(
            url, self._host, model, self._users.rate, 3600.0, self._users.seed,
            "fixed" if self._users.arrivals == "fixed" else "poisson", self._users.streams, self._users.outside,
            edits=show.edits(self._cluster, url, self._host, model, EDITED, STREAM_TOKENS[1]),
        )  # fmt: skip
        arms = {str(rollout["spec"][arm]["service"]): arm for arm in ("baseline", "candidate")}
        self._load = Load(self._cluster, plan, arms, news.put)
        self._board.seen = self._load.seen
        self._view.say(
            f"users come: {plan.rate:g} requests a second through {url} (host {self._host}), "
            f"{plan.streams:.0%} of them streams"
        )

    def _look(self) -> None:
        if self._load is not None:
            self._load.look()
            if self._load.failed():
                raise DemoError("the load generator ended by itself; its own words are above")
        self._view.look(self._board)
