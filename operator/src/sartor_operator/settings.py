"""What the operator is installed with. Everything has a default that works; the command line and the chart override it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class DefaultImages:
    """Images of pods for which the HardwareTarget names none."""

    stack: str = "sartor-stack:0.1.0"
    baseline: str = "sartor-baseline:0.1.0"
    agent: str = "sartor-agent:0.1.0"
    evaluator: str = "sartor-evaluator:0.1.0"


@dataclass(frozen=True)
class RoleResources:
    """What a pod of a role asks for and may use, besides what a HardwareTarget or AgentProfile says."""

    requests: dict[str, str] = field(default_factory=lambda: {"cpu": "100m", "memory": "256Mi"})
    limits: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Settings:
    """Times in seconds."""

    images: DefaultImages = DefaultImages()
    roles: RoleResources = RoleResources()
    role_command: tuple[str, ...] = ("sartor-role",)
    """Started with the role's name as the only argument, in the images `agent`, `evaluator` and `baseline`."""
    baseline_commands: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "vllm": (
                "python3", "-m", "vllm.entrypoints.openai.api_server",
                "--model", "{model}", "--served-model-name", "{name}",
                "--host", "{host}", "--port", "{port}", "--max-model-len", "{length}",
            ),
            "transformers": (
                "sartor-transformers-server",
                "--model", "{model}", "--name", "{name}", "--host", "{host}", "--port", "{port}",
            ),
        }
    )  # fmt: skip
    """How each engine is served; the arguments that the tuning chose are added."""
    baseline_environment: dict[str, str] = field(
        default_factory=lambda: {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    )
    """Of every engine; what the run's record says comes on top of it."""
    stack_command: tuple[str, ...] = ("python3", "-m", "stack")
    model_proxy_command: tuple[str, ...] = ("sartor-model-proxy",)
    """Starts a profile's model proxy, in the image `agent` unless the profile names one."""
    probe_command: tuple[str, ...] = ("sartor-probe",)
    """Starts a rollout's probe, in the image `evaluator`; what it probes is added."""
    repository: str = "http://sartor-repository.sartor-system.svc"
    """The run repositories: a run's is at REPOSITORY/NAMESPACE/RUN."""
    repository_audience: str = "sartor-repository"
    grace_seconds: float = 30.0
    """Between a Job's own deadline and the operator's."""
    candidate_ready_seconds: float = 180.0
    """From a candidate's container starting to its being ready, as on one machine."""
    build_seconds: float = 600.0
    image_seconds: float = 120.0
    """How long an image may fail to be pulled before the step counts as failed."""
    keep_jobs_seconds: int = 3600
    """How long a Job stays after its record is safe, for whoever wants its log."""
    keep_runs: int = 5
    """Finished runs that are kept per synthesis besides the one that serves."""
    drain_seconds: int = 60
    """Time that a serving pod has to finish its streams."""
    network_policies: bool = True


PORT = 8000
"""Port of every model server."""
