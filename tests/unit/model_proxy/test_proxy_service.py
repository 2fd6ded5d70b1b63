"""Agents ask through the proxy: the key stays in it, every call is in the books once, and an answer is paid once."""

import concurrent.futures
import json
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from proxy_world import CLIENT, GRANT_KEY, STEP, Proxy, grant, tokens
from scripted_provider import Call, Cut, Provider, Seen, Stall, Status, Turn
from scripted_provider.programs import outage

from sartor_agents.model_proxy.breaker import FAILURES
from sartor_agents.model_proxy.config import TranscriptConfig
from sartor_agents.transcripts.events import Answered, Asked, Failed, Repeated
from sartor_api.search.grants import Allowance

TURN = Turn(text="Fine. " * 50, calls=(Call("read_file", {"path": "a.py"}),))
MESSAGES = [{"role": "user", "content": "Go."}]


def always(turn: Any) -> Any:
    return lambda seen: turn


def answer_of(body: str) -> str:
    """The text in a Responses stream."""
    lines = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
    return "".join(one["delta"] for one in lines if one["type"] == "response.output_text.delta")


# --- the way through --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("api", ["responses", "chat"])
def test_an_answer_goes_through_unchanged_and_is_booked(tmp_path: Path, api: str, stream: bool) -> None:
    with Provider(always(TURN)) as provider, Proxy(tmp_path, (provider,)) as proxy:
        body = {"messages": MESSAGES} if api == "chat" else {}
        answer = proxy.ask("c1", stream=stream, **body)
        books = proxy.books()
    assert answer.status_code == 200
    assert TURN.text.strip()[:6] in answer.text
    paid = provider.paid[0]
    assert books["runs"]["editor"]["tokens"] == paid.input + paid.output
    exact = (Decimal(paid.input - paid.cached) + Decimal(paid.cached) / 10 + Decimal(paid.output) * 10) / 1_000_000
    assert abs(Decimal(books["runs"]["editor"]["money"]) - exact) < Decimal("1e-8")
    answered = proxy.transcript()[-1]
    assert isinstance(answered, Answered)
    assert [(entry.kind, entry.name) for entry in answered.entries] == [("assistant", ""), ("call", "read_file")]
    assert (answered.input, answered.output, answered.estimated) == (paid.input, paid.output, False)


def test_the_official_client_works_through_it(tmp_path: Path) -> None:
    with Provider(always(TURN)) as provider, Proxy(tmp_path, (provider,)) as proxy:
        with proxy.client().responses.stream(model="scripted-1", input="Go.") as stream:
            assert stream.get_final_response().output_text == TURN.text
        assert [one.id for one in proxy.client().models.list()] == ["scripted-1"]


def test_the_key_stays_in_the_proxy(tmp_path: Path) -> None:
    def leaky(seen: Seen) -> Status:
        return Status(400, f"Incorrect request with {seen.headers['authorization']}")

    with Provider(leaky) as provider, Proxy(tmp_path, (provider,)) as proxy:
        refused = proxy.ask("c1")
    assert refused.status_code == 400
    assert provider.key not in refused.text
    kept = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    assert provider.key.encode() not in kept
    assert provider.seen[0].headers["authorization"] == f"Bearer {provider.key}"
    assert "sartor-grant" not in json.dumps(provider.seen[0].headers)


def test_only_calls_of_a_model_go_through(tmp_path: Path) -> None:
    with Provider(always(TURN)) as provider, Proxy(tmp_path, (provider,)) as proxy:
        token = {"Authorization": f"Bearer {grant().signed(GRANT_KEY)}"}
        for method, path in (("GET", "/files"), ("POST", "/files"), ("POST", "/embeddings"), ("GET", "/responses/x")):
            assert CLIENT.request(method, proxy.url + path, headers=token).status_code in (404, 405)
        assert CLIENT.get(proxy.url + "/sartor/books", headers=token).status_code == 403
        assert CLIENT.post(proxy.url + "/responses", json={}).status_code == 401
    assert provider.seen == []
    assert provider.refused == []


