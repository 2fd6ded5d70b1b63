"""The pure parts: grants, policy, breaker, and the books."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy_world import GRANT_KEY, grant, tokens

from sartor_agents.backends.conversation.accounting import Price, TokenUse
from sartor_agents.model_proxy.answers import Reading
from sartor_agents.model_proxy.breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, Breaker
from sartor_agents.model_proxy.ledger import BudgetError, Ledger, Recorded
from sartor_agents.model_proxy.policy import RequestRefusedError, admit, learned, nano
from sartor_api.search.grants import PREFIX, Grant, GrantError

ANSWER = Recorded(200, "text/event-stream", b"data: {}\n\n")

# --- grants -----------------------------------------------------------------------------------------------------------


def test_a_grant_says_who_and_how_much() -> None:
    made = grant(of_step=tokens(5))
    assert Grant.read(made.signed(GRANT_KEY), GRANT_KEY, now=0.0) == made


@given(st.data())
def test_no_byte_of_a_grant_can_be_changed(data: st.DataObject) -> None:
    token = grant(expires=100.0).signed(GRANT_KEY)
    at = data.draw(st.integers(len(PREFIX), len(token) - 1))
    other = data.draw(st.sampled_from("ABCxyz019-_.").filter(lambda one: one != token[at]))
    forged = token[:at] + other + token[at + 1 :]
    try:
        read = Grant.read(forged, GRANT_KEY, now=0.0)
    except GrantError:
        return
    assert read == grant(expires=100.0), "only unused bits of the base64 text may differ"


@pytest.mark.parametrize(
    "token",
    [
        "", "sk-something", PREFIX, PREFIX + ".", PREFIX + "e30.e30", PREFIX + "ü.ü", PREFIX + "A" * 100_000,
        grant().signed(b"x" * 32), grant(expires=-1.0).signed(GRANT_KEY),
    ],
)  # fmt: skip
def test_what_is_no_grant_is_refused_without_repeating_it(token: str) -> None:
    with pytest.raises(GrantError) as error:
        Grant.read(token, GRANT_KEY, now=0.0)
    assert not token or token not in str(error.value)


def test_a_key_that_protects_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        grant().signed(b"short")


# --- policy -----------------------------------------------------------------------------------------------------------


def allowed(api: Any = "responses", **body: Any) -> dict[str, Any]:
    raw = json.dumps({"model": "scripted-1", "input": "x", **body}).encode()
    return json.loads(admit(api, raw, grant(), call="c", most_output=100).body)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"model": "dear-1"}, "not granted"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"n": 4}, "one answer"),
        ({"tools": [{"type": "web_search"}]}, "outside of the sandbox"),
        ({"tools": [{"type": "mcp", "server_url": "http://x"}]}, "outside of the sandbox"),
        ({"tools": [{"type": "code_interpreter"}]}, "outside of the sandbox"),
        ({"tools": ["function"]}, "outside of the sandbox"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "web_search"}]}]}, "outside of the sandbox"),
        ({"prediction": {"type": "content", "content": "x"}}, "beyond any limit"),
        ({"input": [{"type": "input_image", "image_url": "http://x"}]}, "text"),
        ({"tools": 3}, "a list"),
        ({"web_search_options": {"a": 1}}, "search the network"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]}, "text"),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_file", "file_url": "http://x"}]}]}, "text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]}, "text"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "item itself"),
        ({"max_output_tokens": -1}, "positive"),
        ({"max_output_tokens": True}, "positive"),
    ],
)  # fmt: skip
def test_ways_out_are_closed(body: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestRefusedError, match=told):
        allowed(**body)


def test_an_answer_has_one_limit() -> None:
    """The provider would keep to one of the two, and the reservation be made for the other."""
    with pytest.raises(RequestRefusedError, match="one of the two"):
        allowed("chat", messages=[], max_tokens=1, max_completion_tokens=10**9)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestRefusedError, match="JSON"):
        admit("responses", raw, grant(), call="c", most_output=1)


def test_what_is_let_through_is_bounded_counted_and_kept_nowhere() -> None:
    assert allowed(store=True)["store"] is False
    assert allowed(max_output_tokens=7)["max_output_tokens"] == 7
    assert allowed()["max_output_tokens"] == 100
    chat = allowed("chat", messages=[], stream=True, max_tokens=9, stream_options={"x": 1}, store=True)
    assert (chat["max_tokens"], "max_completion_tokens" in chat, "store" in chat) == (9, False, False)
    assert chat["stream_options"] == {"x": 1, "include_usage": True}
    assert allowed(tools=[{"type": "function", "name": "f"}])["tools"] == [{"type": "function", "name": "f"}]


def test_the_reservation_learns_from_what_is_counted() -> None:
    assert learned(None, 1000, 250) == pytest.approx(0.275)
    assert learned(0.4, 1000, 250) == 0.4
    assert learned(0.4, 1000, 900) == pytest.approx(0.99)
    assert learned(None, 1000, 10**9) == 1.0
    assert learned(None, 0, 0) == 0.2


def test_money_is_rounded_up() -> None:
    price = Price(input=Decimal("0.0001"), output=Decimal(0))
    assert nano(price, TokenUse(input=1)) == 1
    assert nano(price, TokenUse(input=10_000)) == 1000
    assert nano(None, TokenUse(input=5)) == 0


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(size: int) -> None:
    calls = [{"index": 0, "id": "c", "function": {"name": "note", "arguments": '{"a": 1}'}}]
    events: list[dict[str, Any]] = [
        {"choices": [{"delta": {"content": "Fi"}}]},
        {"choices": [{"delta": {"content": "ne", "tool_calls": calls}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}},
    ]
    stream = b": comment\r\n\r\n" + b"".join(b"data: %s\r\n\r\n" % json.dumps(one).encode() for one in events)
    stream += b"data: [DONE]"  # the last line without its end
    reading = Reading("chat", streamed=True)
    for at in range(0, len(stream), size):
        reading.feed(stream[at : at + size])
    reading.end()
    assert (reading.whole, reading.use, reading.ended()) == (True, TokenUse(input=9, output=4), "tool_calls")
    assert [(entry.kind, entry.text) for entry in reading.entries()] == [("assistant", "Fine"), ("call", '{"a": 1}')]


# --- breaker ----------------------------------------------------------------------------------------------------------


def test_it_opens_after_failures_and_lets_one_try_through() -> None:
    breaker = Breaker()
    for number in range(FAILURES):
        assert breaker.wait(0.0) == 0
        breaker.begin(0.0)
        breaker.failed("down", float(number))
    assert breaker.state == "Failing"
    assert breaker.wait(FAILURES - 1) == FIRST_PAUSE
    later = FAILURES - 1 + FIRST_PAUSE
    assert breaker.wait(later) == 0
    breaker.begin(later)
    assert breaker.wait(later) > 0, "one at a time"
    breaker.failed("still down", later)
    assert breaker.wait(later) == 2 * FIRST_PAUSE
    breaker.begin(later + 2 * FIRST_PAUSE)
    breaker.succeeded()
    assert replace(breaker) == Breaker()


def test_failures_that_are_not_in_a_row_do_not_open_it() -> None:
    breaker = Breaker()
    for _ in range(10):
        for _ in range(FAILURES - 1):
            breaker.begin(0.0)
            breaker.failed("down", 0.0)
        breaker.begin(0.0)
        breaker.succeeded()
    assert breaker.wait(0.0) == 0


def test_pauses_grow_to_a_limit_and_keep_to_what_the_provider_asks() -> None:
    breaker, now = Breaker(), 0.0
    for _ in range(20):
        now += breaker.wait(now)
        breaker.begin(now)
        breaker.failed("down", now)
    assert breaker.wait(now) == LONGEST_PAUSE
    limited = Breaker()
    limited.begin(0.0)
    limited.failed("slow down", 0.0, retry_after=3600.0)
    assert (limited.state, limited.wait(0.0)) == ("RateLimited", 3600.0)


# --- the books --------------------------------------------------------------------------------------------------------


def reserve(ledger: Ledger, call: str, count: int = 100, **changed: Any) -> int | Recorded:
    return ledger.reserve(
        grant(**changed), call, model="m", api="responses", tokens=count, money=count, request=b"{}", now=1.0
    )


def test_what_was_under_way_when_it_was_killed_is_charged_in_full(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    number = reserve(ledger, "a")
    assert isinstance(number, int)
    ledger.record(number, TokenUse(10, 0, 5), 7, ANSWER, endpoint="e", estimated=False, now=2.0)
    reserve(ledger, "b")
    ledger.close()
    again = Ledger(tmp_path / "l")
    assert again.lost == 1
    assert (again.spent("editor").tokens, again.spent("editor").money) == (115, 107)
    assert reserve(again, "a") == ANSWER
    assert isinstance(reserve(again, "b"), int), "what was lost can be asked again"


def test_a_refused_reservation_changes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    with pytest.raises(BudgetError, match="step 003/implement/1 are spent: 0 of 99"):
        reserve(ledger, "a", of_step=tokens(99))
    assert ledger.spent("editor").tokens == 0
    reserve(ledger, "a", of_step=tokens(100))
    assert ledger.spent("editor").tokens == 100


def test_budgets_of_step_role_and_run_add_up(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    reserve(ledger, "a", step="1")
    reserve(ledger, "b", step="2")
    reserve(ledger, "c", step="3", role="planner")
    reserve(ledger, "d", run="other")
    assert ledger.spent("editor").tokens == 300
    assert ledger.spent("editor", role="implementer").tokens == 200
    assert ledger.spent("editor", step="2").tokens == 100
    with pytest.raises(BudgetError, match="role planner"):
        reserve(ledger, "e", step="4", role="planner", of_role=tokens(150))
    with pytest.raises(BudgetError, match="run editor"):
        reserve(ledger, "e", step="4", of_run=tokens(350))


def test_requests_that_got_no_answer_are_not_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    for call in ("failed", "lost", "killed"):
        number = reserve(ledger, call)
        assert isinstance(number, int)
        if call == "failed":
            ledger.fail(number, TokenUse(), 0, endpoint="e", now=2.0)
        if call == "lost":
            ledger.lose("editor", call, now=2.0)
    ledger.close()
    Ledger(tmp_path / "l").close()
    with closing(sqlite3.connect(tmp_path / "l")) as db:
        rows = db.execute("SELECT id, state, request FROM calls ORDER BY number").fetchall()
    assert rows == [("failed", "failed", None), ("lost", "lost", None), ("killed", "lost", None)]


def test_old_answers_make_room_and_what_was_paid_stays(tmp_path: Path) -> None:
    import os

    ledger = Ledger(tmp_path / "l", recorded_bytes=3000)
    for number in range(10):
        made = reserve(ledger, f"c{number}")
        assert isinstance(made, int)
        ledger.record(
            made, TokenUse(1, 0, 1), 1, Recorded(200, "x", os.urandom(1000)), endpoint="e", estimated=False, now=2.0
        )
    assert ledger.spent("editor").tokens == 20
    held = [exchange.id for exchange in ledger.exchanges("editor")]
    assert held == ["c8", "c9"]
    assert isinstance(reserve(ledger, "c0"), int), "paid again, and booked again"
    assert ledger.spent("editor").tokens == 120
