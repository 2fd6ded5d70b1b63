"""The model proxy of an AgentProfile: the one pod that holds the keys of its providers, and agents' only way to a model.

| object | what |
|---|---|
| Secret | the key that grants are signed with: the operator signs, the proxy checks |
| ConfigMap | endpoints, prices and limits, without any key |
| Deployment | one replica, ended before another one is begun: the books are one file |
| Service | what the pods of planner, implementer and judge are told |
| ServiceAccount | an identity without permissions and without a token |

Providers' keys are mounted from their Secrets, so a renewed one is used without a restart; the operator never reads them.
"""

import json
from collections.abc import Mapping

from sartor_api.agent_profile import AgentProfileSpec
from sartor_api.fields import KeyReference
from sartor_api.search.agents import AgentSettings, agent_settings
from sartor_operator import names
from sartor_operator.kinds import Manifest
from sartor_operator.pods.common import POD_SECURITY, SCRATCH, container, empty
from sartor_operator.settings import Settings

ROLE = "model-proxy"
ACCOUNT = "sartor-model-proxy"
PORT = 8080
GRANT_KEY = "key"
API_KEY = "apiKey"
"""Key of an endpoint's Secret where the profile names none."""
CONFIG_KEY = "config.json"
STATE = "/state"
_CONFIG, _GRANTS, _KEYS = "/etc/sartor/model-proxy", "/etc/sartor/grants", "/etc/sartor/keys"
LEAST_TRANSCRIPT = 1 << 16


def proxy_name(profile: Manifest) -> str:
    """Of every object of the proxy."""
    return names.child_name(names.name_of(profile), names.uid(profile), ROLE)


def proxy_url(profile: Manifest) -> str:
    """Where pods reach it, up to and including the version."""
    return f"http://{proxy_name(profile)}.{profile['metadata']['namespace']}.svc:{PORT}/v1"


def labels(profile: Manifest) -> dict[str, str]:
    """Of its objects and of its pod; the NetworkPolicies know the pod by its role."""
    return {names.PROFILE_LABEL: names.name_of(profile), names.ROLE_LABEL: ROLE}


def secret_of(reference: KeyReference) -> KeyReference:
    """The reference with its key."""
    return KeyReference(name=reference.name, key=reference.key or API_KEY)


def configuration(spec: AgentProfileSpec) -> str:
    """What the proxy reads (`sartor_agents.model_proxy.config`), as JSON."""
    agents: AgentSettings = agent_settings(spec)
    endpoints: list[Manifest] = []
    for number, endpoint in enumerate(spec.endpoints):
        one: Manifest = {"url": str(endpoint.url)}
        if endpoint.secret_ref is not None:
            one["key_file"] = f"{_KEYS}/{number}/key"
        if endpoint.organization is not None:
            one["organization"] = endpoint.organization
        endpoints.append(one)
    transcripts = spec.transcripts
    content: Manifest = {
        "state": STATE,
        "grant_key_file": f"{_GRANTS}/{GRANT_KEY}",
        "endpoints": endpoints,
        "prices": {model: price.model_dump(mode="json", exclude_none=True) for model, price in agents.prices.items()},
        "port": PORT,
        "maximum_output_tokens": max(role.maximum_output_tokens for role in agents.roles.values()),
        "requests_per_minute": spec.limits.requests_per_minute,
        "transcripts": {
            "keep": transcripts.keep,
            "maximum_bytes": max(LEAST_TRANSCRIPT, int(transcripts.maximum_size)),
        },
    }
    return json.dumps(content, indent=1)


def _meta(profile: Manifest) -> Manifest:
    return names.metadata(proxy_name(profile), profile, labels(profile))


def grant_key(profile: Manifest) -> Manifest:
    """The Secret, without its value. Nobody changes it: grants that were given out stay good."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": _meta(profile), "immutable": True}


def account(profile: Manifest) -> Manifest:
    """One for all profiles of a namespace, so no profile owns it."""
    meta = {
        "name": ACCOUNT,
        "namespace": profile["metadata"]["namespace"],
        "labels": {names.MANAGED_BY: names.SARTOR},
    }
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": False}


def config_map(profile: Manifest, spec: AgentProfileSpec) -> Manifest:
    """Named after its content: another one is another Deployment, and so another pod."""
    content = configuration(spec)
    name = names.child_name(names.name_of(profile), names.uid(profile), ROLE, names.digest(content))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": names.metadata(name, profile, labels(profile)),
        "immutable": True,
        "data": {CONFIG_KEY: content},
    }


def service(profile: Manifest) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(profile),
        "spec": {
            "selector": labels(profile),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def deployment(profile: Manifest, spec: AgentProfileSpec, settings: Settings) -> Manifest:
    own = {names.MANAGED_BY: names.SARTOR, **labels(profile)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(profile),
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels(profile)},
            "template": {
                "metadata": {"labels": own},
                "spec": _pod(profile, spec, settings),
            },
        },
    }


def _pod(profile: Manifest, spec: AgentProfileSpec, settings: Settings) -> Manifest:
    name, place = proxy_name(profile), spec.model_proxy
    claim = place.persistent_volume_claim
    volumes: list[Manifest] = [
        empty(SCRATCH),
        {"name": "config", "configMap": {"name": names.name_of(config_map(profile, spec))}},
        {"name": "grants", "secret": {"secretName": name, "defaultMode": 0o440}},
        {"name": "state", "persistentVolumeClaim": {"claimName": claim}} if claim else empty("state"),
    ]
    mounts: list[Manifest] = [
        {"name": "config", "mountPath": _CONFIG, "readOnly": True},
        {"name": "grants", "mountPath": _GRANTS, "readOnly": True},
        {"name": "state", "mountPath": STATE},
    ]
    for number, endpoint in enumerate(spec.endpoints):
        if endpoint.secret_ref is None:
            continue
        reference = secret_of(endpoint.secret_ref)
        items = [{"key": reference.key, "path": "key"}]
        volumes.append(
            {"name": f"key-{number}", "secret": {"secretName": reference.name, "items": items, "defaultMode": 0o440}}
        )
        mounts.append({"name": f"key-{number}", "mountPath": f"{_KEYS}/{number}", "readOnly": True})
    health: Mapping[str, object] = {"httpGet": {"path": "/health", "port": "http"}}
    made: Manifest = {
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": 10,
        "volumes": volumes,
        "containers": [
            container(
                ROLE,
                place.image or settings.images.agent,
                command=[*settings.model_proxy_command, f"{_CONFIG}/{CONFIG_KEY}", "--host", "$(POD_IP)"],
                env=[{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                ports=[{"name": "http", "containerPort": PORT}],
                volumeMounts=mounts,
                resources={"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
                startupProbe={**health, "periodSeconds": 1, "failureThreshold": 120},
                readinessProbe={**health, "periodSeconds": 5, "timeoutSeconds": 5},
                livenessProbe={**health, "periodSeconds": 20, "timeoutSeconds": 10},
            )
        ],
    }
    if place.node_selector:
        made["nodeSelector"] = dict(place.node_selector)
    if place.tolerations:
        made["tolerations"] = [toleration.to_dict(defaults=True) for toleration in place.tolerations]
    return made