@pytest.mark.parametrize("changed", [{"expires": 1.0}, {"models": ("other",)}])
def test_what_is_not_granted_is_not_asked(tmp_path: Path, changed: dict[str, Any]) -> None:
    with Provider(always(TURN)) as provider, Proxy(tmp_path, (provider,)) as proxy:
        assert proxy.ask("c1", grant(**changed)).status_code in (400, 401)
    assert provider.seen == []


# --- once, and no more ------------------------------------------------------------------------------------------------


def test_the_same_call_is_paid_once(tmp_path: Path) -> None:
    with Provider(always(TURN)) as provider:
        with Proxy(tmp_path, (provider,)) as proxy:
            first = proxy.ask("c1")
            second = proxy.ask("c1", input="The same call, worded otherwise.")
        with Proxy(tmp_path, (provider,)) as proxy:
            third = proxy.ask("c1")
            proxy.ask("c2")
    assert first.content == second.content == third.content
    assert "Sartor-Recorded" not in first.headers
    assert second.headers["Sartor-Recorded"] == third.headers["Sartor-Recorded"] == "1"
    assert len(provider.seen) == 2
    assert sum(isinstance(event, Repeated) for event in proxy.transcript()) == 2


def test_without_a_name_the_same_bytes_are_the_same_call(tmp_path: Path) -> None:
    with Provider(always(TURN)) as provider, Proxy(tmp_path, (provider,)) as proxy:
        for text in ("a", "a", "b"):
            proxy.ask(input=text)
        proxy.ask(given=grant(step="004/implement/1"), input="a")
    assert len(provider.seen) == 3


def test_a_call_goes_on_when_its_caller_has_gone_and_is_there_for_the_next(tmp_path: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(seen: Seen) -> Turn:
        asked.set()
        go_on.wait(20)
        return TURN

    with Provider(slow) as provider, Proxy(tmp_path, (provider,)) as proxy:
        with pytest.raises(httpx2.TimeoutException):
            CLIENT.post(
                proxy.url + "/responses",
                json={"model": "scripted-1", "input": "Go.", "stream": True},
                headers={"Authorization": f"Bearer {grant().signed(GRANT_KEY)}", "Sartor-Call": "c1"},
                timeout=0.3,
            )
        assert asked.wait(5)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            others = [pool.submit(proxy.ask, "c1") for _ in range(3)]
            time.sleep(0.2)
            go_on.set()
            assert {answer_of(other.result(20).text) for other in others} == {TURN.text}
    assert len(provider.seen) == 1


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["of_step", "of_role", "of_run"])
def test_a_budget_is_never_overdrawn_and_its_refusal_says_which(tmp_path: Path, scope: str) -> None:
    given = grant(**{scope: tokens(6_000)})
    with Provider(always(Turn(text="x", output_tokens=900))) as provider, Proxy(tmp_path, (provider,)) as proxy:
        answers = [proxy.ask(f"c{number}", given) for number in range(10)]
        spent = proxy.books()["runs"]["editor"]["tokens"]
    codes = [answer.status_code for answer in answers]
    assert codes == sorted(codes)
    assert set(codes) == {200, 402}
    assert 4_000 < spent <= 6_000
    said = answers[-1].json()["error"]
    assert said["code"] == "budget_spent"
    assert scope.removeprefix("of_") in said["message"]
    assert len(provider.seen) == codes.count(200)


def test_calls_at_the_same_time_share_one_budget(tmp_path: Path) -> None:
    given = grant(of_run=tokens(6_000))
    slow = Turn(text="x", output_tokens=900, delay=0.3)
    with Provider(always(slow)) as provider, Proxy(tmp_path, (provider,)) as proxy:
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            codes = list(pool.map(lambda number: proxy.ask(f"c{number}", given).status_code, range(10)))
        assert proxy.books()["runs"]["editor"]["tokens"] <= 6_000
    assert 1 < codes.count(200) < 7
    assert codes.count(200) + codes.count(402) == 10


