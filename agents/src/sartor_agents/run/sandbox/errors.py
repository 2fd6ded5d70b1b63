"""What can be wrong with a sandbox itself, never with what runs in it."""


class SandboxError(Exception):
    """No sandbox, so nothing was run. `reason` is a CamelCase constant; the message says what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
