"""`code-edit`: rewrite a file, with a prediction of the result; median tokens/s at low concurrency.

Contract: `/v1/completions` with `prediction: {type: content, content}`. The prompt holds an instruction and the file, the
file is the prediction, and the answer differs from it by edits: so vLLM's n-gram speculation finds in the prompt exactly
what the stack is told as a prediction. Conditions: each match rate with replaced tokens, other kinds of edit at the highest
rate below 100 %, and no prediction (a file that has nothing to do with the answer: n-gram speculation is as blind).

On chain checkpoints the answer is known, and match rates are exact. On others the answer comes from the trusted server first
(`prepare`), the file in the prompt is a passage of text, and the prediction is the edited answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sartor_agents.measurement.messages import CodeEditParameters, EditKind
from sartor_agents.measurement.samples import GenerationRequest, Purpose
from sartor_agents.measurement.seeds import derive

from .base import Envelope, Metric, Oracle, ScenarioError, Stage
from .edits import edit
from .text import TextSource

NAME_TOKENS = 12
INSTRUCTION = "\nApply the edit; return the whole file."
RESULT = "\n\nResult:"
WARMUP_TOKENS = 64
NO_PREDICTION = "none"


class CodeEdit:
    """The code-edit scenario over a text source."""

    name = "code-edit"
    metric: Metric = "requestTokensPerSecond"
    sweep = None

    def __init__(self, parameters: CodeEditParameters, text: TextSource, seed: str) -> None:
        self._text = text
        self._seed = seed
        self._file_tokens = parameters.file_tokens
        self._output_tokens = parameters.output_tokens or parameters.file_tokens
        self._plans: dict[str, tuple[EditKind, float] | None] = {}
        if "replace" in parameters.edit_kinds:
            for rate in parameters.match_rates:
                self._plans[f"match{rate}"] = ("replace", rate / 100)
        others: list[EditKind] = [kind for kind in parameters.edit_kinds if kind != "replace"]
        usable = [rate for rate in parameters.match_rates if 0 < rate < 100]
        if others and not usable:
            raise ScenarioError(f"editKinds {', '.join(others)} need a match rate between 1 and 99; add one")
        for kind in others:
            self._plans[f"{kind}{max(usable)}"] = (kind, max(usable) / 100)
        if parameters.without_prediction:
            self._plans[NO_PREDICTION] = None
        single = len(parameters.concurrencies) == 1
        self.stages = tuple(
            Stage(
                name=f"c{c}",
                kind="counted",
                conditions=tuple(name if single else f"c{c}/{name}" for name in self._plans),
                concurrency=c,
            )
            for c in parameters.concurrencies
        )
        self.count_tolerance = 0.0 if text.canonical else 0.25
        fixed = len(text.ids_of(INSTRUCTION + RESULT)) + NAME_TOKENS + 2
        self.envelope = Envelope(
            # Inserted lines make the file longer than the answer.
            input_tokens=fixed + 2 * self._file_tokens,
            output_tokens=self._output_tokens,
            concurrency=max(parameters.concurrencies),
        )

    def stream(self, stage: Stage, purpose: Purpose, window: int) -> Iterator[GenerationRequest]:
        rng = derive(self._seed, "code-edit", stage.name, purpose, window)
        number = 0
        while True:
            # Another order in every cycle: no condition always follows the same other one.
            for index in rng.permutation(len(stage.conditions)):
                condition = stage.conditions[index]
                name = f"{purpose}/{stage.name}/{window}/{number}"
                plan = None if purpose == "warmup" else self._plans[condition.rpartition("/")[2]]
                yield self._request(name, condition, plan, rng, short=purpose == "warmup")
                number += 1

    def _request(
        self, name: str, condition: str, plan: tuple[EditKind, float] | None, rng: np.random.Generator, *, short: bool
    ) -> GenerationRequest:
        text = self._text
        tokens = min(WARMUP_TOKENS, self._output_tokens) if short else self._output_tokens
        start = text.passage(rng, 1)
        answer = text.answer(start, tokens)
        file = text.passage(rng, self._file_tokens)
        prediction: str | None = None
        if plan is not None and answer is not None:
            ids = edit(plan[0], answer, plan[1], rng, text)
            file = ids if len(answer) >= self._file_tokens else ids + file[len(answer) :]
            prediction = text.decode(ids)
        # Files that match well begin like the answer, and answers that begin alike come up again: a name of its own for
        # each file keeps prefixes apart.
        name_of_file = text.decode(text.passage(rng, NAME_TOKENS))
        prompt = (
            name_of_file
            + INSTRUCTION
            + text.decode(file)
            + RESULT
            + (text.decode(start) if answer is not None else "\n")
        )
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        if prediction is not None:
            body["prediction"] = {"type": "content", "content": prediction}
        return GenerationRequest(name, condition, "/v1/completions", body, text.ids_of(prompt), tokens)

    def prompt_ids(self, body: Mapping[str, Any]) -> tuple[int, ...]:
        return self._text.ids_of(body["prompt"])

    async def prepare(self, requests: Sequence[GenerationRequest], oracle: Oracle) -> list[GenerationRequest]:
        wanting = [
            index
            for index, request in enumerate(requests)
            if self._plans.get(request.condition.rpartition("/")[2]) is not None and "prediction" not in request.body
        ]
        prepared = list(requests)
        if self._text.canonical or not wanting:
            return prepared
        answers = await oracle([requests[index] for index in wanting])
        for index, answer in zip(wanting, answers, strict=True):
            request = requests[index]
            plan = self._plans[request.condition.rpartition("/")[2]]
            assert plan is not None
            rng = derive(self._seed, "prediction", request.id)
            ids = edit(plan[0], list(self._plain_ids(answer)), plan[1], rng, self._text)
            content = self._text.decode(ids)
            prepared[index] = request.with_body(prediction={"type": "content", "content": content})
        return prepared

    def _plain_ids(self, answer: str) -> tuple[int, ...]:
        """Ids of an answer without the special tokens that begin a prompt."""
        prefix = len(self._text.ids_of(""))
        return self._text.ids_of(answer)[prefix:]
