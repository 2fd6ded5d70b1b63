"""Runs whose agents ask a model: the profile's proxy, a grant for each step, and walls around who holds what."""

import asyncio
import base64
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from operator_world import NAMESPACE, START, Ends, Process, World, live, profile, synthesis, target

from sartor_agents.model_proxy.config import ProxyConfig
from sartor_api.search.grants import Grant
from sartor_api.search.records import Cost, FailureClass, StepKind
from sartor_operator import names
from sartor_operator.books import ProviderState
from sartor_operator.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    JOB,
    PROFILE,
    RUN,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    SYNTHESIS,
    Kind,
    Manifest,
)
from sartor_operator.profile import ProxyObserved, decide_profile
from sartor_operator.wire import StepBegin, StoredRecord

KEY = "sk-of-the-provider"
OPENAI: dict[str, Any] = {
    "backend": "openai",
    "model": "big",
    "roles": [{"role": "implementer", "model": "small", "maximumOutputTokens": 4000}],
    "endpoints": [
        {"url": "https://llm.example/v1", "secretRef": {"name": "llm"}, "organization": "org"},
        {"url": "http://second.example/v1", "secretRef": {"name": "other", "key": "token"}},
    ],
    "prices": [{"model": "big", "input": "2.5", "output": "10"}, {"model": "small", "input": "1", "output": "2"}],
    "limits": {"tokensPerStep": "100k", "requestsPerMinute": 30},
}


def provider_secret(name: str, key: str) -> Manifest:
    meta = {"name": name, "namespace": NAMESPACE}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta,
        "data": {key: base64.b64encode(KEY.encode()).decode()},
    }


def made(**more: Any) -> World:
    world = World()
    world.add(target())
    world.add(provider_secret("llm", "apiKey"))
    world.add(provider_secret("other", "token"))
    world.add(profile(**(OPENAI | more)))
    return world


def own(world: World, kind: Kind) -> list[Manifest]:
    return [one for one in world.all(kind) if names.label(one, names.PROFILE_LABEL) == "agents"]


def ready(world: World) -> bool:
    return "status" in world.one(PROFILE) and condition(world)[0] == "True"


def lives(world: World, phase: str = "Serving") -> None:
    """Until the synthesis is there: a profile that refers to Secrets is looked at again and again, so nothing ends."""
    live(world, until=lambda: (world.one(SYNTHESIS).get("status") or {}).get("phase") == phase)


def condition(world: World) -> tuple[str, str, str]:
    (ready,) = [c for c in world.one(PROFILE)["status"]["conditions"] if c["type"] == "Ready"]
    return ready["status"], ready["reason"], ready["message"]


@pytest.fixture(scope="module")
def lived() -> tuple[World, dict[str, Manifest], dict[str, Grant]]:
    """A whole life, the pods' specs by role, and the grants by step."""
    world = made()
    world.add(synthesis(agents={"profileRef": {"name": "agents"}}, budget={"rounds": 2, "tokens": "1M"}))
    pods: dict[str, Manifest] = {}
    grants: dict[str, Grant] = {}

    def collect() -> bool:
        """Whether it is over: what the last step had goes a look after its record."""
        for job in world.all(JOB):
            pods.setdefault(names.label(job, names.ROLE_LABEL), job["spec"]["template"]["spec"])
        (key,) = [base64.b64decode(s["data"]["key"]) for s in own(world, SECRET)] or [b""]
        for secret in world.all(SECRET):
            if "grant" in secret.get("data", {}):
                token = base64.b64decode(secret["data"]["grant"]).decode()
                grants[names.label(secret, names.STEP_LABEL)] = Grant.read(token, key, now=START)
        return (world.one(SYNTHESIS).get("status") or {}).get("phase") == "Serving"

    live(world, until=collect)
    return world, pods, grants


Lived = tuple[World, dict[str, Manifest], dict[str, Grant]]


