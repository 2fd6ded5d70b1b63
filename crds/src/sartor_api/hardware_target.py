"""`HardwareTarget`: where things run. Written once by the platform team; cluster-scoped."""

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sartor_api.base import ApiModel, Rule, exactly_one
from sartor_api.fields import (
    AbsolutePath,
    Count,
    Image,
    KeyReference,
    Label,
    LabelMap,
    Money,
    Name,
    Pattern,
    ShortText,
    Text,
)
from sartor_api.meta import AGE, Column, Conditions, Naming, Resource
from sartor_api.quantities import Duration, Quantity

Platform = Literal["cuda", "cpu", "metal"]


class Accelerator(ApiModel):
    """The accelerator of one pod, as the scheduler knows it."""

    resource: Annotated[
        str,
        Pattern(
            r"[a-z0-9][a-z0-9.-]*/[A-Za-z0-9][A-Za-z0-9._-]*",
            "an extended resource such as nvidia.com/gpu or nvidia.com/mig-3g.40gb",
            253,
        ),
    ]
    """Extended resource. MIG slices and time-sliced GPUs have names of their own (`nvidia.com/mig-3g.40gb`)."""
    count: Annotated[int, Field(ge=1, le=64)] = 1
    """How many one replica gets."""
    sharing: Literal["exclusive", "mig", "timeSliced"] = "exclusive"
    """How the device is shared. A time-sliced one has neighbours, so its measurements need more replicates."""
    product: ShortText | None = None
    """Product that must be found (`NVIDIA H100 80GB HBM3`); other hardware makes a measurement invalid."""


class Toleration(ApiModel):
    """A taint that pods bear, as in a pod's spec."""

    key: Annotated[str, Field(max_length=317)] | None = None
    """Key of the taint; without it every key, with operator `Exists`."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """How the value is compared."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; without it every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """How long a `NoExecute` taint is borne; without it for ever."""

    rules = (
        Rule(
            cel="has(self.key) || self.operator == 'Exists'",
            message="a toleration without key needs operator Exists; set key, or the operator",
            holds=lambda t: t.key is not None or t.operator == "Exists",
            field=".operator",
        ),
        Rule(
            cel="self.operator == 'Equal' || !has(self.value)",
            message="operator Exists takes no value; remove value, or set operator Equal",
            holds=lambda t: t.operator == "Equal" or t.value is None,
            field=".value",
        ),
    )


class Kueue(ApiModel):
    """Quota and queueing by Kueue."""

    queue_name: Label
    """LocalQueue that Jobs wait in (label `kueue.x-k8s.io/queue-name`)."""
    priority_class: Name | None = None
    """WorkloadPriorityClass of the Jobs."""


class Images(ApiModel):
    """Images of the pods. By default those that the operator was installed with."""

    stack: Image | None = None
    """Runs generated stacks: Python, the libraries that blocks import, a compiler. No Sartor code in it."""
    baseline: Image | None = None
    """Runs the baseline's engine."""
    agent: Image | None = None
    """Runs planner and implementer."""
    evaluator: Image | None = None
    """Runs judge and evaluator."""
    pull_secret_ref: KeyReference | None = None
    """Secret with registry credentials (type kubernetes.io/dockerconfigjson), in the namespace of the pods."""


class ServingResources(ApiModel):
    """What a serving pod (stack or baseline) asks for, besides the accelerator."""

    cpu: Quantity | None = None
    """Processor cores; requested and limited alike, so that nobody else disturbs the measurement."""
    memory: Quantity | None = None
    """Memory, requested and limited alike."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, for engines of several processes."""
    ephemeral_storage: Quantity | None = None
    """Local disk."""


class EngineCache(ApiModel):
    """A folder in which the baseline's engine keeps what it compiled, from one start to the next.

    Only pods of the engine mount it: what runs generated code never sees it.
    """

    persistent_volume_claim: Name | None = None
    """Claim (ReadWriteMany where replicas run on several nodes) in the namespace of the pods."""
    host_path: AbsolutePath | None = None
    """Folder on the node. Namespaces that enforce the `baseline` or `restricted` Pod Security Standard refuse it."""

    rules = (exactly_one("persistentVolumeClaim", "hostPath", noun="place of the cache"),)


