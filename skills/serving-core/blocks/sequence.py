"""One sequence on its way through the engine: its tokens, its pages, and what ends it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from . import spec
from .decoder import Draw
from .detokenize import StopStrings, TextStream
from .kv_pages import PageTable, pages_for
from .sampling import Sampler, SamplingParams, TokenLogprobs

if spec.SPECULATION != "none":
    from .alignment import Alignment

FinishReason = Literal["stop", "length", "abort", "error"]


class Delta(NamedTuple):
    """What one step added to one sequence. The last delta of a sequence carries `finish`, and only that one."""

    tokens: list[int]
    text: str
    logprobs: list[TokenLogprobs]  # one per token when they were asked for, else empty
    finish: FinishReason | None
    stop_reason: str | int | None  # the stop string or stop token id that matched
    accepted: int  # draft tokens of this step that became output
    rejected: int  # draft tokens of this step that did not


@dataclass(slots=True, eq=False)
class Sequence:
    """Owned by the engine thread from submission to the last delta; `cancelled` may be set from any thread.

    Invariant between steps: keys and values of `tokens[:computed]` are in the cache, or in work on the device, and
    `computed` is less than `len(tokens)` once the last token is known.
    """

    prompt: list[int]
    params: SamplingParams
    text: TextStream
    receive: Callable[[Delta], None]  # called on the event loop, in order
    prediction: list[int] | None = None
    arrived: float = 0.0
    cancelled: bool = False

    # The engine's own.
    tokens: list[int] = field(init=False)
    computed: int = 0
    pages: PageTable = field(init=False)
    sampler: Sampler = field(init=False)
    stops: StopStrings | None = field(init=False)
    needs_logits: bool = field(init=False)
    admitted: float | None = None
    first_token: float | None = None
    last_token: float = 0.0
    if spec.SPECULATION != "none":
        drafter: Alignment | None = None
    if spec.DECODER == "cuda":
        # While a step is planned: which output of the step on its way gives its newest token; −1: none does.
        awaited: int = -1

    def __post_init__(self) -> None:
        params = self.params
        self.tokens = list(self.prompt)
        self.pages = PageTable(pages_for(len(self.prompt) + params.max_tokens))
        self.sampler = Sampler(params, self.prompt)
        self.stops = StopStrings(params.stop, include=params.include_stop_str_in_output) if params.stop else None
        self.needs_logits = params.needs_logits

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.prompt)

    @property
    def budget(self) -> int:
        """How many tokens may still be generated."""
        return self.params.max_tokens - self.generated

    @property
    def decoding(self) -> bool:
        """Whether one row, that of the newest token, is all that the next step needs."""
        if spec.DECODER == "cuda" and self.awaited >= 0:
            return True
        return self.computed == len(self.tokens) - 1 and self.generated > 0

    if spec.DECODER == "cuda":

        @property
        def draw(self) -> Draw | None:
            """How the device draws the next tokens; None where it takes the likeliest, or the host chooses."""
            params = self.params
            if params.greedy or self.needs_logits:
                return None
            index = self.generated + (self.awaited >= 0)
            return Draw(params.temperature, params.top_k, params.top_p, params.min_p, params.seed, index)

    def append(self, token: int) -> tuple[str, FinishReason | None, str | int | None]:
        """Add one output token: the text that it releases, and whether and why the sequence ends with it."""
        finish, reason = self.take(token)
        text = self.render(token, finish)
        if self.stops is not None:
            text = self.stops.push(text, armed=self.generated >= self.params.min_tokens)
            if self.stops.matched is not None:
                finish, reason = "stop", self.stops.matched
            elif finish is not None:
                text += self.stops.finish()
        return text, finish, reason

    def take(self, token: int) -> tuple[FinishReason | None, str | int | None]:
        """Add one output token: whether and why the sequence ends with it, as far as tokens tell."""
        params = self.params
        self.tokens.append(token)
        self.sampler.accept(token)
        armed = self.generated >= params.min_tokens
        finish: FinishReason | None = None
        reason: str | int | None = None
        if armed and token in spec.EOS_TOKEN_IDS and not params.ignore_eos:
            finish = "stop"
        elif armed and token in params.stop_token_ids:
            finish, reason = "stop", token
        elif self.generated >= params.max_tokens:
            finish = "length"
        return finish, reason

    def render(self, token: int, finish: FinishReason | None) -> str:
        """The text that a token releases; `finish` if it is the last one. Tokens are rendered once each, in their order."""
        hidden = finish == "stop" and not self.params.include_stop_str_in_output
        text = "" if hidden else self.text.push(token)
        return text if finish is None else text + self.text.finish()
