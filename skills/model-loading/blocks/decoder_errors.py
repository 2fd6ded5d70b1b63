"""What a decoder raises when it is asked for something that it cannot do."""


class DecoderError(Exception):
    """A decoder could not be made, or refused a step; nothing was written. The message says why and what to change."""


class StepMemoryError(DecoderError):
    """The device has no memory for a step of this size. Nothing is lost: a smaller step may follow, with the same rows."""