def test_money_is_a_budget_too(tmp_path: Path) -> None:
    given = grant(of_run=Allowance(money=Decimal("0.03")))
    with Provider(always(Turn(text="x", output_tokens=900))) as provider, Proxy(tmp_path, (provider,)) as proxy:
        codes = [proxy.ask(f"c{number}", given).status_code for number in range(5)]
        assert Decimal(proxy.books()["runs"]["editor"]["money"]) <= Decimal("0.03")
    assert codes == [200, 200, 200, 402, 402], "900 tokens cost 0.009, and a call may take 1000"
    assert len(provider.seen) == 3


def test_one_runs_budget_is_not_anothers(tmp_path: Path) -> None:
    with Provider(always(Turn(text="x", output_tokens=900))) as provider, Proxy(tmp_path, (provider,)) as proxy:
        codes = [proxy.ask("c", grant(run=run, of_run=tokens(1_500))).status_code for run in "abc"]
    assert codes == [200, 200, 200]
    assert len(provider.seen) == 3


def test_an_answer_without_a_limit_gets_one(tmp_path: Path) -> None:
    with Provider(always(TURN)) as provider, Proxy(tmp_path, (provider,)) as proxy:
        proxy.ask("c1")
        proxy.ask("c2", max_output_tokens=10**9)
        proxy.ask("c3", max_output_tokens=7)
        proxy.ask("c4", messages=MESSAGES)
    limits = [seen.body.get("max_output_tokens") for seen in provider.seen[:3]]
    assert limits == [1000, 1000, 7]
    assert provider.seen[3].body["max_completion_tokens"] == 1000
    assert provider.seen[3].body["stream_options"] == {"include_usage": True}


def test_an_answer_without_usage_is_charged_by_estimate(tmp_path: Path) -> None:
    with Provider(always(Turn(text="word " * 400, usage=False))) as provider, Proxy(tmp_path, (provider,)) as proxy:
        proxy.ask("c1")
    answered = proxy.transcript()[-1]
    assert isinstance(answered, Answered)
    assert answered.estimated
    assert answered.output >= 500
    assert len(provider.seen) == 1


