"""One question to a model, through the `openai` SDK: streamed, and tried again while the provider has trouble that passes.

The SDK's own retries are off: they know neither the step's deadline nor that a stream broke off half-way.
"""

import random
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import openai

from sartor_agents.backends.access import CALL_HEADER, RECORDED_HEADER, ModelAccess
from sartor_agents.backends.conversation.messages import Answer, Request
from sartor_agents.backends.openai import chat, responses
from sartor_agents.backends.openai.errors import FEATURES, TransientError, UnsupportedError, translated
from sartor_agents.backends.openai.wire import Json, ModelSettings, Params, told, written
from sartor_agents.backends.protocol import BackendError
from sartor_api.search.records import FailureClass


@dataclass(frozen=True)
class Patience:
    """How long trouble is waited out. Seconds.

    After the k-th failure of a call `base · 2^(k-1)` are waited, at most `cap`, with a random part so that many agents do
    not come back together; a provider's `Retry-After` is kept to. `total` bounds the waiting for one call, `silence` the
    time between two signs of life (models that think say nothing for minutes), `connect` the making of a connection.
    """

    base: float = 1.0
    cap: float = 60.0
    total: float = 900.0
    silence: float = 300.0
    connect: float = 15.0

    def delay(self, failures: int, retry_after: float | None, chance: float) -> float:
        """Seconds to wait after `failures` failures, `chance` in [0, 1)."""
        backoff = min(self.cap, self.base * 2.0 ** (failures - 1))
        return max(retry_after or 0.0, backoff * (0.5 + 0.5 * chance))


class OpenAIModel:
    """A `Model` behind an endpoint. What an endpoint turns out not to know is left out from then on."""

    def __init__(
        self,
        access: ModelAccess,
        settings: ModelSettings,
        *,
        patience: Patience | None = None,
        say: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._patience = patience or Patience()
        self._say, self._clock, self._sleep, self._chance = say, clock, sleep, chance
        self._features = frozenset(FEATURES)
        self._client = openai.OpenAI(
            base_url=access.url,
            api_key=access.token,
            max_retries=0,
            timeout=httpx2.Timeout(self._patience.silence, connect=self._patience.connect),
        )

    def ask(self, request: Request) -> Answer:
        """See `Model.ask`."""
        began, failures = self._clock(), 0
        while True:
            try:
                return self._once(request)
            except UnsupportedError as error:
                if error.feature not in self._features:
                    raise BackendError("RequestRefused", str(error), FailureClass.INFRASTRUCTURE) from error
                self._features -= {error.feature}
                self._say(f"the endpoint does not know {error.feature}; going on without it")
            except TransientError as error:
                failures += 1
                delay = self._patience.delay(failures, error.retry_after, self._chance())
                now = self._clock()
                if now + delay >= min(began + self._patience.total, request.deadline):
                    raise BackendError(
                        "ProviderUnavailable", f"{error}, {failures} times in {now - began:.0f} s"
                    ) from error
                self._say(f"{error}; trying again in {delay:.0f} s")
                self._sleep(delay)

    def _once(self, request: Request) -> Answer:
        params = Params(self._settings, request, self._features)
        headers = {CALL_HEADER: request.id}
        number = request.id.rpartition("/")[2]
        try:
            protocol = responses if self._settings.api == "responses" else chat
            stream = sent(self._client, protocol.PATH, protocol.parameters(params), headers)
            answer = protocol.answer(self._timely(map(told, stream), request), number)
        except (openai.APIError, ValueError, AttributeError, TypeError, KeyError) as error:
            raise translated(error) from error
        return replace(written(answer), recorded=bool(stream.response.headers.get(RECORDED_HEADER)))

    def _timely(self, events: Iterable[Any], request: Request) -> Generator[Any]:
        """The events until the step's deadline; a model that goes on talking beyond it is not listened to."""
        for event in events:
            if self._clock() >= request.deadline:
                raise BackendError("TimeSpent", "the step's time ended within an answer", FailureClass.CANDIDATE)
            yield event


def sent(client: openai.OpenAI, path: str, body: Json, headers: Mapping[str, str]) -> openai.Stream[object]:
    """Send one request; what comes back is each event's JSON. Raises the SDK's errors."""
    options: openai.RequestOptions = {"headers": headers}
    return client.post(path, cast_to=object, body=body, options=options, stream=True, stream_cls=openai.Stream[object])