def test_a_search_with_models_runs_to_its_end(lived: Lived) -> None:
    world, _, grants = lived
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"
    assert {step.split("-")[1] for step in grants} == {"plan", "implement"}
    assert not [s for s in world.all(SECRET) if "grant" in s.get("data", {})], "a grant goes with its step"


def test_a_grant_is_for_one_step_with_what_was_reserved_and_what_the_run_may_spend(lived: Lived) -> None:
    world, _, grants = lived
    grant = grants["001-implement-1-1"]
    assert grant.run == names.name_of(world.one(RUN)) and (grant.role, grant.step) == ("implementer", "001/implement/1")
    assert grant.models == ("small",) and grants["001-plan-1-1"].models == ("big",)
    assert grant.of_step.tokens == 100_000 and grant.of_run.tokens == 1_000_000
    assert START < grant.expires < START + 24 * 3600


def test_only_the_agents_container_and_the_one_after_it_have_the_grant(lived: Lived) -> None:
    _, pods, _ = lived
    for role in ("planner", "implementer"):
        spec = pods[role]
        (volume,) = [v for v in spec["volumes"] if "secret" in v]
        assert volume["secret"]["items"] == [{"key": "grant", "path": "token"}]
        mounting = [
            c["name"]
            for c in (*spec["initContainers"], *spec["containers"])
            if volume["name"] in [m["name"] for m in c["volumeMounts"]]
        ]
        assert mounting == ["agent", "role"]
        agent = next(c for c in spec["initContainers"] if c["name"] == "agent")
        values = {e["name"]: e["value"] for e in agent["env"]}
        assert values["SARTOR_MODEL_TOKEN_FILE"] == "/sartor/grant/token"
        assert values["SARTOR_MODEL_URL"].endswith(f".{NAMESPACE}.svc:8080/v1")


def test_nobody_but_the_proxy_has_the_providers_keys(lived: Lived) -> None:
    world, pods, _ = lived
    (proxy,) = own(world, DEPLOYMENT)
    mounted = [v["secret"]["secretName"] for v in proxy["spec"]["template"]["spec"]["volumes"] if "secret" in v]
    assert mounted == [names.name_of(proxy), "llm", "other"]
    others = json.dumps([pods, [d for d in world.all(DEPLOYMENT) if d is not proxy]])
    assert '"llm"' not in others and '"other"' not in others
    encoded = base64.b64encode(KEY.encode()).decode()
    holding = [names.name_of(m) for m in world.store.values() if KEY in json.dumps(m) or encoded in json.dumps(m)]
    assert sorted(holding) == ["llm", "other"], "no other object of the cluster has a key in it"


