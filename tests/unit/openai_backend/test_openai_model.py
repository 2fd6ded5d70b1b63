"""One question to a model over both protocols: what is sent, what is understood, and how trouble is waited out."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from conversation_world import FORM, Notebook
from scripted_provider import Call, Cut, Provider, Raw, Seen, Stall, Status, Turn
from scripted_provider.programs import outage, sloppy

from sartor_agents.backends.access import ModelAccess
from sartor_agents.backends.conversation.accounting import TokenUse
from sartor_agents.backends.conversation.loop import Conversation, StepLimits, Task
from sartor_agents.backends.conversation.messages import (
    Answer,
    ContextTooLongError,
    End,
    Item,
    Request,
    Result,
    Said,
)
from sartor_agents.backends.conversation.tool import definition
from sartor_agents.backends.openai.model import OpenAIModel, Patience
from sartor_agents.backends.openai.wire import UNNAMED, ModelSettings
from sartor_agents.backends.protocol import BackendError
from sartor_api.search.records import FailureClass, Plan

BOTH = pytest.mark.parametrize("api", ["responses", "chatCompletions"])
ANSWER = '{"action": "stop", "hypothesis": "nothing is left"}'


@dataclass
class Sleeps:
    """Sleeps no time; `clock` goes on by what was slept."""

    slept: list[float] = field(default_factory=list[float])

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def clock(self) -> float:
        return sum(self.slept)


def model(provider: Provider, api: Any, sleeps: Sleeps, silence: float = 0.5, **changed: Any) -> OpenAIModel:
    settings = ModelSettings(
        **({"model": provider.model, "api": api, "effort": "high", "cache_key": "run/planner"} | changed)
    )
    return OpenAIModel(
        ModelAccess(provider.url, provider.key),
        settings,
        patience=Patience(silence=silence),
        clock=sleeps.clock,
        sleep=sleeps.sleep,
        chance=lambda: 0.0,
    )


def request(*items: Item, **changed: Any) -> Request:
    values = {
        "id": "003/plan/1/0001/abcdef", "instructions": "Be brief.", "items": items or (Said("Go."),), "deadline": 1e9,
        "tools": (definition(Notebook()),), "schema": FORM.schema(), "maximum_output_tokens": 1000,
    }  # fmt: skip
    return Request(**(values | changed))


def ask(program: Callable[[Seen], Any], api: str, *items: Item, **changed: Any) -> tuple[Answer, Provider, Sleeps]:
    sleeps = Sleeps()
    with Provider(program) as provider:
        answer = model(provider, api, sleeps).ask(request(*items, **changed))
    return answer, provider, sleeps


def fails(program: Callable[[Seen], Any], api: str, **changed: Any) -> tuple[BackendError, Provider, Sleeps]:
    sleeps = Sleeps()
    with Provider(program) as provider, pytest.raises(BackendError) as error:
        model(provider, api, sleeps, **changed).ask(request())
    return error.value, provider, sleeps


# --- what is understood -----------------------------------------------------------------------------------------------


@BOTH
def test_text_calls_and_usage_arrive(api: str) -> None:
    turn = Turn(
        text="Let me see. " * 20,
        reasoning="hm",
        calls=(Call("note", {"text": "a" * 300}), Call("note", {"text": "b"})),
    )
    answer, provider, _ = ask(lambda seen: turn, api)
    assert answer.text == turn.text
    assert [(call.name, call.arguments) for call in answer.calls] == [(call.name, call.text) for call in turn.calls]
    assert len({call.id for call in answer.calls}) == 2
    paid = provider.paid[0]
    assert answer.use == TokenUse(paid.input, paid.cached, paid.output, paid.reasoning)
    assert answer.end is End.DONE
    assert not answer.recorded


@BOTH
def test_how_an_answer_ended_is_told(api: str) -> None:
    assert ask(lambda seen: Turn(text="x", finish="length"), api)[0].end is End.CUT
    assert ask(lambda seen: Turn(text="x", finish="content_filter"), api)[0].end is End.FILTERED
    refused = ask(lambda seen: Turn(refusal="I will not."), api)[0]
    assert (refused.end, refused.text) == (End.REFUSED, "I will not.")


@BOTH
def test_a_conversation_goes_back_as_it_was_with_the_sealed_reasoning(api: str) -> None:
    def program(seen: Seen) -> Turn:
        if seen.results:
            return Turn(text=ANSWER)
        return Turn(text="I look.", reasoning="secret", calls=(Call("note", {"text": "x"}),))

    sleeps = Sleeps()
    with Provider(program) as provider:
        one = model(provider, api, sleeps)
        first = one.ask(request())
        one.ask(request(Said("Go."), first, Result(first.calls[0].id, "note", "noted")))
    kinds = [item.kind for item in provider.seen[1].items]
    reasoning = ["reasoning"] if api == "responses" else []
    assert kinds == ["user", *reasoning, "assistant", "call", "result"]
    assert provider.refused == []


@BOTH
def test_text_that_is_none_is_made_legible_and_goes_back(api: str) -> None:
    def program(seen: Seen) -> Turn:
        if seen.results:
            return Turn(text=ANSWER)
        return Turn(text="a\ud800b", reasoning="\udc00", calls=(Call("note", {"text": "x"}),))

    with Provider(program) as provider:
        one = model(provider, api, Sleeps())
        first = one.ask(request())
        again = one.ask(request(Said("Go."), first, Result(first.calls[0].id, "note", "noted")))
    assert (first.text, again.text) == ("a\ufffdb", ANSWER) and provider.refused == []


@BOTH
def test_what_never_changes_comes_first_and_is_found_in_the_cache(api: str) -> None:
    def program(seen: Seen) -> Turn:
        return (
            Turn(calls=(Call("note", {"text": f"{seen.turns} " + "y" * 2000}),))
            if seen.turns < 6
            else Turn(text=ANSWER)
        )

    with Provider(program) as provider:
        task = Task("n", "Long instructions. " * 400, "The plan.", FORM, [Notebook()])
        limits = StepLimits(20, 10**9, 1e9, 1e9, 1_000_000, 1000)
        Conversation(model(provider, api, Sleeps()), task, limits, clock=lambda: 0.0).run()
    assert len(provider.paid) == 7
    for before, now in itertools.pairwise(provider.paid):
        assert now.cached >= before.input - 128, "the whole of the request before it"
    bodies = [seen.body for seen in provider.seen]
    assert all(body["prompt_cache_key"] == "run/planner" for body in bodies)
    assert all(body["tools"] == bodies[0]["tools"] for body in bodies)


@BOTH
def test_the_settings_are_sent_and_nothing_is_kept_at_the_provider(api: str) -> None:
    _, provider, _ = ask(lambda seen: Turn(text=ANSWER), api, may_call=False)
    body = provider.seen[0].body
    assert body["tool_choice"] == "none"
    assert provider.seen[0].headers["sartor-call"] == "003/plan/1/0001/abcdef"
    if api == "responses":
        assert (body["store"], body["reasoning"], body["max_output_tokens"]) == (False, {"effort": "high"}, 1000)
        assert body["text"]["format"]["name"] == "plan"
    else:
        assert (body["reasoning_effort"], body["max_completion_tokens"]) == ("high", 1000)
        assert body["response_format"]["json_schema"]["name"] == "plan"
    _, provider, _ = ask(lambda seen: Turn(text=ANSWER), api)
    assert {"text", "response_format"}.isdisjoint(provider.seen[0].body), "a schema could keep it from calling tools"


@BOTH
def test_wrong_calls_can_be_sent_back(api: str) -> None:
    turn = Turn(calls=(Call("", "not json"), Call("note", "[1]"), Call("x" * 100, "{}")))
    answer, _, sleeps = ask(lambda seen: turn, api)
    results = tuple(Result(call.id, call.name, "wrong", failed=True) for call in answer.calls)
    with Provider(lambda seen: Turn(text=ANSWER)) as provider:
        model(provider, api, sleeps).ask(request(Said("Go."), answer, *results))
    sent = [item for item in provider.seen[0].items if item.kind == "call"]
    assert [item.name for item in sent] == [UNNAMED, "note", UNNAMED]
    assert '"malformed": "not json"' in sent[0].text


# --- trouble ----------------------------------------------------------------------------------------------------------


@BOTH
def test_every_kind_of_trouble_is_waited_out(api: str) -> None:
    answer, provider, sleeps = ask(outage.Before(lambda seen: Turn(text=ANSWER)), api)
    assert answer.text == ANSWER
    assert len(provider.seen) == len(outage.TROUBLE) + 1
    assert sleeps.slept == [0.5 * 2**number for number in range(6)] + [30.0, 30.0], "twice as long each time, to a cap"
    assert len({seen.headers["sartor-call"] for seen in provider.seen}) == 1, "it stays one call"


@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), ("0", 0.5), ("nonsense", 0.5), ("-3", 0.5), ("inf", 0.5)])
def test_retry_after_is_kept_to(text: str, seconds: float) -> None:
    _, _, sleeps = ask(outage.Before(lambda seen: Turn(text=ANSWER), [Status(429, retry_after=text)]), "responses")
    assert sleeps.slept == [seconds]


def test_a_date_is_a_retry_after_too() -> None:
    past = "Wed, 21 Oct 2015 07:28:00 GMT"
    _, _, sleeps = ask(outage.Before(lambda seen: Turn(text=ANSWER), [Status(503, retry_after=past)]), "responses")
    assert sleeps.slept == [0.5]


@BOTH
def test_a_provider_that_stays_away_is_given_up_within_patience(api: str) -> None:
    error, provider, sleeps = fails(outage.dead, api)
    assert (error.reason, error.failure_class) == ("ProviderUnavailable", FailureClass.PROVIDER)
    assert sum(sleeps.slept) <= 900
    assert 10 < len(provider.seen) < 50


@BOTH
def test_why_no_provider_answers_is_said_in_the_proxys_words(api: str) -> None:
    """The number is how the proxy says it, and not what a provider answered."""
    status = Status(429, "https://one: HTTP 503, 3 times in 2 s", error_code="provider_out")
    error, _, _ = fails(lambda seen: status, api)
    assert error.message.startswith("no provider answers: https://one: HTTP 503, 3 times in 2 s"), error.message
    assert "429" not in error.message


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    sleeps = Sleeps()
    with Provider(lambda seen: Status(429, retry_after="3600")) as provider, pytest.raises(BackendError) as error:
        model(provider, "responses", sleeps).ask(request(deadline=60.0))
    assert error.value.reason == "ProviderUnavailable"
    assert sleeps.slept == []


@BOTH
@pytest.mark.parametrize(
    ("status", "reason", "blamed"),
    [
        (Status(401, "Incorrect API key"), "Unauthorized", FailureClass.INFRASTRUCTURE),
        (Status(404, "no such model"), "ModelNotFound", FailureClass.INFRASTRUCTURE),
        (Status(400, "Invalid image"), "RequestRefused", FailureClass.INFRASTRUCTURE),
        (Status(429, "no quota", error_code="insufficient_quota"), "ProviderQuotaSpent", FailureClass.PROVIDER),
        (Status(402, "the run's budget", error_code="budget_spent"), "BudgetSpent", FailureClass.CANDIDATE),
    ],
)  # fmt: skip
def test_what_waiting_does_not_mend_is_told_at_once(
    api: str, status: Status, reason: str, blamed: FailureClass
) -> None:
    error, provider, sleeps = fails(lambda seen: status, api)
    assert (error.reason, error.failure_class) == (reason, blamed)
    assert status.message in error.message
    assert (len(provider.seen), sleeps.slept) == (1, [])


@BOTH
def test_a_context_that_is_too_long_is_the_conversations_to_mend(api: str) -> None:
    status = Status(400, "This model's maximum context length is 8192 tokens.", error_code="context_length_exceeded")
    with Provider(lambda seen: status) as provider, pytest.raises(ContextTooLongError):
        model(provider, api, Sleeps()).ask(request())


@BOTH
@pytest.mark.parametrize(
    "names", [("prompt_cache_key",), ("reasoning", "reasoning_effort"), ("include", "max_completion_tokens")]
)
def test_an_endpoint_that_knows_less_gets_less(api: str, names: tuple[str, ...]) -> None:
    def old(seen: Seen) -> Turn | Status:
        known = [name for name in names if name in seen.body]
        return Status(400, f"Unrecognized request argument supplied: {known[0]}") if known else Turn(text=ANSWER)

    with Provider(old) as provider:
        one = model(provider, api, Sleeps())
        assert one.ask(request()).text == ANSWER
        one.ask(request())
    assert len(provider.seen) == 3, "it is tried once, and remembered"
    if "max_completion_tokens" in names and api == "chatCompletions":
        assert provider.seen[-1].body["max_tokens"] == 1000


@BOTH
def test_a_giant_answer_is_broken_off(api: str) -> None:
    error, _, _ = fails(sloppy.giant(9_000_000), api, silence=30.0)
    assert (error.reason, error.failure_class) == ("AnswerTooLong", FailureClass.CANDIDATE)


@BOTH
def test_a_stream_is_not_listened_to_beyond_the_deadline(api: str) -> None:
    ticks = itertools.count(0.0, 10.0)
    with Provider(lambda seen: Turn(text="x" * 4000, piece=10)) as provider:
        one = model(provider, api, Sleeps())
        one._clock = lambda: next(ticks)
        with pytest.raises(BackendError) as error:
            one.ask(request(deadline=100.0))
    assert error.value.reason == "TimeSpent"


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"data: [DONE]\n\n",
        b'data: {"type": "response.completed"}\n\n',
        b'data: {"choices": [{"index": 0, "delta": 7, "finish_reason": "stop"}]}\n\n',
        b'data: {"type": "response.output_item.done", "item": {"type": "message", "content": 3}}\n\ndata: [DONE]\n\n',
        b'data: "text"\n\n',
    ],
)
def test_nonsense_on_the_wire_is_trouble_not_a_defect(api: str, body: bytes) -> None:
    answer, provider, _ = ask(outage.Before(lambda seen: Turn(text=ANSWER), [Raw(body)]), api)
    assert answer.text == ANSWER
    assert len(provider.seen) == 2


@BOTH
def test_a_whole_conversation_over_a_bad_line_with_a_sloppy_model(api: str) -> None:
    notebook = Notebook(name="read_file")
    faults = [Cut(Turn(text="half"), after=3), Status(500), Stall(30, after=1)]
    program = outage.Before(sloppy.bungles(ANSWER), faults)
    with Provider(program) as provider:
        task = Task("n", "Be brief.", "The plan.", FORM, [notebook])
        limits = StepLimits(20, 10**9, 1e9, 1e9, 1_000_000, 1000)
        conversation = Conversation(model(provider, api, Sleeps()), task, limits, clock=lambda: 0.0)
        assert conversation.run() == Plan(round=3, action="stop", hypothesis="nothing is left")
    assert provider.refused == [], "a real service would have taken every request"
    assert conversation.use.total == sum(paid.input + paid.output for paid in provider.paid[-7:])