class HardwareTargetSpec(ApiModel):
    """Where things run."""

    platform: Platform
    """Kind of platform; it decides which skills and blocks apply."""
    accelerator: Accelerator | None = None
    """The accelerator; required for `cuda` and `metal`."""
    node_selector: LabelMap | None = None
    """Labels of the nodes."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that pods bear."""
    agent_node_selector: LabelMap | None = None
    """Labels of the nodes for pods that need no accelerator (planner, implementer); by default any node."""
    runtime_class_name: Name | None = None
    """RuntimeClass of serving pods (`nvidia`, say)."""
    sandbox_runtime_class_name: Name | None = None
    """RuntimeClass of pods in which agents run commands (gVisor or Kata)."""
    kueue: Kueue | None = None
    """Quota and queueing."""
    images: Images = Images()
    """Images of the pods."""
    resources: ServingResources = ServingResources()
    """What a serving pod asks for."""
    price_per_hour: Money | None = None
    """Price of one replica's hardware for an hour; without it nothing is said of money."""
    engine_cache: EngineCache | None = None
    """Where the baseline's engine keeps what it compiled; without it every start of vLLM compiles again."""
    listen_on: Literal["all", "podIP"] = "all"
    """Address that model servers listen on. `podIP` for nodes whose pods share one network (sartor-runner), where a server
    that listens on all addresses would take the port from every other pod."""
    start_timeout: Duration = Duration("15m")
    """Time that a pod has from being scheduled to being ready."""

    rules = (
        Rule(
            cel="self.platform == 'cpu' || has(self.accelerator)",
            message="platforms cuda and metal need accelerator; set accelerator.resource (nvidia.com/gpu, say)",
            holds=lambda spec: spec.platform == "cpu" or spec.accelerator is not None,
            field=".accelerator",
        ),
        Rule(
            cel="self.platform != 'cpu' || !has(self.accelerator)",
            message="platform cpu has no accelerator; remove it, or set platform to cuda or metal",
            holds=lambda spec: spec.platform != "cpu" or spec.accelerator is None,
            field=".accelerator",
        ),
    )


class Roofline(ApiModel):
    """What the hardware reaches, measured there."""

    memory_bandwidth: Quantity | None = None
    """Bytes per second that one replica reads."""
    matrix_rate: Quantity | None = None
    """Floating-point operations per second of large matrix products, in the target's usual type."""
    measured_at: datetime | None = None
    """When that was measured."""


class HardwareTargetStatus(ApiModel):
    """What is so."""

    observed_generation: Count | None = None
    """Generation of the spec that this is about."""
    conditions: Conditions = ()
    """Ready when at least one node fits."""
    matching_nodes: Count = 0
    """Nodes that fit and are ready."""
    allocatable_accelerators: Count | None = None
    """Accelerators of these nodes that pods may have, used or not; absent for platform `cpu`."""
    allocatable_replicas: Count | None = None
    """Replicas that these nodes have room for when nothing else runs there."""
    free_replicas: Count | None = None
    """Replicas for which there is room now; absent where nobody counts the pods of others."""
    product: ShortText | None = None
    """Product that was found, by the labels of these nodes; several are separated by commas."""
    driver_version: ShortText | None = None
    """Driver that was found there; a change can start a re-synthesis."""
    roofline: Roofline | None = None
    """What it reaches."""
    message: Text = ""
    """What is missing, if something is."""


class HardwareTarget(Resource):
    """Hardware as a name that model owners refer to."""

    naming: ClassVar[Naming] = Naming(
        plural="hardwaretargets",
        short_name="hwt",
        cluster_scoped=True,
        columns=(
            Column(name="Platform", path=".spec.platform", description="Kind of platform."),
            Column(name="Accelerator", path=".spec.accelerator.resource", description="Extended resource."),
            Column(name="Count", path=".spec.accelerator.count", description="For one replica.", type="integer"),
            Column(name="Nodes", path=".status.matchingNodes", description="Nodes that fit.", type="integer"),
            Column(name="Price", path=".spec.pricePerHour.amount", description="For one replica and hour."),
            Column(
                name="Ready",
                path=".status.conditions[?(@.type=='Ready')].status",
                description="Whether something can run there.",
            ),
            Column(name="Product", path=".status.product", description="Product found.", wide=True),
            AGE,
        ),
    )

    kind: Literal["HardwareTarget"] = "HardwareTarget"
    """Kind of the object."""
    spec: HardwareTargetSpec
    """Where things run."""
    status: HardwareTargetStatus | None = None
    """What is so. Written by the operator."""


LOCAL = HardwareTarget.model_validate({"metadata": {"name": "local"}, "spec": {"platform": "cpu"}})
"""The target that `sartor run` knows without being told: the CPU of the machine that it runs on."""
