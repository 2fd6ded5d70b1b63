"""Samples against what was asked: prompts made again from the seed, tokens counted again from the text.

The text of prompts comes from the model's folder (a chain checkpoint), or from documents that the bundle does not hold;
then prompts are compared only where this machine has the same documents.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

from sartor_agents.measurement.journal import Journal, request_digest
from sartor_agents.measurement.samples import Sample
from sartor_agents.measurement.tokens import TokenCounter
from sartor_agents.scenarios import Scenario, Stage

LONGEST_STREAM = 1_000_000
"""Requests of one stage and window that are made again at most."""


def asked(journal: Journal, samples: Sequence[Sample], scenario: Scenario, ran: Sequence[Stage]) -> Iterator[str]:
    """What is wrong with the requests of the stages that every window `ran`: not the seed's, one left out, one twice."""
    sent: dict[tuple[int, str, str, str], list[str]] = {}
    for sample in samples:
        sent.setdefault((sample.window, sample.stage, sample.purpose, sample.arm), []).append(sample.request_id)
    stages = {stage.name: stage for stage in ran}
    for note in journal.pairs:
        noted = dict(note.requests)
        for name, stage in stages.items():
            for purpose in ("scored", "warmup"):
                arms = {arm: sent.get((note.index, name, purpose, arm), []) for arm in ("candidate", "baseline")}
                for arm, ids in arms.items():
                    if len(set(ids)) != len(ids):
                        yield f"pair {note.index}: the {arm} has a request of {name} twice"
                most = max(len(set(ids)) for ids in arms.values())
                if most > LONGEST_STREAM:
                    yield f"pair {note.index} has {most} requests of {name}, more than a window can hold"
                    continue
                made = list(itertools.islice(scenario.stream(stage, purpose, note.index), most))
                for arm, ids in arms.items():
                    wanted = {request.id for request in made[: len(set(ids))]}
                    if set(ids) != wanted:
                        strange = sorted(wanted.symmetric_difference(ids))[0]
                        yield (
                            f"pair {note.index}: the {arm}'s requests of {name} are not the first {len(set(ids))} of the "
                            f"seed (look at {strange!r}): a sample was left out, added or renamed"
                        )
                if purpose == "scored":
                    for request in made:
                        said = noted.pop(request.id, None)
                        digest = request_digest(request)
                        # Where a prediction rests on the model's own answer the seed gives all of the request but that.
                        if said is None or said.partition(":")[0] != digest.partition(":")[0]:
                            yield f"the prompt of request {request.id!r} is not the one that the seed gives"
        if noted:
            yield f"pair {note.index} lists {sorted(noted)[0]!r}, which no sample of it has"


def counted(samples: Sequence[Sample], counter: TokenCounter) -> Iterator[str]:
    """What is wrong with tokens and times of single samples."""
    for sample in samples:
        name = f"sample {sample.request_id!r} of the {sample.arm} in pair {sample.window}"
        tokens = sum(n for _, n in sample.arrivals)
        if tokens != sample.tokens:
            yield f"{name} says {sample.tokens} tokens, its chunks have {tokens}"
        elif sample.text and not counter.agrees(own := counter.count(sample.text), sample.tokens):
            yield f"{name} says {sample.tokens} tokens, its text has {own}"
        elif not sample.text and sample.tokens:
            yield f"{name} has {sample.tokens} tokens and no text"
        if sample.ok and (
            sample.usage_completion is None or not counter.agrees(sample.tokens, sample.usage_completion)
        ):
            yield f"{name} counts as answered, but `usage` says {sample.usage_completion} and the text has {sample.tokens}"
        times = [sample.scheduled, sample.sent, *(time for time, _ in sample.arrivals), sample.end]
        if not all(math.isfinite(time) for time in times) or any(n < 0 for _, n in sample.arrivals):
            yield f"{name} has times or counts that are no numbers"
        elif (
            any(later < earlier for earlier, later in itertools.pairwise(times[1:]))
            or sample.sent < sample.scheduled - 1
        ):
            yield f"{name} has times that run backwards"
