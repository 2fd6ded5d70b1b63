"""From the gateway's records to the samples that a verdict is made of."""

from collections.abc import Mapping

from sartor_operator.rollout.records import Backend, End, RequestRecord
from sartor_operator.rollout.verdict.samples import ArmName, Sample, classify


def sample_of(record: RequestRecord, arms: Mapping[Backend, ArmName]) -> Sample | None:
    """The sample in a record; None for a request of another Service, of none, or one that says nothing of an arm.

    None too where a figure is missing that a sample cannot be without: how long it took, and how it ended.
    """
    arm = arms.get(record.backend) if record.backend is not None else None
    if arm is None or record.duration is None or record.flags is None or record.end is End.UNKNOWN:
        return None
    found = classify(record.status or 0, record.flags, began=record.first_byte is not None)
    if found is None:
        return None
    outcome, reason = found
    return Sample(
        arrival=record.started,
        arm=arm,
        outcome=outcome,
        duration=record.duration,
        first_byte=record.first_byte,
        reason=reason,
        bytes=record.bytes_out or 0,
        handed_over=record.handover is not None,
    )
