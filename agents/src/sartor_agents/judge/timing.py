"""How long an answer took to write, apart from the reading of its prompt, which caches may save."""

from sartor_agents.measurement.samples import Sample

LUMP = 0.05
"""An answer that comes in one piece has less of its time than this between its first token and its last."""


def writing(sample: Sample) -> float:
    """Seconds from the first token to the last."""
    times = [time for time, tokens in sample.arrivals if tokens]
    return times[-1] - times[0] if times else 0.0


def in_one_piece(sample: Sample) -> bool:
    """Whether there is no telling when it was written."""
    return writing(sample) < LUMP * (sample.end - sample.sent)


def seconds_per_token(sample: Sample) -> float:
    """Of writing; of the whole where the answer came in one piece."""
    seconds = sample.end - sample.sent if in_one_piece(sample) else writing(sample)
    return seconds / max(1, sample.tokens)