def test_the_proxy_is_given_what_it_reads(lived: Lived) -> None:
    world, _, _ = lived
    (config,) = own(world, CONFIG_MAP)
    read = ProxyConfig.model_validate_json(config["data"]["config.json"])
    assert [(str(e.url), str(e.key_file), e.organization) for e in read.endpoints] == [
        ("https://llm.example/v1", "/etc/sartor/keys/0/key", "org"),
        ("http://second.example/v1", "/etc/sartor/keys/1/key", None),
    ]
    (proxy,) = own(world, DEPLOYMENT)
    spec = proxy["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    paths = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert str(read.state) == paths["state"] and str(read.grant_key_file) == f"{paths['grants']}/key"
    items = [v["secret"].get("items") for v in spec["volumes"] if "secret" in v]
    assert items == [None, [{"key": "apiKey", "path": "key"}], [{"key": "token", "path": "key"}]]
    assert (paths["key-0"], paths["key-1"]) == ("/etc/sartor/keys/0", "/etc/sartor/keys/1")
    assert str(read.prices["big"].input) == "2.5" and read.requests_per_minute == 30
    assert read.maximum_output_tokens == 32_000, "the largest of its roles"
    (front,) = own(world, SERVICE)
    assert front["spec"]["ports"][0]["port"] == read.port == container["ports"][0]["containerPort"]
    assert container["command"][-2:] == ["--host", "$(POD_IP)"]


def test_the_proxys_pod_is_restricted_and_talks_to_no_api_server(lived: Lived) -> None:
    world, _, _ = lived
    (proxy,) = own(world, DEPLOYMENT)
    spec = proxy["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False and spec["serviceAccountName"] == "sartor-model-proxy"
    assert not any("projected" in volume for volume in spec["volumes"])
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    (account,) = [a for a in world.all(SERVICE_ACCOUNT) if names.name_of(a) == "sartor-model-proxy"]
    assert account["automountServiceAccountToken"] is False


def test_a_profile_is_ready_when_its_proxy_is_and_looking_again_writes_nothing() -> None:
    world = made()
    process = Process(world)
    asyncio.run(process.work())
    assert condition(world)[:2] == ("False", "Progressing")
    live(world, until=lambda: ready(world))
    assert condition(world)[:2] == ("True", "Succeeded")
    written = len(world.writes)
    asyncio.run(Process(world).work())
    assert len(world.writes) == written


def test_another_configuration_is_another_pod_and_the_old_one_goes() -> None:
    world = made()
    live(world, until=lambda: ready(world))
    before = own(world, CONFIG_MAP)[0]
    (key,) = own(world, SECRET)
    world.edit(PROFILE, "agents", lambda m: m["spec"]["limits"].update(requestsPerMinute=5))
    live(world, until=lambda: ready(world) and len(own(world, CONFIG_MAP)) == 1 and own(world, CONFIG_MAP) != [before])
    (after,) = own(world, CONFIG_MAP)
    (proxy,) = own(world, DEPLOYMENT)
    assert names.name_of(after) != names.name_of(before)
    mounted = [v["configMap"]["name"] for v in proxy["spec"]["template"]["spec"]["volumes"] if "configMap" in v]
    assert mounted == [names.name_of(after)]
    assert own(world, SECRET)[0]["data"] == key["data"], "grants that were given out stay good"


def test_a_profile_that_asks_no_model_any_more_has_no_proxy() -> None:
    world = made()
    live(world, until=lambda: ready(world))
    gone = ("model", "roles", "endpoints")
    world.edit(
        PROFILE,
        "agents",
        lambda m: m.update(spec={k: v for k, v in OPENAI.items() if k not in gone} | {"backend": "playbook"}),
    )
    live(world)
    assert not [own(world, kind) for kind in (DEPLOYMENT, SERVICE, CONFIG_MAP, SECRET) if own(world, kind)]
    assert condition(world)[:2] == ("True", "Succeeded")


def test_a_claim_keeps_the_books() -> None:
    world = made(
        modelProxy={"persistentVolumeClaim": "books", "nodeSelector": {"pool": "egress"}, "image": "r.example/a:1"}
    )
    live(world, until=lambda: ready(world))
    deployment = own(world, DEPLOYMENT)[0]["spec"]
    assert deployment["strategy"] == {"type": "Recreate"}, "two at once would write one file of books"
    spec = deployment["template"]["spec"]
    assert {"name": "state", "persistentVolumeClaim": {"claimName": "books"}} in spec["volumes"]
    assert spec["nodeSelector"] == {"pool": "egress"} and spec["containers"][0]["image"] == "r.example/a:1"


def test_a_step_waits_for_the_proxy_and_its_time_does_not_run() -> None:
    world = made()
    world.add(synthesis(agents={"profileRef": {"name": "agents"}}))
    broken = {"on": True}
    as_it_is = world._server  # pyright: ignore[reportPrivateUsage]

    def server(key: Any, pod: Manifest, role: str) -> None:
        if role != "model-proxy" or not broken["on"]:
            as_it_is(key, pod, role)

    world._server = server  # type: ignore[method-assign]
    live(world, until=lambda: any("waits" in str(r.get("status", {}).get("message", "")) for r in world.all(RUN)))
    assert "the model proxy of AgentProfile agents is not ready" in world.one(RUN)["status"]["message"]
    assert not [j for j in world.all(JOB) if names.label(j, names.ROLE_LABEL) == "planner"]
    world.now += 100_000
    broken["on"] = False
    lives(world)
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"
    plans = [m for m in world.maps(names.STEP) if names.label(m, names.STEP_LABEL).startswith("001-plan")]
    assert len(plans) == 1, "no plan was given up meanwhile"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prices": []}, "AgentProfile agents has no price for big, small; add it to its spec.prices, or remove money"),
        (
            {"prices": [{"model": m, "input": "1", "output": "1", "currency": "EUR"} for m in ("big", "small")]},
            "the prices of AgentProfile agents in EUR; write both in one currency",
        ),
    ],
)
def test_a_budget_in_money_wants_prices(change: dict[str, Any], said: str) -> None:
    world = made(**change)
    world.add(target("priced", pricePerHour={"amount": "1", "currency": "USD"}))
    world.add(
        synthesis(
            agents={"profileRef": {"name": "agents"}},
            hardware={"targetRef": {"name": "priced"}},
            budget={"rounds": 1, "wallClock": "8h", "money": {"amount": "5", "currency": "USD"}},
        )
    )
    lives(world, "Pending")
    (found,) = [c for c in world.one(SYNTHESIS)["status"]["conditions"] if c["type"] == "Ready"]
    assert found["reason"] == "PriceUnknown" and said in found["message"]
    assert not world.all(RUN)


