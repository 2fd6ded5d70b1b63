"""A public smoke check: what every stack must do, asked with prompts of its own.

It tells an implementer early what the gates would tell it late, and decides nothing. Prompts come from the scenario's
stream under a seed that everybody may know; judge and evaluator draw theirs from sealed ones.
"""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sartor_agents.backends.conversation.tool import ToolResult
from sartor_agents.run.errors import BadRequestError
from sartor_agents.tools.candidate import NoParameters
from sartor_agents.tools.server import CandidateServer, NotServingError, Response
from sartor_api.search.records import RunSpec

if TYPE_CHECKING:  # what makes prompts needs NumPy and SciPy; every step of an implementer would pay for importing them
    from sartor_agents.measurement.samples import GenerationRequest

SECONDS = 120.0

Judge = Callable[["GenerationRequest", str], str | None]
"""What is wrong with an answer by the reference, or None."""


@dataclass(frozen=True)
class Finding:
    """One check. `problem` is None when it passed."""

    check: str
    problem: str | None


class Smoke:
    """The checks, in order; a server that does not answer ends them."""

    def __init__(
        self, ask: Callable[..., Response], requests: "Sequence[GenerationRequest]", judge: Judge | None
    ) -> None:
        """`ask` as `CandidateServer.ask`; `requests` are at least one."""
        self._ask = ask
        self._requests = requests
        self._judge = judge
        self._model = ""
        self._texts: list[str] = []

    def run(self) -> list[Finding]:
        checks: dict[str, Callable[[], str | None]] = {
            "health": self._health,
            "models": self._models,
            "answers": self._answers,
            "reference": self._reference,
            "streamed": self._streamed,
            "repeated": self._repeated,
            "together": self._together,
            "left": self._left,
            "bad input": self._bad_input,
            "metrics": self._metrics,
        }
        found: list[Finding] = []
        for name, check in checks.items():
            if name == "reference" and self._judge is None:
                continue
            try:
                found.append(Finding(name, check()))
            except NotServingError as error:
                return [*found, Finding(name, str(error))]
            if not self._model and name == "models":  # nothing can be asked without
                break
        return found

    def _send(self, request: "GenerationRequest", **changes: Any) -> Response:
        body = json.dumps({**request.body, "model": self._model, **changes}).encode()
        return self._ask("POST", request.path, body, timeout=SECONDS)

    def _text(self, request: "GenerationRequest") -> tuple[str, str | None]:
        """The whole answer's text, or what is wrong with the answer."""
        answer = self._send(request, stream=False)
        if answer.status != 200:
            return "", f"{request.path}: HTTP {answer.status}: {answer.body[:300]!r}"
        try:
            content = json.loads(answer.body)
            choice = content["choices"][0]
            text = choice["text"] if "text" in choice else choice["message"]["content"]
            tokens = content["usage"]["completion_tokens"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return "", f"{request.path}: the answer is not of the contract ({type(error).__name__}: {error})"
        if not isinstance(text, str) or not text:
            return "", f"{request.path}: the answer has no text"
        if request.length_is_forced and tokens != request.output_tokens:
            return "", f"usage says {tokens} tokens, {request.output_tokens} were asked for with ignore_eos"
        return text, None

    def _health(self) -> str | None:
        status = self._ask("GET", "/health", timeout=SECONDS).status
        return None if status == 200 else f"/health: HTTP {status}"

    def _models(self) -> str | None:
        answer = self._ask("GET", "/v1/models", timeout=SECONDS)
        try:
            self._model = str(json.loads(answer.body)["data"][0]["id"])
        except (ValueError, KeyError, IndexError, TypeError):
            return f"/v1/models: HTTP {answer.status}, no model is named in {answer.body[:200]!r}"
        return None

    def _answers(self) -> str | None:
        for request in self._requests:
            text, problem = self._text(request)
            if problem is not None:
                return problem
            self._texts.append(text)
        return None

    def _reference(self) -> str | None:
        assert self._judge is not None, "left out without one"
        problems = [self._judge(request, text) for request, text in zip(self._requests, self._texts, strict=False)]
        return next((problem for problem in problems if problem is not None), None)

    def _streamed(self) -> str | None:
        answer = self._send(self._requests[0], stream=True, stream_options={"include_usage": True})
        if "text/event-stream" not in answer.headers.get("content-type", ""):
            return f"asked to stream, it sends {answer.headers.get('content-type')!r}"
        text, ended = "", False
        for line in answer.body.decode(errors="replace").splitlines():
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                try:
                    choices = json.loads(line.removeprefix("data: ")).get("choices", [])
                except (ValueError, AttributeError):
                    return f"an event is no JSON object: {line[:200]}"
                for choice in choices:
                    text += choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        if not ended:
            return "the stream does not end with `data: [DONE]`"
        return self._same(0, text, "streamed")

    def _repeated(self) -> str | None:
        text, problem = self._text(self._requests[0])
        return problem or self._same(0, text, "asked again")

    def _together(self) -> str | None:
        found: dict[int, tuple[str, str | None]] = {}

        def ask(number: int, request: "GenerationRequest") -> None:
            try:
                found[number] = self._text(request)
            except NotServingError as error:
                found[number] = ("", str(error))

        threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(self._requests)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, (text, problem) in sorted(found.items()):
            if (wrong := problem or self._same(number, text, "together with others")) is not None:
                return wrong
        return None

    def _left(self) -> str | None:
        request = self._requests[0]
        body = json.dumps({**request.body, "model": self._model, "stream": True}).encode()
        self._ask("POST", request.path, body, timeout=SECONDS, leave_after=1)
        text, problem = self._text(request)
        return problem or self._same(0, text, "after a client left in the middle")

    def _bad_input(self) -> str | None:
        path = self._requests[0].path
        for name, body in (
            ("no JSON", b'{"prompt": '),
            ("a wrong type", b'{"prompt": 1.5, "messages": 7, "max_tokens": "x"}'),
        ):
            status = self._ask("POST", path, body, timeout=SECONDS).status
            if not 400 <= status < 500:
                return f"{name}: HTTP {status} where a 4xx is right"
        return self._health()

    def _metrics(self) -> str | None:
        answer = self._ask("GET", "/metrics", timeout=SECONDS)
        missing = [
            name for name in (b"vllm:generation_tokens_total", b"vllm:num_requests_running") if name not in answer.body
        ]
        return f"/metrics lacks {b', '.join(missing).decode()}" if missing else None

    def _same(self, number: int, text: str, how: str) -> str | None:
        if number >= len(self._texts) or text == self._texts[number]:
            return None
        return f"prompt {number}: another answer {how}: {text[:200]!r} instead of {self._texts[number][:200]!r}"


@dataclass(frozen=True)
class SmokeCheck:
    """`smoke_check`."""

    server: CandidateServer
    run: RunSpec
    model_dir: Path
    name: str = "smoke_check"
    description: str = (
        "Check the running candidate with public prompts of the workload: contract, the model's own greedy answers (by the "
        "reference), streaming, repetition, several at once, clients that leave, bad input, metrics. The gates check more, "
        "with other prompts; passing here is needed and not enough."
    )
    parameters: type[NoParameters] = NoParameters

    def call(self, parameters: NoParameters, /) -> ToolResult:
        if not self.server.serving:
            return ToolResult("The candidate is not running; start it with start_candidate.", failed=True)
        from sartor_agents.tools.smoke_prompts import ScenarioError, public_requests, reference_judge

        try:
            requests, counter = public_requests(self.run, self.model_dir)
        except (ScenarioError, BadRequestError) as error:
            return ToolResult(f"The workload cannot be made here: {error}", failed=True)
        judge = reference_judge(self.run, self.model_dir, counter)
        found = Smoke(self.server.ask, requests, judge).run()
        lines = [
            f"{'ok    ' if one.problem is None else 'FAILED'}  {one.check}{_indented(one.problem)}" for one in found
        ]
        if judge is None:
            lines.append("[answers were not compared with the reference: it is too large or not installed here]")
        failed = any(one.problem is not None for one in found)
        if failed and not self.server.serving:
            lines.append(f"The candidate has ended. Its last words:\n{self.server.log()[-2000:]}")
        return ToolResult("\n".join(lines), failed=failed)


def _indented(problem: str | None) -> str:
    return "" if problem is None else ": " + problem.replace("\n", "\n        ")
