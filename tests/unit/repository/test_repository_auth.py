"""Who holds a token: what the API server says, how long it is believed, and what is never taken for a yes."""

import asyncio
import base64
import json
from dataclasses import dataclass, field

import pytest

from sartor_repository.auth import (
    KEPT_SECONDS,
    MOST_KEPT,
    POD_NAME,
    POD_UID,
    DeniedError,
    Pod,
    Review,
    TokenAuthenticator,
    UnavailableError,
    expiry,
)
from sartor_repository.policy import Caller, Role

AUDIENCE = "sartor-repository"
OPERATOR = "system:serviceaccount:sartor-system:sartor-operator"


def token(name: str, expires: float = 1e12) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"sub": name, "exp": expires}).encode()).decode().rstrip("=")
    return f"header.{claims}.signature"


def bound(account: str, pod: str = "p", uid: str = "u") -> Review:
    username = f"system:serviceaccount:team-a:{account}"
    return Review(True, username, (AUDIENCE,), {POD_NAME: (pod,), POD_UID: (uid,)})


@dataclass
class FakeFacts:
    reviews: dict[str, Review] = field(default_factory=dict[str, Review])
    pods: dict[tuple[str, str], Pod] = field(default_factory=dict[tuple[str, str], Pod])
    away: bool = False
    asked: int = 0

    async def review(self, token: str, audience: str) -> Review:
        self.asked += 1
        if self.away:
            raise UnavailableError("the API server cannot be reached (MaxRetryError)")
        assert audience == AUDIENCE
        return self.reviews.get(token, Review(False, error="invalid bearer token"))

    async def pod(self, namespace: str, name: str) -> Pod | None:
        return self.pods.get((namespace, name))

    async def run_exists(self, namespace: str, run: str) -> bool:
        return True


@dataclass
class World:
    facts: FakeFacts = field(default_factory=FakeFacts)
    time: float = 1000.0

    def __post_init__(self) -> None:
        self.authenticate = TokenAuthenticator(
            self.facts, audience=AUDIENCE, operators=frozenset({OPERATOR}), now=lambda: self.time
        )

    def who(self, text: str) -> Caller:
        return asyncio.run(self.authenticate(text))  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    made = World()
    labels = {"sartor.dev/run": "editor-1", "sartor.dev/step": "003-judge-1-1"}
    made.facts.pods[("team-a", "p")] = Pod("u", labels)
    made.facts.reviews[token("judge")] = bound("sartor-judge")
    return made


def test_a_role_s_pod_is_known_by_its_labels(world: World) -> None:
    assert world.who(token("judge")) == Caller(
        "system:serviceaccount:team-a:sartor-judge", Role.JUDGE, "team-a", "editor-1", "003-judge-1-1"
    )


def test_the_operator_is_known_by_its_name(world: World) -> None:
    world.facts.reviews["o"] = Review(True, OPERATOR, (AUDIENCE,))
    assert world.who("o") == Caller(OPERATOR, Role.OPERATOR)


@pytest.mark.parametrize(
    ("review", "words"),
    [
        (Review(False, error="token has expired"), "token has expired"),
        (Review(True, OPERATOR, ()), "not valid for audience"),
        (Review(True, OPERATOR, ("https://kubernetes.default.svc",)), "not valid for audience"),
        (Review(False, OPERATOR, (AUDIENCE,)), "not valid for audience"),
        (Review(True, "system:serviceaccount:team-a:default", (AUDIENCE,)), "is no role of a run"),
        (Review(True, "system:serviceaccount:team-a:sartor-operator", (AUDIENCE,)), "is no role of a run"),
        (Review(True, "sartor-judge", (AUDIENCE,)), "is no role of a run"),
        (Review(True, "system:admin", (AUDIENCE,)), "is no role of a run"),
        (bound("sartor-judge", uid="of a pod with the same name before"), "is gone"),
        (bound("sartor-judge", pod="other"), "is gone"),
    ],
)
def test_who_is_not_let_in(world: World, review: Review, words: str) -> None:
    world.facts.reviews["t"] = review
    with pytest.raises(DeniedError, match=words):
        world.who("t")


def test_a_token_that_is_bound_to_no_pod_has_no_run(world: World) -> None:
    world.facts.reviews["t"] = Review(True, "system:serviceaccount:team-a:sartor-judge", (AUDIENCE,))
    found = world.who("t")
    assert (found.role, found.run, found.step) == (Role.JUDGE, None, None)


@pytest.mark.parametrize("text", ["", "x" * 9000, "töken"])
def test_what_is_no_token_is_not_even_asked_about(world: World, text: str) -> None:
    with pytest.raises(DeniedError):
        world.who(text)
    assert world.facts.asked == 0


def test_a_yes_is_kept_for_a_while(world: World) -> None:
    for _ in range(3):
        world.who(token("judge"))
    assert world.facts.asked == 1
    world.time += KEPT_SECONDS
    world.who(token("judge"))
    assert world.facts.asked == 2


def test_a_yes_is_not_kept_beyond_the_token_s_end(world: World) -> None:
    short = token("short", expires=1010.0)
    world.facts.reviews[short] = bound("sartor-judge")
    world.who(short)
    world.time = 1009.0
    world.who(short)
    assert world.facts.asked == 1
    world.time = 1010.0
    world.facts.reviews[short] = Review(False, error="token has expired")
    with pytest.raises(DeniedError, match="expired"):
        world.who(short)


def test_a_no_is_not_kept(world: World) -> None:
    with pytest.raises(DeniedError):
        world.who("later")
    world.facts.reviews["later"] = bound("sartor-judge")
    assert world.who("later").role is Role.JUDGE


def test_a_server_that_is_away_is_no_no(world: World) -> None:
    world.facts.away = True
    with pytest.raises(UnavailableError):
        world.who(token("judge"))
    world.facts.away = False
    assert world.who(token("judge")).role is Role.JUDGE


def test_what_is_kept_is_bounded(world: World) -> None:
    for number in range(MOST_KEPT + 10):
        text = token(str(number))
        world.facts.reviews[text] = bound("sartor-judge")
        world.who(text)
    asked = world.facts.asked
    world.who(token(str(MOST_KEPT + 9)))
    assert world.facts.asked == asked
    world.who(token("0"))
    assert world.facts.asked == asked + 1


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "a.e30.c", "a.W10.c", "a.eyJleHAiOiAieCJ9.c"])
def test_a_token_that_does_not_say_when_it_ends_is_not_kept(text: str) -> None:
    assert expiry(text) == 0.0