def test_a_call_that_the_proxys_end_cut_off_is_charged_as_if_it_had_been_killed(tmp_path: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(seen: Seen) -> Turn:
        asked.set()
        go_on.wait(20)
        return TURN

    with Provider(slow) as provider:
        with Proxy(tmp_path, (provider,)) as proxy, concurrent.futures.ThreadPoolExecutor() as pool:
            answer = pool.submit(proxy.ask, "c1")
            assert asked.wait(20)
            reserved = proxy.books()["runs"]["editor"]["tokens"]
            proxy.stop()
            assert isinstance(answer.exception(20), httpx2.HTTPError)
            go_on.set()
        books = proxy.ledger()
    assert books.spent("editor").tokens == reserved > 1000
    books.close()


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_the_next_provider_takes_over_and_the_first_is_left_alone(tmp_path: Path) -> None:
    with Provider(outage.dead) as down, Provider(always(TURN)) as up, Proxy(tmp_path, (down, up)) as proxy:
        for number in range(6):
            assert answer_of(proxy.ask(f"c{number}").text) == TURN.text
        states = [one["state"] for one in proxy.books()["endpoints"]]
    assert len(down.seen) <= FAILURES
    assert len(up.seen) == 6
    assert states[0] in ("Failing", "RateLimited")
    assert states[1] == "Available"


def test_a_refused_key_is_failed_over_and_told(tmp_path: Path) -> None:
    with Provider(always(TURN)) as one, Provider(always(TURN)) as two:
        with Proxy(tmp_path, (one, two), keys=("sk-wrong-wrong-wrong", two.key)) as proxy:
            assert proxy.ask("c1").status_code == 200
            assert proxy.books()["endpoints"][0]["state"] == "Unauthorized"
        with Proxy(tmp_path / "alone", (one,), keys=("sk-wrong-wrong-wrong",)) as proxy:
            refused = proxy.ask("c1")
    assert refused.status_code == 401
    assert "the key was refused" in refused.text


def test_an_account_that_cannot_pay_is_failed_over_and_told(tmp_path: Path) -> None:
    """Providers answer 429 to it, as to a limit of the rate, which a wait would mend."""
    spent = always(Status(429, "You exceeded your current quota", retry_after="1", error_code="insufficient_quota"))
    with Provider(spent) as one, Provider(always(TURN)) as two:
        with Proxy(tmp_path, (one, two)) as proxy:
            assert [proxy.ask(f"c{number}").status_code for number in range(3)] == [200] * 3
            assert proxy.books()["endpoints"][0]["state"] == "QuotaSpent"
        assert len(one.seen) == 1
        with Proxy(tmp_path / "alone", (one,)) as proxy:
            refused = proxy.ask("c1")
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_quota")
    assert "the account cannot pay" in refused.text


def test_a_limit_of_the_provider_is_passed_on_with_its_time(tmp_path: Path) -> None:
    limited = Status(429, "slow down", retry_after="17")
    with Provider(always(limited)) as provider, Proxy(tmp_path, (provider,)) as proxy:
        answers = [proxy.ask("c1") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429] * 3
    assert 15 <= int(answers[0].headers["Retry-After"]) <= 17
    assert len(provider.seen) == 1, "it is not asked again before"


@pytest.mark.parametrize(
    "fault",
    [Cut(TURN, after=5), Cut(TURN, after=5, abrupt=False), Stall(60, TURN, after=3)],
    ids=["cut", "ended early", "stalled"],
)
def test_an_answer_that_breaks_off_is_broken_off_for_the_caller_and_not_recorded(tmp_path: Path, fault: Any) -> None:
    program = outage.Before(always(TURN), [fault])
    with Provider(program) as provider, Proxy(tmp_path, (provider,), {"silence": 3.0}) as proxy:
        with pytest.raises(httpx2.RemoteProtocolError):
            proxy.ask("c1")
        failed = proxy.transcript()[-1]
        assert isinstance(failed, Failed)
        assert failed.reason == "BrokenOff"
        assert failed.tokens > 0, "the provider bills what it sent"
        assert answer_of(proxy.ask("c1").text) == TURN.text
    assert len(provider.seen) == 2


def test_what_a_provider_took_and_never_answered_is_charged_with_its_input(tmp_path: Path) -> None:
    long = "word " * 4000
    with Provider(always(Stall(60, after=-1))) as provider, Proxy(tmp_path, (provider,), {"silence": 1.0}) as proxy:
        assert proxy.ask("c1", input=long).status_code == 503
        failed, books = proxy.transcript()[-1], proxy.books()["runs"]["editor"]
    assert isinstance(failed, Failed)
    assert failed.tokens == books["tokens"] > 4000, "it may have read it all"
    assert failed.tokens < 1000 + 20_000, "of the output nothing came"


def test_it_is_charged_beside_the_answer_of_the_next_provider(tmp_path: Path) -> None:
    asked = {"input": "word " * 4000}
    with Provider(always(Stall(60, after=-1))) as silent, Provider(always(TURN)) as up:
        with Proxy(tmp_path / "both", (silent, up), {"silence": 1.0}) as proxy:
            assert answer_of(proxy.ask("c1", **asked).text) == TURN.text
            answered, both = proxy.transcript()[-1], proxy.books()["runs"]["editor"]["tokens"]
        with Proxy(tmp_path / "one", (up,)) as proxy:
            proxy.ask("c1", **asked)
            one = proxy.books()["runs"]["editor"]["tokens"]
    assert both > one + 4000
    assert isinstance(answered, Answered)
    assert answered.input + answered.output == one, "the transcript has what this answer used"


def test_what_reached_no_provider_costs_nothing(tmp_path: Path) -> None:
    with Provider(always(TURN)) as gone:
        pass
    with Proxy(tmp_path, (gone,)) as proxy:
        assert proxy.ask("c1").status_code == 503
        assert proxy.books()["runs"]["editor"]["tokens"] == 0


def test_what_the_request_itself_is_refused_for_is_passed_on(tmp_path: Path) -> None:
    with Provider(always(TURN)) as one, Provider(always(TURN)) as two, Proxy(tmp_path, (one, two)) as proxy:
        refused = proxy.ask("c1", colour="red")
    assert refused.status_code == 400
    assert "Unknown parameter: 'colour'" in refused.json()["error"]["message"]
    assert two.refused == [], "no other would take it"


def test_an_endless_answer_is_ended_and_not_paid_for_again(tmp_path: Path) -> None:
    giant = Turn(text="very " * 400_000, piece=65536)
    changed = {"maximum_answer_bytes": 1 << 18, "maximum_output_tokens": 300_000}
    with Provider(always(giant)) as provider, Proxy(tmp_path, (provider,), changed) as proxy:
        with pytest.raises(httpx2.RemoteProtocolError):
            proxy.ask("c1")
        again = proxy.ask("c1")
        assert proxy.books()["runs"]["editor"]["tokens"] > 60_000
    assert (again.status_code, again.json()["error"]["code"]) == (502, "answer_too_long")
    assert len(provider.seen) == 1


def test_calls_per_minute_are_limited(tmp_path: Path) -> None:
    with Provider(always(TURN)) as provider, Proxy(tmp_path, (provider,), {"requests_per_minute": 2}) as proxy:
        answers = [proxy.ask(f"c{number}") for number in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert 0 < int(answers[2].headers["Retry-After"]) <= 60
    assert len(provider.seen) == 2


# --- transcripts ------------------------------------------------------------------------------------------------------


def test_a_transcript_has_each_entry_once(tmp_path: Path) -> None:
    def program(seen: Seen) -> Turn:
        return Turn(
            text=f"I look {seen.turns}.", reasoning="hm", calls=(Call("read_file", {"path": f"{seen.turns}.py"}),)
        )

    with Provider(program) as provider, Proxy(tmp_path, (provider,)) as proxy:
        client, given = proxy.client(), [{"role": "user", "content": "Begin."}]
        for number in range(3):
            response = client.responses.create(
                model="scripted-1",
                instructions="Be brief.",
                input=given,
                extra_headers={"Sartor-Call": f"c{number}"},  # type: ignore[arg-type]
            )
            given += [item.model_dump(exclude_none=True) for item in response.output]  # type: ignore[misc]
            given += [
                {"type": "function_call_output", "call_id": response.output[-1].call_id, "output": f"result {number}"}
            ]  # type: ignore[union-attr,dict-item]
    told = [
        (e.kind, e.text) for event in proxy.transcript() if isinstance(event, Asked | Answered) for e in event.entries
    ]
    assert [text for kind, text in told if kind in ("instructions", "user", "result")] == [
        "Be brief.", "Begin.", "result 0", "result 1",
    ]  # fmt: skip
    assert [text for kind, text in told if kind == "assistant"] == ["I look 0.", "I look 1.", "I look 2."]
    assert [event.anew for event in proxy.transcript() if isinstance(event, Asked)] == [True, False, False]


def test_secrets_are_not_written_down(tmp_path: Path) -> None:
    found = "AKIAIOSFODNN7EXAMPLE and sk-live-0123456789abcdefghij"
    with Provider(always(Turn(text=f"I found {found}"))) as provider, Proxy(tmp_path, (provider,)) as proxy:
        proxy.ask("c1", input=f"The file holds {found} and {provider.key}.")
    text = "".join(path.read_text() for path in (tmp_path / "state" / "transcripts").rglob("*.jsonl"))
    assert "[redacted]" in text
    for secret in (*found.split(" and "), provider.key):
        assert secret not in text


def test_text_that_is_none_costs_no_call_twice(tmp_path: Path) -> None:
    body = json.dumps({"model": "scripted-1", "input": "x\udc00y", "stream": True})
    headers = {"Authorization": f"Bearer {grant().signed(GRANT_KEY)}", "Sartor-Call": "c1"}
    with Provider(always(Turn(text="a\ud800b"))) as provider, Proxy(tmp_path, (provider,)) as proxy:
        for _ in range(2):
            assert CLIENT.post(proxy.url + "/responses", content=body, headers=headers).status_code == 200
        assert proxy.books()["runs"]["editor"]["tokens"] == provider.paid[0].input + provider.paid[0].output
    assert len(provider.seen) == 1
    assert [e.text for event in proxy.transcript() if isinstance(event, Asked | Answered) for e in event.entries] == [
        "x\ufffdy", "a\ufffdb",
    ]  # fmt: skip


@pytest.mark.parametrize(("keep", "entries"), [("summary", 0), ("none", None)])
def test_less_is_kept_where_less_is_wanted(tmp_path: Path, keep: Any, entries: int | None) -> None:
    changed = {"transcripts": TranscriptConfig(keep=keep)}
    with Provider(always(TURN)) as provider, Proxy(tmp_path, (provider,), changed) as proxy:
        proxy.ask("c1")
    if entries is None:
        assert not list((tmp_path / "state").rglob("*.jsonl"))
    else:
        assert all(event.entries == () for event in proxy.transcript() if isinstance(event, Asked | Answered))
        assert len(proxy.transcript()) == 2
    assert len(provider.seen) == 1


def test_the_recorded_calls_can_be_given_away(tmp_path: Path) -> None:
    from sartor_agents.model_proxy.__main__ import export

    said = Turn(text="-----BEGIN PRIVATE KEY-----\nMII", calls=(Call("write", {"text": "a\nsk-0123456789abcdef0123"}),))
    with Provider(always(said)) as provider, Proxy(tmp_path, (provider,)) as proxy:
        proxy.ask("c1", input=f"my key is\n{provider.key} and -----BEGIN PRIVATE KEY-----")
    assert export(proxy.config(), "editor", tmp_path / "recording.jsonl") == 0
    (line,) = (tmp_path / "recording.jsonl").read_text().splitlines()
    exchange = json.loads(line)
    assert (exchange["step"], exchange["api"], exchange["status"]) == (STEP, "responses", 200)
    assert exchange["request"]["input"] == "my key is\n[redacted] and [redacted]"
    assert provider.key not in line
    last = json.loads(exchange["answer"].splitlines()[-2].removeprefix("data: "))
    assert last["type"] == "response.completed", "it is read as the provider's own would be"
    told, call = (one for one in last["response"]["output"] if one["type"] in ("message", "function_call"))
    assert told["content"][0]["text"] == "[redacted]"
    assert json.loads(call["arguments"]) == {"text": "a\n[redacted]"}


def test_an_openai_error_is_what_the_official_client_reads(tmp_path: Path) -> None:
    with Provider(always(TURN)) as provider, Proxy(tmp_path, (provider,)) as proxy:
        with pytest.raises(openai.APIStatusError) as spent:
            proxy.client(grant(of_step=tokens(10))).responses.create(model="scripted-1", input="x")
        with pytest.raises(openai.BadRequestError, match="carried out by the provider"):
            proxy.client().responses.create(model="scripted-1", input="x", tools=[{"type": "web_search"}])
    assert (spent.value.status_code, spent.value.code) == (402, "budget_spent")
    assert provider.seen == []
