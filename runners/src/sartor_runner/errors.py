"""The exceptions of the runner, each named by what follows from it."""


class RunnerError(Exception):
    """Anything the runner raises on purpose; its text is fit for a person to read."""


class ConfigurationError(RunnerError):
    """The runner's own configuration or credentials cannot be used; it ends with this sentence."""


class ContainerError(RunnerError):
    """A container cannot be started now. `reason` is what its waiting state shows (`CreateContainerConfigError`, …)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class VolumeError(RunnerError):
    """A volume of a pod cannot be set up now; the pod waits and it is tried again."""