# --- what the proxies say -----------------------------------------------------------------------------------------------


@dataclass
class Proxies:
    """Books in which every step has spent `cost`."""

    cost: Cost | None = None
    states: tuple[ProviderState, ...] | None = None
    asked: list[tuple[str, str, Grant, float]] = field(default_factory=list)

    async def providers(self, address: str, key: str) -> tuple[ProviderState, ...] | None:
        return self.states

    async def spent(self, address: str, grant: Grant, key: str, since: float) -> Cost | None:
        self.asked.append((address, key, grant, since))
        return self.cost


DEATHS = {
    "memory": Ends(code=137, reason="OOMKilled"),
    "evicted": Ends(pod_reason="Evicted"),
    "preempted": Ends(disrupted=True),
    "silent": Ends(message="no report"),
    "hangs": Ends(never=True),
}


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("said", [Cost(tokens=41_000, money=0.5), None])
def test_what_a_pod_spent_that_died_is_booked_all_the_same(death: str, said: Cost | None) -> None:
    """By the proxy's books; where those cannot be had, all that was reserved for the step."""
    world = made()
    world.script = lambda begin, execution: (
        DEATHS[death] if begin.step is StepKind.IMPLEMENT and begin.round == 1 and execution == 1 else None
    )
    proxies = world.books = Proxies(said)
    world.add(synthesis(agents={"profileRef": {"name": "agents"}}, budget={"rounds": 1, "tokens": "1M"}))
    lives(world)
    records = [StoredRecord.model_validate_json(m["data"]["record.json"]) for m in world.maps(names.RECORD)]
    lost = next(r.record for r in records if r.record.id == "001/implement/1/1")
    assert lost.failure is not None and lost.failure.failure_class is FailureClass.INFRASTRUCTURE
    assert (lost.cost.tokens, lost.cost.money) == ((41_000, 0.5) if said else (100_000, 0.2))
    assert sum(r.record.cost.tokens for r in records) == lost.cost.tokens, "the others said theirs"
    assert world.one(RUN)["status"]["spent"]["tokens"] == lost.cost.tokens
    begun = next(s for s in (world_begin(m) for m in world.maps(names.STEP)) if s.id == lost.id)
    (key,) = [base64.b64decode(s["data"]["key"]).decode() for s in own(world, SECRET)]
    for address, signed_with, grant, since in proxies.asked:
        assert (address, signed_with, since) == ("http://10.0.0.9:8080/v1", key, begun.begun)
        assert (grant.run, grant.step) == (names.name_of(world.one(RUN)), "001/implement/1")


