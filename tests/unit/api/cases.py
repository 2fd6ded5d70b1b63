# ruff: noqa: E501 (a table reads better a row a line)
"""Good and bad objects of every kind: what pydantic and the API server must both say of them.

One table for both, so that a rule cannot be written in CEL and in Python with two meanings. `Bad.message` is a part
of the sentence that a user reads; `Bad.path` is where the loader points.
"""

import copy
from dataclasses import dataclass
from typing import Any

ABSENT = object()
SHA = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "sha256:" + "ab" * 32
OTHER_DIGEST = "sha256:" + "cd" * 32


@dataclass(frozen=True)
class Good:
    name: str
    object: dict[str, Any]


@dataclass(frozen=True)
class Bad:
    name: str
    object: dict[str, Any]
    path: str
    message: str
    both: bool = True
    """False where the API server words it in its own way (a type, an enum): both refuse, the sentences differ."""


@dataclass(frozen=True)
class Update:
    name: str
    old: dict[str, Any]
    new: dict[str, Any]
    broken: str | None
    """Part of the message; None for an update that is fine."""


def changed(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of ``base`` with the field at ``path`` (dots, numbers for list elements) set, or removed if ABSENT."""
    result = copy.deepcopy(base)
    *way, last = path.split(".")
    place: Any = result
    for part in way:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return result


def _resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "sartor.dev/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}


SYNTHESIS = _resource(
    "ServingSynthesis",
    {
        "model": {"source": {"synthetic": {}}},
        "workload": {"scenario": "chat"},
        "hardware": {"targetRef": {"name": "local"}},
    },
)
CODE_EDIT = changed(SYNTHESIS, "spec.workload.scenario", "code-edit")
IMAGES = changed(SYNTHESIS, "spec.workload.scenario", "image-generation")
CUSTOM = changed(
    SYNTHESIS,
    "spec.workload",
    {"scenario": "custom", "contract": "openai-completions", "traceRef": {"configMap": {"name": "trace"}}},
)
HARDWARE = _resource("HardwareTarget", {"platform": "cpu"})
CUDA = _resource("HardwareTarget", {"platform": "cuda", "accelerator": {"resource": "nvidia.com/gpu"}})
PROFILE = _resource("AgentProfile", {})
OPENAI = _resource(
    "AgentProfile",
    {
        "backend": "openai",
        "model": "some-model",
        "endpoints": [{"url": "https://api.example.com/v1", "secretRef": {"name": "key"}}],
    },
)
CODEX = changed(OPENAI, "spec.backend", "codex")
RUN = _resource(
    "SynthesisRun",
    {
        "synthesisRef": {"name": "editor", "uid": "1", "generation": 3},
        "contentHash": DIGEST,
        "snapshot": {"synthesis": SYNTHESIS["spec"], "hardware": HARDWARE["spec"]},
    },
)
CANDIDATE = _resource(
    "ServingCandidate",
    {
        "runRef": {"name": "editor-1"},
        "round": 1,
        "branch": "candidate/001",
        "hypothesis": {"summary": "native decoder"},
    },
)
ROLLOUT = _resource(
    "ServingRollout",
    {
        "baseline": {"service": "vllm"},
        "candidate": {"service": "stack", "contentHash": DIGEST},
        "policy": {"parentRefs": [{"name": "inference", "namespace": "gateways"}]},
    },
)
SPEEDUP = {"value": "2.3", "low": "2.2", "high": "2.4", "replicates": 12}

FULL_SYNTHESIS = _resource(
    "ServingSynthesis",
    {
        "model": {
            "source": {
                "huggingFace": {
                    "repository": "Qwen/Qwen3-32B",
                    "revision": SHA,
                    "tokenSecretRef": {"name": "hf"},
                }
            },
            "dtype": "bfloat16",
            "servedName": "Qwen/Qwen3-32B",
        },
        "workload": {
            "scenario": "code-edit",
            "parameters": {"concurrencies": [1], "matchRates": [0, 50, 90, 95]},
            "traceRef": {"configMap": {"name": "editor-requests"}},
            "envelope": {"maxInputTokens": 16384, "maxOutputTokens": 4096},
        },
        "hardware": {"targetRef": {"name": "h100-pool"}},
        "objective": {
            "metric": "outputTokensPerSecond",
            "minimumSpeedup": "1.2",
            "targetSpeedup": "3",
            "guardrails": [{"metric": "ttftP99", "atMost": "800ms"}, {"metric": "errorRate", "atMost": "0.1%"}],
        },
        "correctness": {"mode": "exactGreedy", "samples": 200, "tieTolerance": "0.01"},
        "baseline": {"engine": "vllm", "tuning": "documentedGrid", "arguments": ["--enable-prefix-caching"]},
        "agents": {"profileRef": {"name": "default"}},
        "search": {"policy": "evolutionary", "parallelism": 4, "seed": 7},
        "budget": {
            "rounds": 20,
            "wallClock": "8h",
            "acceleratorHours": "16",
            "tokens": "20M",
            "money": {"amount": "150", "currency": "USD"},
        },
        "payback": {"outputTokensPerDay": "500M", "within": "30d", "policy": "require"},
        "delivery": {
            "mode": "git",
            "git": {
                "repository": "https://git.example.com/team/deploy.git",
                "path": "clusters/prod",
                "credentialsSecretRef": {"name": "git"},
            },
        },
        "rollout": {
            "parentRefs": [{"name": "inference", "namespace": "gateways"}],
            "hostnames": ["editor.example.com"],
            "steps": [
                {"mirror": 5},
                {"headerOptIn": True, "hold": "1d"},
                {"weight": 5, "hold": "10m"},
                {"weight": 25, "hold": "20m"},
                {"weight": 50, "hold": "1h30m"},
                {"pause": {}},
            ],
            "stickySessions": {"by": "cookie", "name": "session"},
            "baselineAfterPromotion": {"replicas": 1},
        },
        "resynthesis": {"triggers": ["modelRevision", "baselineVersion", "driver", "drift"], "cooldown": "7d"},
        "suspend": False,
    },
)

GOOD = [
    Good("shortest synthesis", SYNTHESIS),
    Good("everything that the design shows", FULL_SYNTHESIS),
    Good("images bring their own mode", IMAGES),
    Good("images by reference", changed(IMAGES, "spec.correctness.mode", "reference")),
    Good("custom", CUSTOM),
    Good("tokens as a bare number", changed(SYNTHESIS, "spec.budget.tokens", 20_000_000)),
    Good("durations of every unit", changed(SYNTHESIS, "spec.budget.wallClock", "1d2h3m4s5ms")),
    Good("days alone", changed(SYNTHESIS, "spec.resynthesis.cooldown", "7d")),
    Good("budget of just a minute", changed(SYNTHESIS, "spec.budget.wallClock", "60000ms")),
    Good(
        "guardrail against the baseline",
        changed(
            SYNTHESIS,
            "spec.objective.guardrails",
            [{"metric": "outputAgreement", "atLeast": "99%"}, {"metric": "ttftP50", "maximumRegression": "5%"}],
        ),
    ),
    Good("rollback without hold", changed(SYNTHESIS, "spec.rollout.freeze", {"for": "1h", "then": "hold"})),
    Good("status", SYNTHESIS | {"status": {"phase": "Searching", "best": {"name": "c", "speedup": SPEEDUP}}}),
    Good("cpu", HARDWARE),
    Good("cuda", CUDA),
    Good(
        "mig, taints and queue",
        changed(
            CUDA,
            "spec",
            {
                "platform": "cuda",
                "accelerator": {"resource": "nvidia.com/mig-3g.40gb", "count": 2, "sharing": "mig"},
                "nodeSelector": {"pool": "h100"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}, {"operator": "Exists", "effect": "NoExecute"}],
                "kueue": {"queueName": "research"},
                "images": {"stack": "registry.example.com/sartor/stack@" + DIGEST},
                "resources": {"cpu": "16", "memory": "128Gi", "sharedMemory": "8Gi"},
                "pricePerHour": {"amount": "3.9"},
            },
        ),
    ),
    Good("playbook", PROFILE),
    Good(
        "openai with fail-over and roles",
        changed(
            OPENAI,
            "spec",
            {
                **OPENAI["spec"],
                "endpoints": [{"url": "https://a.example.com/v1"}, {"url": "http://b:8080/v1"}],
                "roles": [{"role": "planner", "model": "big", "effort": "high"}, {"role": "judge"}],
                "prices": [{"model": "some-model", "input": "1.25", "output": "10"}],
                "limits": {"tokensPerRun": "20M", "moneyPerRun": {"amount": "150"}},
            },
        ),
    ),
    Good("codex", changed(CODEX, "spec.codexVersion", "0.169.0")),
    Good("run", RUN),
    Good("candidate", CANDIDATE),
    Good("rollout", ROLLOUT),
    Good("rollout under control", changed(ROLLOUT, "spec.control", {"pause": True, "skipToStep": 4})),
]

_S, _W, _O = SYNTHESIS, "spec.workload", "spec.objective"


def _guardrail(guardrail: dict[str, Any]) -> dict[str, Any]:
    return changed(SYNTHESIS, "spec.objective.guardrails", [guardrail])


def _steps(*steps: dict[str, Any]) -> dict[str, Any]:
    return changed(SYNTHESIS, "spec.rollout.steps", list(steps))


BAD = [
    # types, enumerations, unknown fields: the API server words these itself
    Bad("unknown field", changed(_S, "spec.modle", {}), "spec.modle", 'did you mean "model"?', both=False),
    Bad("unknown scenario", changed(_S, f"{_W}.scenario", "chta"), f"{_W}.scenario", 'did you mean "chat"?', both=False),
    Bad("no hardware", changed(_S, "spec.hardware", ABSENT), "spec.hardware", "is required", both=False),
    Bad("number for text", changed(_S, f"{_O}.minimumSpeedup", 1.5), f"{_O}.minimumSpeedup", '"1.5"', both=False),
    Bad("text for number", changed(_S, "spec.budget.rounds", "3"), "spec.budget.rounds", "remove the quotes", both=False),
    Bad("too many rounds", changed(_S, "spec.budget.rounds", 99999), "spec.budget.rounds", "at most 10000", both=False),
    Bad("boolean as text", changed(_S, "spec.suspend", "yes"), "spec.suspend", "true or false", both=False),
    Bad("not a duration", changed(_S, "spec.budget.wallClock", "8 hours"), "spec.budget.wallClock", "like 10m", both=False),
    Bad("units in the wrong order", changed(_S, "spec.budget.wallClock", "5m1h"), "spec.budget.wallClock", "like 10m", both=False),
    Bad("fraction of a unit", changed(_S, "spec.budget.wallClock", "1.5h"), "spec.budget.wallClock", "like 10m", both=False),
    Bad("not a quantity", changed(_S, "spec.budget.tokens", "20 M"), "spec.budget.tokens", "like 20M", both=False),
    Bad("percentage above 100", changed(_S, "spec.measurement.confidence", "101%"), "spec.measurement.confidence", "like", both=False),
    Bad("list for a value", changed(_S, f"{_W}.parameters.promptTokens", [1]), f"{_W}.parameters.promptTokens", "is a list", both=False),
    Bad("value for a list", changed(_S, f"{_W}.parameters.concurrencies", 1), f"{_W}.parameters.concurrencies", "must be a list", both=False),
    Bad("empty list", changed(_S, f"{_W}.parameters.concurrencies", []), f"{_W}.parameters.concurrencies", "at least 1 element", both=False),
    Bad("value twice", changed(_S, f"{_W}.parameters.concurrencies", [1, 1]), f"{_W}.parameters.concurrencies", "keep one", both=False),
    Bad("trigger twice", changed(_S, "spec.resynthesis.triggers", ["drift", "drift"]), "spec.resynthesis.triggers", "keep one", both=False),
    Bad("guardrail twice", changed(_S, f"{_O}.guardrails", [{"metric": "ttftP99", "atMost": "1s"}] * 2), f"{_O}.guardrails", "keep one", both=False),
    Bad("branch as revision", changed(_S, "spec.model.source", {"huggingFace": {"repository": "a/b", "revision": "main"}}),
        "spec.model.source.huggingFace.revision", "40 lower-case", both=False),
    Bad("image by tag", changed(_S, "spec.model.source", {"oci": {"image": "a/b:latest"}}), "spec.model.source.oci.image", "digest", both=False),
    Bad("path out of the volume", changed(_S, "spec.model.source", {"persistentVolumeClaim": {"claimName": "c", "path": "../x"}}),
        "spec.model.source.persistentVolumeClaim.path", "relative path", both=False),
    Bad("name that is none", changed(_S, "spec.hardware.targetRef.name", "H100_pool"), "spec.hardware.targetRef.name", "Kubernetes name", both=False),
    # rules
    Bad("no source", changed(_S, "spec.model.source", {}), "spec.model.source", "set exactly one source of the model"),
    Bad("two sources", changed(_S, "spec.model.source.oci", {"image": "a/b@" + DIGEST}), "spec.model.source", "set exactly one source of the model"),
    Bad("fp8 of float32", changed(_S, "spec.model", {**_S["spec"]["model"], "dtype": "float32", "weightQuantization": "fp8"}),
        "spec.model.dtype", "fp8 needs dtype"),
    Bad("trace in two places", changed(_S, f"{_W}.traceRef", {"configMap": {"name": "a"}, "persistentVolumeClaim": {"claimName": "b", "path": "c"}}),
        f"{_W}.traceRef", "set exactly one place of the trace"),
    Bad("custom without contract", changed(CUSTOM, f"{_W}.contract", ABSENT), _W, "scenario custom needs contract and traceRef"),
    Bad("chat with a contract", changed(_S, f"{_W}.contract", "openai-images"), f"{_W}.contract", "contract is only for scenario custom"),
    *(
        Bad(f"{name} in the wrong scenario", changed(base, f"{_W}.parameters.{name}", value), f"{_W}.parameters.{name}", f"the parameter {name} belongs to")
        for base, name, value in (
            (_S, "fileTokens", 400), (_S, "matchRates", [50]), (_S, "editKinds", ["insert"]), (_S, "withoutPrediction", True),
            (_S, "sharedPrefixTokens", 8), (_S, "chunkDuration", "1s"), (_S, "clipDuration", "1s"), (_S, "jitter", "1s"),
            (_S, "schemasRef", {"name": "s"}), (_S, "steps", 20), (_S, "guidanceScale", "5.0"), (_S, "width", 32), (_S, "height", 32),
            (CODE_EDIT, "promptTokens", 5), (IMAGES, "outputTokens", 5),
            (changed(_S, f"{_W}.scenario", "streaming-asr"), "requestRates", ["1.5"]),
            (changed(_S, f"{_W}.scenario", "streaming-asr"), "findPeak", True),
        )
    ),
    Bad("guardrail without bound", _guardrail({"metric": "errorRate"}), f"{_O}.guardrails[0]", "bounds nothing"),
    Bad("at most for throughput", _guardrail({"metric": "outputTokensPerSecond", "atMost": "5"}), f"{_O}.guardrails[0].atMost", "of which less is better"),
    Bad("at least for errors", _guardrail({"metric": "errorRate", "atLeast": "5%"}), f"{_O}.guardrails[0].atLeast", "atLeast is for"),
    Bad("latency in per cent", _guardrail({"metric": "ttftP99", "atMost": "5%"}), f"{_O}.guardrails[0].atMost", "latency is a duration"),
    Bad("share as duration", _guardrail({"metric": "errorRate", "atMost": "5s"}), f"{_O}.guardrails[0]", "share is a percentage"),
    Bad("slower is enough", changed(_S, f"{_O}.minimumSpeedup", "0.9"), f"{_O}.minimumSpeedup", "slower than the baseline"),
    Bad("target below minimum", changed(_S, f"{_O}.targetSpeedup", "1.1"), f"{_O}.targetSpeedup", "below minimumSpeedup"),
    Bad("similarity of tokens", changed(_S, "spec.correctness", {"mode": "exactGreedy", "minimumSimilarity": "9%"}), "spec.correctness.minimumSimilarity", "mode reference"),
    Bad("reference for text", changed(_S, "spec.correctness.mode", "reference"), "spec.correctness.mode", "does not fit the scenario"),
    Bad("tokens of images", changed(IMAGES, "spec.correctness.mode", "exactGreedy"), "spec.correctness.mode", "does not fit the scenario"),
    Bad("replicates crossed", changed(_S, "spec.measurement", {"minimumReplicates": 9, "maximumReplicates": 5}), "spec.measurement.minimumReplicates", "above maximumReplicates"),
    Bad("window of nothing", changed(_S, "spec.measurement.window", "999ms"), "spec.measurement.window", "1s or more"),
    Bad("confidence of a coin", changed(_S, "spec.measurement.confidence", "49.9%"), "spec.measurement.confidence", "out of range"),
    Bad("certainty", changed(_S, "spec.measurement.confidence", "100%"), "spec.measurement.confidence", "out of range"),
    Bad("no time", changed(_S, "spec.budget.wallClock", "59s"), "spec.budget.wallClock", "1m or more"),
    Bad("payback of unknown traffic", changed(_S, "spec.payback.policy", "require"), "spec.payback.outputTokensPerDay", "set outputTokensPerDay"),
    Bad("git without repository", changed(_S, "spec.delivery.mode", "git"), "spec.delivery.git", "belong together"),
    Bad("cache in no place", changed(HARDWARE, "spec.engineCache", {}), "spec.engineCache", "set exactly one place of the cache"),
    Bad("cache in two places",
        changed(HARDWARE, "spec.engineCache", {"hostPath": "/var/cache/vllm", "persistentVolumeClaim": "compiled"}),
        "spec.engineCache", "set exactly one place of the cache"),
    Bad("cache above the root", changed(HARDWARE, "spec.engineCache", {"hostPath": "/var/../etc"}),
        "spec.engineCache.hostPath", "is not an absolute path", both=False),
    Bad("step of two kinds", _steps({"mirror": 5, "weight": 5}), "spec.rollout.steps[0]", "set exactly one kind of step"),
    Bad("step of none", _steps({"hold": "5m"}), "spec.rollout.steps[0]", "set exactly one kind of step"),
    Bad("pause with hold", _steps({"pause": {}, "hold": "5m"}), "spec.rollout.steps[0].hold", "a pause has its own duration"),
    Bad("no opt-in", _steps({"headerOptIn": False}), "spec.rollout.steps[0].headerOptIn", "headerOptIn: false is no step"),
    Bad("falling weights", _steps({"weight": 50}, {"pause": {}}, {"weight": 5}), "spec.rollout.steps", "ascending order"),
    Bad("hosts without gateway", changed(_S, "spec.rollout.hostnames", ["a.example.com"]), "spec.rollout.parentRefs", "hostnames need a Gateway"),
    Bad("prometheus somewhere", changed(_S, "spec.rollout.analysis.sources", ["prometheus"]), "spec.rollout.analysis.prometheusAddress", "needs prometheusAddress"),
    Bad("rollout by a coin", changed(_S, "spec.rollout.analysis.confidence", "30%"), "spec.rollout.analysis.confidence", "out of range"),
    Bad("name too long", changed(_S, "metadata.name", "n" * 41), "metadata.name", "at most 40 characters"),
    Bad("value outside its interval", _S | {"status": {"best": {"name": "c", "speedup": {**SPEEDUP, "low": "2.35"}}}}, "status.best.speedup", "must lie in its interval"),
    Bad("cuda without accelerator", changed(HARDWARE, "spec.platform", "cuda"), "spec.accelerator", "need accelerator"),
    Bad("cpu with accelerator", changed(CUDA, "spec.platform", "cpu"), "spec.accelerator", "has no accelerator"),
    Bad("toleration without key", changed(HARDWARE, "spec.tolerations", [{"value": "x"}]), "spec.tolerations[0].operator", "needs operator Exists"),
    Bad("toleration with value", changed(HARDWARE, "spec.tolerations", [{"key": "k", "operator": "Exists", "value": "x"}]), "spec.tolerations[0].value", "takes no value"),
    Bad("openai without endpoint", changed(OPENAI, "spec.endpoints", []), "spec.endpoints", "needs a provider"),
    Bad("openai without model", changed(OPENAI, "spec.model", ABSENT), "spec.model", "needs a model"),
    Bad("playbook with model", changed(PROFILE, "spec.model", "some-model"), "spec.backend", "uses no model"),
    Bad("codex and chat", changed(CODEX, "spec.api", "chatCompletions"), "spec.api", "speaks responses only"),
    Bad("codex version of openai", changed(OPENAI, "spec.codexVersion", "0.169.0"), "spec.codexVersion", "is for backend codex"),
    Bad("bad snapshot", changed(RUN, "spec.snapshot.synthesis.budget.wallClock", "1s"), "spec.snapshot.synthesis.budget.wallClock", "1m or more"),
    Bad("rollout without gateway", changed(ROLLOUT, "spec.policy", {}), "spec.policy.parentRefs", "needs a Gateway"),
    Bad("one service", changed(ROLLOUT, "spec.candidate.service", "vllm"), "spec.candidate.service", "the same Service"),
    Bad("step beyond the last", changed(ROLLOUT, "spec.control.skipToStep", 5), "spec.control.skipToStep", "beyond the last step"),
    Bad("promote and abort", changed(ROLLOUT, "spec.control", {"promote": True, "abort": True}), "spec.control", "promote and abort contradict"),
    Bad("promote and undo", changed(ROLLOUT, "spec.control", {"promote": True, "undo": True}), "spec.control", "promote and undo contradict"),
]  # fmt: skip

UPDATES = [
    Update("another model is a new run", SYNTHESIS, changed(SYNTHESIS, "spec.model.source.synthetic.seed", 1), None),
    Update("a run is controlled", RUN, changed(RUN, "spec.control", {"pause": True}), None),
    Update("a run's cause", RUN, changed(RUN, "spec.cause", "Drift"), "cause cannot be changed"),
    Update("a run's hash", RUN, changed(RUN, "spec.contentHash", OTHER_DIGEST), "contentHash cannot be changed"),
    Update("a run's synthesis", RUN, changed(RUN, "spec.synthesisRef.uid", "2"), "synthesisRef cannot be changed"),
    Update("a run's snapshot", RUN, changed(RUN, "spec.snapshot.synthesis.search.seed", 9), "snapshot cannot be changed"),
    Update("a candidate's run", CANDIDATE, changed(CANDIDATE, "spec.runRef.name", "y"), "runRef cannot be changed"),
    Update("a candidate's round", CANDIDATE, changed(CANDIDATE, "spec.round", 2), "round cannot be changed"),
    Update("a parent set later", CANDIDATE, changed(CANDIDATE, "spec.parent", "p"), "parent cannot be changed"),
    Update("a parent taken away", changed(CANDIDATE, "spec.parent", "p"), CANDIDATE, "parent cannot be changed"),
    Update("a candidate's branch", CANDIDATE, changed(CANDIDATE, "spec.branch", "b"), "branch cannot be changed"),
    Update("a candidate's claim", CANDIDATE, changed(CANDIDATE, "spec.hypothesis.summary", "b"), "hypothesis cannot"),
    Update("a rollout is paused", ROLLOUT, changed(ROLLOUT, "spec.control.pause", True), None),
    Update("a rollout's arm", ROLLOUT, changed(ROLLOUT, "spec.candidate.service", "b"), "service cannot be changed"),
    Update("an arm's port", ROLLOUT, changed(ROLLOUT, "spec.baseline.port", 80), "port cannot be changed"),
    Update("an arm's bytes", ROLLOUT, changed(ROLLOUT, "spec.candidate.contentHash", OTHER_DIGEST), "contentHash cannot"),
]  # fmt: skip
