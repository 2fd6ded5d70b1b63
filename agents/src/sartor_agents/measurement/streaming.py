"""Whether answers were really streamed, which every figure that rests on the times of chunks takes for granted.

A server that keeps its answer back and sends it at once, or quickly after one another, shows gaps between tokens that nobody
saw being computed: its inter-token latency is fiction, and its throughput in a window depends on where answers ended. An
honest fast stack must not be accused of it: on a long prompt with a short answer nearly all time goes before the first
token, and a step that verifies a draft yields many tokens at once. So four things have to come together:

- the answer is long (`FEWEST` tokens) and its request carries no prediction that one step could have confirmed;
- its tokens came within `SHARE` of its latency and in few bursts, of `BURSTS` tokens and more on average;
- the baseline needed more than `HONEST` of *its* latency to write the answer to the *same* request: the model does take
  that time, relative to reading the prompt, when tokens leave as they are made;
- that share of the latency is longer than the load generator's own event loop was late, and than `GRAIN`: what came
  meanwhile is read at once, however it was sent.

One answer says little: a process that has to wait for a processor while a small model writes looks the same from outside.
So answers are counted over all pairs of an evaluation (`Streaming`), and fewer than `ENOUGH` of them accuse nobody.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .samples import GenerationRequest, Sample

FEWEST = 32
BURSTS = 8  # tokens to a burst, at least
SHARE = 0.05
HONEST = 0.25
GRAIN = 0.005  # seconds: a process that is ready to run waits that long for a busy processor
ENOUGH = 8  # answers
_GAP = 0.0005  # seconds between two bursts: less lies between two reads of one write
_MOST = 0.5  # of the answers looked at


@dataclass(frozen=True, slots=True)
class Writing:
    """How the tokens of one answer came: in how many bursts, and over which share of its latency."""

    tokens: int
    bursts: int
    share: float

    @property
    def at_once(self) -> bool:
        return self.share < SHARE and self.bursts * BURSTS <= self.tokens


def writing(sample: Sample) -> Writing:
    """How the answer of a successful `sample` was written."""
    times = [time for time, tokens in sample.arrivals if tokens]
    if not times or sample.latency <= 0:
        return Writing(0, 0, 0.0)
    bursts = 1 + sum(later - earlier > _GAP for earlier, later in itertools.pairwise(times))
    return Writing(sample.tokens, bursts, (times[-1] - times[0]) / (sample.end - sample.sent))


@dataclass(frozen=True, slots=True)
class Streaming:
    """Of the answers that were `looked` at, so many were `lumped`: sent at once."""

    looked: int = 0
    lumped: int = 0

    def __add__(self, other: "Streaming") -> "Streaming":
        return Streaming(self.looked + other.looked, self.lumped + other.lumped)

    @property
    def accusation(self) -> str | None:
        """A sentence when most answers were sent at once though the baseline streams the same ones."""
        if self.looked < ENOUGH or self.lumped <= _MOST * self.looked:
            return None
        return (
            f"{self.lumped} of {self.looked} answers of {FEWEST} tokens and more came at once at their end "
            f"(within {SHARE:.0%} of their time, {BURSTS} and more at a time), though the baseline streams them"
        )


def streaming(
    mine: Sequence[Sample], theirs: Sequence[Sample], requests: Mapping[str, GenerationRequest], lag: float
) -> Streaming:
    """How the candidate sent the answers that tell it from one that streams.

    `mine` and `theirs` are samples of one pair of windows; `requests` are those that both were sent, by id; `lag`
    (seconds) is how late the generator came to what had arrived while the candidate was measured (`GeneratorLoad.lag`).
    """
    reference = {sample.request_id: sample for sample in theirs if sample.ok}
    looked, lumped = 0, 0
    for sample in mine:
        other = reference.get(sample.request_id)
        request = requests.get(sample.request_id)
        if not sample.ok or other is None or request is None or sample.tokens < FEWEST or "prediction" in request.body:
            continue
        if writing(other).share < HONEST or SHARE * (sample.end - sample.sent) < max(lag, GRAIN):
            continue
        looked += 1
        lumped += writing(sample).at_once
    return Streaming(looked, lumped)
