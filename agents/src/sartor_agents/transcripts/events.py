"""The events of a transcript, a line of JSON each. Their text is redacted and cut; what was cut is counted."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Event(BaseModel):
    """`at` is Unix time in seconds; `call` the name of the call, as `003/implement/1/0007/…`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: float
    call: str


class Entry(BaseModel):
    """One entry of the conversation: what was said, a call, or its result. `cut` are the characters left out of `text`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["instructions", "user", "assistant", "reasoning", "call", "result", "refusal"]
    text: str = ""
    name: str = ""
    id: str = ""
    cut: int = Field(default=0, ge=0)


class Asked(Event):
    """A model is asked. `entries` are those that the conversation did not have at its call before; with `anew` it does not
    continue that call (a new conversation, or one that was compacted), and all of it stands here."""

    kind: Literal["asked"] = "asked"
    role: str
    model: str
    api: str
    anew: bool
    entries: tuple[Entry, ...] = ()


class Answered(Event):
    """The answer. Tokens; `money` as decimal text; `estimated` when the provider did not report its usage."""

    kind: Literal["answered"] = "answered"
    entries: tuple[Entry, ...] = ()
    end: str = ""
    endpoint: str
    seconds: float = Field(ge=0)
    input: int = Field(ge=0)
    cached_input: int = Field(default=0, ge=0)
    output: int = Field(ge=0)
    reasoning: int = Field(default=0, ge=0)
    money: str | None = None
    estimated: bool = False


class Failed(Event):
    """No whole answer came. `tokens` is what is charged for it all the same."""

    kind: Literal["failed"] = "failed"
    reason: str
    message: str = ""
    tokens: int = Field(default=0, ge=0)


class Repeated(Event):
    """The call was made again and got the recorded answer; nothing was paid."""

    kind: Literal["repeated"] = "repeated"


TranscriptEvent = Annotated[Asked | Answered | Failed | Repeated, Field(discriminator="kind")]
EVENT: TypeAdapter[TranscriptEvent] = TypeAdapter(TranscriptEvent)
