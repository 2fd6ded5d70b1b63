"""Names and labels of what the operator makes.

A name follows from the owner's uid and what the object is for, so that doing a thing twice is creating one object twice:
the API server refuses the second, and nothing is doubled however often the operator is killed.
"""

import hashlib
import json
from typing import Any

from sartor_operator.kinds import Manifest

MANAGED_BY = "app.kubernetes.io/managed-by"
SARTOR = "sartor"
ARTEFACT = "sartor-artefact"
"""Value of `MANAGED_BY` on what is large and never looked at again (parts of a stack): it is not watched."""
SELECTOR = f"{MANAGED_BY}={SARTOR}"

SYNTHESIS_LABEL = "sartor.dev/synthesis"
RUN_LABEL = "sartor.dev/run"
STEP_LABEL = "sartor.dev/step"
ROLE_LABEL = "sartor.dev/role"
PART_LABEL = "sartor.dev/part"
"""What an object is to its run: see `Part` constants below."""
INTENT_LABEL = "sartor.dev/intent"
CONTENT_LABEL = "sartor.dev/content"
"""On a stack that a rollout moves traffic to, its Service, its pods and the rollout: first digits of the content hash."""
PROBE_LABEL = "sartor.dev/probe"
"""On the probe of a rollout, its Service and its pod: the name that they share."""
PROFILE_LABEL = "sartor.dev/profile"
"""On what belongs to an AgentProfile: its model proxy."""
STEP_ANNOTATION = "sartor.dev/step-id"
MESSAGE_ANNOTATION = "sartor.dev/message"
"""On a ServingSynthesis or a SynthesisRun: a word of a human to the planner, told with each plan."""

SPEC, SEAL, STEP, RECORD, ENDING, STACK = "spec", "seal", "step", "record", "ending", "stack"
"""Values of `PART_LABEL`."""

_DIGITS = 10


def digest(*parts: str) -> str:
    """Ten hexadecimal digits that tell these parts apart from any others (lengths are hashed with them)."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode()
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()[:_DIGITS]


def child_name(prefix: str, owner_uid: str, *purpose: str, longest: int = 63) -> str:
    """`PREFIX-PURPOSE-HASH`, at most `longest` characters; the prefix is cut, purpose and hash are not.

    63 because a Job's name becomes a label of its pods.
    """
    tail = "-".join([*(part.replace("/", "-").lower() for part in purpose), digest(owner_uid, *purpose)])
    head = prefix[: max(1, longest - len(tail) - 1)].rstrip("-.")
    return f"{head}-{tail}"


STACK_NAME_DIGITS = 12


def stack_name(prefix: str, owner_uid: str, content: str) -> str:
    """Of what belongs to one stack of a synthesis: its files, and the Deployment and Service that rollouts move traffic to.
    `content`: 64 hexadecimal digits."""
    return child_name(prefix, owner_uid, STACK, content[:STACK_NAME_DIGITS])


def number_of(name: str) -> int:
    """N of a name `PREFIX-N-WHAT-HASH`, 0 for a name of another form."""
    parts = name.rsplit("-", 3)
    return int(parts[1]) if len(parts) == 4 and parts[1].isdecimal() else 0


def canonical(value: Any) -> str:
    """JSON that is the same text for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256(value: Any) -> str:
    """`sha256:` digest of a JSON value."""
    return "sha256:" + hashlib.sha256(canonical(value).encode()).hexdigest()


def step_label(step_id: str) -> str:
    """A step's id (`003/judge/1/2`) as the value of a label (`003-judge-1-2`)."""
    return step_id.replace("/", "-")


def owner_reference(owner: Manifest) -> dict[str, Any]:
    """That `owner` is the controller: the garbage collector removes what it owns."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def metadata(
    name: str, owner: Manifest, labels: dict[str, str], annotations: dict[str, str] | None = None
) -> dict[str, Any]:
    """Metadata of a child of `owner`, in the owner's namespace."""
    made: dict[str, Any] = {
        "name": name,
        "namespace": owner["metadata"]["namespace"],
        "labels": {MANAGED_BY: SARTOR, **labels},
        "ownerReferences": [owner_reference(owner)],
    }
    return made | ({"annotations": annotations} if annotations else {})


def owner_uid(manifest: Manifest) -> str | None:
    """The uid of the controller of an object."""
    return next((str(r["uid"]) for r in manifest["metadata"].get("ownerReferences", ()) if r.get("controller")), None)


def label(manifest: Manifest, name: str) -> str:
    """The value of a label, the empty string if it is not there."""
    return str(manifest["metadata"].get("labels", {}).get(name, ""))


def uid(manifest: Manifest) -> str:
    return str(manifest["metadata"]["uid"])


def name_of(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])


def deleting(manifest: Manifest) -> bool:
    return bool(manifest["metadata"].get("deletionTimestamp"))
