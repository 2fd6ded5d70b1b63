"""The client against servers that lump, split, lie, stall, break and die: each defect is a failed sample with its class."""

import asyncio
import itertools
from pathlib import Path

import pytest
from fake_servers import MODEL, Behaviour, serving

from sartor_agents.checkpoints import ChainFacts
from sartor_agents.measurement.client import LoadClient, UnreachableError, discover_model, healthy
from sartor_agents.measurement.messages import Endpoint
from sartor_agents.measurement.samples import ErrorClass, GenerationRequest, Sample
from sartor_agents.measurement.tokens import TokenCounter

TOKENS = 24


def request_for(model_dir: Path, number: int = 0, **body: object) -> tuple[GenerationRequest, str]:
    """A request and its right answer."""
    counter, facts = TokenCounter(model_dir), ChainFacts.load(model_dir)
    prompt = counter.decode([facts.first_word + number])
    content = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, **body}
    ids = tuple(counter.tokenizer.encode(prompt).ids)
    answer = counter.decode(facts.walk(ids[-1], TOKENS))
    return GenerationRequest(f"r{number}", "c", "/v1/completions", content, ids, TOKENS), answer


def client_for(
    model_dir: Path, url: str, *, stall: float = 5.0, timeout: float = 10.0, prediction: bool = True
) -> LoadClient:
    endpoint = Endpoint(name="candidate", url=url, accepts_prediction=prediction)
    return LoadClient(
        endpoint, model=MODEL, counter=TokenCounter(model_dir), request_timeout=timeout, stall_timeout=stall
    )


def send(
    model_dir: Path, behaviour: Behaviour, *, stall: float = 5.0, timeout: float = 10.0, stream: bool = True
) -> Sample:
    async def run() -> Sample:
        async with serving(model_dir, behaviour) as server:
            client = client_for(model_dir, server.url, stall=stall, timeout=timeout)
            return await client.send(request_for(model_dir)[0], stream=stream)

    return asyncio.run(run())


@pytest.mark.parametrize("behaviour", [Behaviour(), Behaviour(tokens_per_chunk=7), Behaviour(split_bytes=3)])
@pytest.mark.parametrize("stream", [True, False])
def test_an_honest_answer_is_counted_however_it_is_cut(chain_model: Path, behaviour: Behaviour, stream: bool) -> None:
    sample = send(chain_model, behaviour, stream=stream)
    assert sample.ok, sample.detail
    assert sample.text == request_for(chain_model)[1]
    assert sample.tokens == TOKENS == sum(n for _, n in sample.arrivals)
    assert sample.scheduled <= sample.sent <= (sample.first_byte or 0) <= sample.end


@pytest.mark.parametrize(
    ("behaviour", "error", "words"),
    [
        (Behaviour(done=False), ErrorClass.STREAM, "DONE"),
        (Behaviour(bad_json_at=3), ErrorClass.STREAM, "event 3 is not JSON"),
        (Behaviour(stall_at=3), ErrorClass.STALL, "silent"),
        (Behaviour(reset_at=3), ErrorClass.RESET, "closed"),
        (Behaviour(status=503), ErrorClass.STATUS, "503"),
        (Behaviour(max_tokens=5), ErrorClass.SHORT, "5 tokens instead of 24"),
        (Behaviour(max_tokens=0), ErrorClass.EMPTY, "no text"),
        (Behaviour(usage_offset=1), ErrorClass.COUNT, "25 tokens, the text has 24"),
        (Behaviour(usage=False), ErrorClass.COUNT, "no `usage`"),
    ],
)
def test_each_defect_has_its_class(chain_model: Path, behaviour: Behaviour, error: ErrorClass, words: str) -> None:
    sample = send(chain_model, behaviour, stall=5.0 if behaviour.stall_at is None else 0.3)
    assert sample.error is error
    assert words in sample.detail
    assert sample.counted == 0 and sample.rate == 0.0


def test_the_whole_answer_has_a_time_limit(chain_model: Path) -> None:
    sample = send(chain_model, Behaviour(token_seconds=0.1), timeout=0.4)
    assert sample.error is ErrorClass.TIMEOUT


def test_nobody_listening(chain_model: Path) -> None:
    async def run() -> None:
        async with serving(chain_model) as server:
            url = server.url
        endpoint = Endpoint(url=url)
        sample = await client_for(chain_model, url).send(request_for(chain_model)[0])
        assert sample.error is ErrorClass.CONNECT and url in sample.detail
        assert not await healthy(endpoint)
        with pytest.raises(UnreachableError, match="no connection"):
            await discover_model(endpoint)

    asyncio.run(run())


def test_a_closed_loop_keeps_so_many_in_flight_and_waits_for_the_last(chain_model: Path) -> None:
    async def run() -> None:
        async with serving(chain_model, Behaviour(token_seconds=0.002)) as server:
            client = client_for(chain_model, server.url)
            numbers = itertools.count()
            requests = ((request_for(chain_model, next(numbers))[0], "scored") for _ in itertools.count())
            limit = client.clock() + 0.5
            sent = await client.closed_loop([requests] * 3, until=lambda: limit)  # pyright: ignore[reportArgumentType]
            samples = [one.sample("candidate", client.counter) for one in sent]
            assert server.most_running == 3
            assert len({s.request_id for s in samples}) == len(samples) >= 3
            assert all(s.ok for s in samples)
            assert max(s.end for s in samples) > limit - 0.1  # its clock is looked at once more after an end

    asyncio.run(run())


def test_an_open_loop_is_timed_from_the_schedule(chain_model: Path) -> None:
    async def run() -> None:
        async with serving(chain_model) as server:
            client = client_for(chain_model, server.url)
            # The second request is due before the first: it is sent late, and pays for it.
            first, second = request_for(chain_model, 0)[0], request_for(chain_model, 1)[0]
            origin = client.clock()
            sent = await client.open_loop([(0.2, first, "scored"), (0.0, second, "scored")])
            by_id = {one.request.id: one.sample("a", client.counter) for one in sent}
            assert by_id["r0"].scheduled - origin == pytest.approx(0.2, abs=0.05)
            assert by_id["r1"].latency >= 0.2

    asyncio.run(run())


def test_only_the_prediction_is_left_out_for_a_server_that_takes_none(chain_model: Path) -> None:
    async def run() -> None:
        async with serving(chain_model) as server:
            request, _ = request_for(chain_model, prediction={"type": "content", "content": "x"})
            await client_for(chain_model, server.url).send(request)
            await client_for(chain_model, server.url, prediction=False).send(request)
            told, untold = server.requests
            assert told.pop("prediction") == {"type": "content", "content": "x"}
            assert told == untold

    asyncio.run(run())


def test_a_client_that_leaves_is_seen_by_the_server(chain_model: Path) -> None:
    async def run() -> None:
        async with serving(chain_model, Behaviour(token_seconds=0.005)) as server:
            client = client_for(chain_model, server.url)
            connection = await client.connect()
            exchange = await connection.leave_early(client.encode(request_for(chain_model)[0]), timeout=5)
            assert exchange.error is None and exchange.status == 200 and exchange.pieces
            sample = await client.send(request_for(chain_model, 1)[0])
            assert sample.ok and server.disconnected

    asyncio.run(run())
