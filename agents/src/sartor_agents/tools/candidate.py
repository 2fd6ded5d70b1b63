"""Tools around the running candidate: start it, ask it, stop it."""

import json
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, JsonValue

from sartor_agents.backends.conversation.tool import ToolResult
from sartor_agents.tools.files import Parameters
from sartor_agents.tools.server import CandidateServer, NotServingError

SHOWN_BYTES = 8 << 10
ASK_SECONDS = 120.0


class NoParameters(Parameters):
    pass


@dataclass(frozen=True)
class StartCandidate:
    """`start_candidate`."""

    server: CandidateServer
    name: str = "start_candidate"
    description: str = (
        "Build stack/ (python -m stack build) and serve it (python -m stack serve) in the sandbox with the real model. It "
        "serves stack/ as it is now; after changes start it again. A running one is stopped first."
    )
    parameters: type[NoParameters] = NoParameters

    def call(self, parameters: NoParameters, /) -> ToolResult:
        try:
            built, seconds = self.server.start()
        except NotServingError as error:
            return ToolResult(str(error), failed=True)
        output = f"\nThe build wrote:\n{built.output}" if built.output.strip() else ""
        return ToolResult(f"Ready after {seconds:.1f} s (build {built.seconds:.1f} s).{output}")


class RequestParameters(Parameters):
    path: str = Field(pattern=r"^/[!-~]*$", max_length=2000, description="As /v1/completions.")
    method: Literal["GET", "POST"] = "POST"
    body: JsonValue = Field(default=None, description="The JSON body; give `stream` in it to have the answer streamed.")


@dataclass(frozen=True)
class SendRequest:
    """`send_request`."""

    server: CandidateServer
    name: str = "send_request"
    description: str = "Send one request to the running candidate; gives status, times and the answer."
    parameters: type[RequestParameters] = RequestParameters

    def call(self, parameters: RequestParameters, /) -> ToolResult:
        body = json.dumps(parameters.body).encode() if parameters.method == "POST" else None
        try:
            answer = self.server.ask(parameters.method, parameters.path, body, timeout=ASK_SECONDS, most=SHOWN_BYTES)
        except NotServingError as error:
            log = "" if self.server.serving else f"\nIt does not run. Its last words:\n{self.server.log()[-4000:]}"
            return ToolResult(f"{error}{log}", failed=True)
        cut = f"\n[{answer.size - len(answer.body)} more bytes]" if answer.size > len(answer.body) else ""
        kind = answer.headers.get("content-type", "")
        times = f"first byte {1000 * answer.first:.1f} ms, whole {1000 * answer.seconds:.1f} ms"
        text = answer.body.decode(errors="replace")
        return ToolResult(f"[HTTP {answer.status}, {kind}, {times}, {answer.size} bytes]\n{text}{cut}")


@dataclass(frozen=True)
class StopCandidate:
    """`stop_candidate`."""

    server: CandidateServer
    name: str = "stop_candidate"
    description: str = "Stop the running candidate; gives what it wrote."
    parameters: type[NoParameters] = NoParameters

    def call(self, parameters: NoParameters, /) -> ToolResult:
        log, was = self.server.log(), self.server.serving
        self.server.close()
        return ToolResult(f"{'Stopped' if was else 'It was not running'}. It wrote:\n{log}" if log else "Stopped.")