def world_begin(manifest: Manifest) -> StepBegin:
    return StepBegin.model_validate_json(manifest["data"]["step.json"])


def test_a_step_that_never_had_a_pod_cost_nothing() -> None:
    """A reviewing judge whose candidate does not start has asked nobody, though its grant lies ready."""
    world = made(review=True)
    world.candidate = lambda pod: "unpack:1:Error"
    world.books = Proxies(None)
    world.add(synthesis(agents={"profileRef": {"name": "agents"}}, budget={"rounds": 1, "tokens": "1M"}))
    live(world, until=lambda: len(world.maps(names.RECORD)) >= 4)
    records = [StoredRecord.model_validate_json(m["data"]["record.json"]).record for m in world.maps(names.RECORD)]
    judged = [one for one in records if one.step is StepKind.JUDGE]
    assert judged and judged[0].failure is not None and judged[0].cost.tokens == 0


def endpoints(world: World) -> list[tuple[str, str, str]]:
    said = world.one(PROFILE)["status"].get("endpoints", [])
    return [(one["url"], one["state"], one["message"]) for one in said]


def test_a_profile_says_how_its_providers_do() -> None:
    world = made()
    proxies = world.books = Proxies(
        states=(ProviderState(state="Available"), ProviderState(state="RateLimited", message="x" * 5000))
    )
    live(world, until=lambda: ready(world) and bool(endpoints(world)))
    first, second = endpoints(world)
    assert first == ("https://llm.example/v1", "Available", "")
    assert second[:2] == ("http://second.example/v1", "RateLimited") and len(second[2]) == 500
    proxies.states = None
    asyncio.run(Process(world).work())
    assert endpoints(world) == [first, second], "a proxy that says nothing takes nothing back"
    world.edit(PROFILE, "agents", lambda m: m["spec"].update(endpoints=m["spec"]["endpoints"][:1]))
    live(world, until=lambda: ready(world))
    assert endpoints(world) == [first], "what is not asked any more is not told of"


def test_two_keys_at_one_address_are_one_endpoint_of_the_status() -> None:
    """A list by address cannot have it twice; the first one is the one that is preferred."""
    twice = [
        {"url": "https://llm.example/v1", "secretRef": {"name": n, "key": k}}
        for n, k in (("llm", "apiKey"), ("other", "token"))
    ]
    world = made(endpoints=twice)
    world.books = Proxies(states=(ProviderState(state="Failing", message="HTTP 500"), ProviderState(state="Available")))
    live(world, until=lambda: ready(world) and bool(endpoints(world)))
    assert endpoints(world) == [("https://llm.example/v1", "Failing", "HTTP 500")]


@pytest.mark.parametrize(("phase", "seconds"), [(None, 30.0), ("2026-01-01T00:00:00Z", 300.0)])
def test_providers_are_looked_after_while_a_run_uses_them(phase: str | None, seconds: float) -> None:
    world = made()
    live(world, until=lambda: ready(world))
    run = {"status": {} if phase is None else {"finishedAt": phase}}
    manifest = world.one(PROFILE)
    keys = {"llm": frozenset({"apiKey"}), "other": frozenset({"token"})}
    seen = ProxyObserved(
        {kind: own(world, kind)[0] for kind in (SECRET, DEPLOYMENT, SERVICE)}, tuple(own(world, CONFIG_MAP))
    )
    assert decide_profile(manifest, keys, [run], seen, world.settings, 1000.0).wake_at == 1000.0 + seconds


def test_steps_that_ask_no_model_have_no_grant(lived: Lived) -> None:
    _, pods, _ = lived
    for role in ("tuner", "judge", "evaluator"):
        secrets = [v["name"] for v in pods[role]["volumes"] if "secret" in v]
        assert secrets == ["seal"]
        assert "SARTOR_MODEL_URL" not in json.dumps(pods[role])
