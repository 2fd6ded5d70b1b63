"""The part of a synthesis that a search depends on. Changing it starts a new run; changing anything else does not."""

from sartor_api.serving_synthesis import ServingSynthesisSpec
from sartor_operator import names

_ELSEWHERE = {
    "suspend": True,
    "delivery": True,
    "rollout": True,
    "resynthesis": True,
    "payback": True,
    "baseline": {"replicas", "service_ref"},
}
"""How the winner is delivered, rolled out and watched; whether work is held; how many replicas the baseline has."""

_DIGITS = 16


def intent_of(spec: ServingSynthesisSpec) -> str:
    """Sixteen hexadecimal digits that are the same for the same intent.

    Only what differs from the defaults is hashed, so that an operator whose API has more fields sees the same intent.
    """
    wanted = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_ELSEWHERE)
    return names.sha256({field: value for field, value in wanted.items() if value != {}}).removeprefix("sha256:")[
        :_DIGITS
    ]
