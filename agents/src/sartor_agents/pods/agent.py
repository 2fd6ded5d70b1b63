"""The container `agent`: what a model leads. It has no identity, and the container after it takes nothing on trust.

It is asked by a file that the container before it wrote, and answers in one (`answer.json`). What it paid for is asked of
the model proxy by the container after it: whoever runs commands here could write any number into the answer.
"""

import json
import os
import stat
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import httpx2
from pydantic import BaseModel, ConfigDict, ValidationError

from sartor_agents.backends.access import ModelAccess, model_access
from sartor_agents.backends.protocol import BackendError, Usage
from sartor_agents.pods.contract import ContractError, Pod, first_problem
from sartor_agents.run.role import RoleError
from sartor_agents.run.storage import write_atomic
from sartor_api.search.agents import AgentSettings
from sartor_api.search.records import Cost, Verdict

LONGEST_ANSWER = 1 << 20
LONGEST_REASON = 64
ANSWER = "answer.json"
ASKS, BETWEEN_SECONDS, ASK_SECONDS = 5, 2.0, 10.0

Message = TypeVar("Message", bound=BaseModel)


def write_answer(pod: Pod, answer: BaseModel) -> None:
    """Leave the answer for the container after this one. Raises `StorageError`."""
    write_atomic(pod.work / ANSWER, answer.model_dump_json().encode())


def read_answer(pod: Pod, kind: type[Message], role: str) -> Message:
    """What the agent's container answered. Raises `RoleError`.

    It may be anything, a link to a secret included, and it is the agent that reads about what is wrong with it: nothing of
    the content gets into the message.
    """
    try:
        handle = os.open(pod.work / ANSWER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise RoleError("RoleGaveNothing", f"the {role} left no answer") from None
    except OSError as error:
        raise RoleError("RoleAnsweredGarbage", f"the {role}'s answer is no plain file: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise RoleError("RoleAnsweredGarbage", f"the {role}'s answer is no plain file")
        content = file.read(LONGEST_ANSWER + 1)
    if len(content) > LONGEST_ANSWER:
        raise RoleError("RoleAnsweredGarbage", f"the {role}'s answer has more than {LONGEST_ANSWER} bytes")
    try:
        return kind.model_validate(json.loads(content))
    except ValidationError as error:
        text = f"the {role}'s answer is not valid: {first_problem(error)}"
        raise RoleError("RoleAnsweredGarbage", text) from error
    except (ValueError, RecursionError) as error:
        raise RoleError("RoleAnsweredGarbage", f"the {role}'s answer is no JSON") from error


def declared_failure(failure: Verdict | None, gate: str, role: str) -> Verdict:
    """Why the agent gave up, in its own words. Raises `RoleError` for what is no failure."""
    if failure is None or failure.passed or len(failure.reason) > LONGEST_REASON:
        raise RoleError("RoleAnsweredGarbage", f"the {role}'s answer says neither what it did nor why it could not")
    return failure.model_copy(update={"gate": gate})


class Spent(BaseModel):
    """What the proxy says of a step."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tokens: int
    money: Decimal


def spent(pod: Pod, told: Usage, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> Cost:
    """What the step cost since it was begun: `told` where no model was asked, else what the model proxy has in its books.

    A proxy that cannot be asked makes it all that was reserved. Raises `ContractError`.
    """
    try:
        asks = AgentSettings.model_validate(pod.spec.agents).asks(pod.begin.step)
    except ValidationError as error:
        raise ContractError(f"SARTOR_SPEC_FILE: agents: {first_problem(error)}") from error
    if asks is None:
        return Cost(tokens=told.tokens, money=told.money)
    try:
        access = model_access()
    except BackendError as error:
        raise ContractError(error.message) from error
    for number in range(1, ASKS + 1):
        try:
            booked = _booked(access, pod.begin.begun)
        except (httpx2.HTTPError, ValidationError) as error:
            say(f"the model proxy does not say what was spent: {type(error).__name__}")
            if number < ASKS:
                sleep(BETWEEN_SECONDS)
        else:
            return Cost(tokens=booked.tokens, money=float(booked.money))
    return pod.begin.reserve.model_copy(update={"accelerator_seconds": 0.0})


def _booked(access: ModelAccess, since: float) -> Spent:
    headers = {"Authorization": f"Bearer {access.token}"}
    url = f"{access.url}/sartor/spent"
    response = httpx2.get(url, params={"since": str(since)}, headers=headers, timeout=ASK_SECONDS, trust_env=False)
    response.raise_for_status()
    return Spent.model_validate_json(response.content)


def exchange(pod: Pod) -> Path:
    """The file with what the container before the agent asks of it."""
    return pod.work / "request.json"
