"""What a namespace needs before roles can run in it: an identity for each role, and walls around candidates.

None of the accounts has any permission in the cluster. They are identities towards the run repository, which knows them
through TokenReview; model servers have an account of their own whose token is mounted nowhere.
"""

from collections.abc import Mapping

from sartor_operator import names
from sartor_operator.actions import Apply
from sartor_operator.kinds import NETWORK_POLICY, SERVICE_ACCOUNT, Kind, Manifest
from sartor_operator.pods.jobs import ACCOUNTS
from sartor_operator.settings import PORT

CANDIDATE_POLICY = "sartor-candidate"
POLICIES = (CANDIDATE_POLICY,)


def missing_access(namespace: str, present: Mapping[tuple[str, str], Manifest], *, policies: bool) -> list[Apply]:
    """What is not there yet, or not as it has to be: a wall that somebody opened is closed again."""
    wanted: list[tuple[Kind, Manifest]] = [(SERVICE_ACCOUNT, _account(namespace, name)) for name in ACCOUNTS]
    if policies:
        wanted.append((NETWORK_POLICY, _candidate_policy(namespace)))
    return [
        Apply(manifest, "sartor-access")
        for kind, manifest in wanted
        if not _as_wanted(manifest, present.get((kind.kind, names.name_of(manifest))))
    ]


def _as_wanted(wanted: Manifest, there: Manifest | None) -> bool:
    """Equal in every part that is ours: a peer with a selector more would open the wall."""
    return there is not None and all(there.get(key) == value for key, value in wanted.items() if key not in _GIVEN)


_GIVEN = ("apiVersion", "kind", "metadata")


def _meta(namespace: str, name: str) -> Manifest:
    return {"name": name, "namespace": namespace, "labels": {names.MANAGED_BY: names.SARTOR}}


def _account(namespace: str, name: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _meta(namespace, name),
        "automountServiceAccountToken": False,
    }


def _candidate_policy(namespace: str) -> Manifest:
    """A candidate under test is reached by judge and evaluator, and itself reaches the baseline and nothing else."""
    http = [{"protocol": "TCP", "port": PORT}]

    def roles(*allowed: str) -> Manifest:
        match: Manifest = {"key": names.ROLE_LABEL, "operator": "In", "values": list(allowed)}
        return {"podSelector": {"matchExpressions": [match]}}

    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _meta(namespace, CANDIDATE_POLICY),
        "spec": {
            "podSelector": {"matchLabels": {names.ROLE_LABEL: "candidate"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [roles("judge", "evaluator")], "ports": http}],
            "egress": [{"to": [roles("baseline")], "ports": http}],
        },
    }
