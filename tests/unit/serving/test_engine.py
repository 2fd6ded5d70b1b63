"""The scheduler over a decoder that would notice any mistake with pages, positions or drafts."""

import random
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import toy

TEXT = toy.make_tokenizer()


@dataclass
class Run:
    """An engine that is stepped by hand, and everything it delivered."""

    made: toy.Stack
    rule: Any = toy.scattered
    deltas: dict[int, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.decoder = toy.ToyDecoder(self.made, self.rule)
        self.stats = self.made.metrics.EngineStats()
        self.calls = 0
        self.engine = self.made.engine.Engine(self.decoder, self._deliver, self.stats)
        self.detokenizer = self.made.detokenize.Detokenizer(TEXT)

    def _deliver(self, events: list[Any]) -> None:
        self.calls += 1
        self.decoder.events.append("deliver")
        for sequence, delta in events:
            sequence.receive(delta)

    def sequence(self, prompt: list[int], *, prediction: list[int] | None = None, **params: Any) -> Any:
        params = {"max_tokens": 20, "temperature": 0.0, **params}
        made = self.made.sequence.Sequence(
            prompt,
            self.made.sampling.SamplingParams(**params),
            self.detokenizer.stream(),
            lambda delta: None,
            prediction,
        )
        received = self.deltas.setdefault(id(made), [])
        made.receive = received.append
        return made

    def submit(self, *sequences: Any) -> None:
        self.engine.submit(list(sequences))

    def finish(self, limit: int = 100_000) -> None:
        for _ in range(limit):
            if not self.engine.step():
                return
        raise AssertionError("the engine does not come to rest")

    def tokens(self, sequence: Any) -> list[int]:
        return [token for delta in self.deltas[id(sequence)] for token in delta.tokens]

    def text(self, sequence: Any) -> str:
        return "".join(delta.text for delta in self.deltas[id(sequence)])

    def finishes(self, sequence: Any) -> list[Any]:
        return [delta.finish for delta in self.deltas[id(sequence)] if delta.finish is not None]


SMALL = {"KV_PAGES": 24, "PAGE_TOKENS": 4, "MAX_SEQUENCES": 4, "STEP_TOKENS": 16, "PREFILL_CHUNK": 8, "DRAFT_WIDTH": 4}


def test_one_sequence_gives_what_the_decoder_says() -> None:
    run = Run(toy.stack())
    sequence = run.sequence([5, 6, 7])
    run.submit(sequence)
    run.finish()
    assert run.tokens(sequence) == toy.plain([5, 6, 7], toy.scattered, 20)
    assert run.finishes(sequence) == ["length"]
    assert run.engine.pool.free == run.engine.pool.total
    assert run.text(sequence) == TEXT.decode(run.tokens(sequence))


requests = st.lists(
    st.tuples(
        st.lists(st.integers(3, toy.VOCAB - 1), min_size=1, max_size=30),  # prompt
        st.integers(1, 25),  # max_tokens
        st.integers(0, 30),  # submitted before this step
        st.one_of(st.none(), st.integers(0, 40)),  # cancelled after this step
        st.integers(0, 3),  # what the prediction is like
    ),
    min_size=1,
    max_size=9,
)


@pytest.mark.parametrize("decoder", ["native", "cuda"])
@pytest.mark.parametrize("speculation", ["none", "prediction", "prompt-lookup"])
@pytest.mark.parametrize("adaptive", [False, True])
@settings(max_examples=30, deadline=None)
@given(plan=requests)
def test_any_mix_of_requests_gives_each_its_own_text(decoder: str, speculation: str, adaptive: bool, plan: Any) -> None:
    """Chunking, batching, preemption (24 pages are few), cancelling and drafts change nothing in anybody's text."""
    any_mix(Run(toy.stack(DECODER=decoder, SPECULATION=speculation, DRAFT_ADAPTIVE=adaptive, **SMALL)), plan)


beginnings = st.sampled_from([[7] * 12, [7] * 8 + [9] * 8, [7, 8] * 6])


@pytest.mark.parametrize("speculation", ["none", "prediction"])
@settings(max_examples=60, deadline=None)
@given(plan=requests, prefixes=st.lists(beginnings, min_size=9, max_size=9))
def test_prompts_that_begin_alike_share_pages_and_nothing_else(speculation: str, plan: Any, prefixes: Any) -> None:
    shared = [(prefix + prompt[:14], *rest) for prefix, (prompt, *rest) in zip(prefixes, plan, strict=False)]
    any_mix(Run(toy.stack(SPECULATION=speculation, PREFIX_REUSE=True, **SMALL)), shared)


def any_mix(run: Run, plan: Any) -> None:
    sequences = []
    for prompt, max_tokens, _, _, kind in plan:
        right = toy.plain(prompt, toy.scattered, max_tokens)
        prediction = [None, right, right[::2] + right, [9] * len(right)][kind]
        sequences.append(run.sequence(prompt, max_tokens=max_tokens, prediction=prediction))
    for step in range(80):
        for sequence, (_, _, submitted, cancelled, _) in zip(sequences, plan, strict=True):
            if submitted == step:
                run.submit(sequence)
            if cancelled == step and submitted <= step:
                run.engine.cancel([sequence])
        run.engine.step()
    run.finish()
    for sequence, (prompt, max_tokens, _, cancelled, _) in zip(sequences, plan, strict=True):
        expected = toy.plain(prompt, toy.scattered, max_tokens)
        got = run.tokens(sequence)
        if cancelled is None:
            assert got == expected
            assert run.finishes(sequence) == ["length"]
        else:
            assert got == expected[: len(got)]
    assert run.engine.pool.free == run.engine.pool.total
    assert run.engine.idle


@pytest.mark.parametrize("decoder", ["native", "cuda"])
@pytest.mark.parametrize("penalty", [0.0, 0.5])  # a device draws by itself, but not with penalties
def test_seeded_sampling_is_the_same_alone_batched_chunked_and_speculated(decoder: str, penalty: float) -> None:
    prompt = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
    wishes: dict[str, Any] = {
        "temperature": 0.9, "top_p": 0.95, "top_k": 40, "seed": 77, "presence_penalty": penalty, "max_tokens": 25,
    }  # fmt: skip
    alone = Run(toy.stack())
    reference = alone.sequence(prompt, **wishes)
    alone.submit(reference)
    alone.finish()
    text = alone.tokens(reference)
    assert len(set(text)) > 5
    for speculation in ("none", "prediction", "prompt-lookup"):
        run = Run(toy.stack(DECODER=decoder, SPECULATION=speculation, DRAFT_ADAPTIVE=False, **SMALL))
        others = [run.sequence([30 + i] * 7, temperature=1.0, seed=i) for i in range(3)]
        same = run.sequence(prompt, prediction=[*text[:9], 4, *text[10:]], **wishes)
        run.submit(*others[:2], same, others[2])
        run.finish()
        assert run.tokens(same) == text
        if speculation == "prediction":
            assert run.stats.accepted_tokens >= 15
    other = Run(toy.stack())
    different = other.sequence(prompt, **{**wishes, "seed": 78})
    other.submit(different)
    other.finish()
    assert other.tokens(different) != text


def test_a_right_prediction_takes_few_steps_and_counts_as_accepted() -> None:
    run = Run(toy.stack(SPECULATION="prediction", DRAFT_ADAPTIVE=False, DRAFT_WIDTH=8))
    prompt = [5, 6]
    right = toy.plain(prompt, toy.scattered, 45)
    sequence = run.sequence(prompt, max_tokens=45, prediction=right)
    run.submit(sequence)
    run.finish()
    assert run.tokens(sequence) == right
    assert len(run.decoder.steps) == 5  # 9 tokens a step, the first one together with the prompt
    deltas = run.deltas[id(sequence)]
    assert sum(delta.accepted for delta in deltas) == 40
    assert sum(delta.rejected for delta in deltas) == 0


def test_first_come_first_served_and_admission_limits() -> None:
    run = Run(toy.stack(**SMALL))
    sequences = [run.sequence([10 + i, 3], max_tokens=5 + i) for i in range(7)]
    run.submit(*sequences)
    order: list[int] = []
    for index, sequence in enumerate(sequences):
        sequence.receive = lambda delta, index=index: order.append(index) if index not in order else None
    run.engine.step()
    assert run.stats.running == 4
    assert run.stats.waiting == 3
    run.finish()
    assert order == sorted(order)


def test_prompts_do_not_hold_up_those_who_decode() -> None:
    run = Run(toy.stack(**SMALL))
    early = run.sequence([5], max_tokens=20)
    run.submit(early)
    run.engine.step()
    run.submit(run.sequence([6] * 60, max_tokens=2))
    for _ in range(4):
        run.engine.step()
        starts = run.decoder.steps[-1]
        assert starts[0][1] == 1, "the decoding row comes first in every step"
        assert starts[1][1] <= 8, "and a prompt's chunk is bounded beside it"
    run.finish()
    alone = Run(toy.stack(**SMALL))
    alone.submit(alone.sequence([6] * 60, max_tokens=1))
    alone.engine.step()
    assert alone.decoder.steps == [[(0, 16, 0)]], "with nobody decoding a step is filled"


def test_stop_strings_end_the_text_where_the_string_begins() -> None:
    word = TEXT.encode(" fox", add_special_tokens=False).ids
    start = TEXT.encode("the quick", add_special_tokens=False).ids
    full = [*start, *word, *start]

    def rule(context: Any) -> int:
        return full[(len(context) - 1) % len(full)]

    run = Run(toy.stack(), rule=rule)
    cut = run.sequence([5], max_tokens=len(full), stop=("k fo", "zzz"))
    kept = run.sequence([5], max_tokens=len(full), stop=("k fo",), include_stop_str_in_output=True)
    run.submit(cut, kept)
    run.finish()
    assert run.text(cut) == "the quic"
    assert run.text(kept) == "the quick fo"
    last = run.deltas[id(cut)][-1]
    assert (last.finish, last.stop_reason) == ("stop", "k fo")


def test_eos_stop_ids_min_tokens_and_ignore_eos() -> None:
    def rule(context: Any) -> int:
        return toy.EOS if len(context) % 4 == 0 else 40

    run = Run(toy.stack(), rule=rule)
    stops = run.sequence([5], max_tokens=12)
    ignores = run.sequence([5], max_tokens=12, ignore_eos=True)
    waits = run.sequence([5], max_tokens=12, min_tokens=6)
    by_id = run.sequence([5], max_tokens=12, stop_token_ids=frozenset({40}))
    run.submit(stops, ignores, waits, by_id)
    run.finish()
    assert run.tokens(stops) == [40, 40, 40, toy.EOS]
    assert run.deltas[id(stops)][-1][3:5] == ("stop", None)
    assert len(run.tokens(ignores)) == 12
    got = run.tokens(waits)
    assert toy.EOS not in got[:6]
    assert got[-1] == toy.EOS
    assert run.tokens(by_id) == [40]
    assert run.deltas[id(by_id)][-1][3:5] == ("stop", 40)
    assert run.text(by_id) == ""


def test_cancelled_sequences_free_their_pages_at_the_next_step() -> None:
    run = Run(toy.stack(**SMALL))
    doomed, other = run.sequence([5] * 20, max_tokens=20), run.sequence([6, 7], max_tokens=20)
    run.submit(doomed, other)
    for _ in range(3):
        run.engine.step()
    before = run.engine.pool.free
    held = doomed.pages.count
    delivered = len(run.deltas[id(doomed)])
    run.engine.cancel([doomed])
    run.engine.step()
    assert run.engine.pool.free >= before + held - 1
    assert len(run.deltas[id(doomed)]) == delivered
    run.finish()
    assert run.tokens(other) == toy.plain([6, 7], toy.scattered, 20)
    assert run.stats.success["abort"] == 1


def test_the_waiting_queue_is_bounded_and_what_can_never_fit_is_refused() -> None:
    made = toy.stack(MAX_WAITING=3, **SMALL)
    run = Run(made)
    run.submit(*[run.sequence([5]) for _ in range(3)])
    with pytest.raises(made.engine.QueueFullError, match="at most 3"):
        run.submit(run.sequence([5]))
    with pytest.raises(ValueError, match="does not fit"):
        run.submit(run.sequence([5] * 90, max_tokens=20))


def test_a_decoder_that_raises_fails_everybody_clearly_and_nobody_waits() -> None:
    made = toy.stack(**SMALL)
    run = Run(made)
    run.decoder.fail_at = 3
    done = threading.Event()
    sequences = [run.sequence([10 + i]) for i in range(6)]
    left = {id(s) for s in sequences}
    for sequence in sequences:
        received = run.deltas[id(sequence)]

        def receive(delta: Any, received: Any = received, key: int = id(sequence)) -> None:
            received.append(delta)
            if delta.finish is not None:
                left.discard(key)
            if not left:
                done.set()

        sequence.receive = receive
    run.submit(*sequences)
    run.engine.start()
    assert done.wait(20)
    assert all(run.finishes(s) == ["error"] for s in sequences)
    assert run.engine.failure == "RuntimeError: planted failure"
    with pytest.raises(made.engine.EngineDeadError, match="planted"):
        run.submit(run.sequence([5]))
    run.engine.stop()
    assert run.engine.pool.free == run.engine.pool.total


@pytest.mark.parametrize("speculation", ["none", "prediction"])
def test_a_step_too_large_for_the_memory_is_made_smaller_and_nobody_is_lost(speculation: str) -> None:
    run = Run(toy.stack(**{**SMALL, "KV_PAGES": 64, "SPECULATION": speculation}))
    texts = [toy.plain([10 + i], toy.scattered, 8) for i in range(6)]
    sequences = [run.sequence([10 + i], max_tokens=8, prediction=text) for i, text in enumerate(texts)]
    run.submit(*sequences)
    run.engine.step()
    run.decoder.room = 2
    run.finish()
    for sequence, text in zip(sequences, texts, strict=True):
        assert run.tokens(sequence) == text
        assert run.finishes(sequence) == ["length"]
    assert max(len(step) for step in run.decoder.steps[1:]) == 2
    assert run.stats.preemptions >= 2
    assert run.engine.failure is None
    assert run.engine.pool.free == run.engine.pool.total


def test_a_prompt_too_large_for_the_memory_is_taken_in_smaller_chunks() -> None:
    run = Run(toy.stack(**SMALL))
    sequence = run.sequence([5] * 12)
    run.decoder.room = 5
    run.submit(sequence)
    run.finish()
    assert run.tokens(sequence) == toy.plain([5] * 12, toy.scattered, 20)
    assert [rows for step in run.decoder.steps for _, rows, _ in step][:4] == [3, 3, 3, 3]


def test_room_comes_back_with_every_sequence_that_ends() -> None:
    run = Run(toy.stack(**{**SMALL, "KV_PAGES": 64}))
    run.submit(*[run.sequence([10 + i], max_tokens=3) for i in range(12)])
    run.engine.step()
    run.decoder.room = 2
    run.engine.step()
    run.decoder.room = None
    run.finish()
    assert max(len(step) for step in run.decoder.steps[-4:]) == 4


def test_a_request_fails_when_there_is_no_memory_for_a_single_row_and_the_server_goes_on() -> None:
    run = Run(toy.stack(**SMALL))
    first, second = run.sequence([5] * 12), run.sequence([6])
    run.decoder.room = 0
    run.submit(first)
    run.finish()
    run.decoder.room = None
    run.submit(second)
    run.finish()
    assert run.finishes(first) == ["error"]
    assert "planted shortage" in str(run.deltas[id(first)][-1].stop_reason)
    assert run.tokens(second) == toy.plain([6], toy.scattered, 20)
    assert run.engine.pool.free == run.engine.pool.total


@pytest.mark.parametrize("speculation", ["none", "prediction"])
def test_logits_that_are_not_numbers_end_their_own_request_alone(speculation: str) -> None:
    run = Run(toy.stack(**{**SMALL, "SPECULATION": speculation, "DRAFT_ADAPTIVE": False}))
    right = toy.plain([5, 6], toy.scattered, 20)
    run.decoder.broken = lambda context: len(context) == 9 and context[0] == 5
    poisoned, other = run.sequence([5, 6], prediction=right), run.sequence([7], prediction=[9] * 20)
    run.submit(poisoned, other)
    run.finish()
    assert run.tokens(poisoned) == right[:7]  # what came before is right
    assert run.finishes(poisoned) == ["error"]
    assert "not numbers" in str(run.deltas[id(poisoned)][-1].stop_reason)
    assert run.tokens(other) == toy.plain([7], toy.scattered, 20)
    assert run.engine.failure is None


def test_a_beginning_is_computed_once() -> None:
    run = Run(toy.stack(PREFIX_REUSE=True, **{**SMALL, "KV_PAGES": 64}))
    system = [7] * 12
    for end in (5, 6):
        sequence = run.sequence([*system, end], max_tokens=3)
        run.submit(sequence)
        run.finish()
        assert run.tokens(sequence) == toy.plain([*system, end], toy.scattered, 3)
    starts = [start for step in run.decoder.steps for start, _, _ in step]
    assert starts == [0, 13, 14, 12, 13, 14]
    assert (run.stats.prefix_queries, run.stats.prefix_hits) == (26, 12)


def test_the_very_same_prompt_computes_its_last_token_again() -> None:
    """Its row is where the answer comes from; and a page that only the last token would fill is not full."""
    run = Run(toy.stack(PREFIX_REUSE=True, **{**SMALL, "KV_PAGES": 64}))
    for _ in range(2):
        sequence = run.sequence([7] * 12, max_tokens=2)
        run.submit(sequence)
        run.finish()
        assert run.tokens(sequence) == toy.plain([7] * 12, toy.scattered, 2)
    assert run.stats.prefix_hits == 8


def test_pages_of_a_damaged_sequence_are_found_by_nobody() -> None:
    run = Run(toy.stack(PREFIX_REUSE=True, **{**SMALL, "KV_PAGES": 64}))
    run.decoder.broken = lambda context: len(context) == 13
    first = run.sequence([7] * 13)
    run.submit(first)
    run.finish()
    assert run.finishes(first) == ["error"]
    run.decoder.broken = lambda context: False
    second = run.sequence([7] * 13, max_tokens=2)
    run.submit(second)
    run.finish()
    assert run.stats.prefix_hits == 0
    assert run.engine.pool.free == run.engine.pool.total


def test_a_draft_that_would_have_led_to_no_number_costs_nothing() -> None:
    run = Run(toy.stack(**{**SMALL, "SPECULATION": "prediction", "DRAFT_ADAPTIVE": False}))
    run.decoder.broken = lambda context: 9 in context[2:]
    sequence = run.sequence([5, 6], prediction=[9] * 20, max_tokens=6)
    run.submit(sequence)
    run.finish()
    assert run.tokens(sequence) == toy.plain([5, 6], toy.scattered, 6)


def test_the_thread_serves_submissions_from_many_threads() -> None:
    run = Run(toy.stack(**SMALL))
    run.engine.start()
    prompts = [[3 + random.Random(i).randrange(500) for _ in range(1 + i % 9)] for i in range(24)]
    finished = [threading.Event() for _ in prompts]
    sequences = []
    for prompt, event in zip(prompts, finished, strict=True):
        sequence = run.sequence(prompt, max_tokens=9)
        received = run.deltas[id(sequence)]

        def receive(delta: Any, received: Any = received, event: threading.Event = event) -> None:
            received.append(delta)
            if delta.finish:
                event.set()

        sequence.receive = receive
        sequences.append(sequence)
    threads = [threading.Thread(target=run.submit, args=(s,)) for s in sequences]
    for thread in threads:
        thread.start()
    assert all(event.wait(20) for event in finished)
    run.engine.stop()
    for prompt, sequence in zip(prompts, sequences, strict=True):
        assert run.tokens(sequence) == toy.plain(prompt, toy.scattered, 9)


def test_one_wake_up_per_step() -> None:
    run = Run(toy.stack())
    run.submit(*[run.sequence([10 + i], max_tokens=6) for i in range(5)])
    run.finish()
    assert run.calls == len(run.decoder.steps) == 6


def test_logprobs_come_with_every_token_and_belong_to_it() -> None:
    run = Run(toy.stack())
    sequence = run.sequence([5, 6], max_tokens=4, logprobs=3)
    run.submit(sequence)
    run.finish()
    entries = [entry for delta in run.deltas[id(sequence)] for entry in delta.logprobs]
    assert [entry.token for entry in entries] == run.tokens(sequence)
    for entry in entries:
        assert entry.top[0] == (entry.token, entry.logprob)
        assert len(entry.top) == 3


def test_logprobs_are_the_same_beside_others_and_with_any_draft() -> None:
    """Sequences that ask and that do not are mixed in a step, and a verification row is one row of many."""
    made = toy.stack(SPECULATION="prediction", **SMALL)
    walk = toy.plain([5, 6], toy.scattered, 20)
    wrong = [token if i % 4 else 3 + token % 7 for i, token in enumerate(walk)]

    def entries(prediction: list[int] | None, others: int) -> list[Any]:
        run = Run(made)
        asking = run.sequence([5, 6], max_tokens=20, logprobs=2, prediction=prediction)
        before = [run.sequence([9 + i], max_tokens=15) for i in range(others)]
        after = [run.sequence([40 + i], max_tokens=15, logprobs=i) for i in range(others)]
        run.submit(*before, asking, *after)
        run.finish()
        assert all(not delta.logprobs for sequence in before for delta in run.deltas[id(sequence)])
        assert run.tokens(asking) == walk
        return [entry for delta in run.deltas[id(asking)] for entry in delta.logprobs]

    alone = entries(None, 0)
    assert [entry.token for entry in alone] == walk
    for prediction in (None, walk, wrong):
        for others in (0, 2):
            assert entries(prediction, others) == alone


def test_a_step_asks_for_the_logits_of_those_who_want_them_and_of_no_others() -> None:
    run = Run(toy.stack())
    asked: list[list[bool]] = []
    forward = run.decoder.forward
    run.decoder.forward = lambda segments: (asked.append([s.logits for s in segments]), forward(segments))[1]
    run.submit(run.sequence([5], max_tokens=3), run.sequence([6], max_tokens=2, logprobs=0))
    run.finish()
    assert asked == [[False, True], [False, True], [False]]


def test_the_device_has_its_next_step_before_the_last_one_was_looked_at() -> None:
    run = Run(toy.stack(DECODER="cuda"))
    run.submit(*[run.sequence([10 + i], max_tokens=4) for i in range(2)])
    run.finish()
    # No step behind the last one: that a sequence has its tokens is known beforehand.
    ahead = ["launch", "deliver", "wait"]
    assert run.decoder.events == ["launch", "launch", "wait", *ahead, *ahead, "deliver", "wait", "deliver"]
    assert [len(step) for step in run.decoder.steps] == [2, 2, 2, 2]


@pytest.mark.parametrize("wish", [{"logprobs": 1}, {"temperature": 1.0, "presence_penalty": 0.5}])
def test_no_step_is_begun_behind_one_whose_token_the_host_chooses(wish: dict[str, Any]) -> None:
    """The toy refuses it: on a device the next step overwrites the logits. Texts are made while a step is computed."""
    run = Run(toy.stack(DECODER="cuda"))
    chosen, plain = run.sequence([10], max_tokens=3, **wish), run.sequence([11], max_tokens=6)
    run.submit(chosen, plain)
    run.finish()
    alone = ["launch", "deliver", "wait"]
    assert run.decoder.events[:8] == ["launch", "wait", *alone, *alone]
    assert run.decoder.events[8:12] == ["launch", "deliver", "launch", "wait"]
    assert run.tokens(plain) == toy.plain([11], toy.scattered, 6)


def test_no_step_is_begun_behind_one_that_verifies_a_draft() -> None:
    run = Run(toy.stack(DECODER="cuda", SPECULATION="prediction", DRAFT_ADAPTIVE=False))
    text = toy.plain([10], toy.scattered, 12)
    predicted = run.sequence([10], max_tokens=12, prediction=[*text[:6], 9, *text[7:]])
    run.submit(predicted)
    run.finish()
    assert run.tokens(predicted) == text
    assert all(event != after for event, after in zip(run.decoder.events, run.decoder.events[1:], strict=False))
    assert run.stats.accepted_tokens >= 9


@pytest.mark.parametrize("decoder", ["native", "cuda"])
def test_an_end_that_only_the_text_tells_costs_at_most_one_row(decoder: str) -> None:
    run = Run(toy.stack(DECODER=decoder), toy.counting)
    text = TEXT.decode(toy.plain([10], toy.counting, 12))
    stopped, other = run.sequence([10], max_tokens=12, stop=(text[5],)), run.sequence([11], max_tokens=12)
    run.submit(stopped, other)
    run.finish()
    assert run.text(stopped) == text[:5]
    assert run.finishes(stopped) == ["stop"]
    assert run.text(other) == TEXT.decode(toy.plain([11], toy.counting, 12))
    assert sum(len(step) for step in run.decoder.steps) == 6 + 12 + (decoder == "cuda")
    assert run.engine.pool.free == run.engine.pool.total


wishes = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(1, 20),
        "temperature": st.sampled_from([0.0, 0.0, 0.8]),
        "logprobs": st.sampled_from([None, None, None, 0]),
        "stop": st.sampled_from([(), (), ("e",)]),
        "stop_token_ids": st.sampled_from([frozenset(), frozenset(range(3, 60))]),
        "min_tokens": st.sampled_from([0, 0, 3]),
    }
)


def ending(context: Any) -> int:
    """`scattered`, with an end after every sixth token or so."""
    return toy.EOS if toy.digest(context) % 6 == 0 else toy.scattered(context)


@pytest.mark.parametrize("speculation", ["none", "prediction"])
@settings(max_examples=60, deadline=None)
@given(
    plan=st.lists(
        st.tuples(st.lists(st.integers(3, 511), min_size=1, max_size=20), wishes, st.integers(0, 12)), max_size=8
    )
)
def test_a_device_that_is_ahead_gives_what_one_gives_that_is_not(speculation: str, plan: Any) -> None:
    """Ends of every kind come unforeseen, pages are few, and draws are seeded: token for token the same, once each."""
    seen: list[list[Any]] = []
    for decoder in ("native", "cuda"):
        run = Run(toy.stack(DECODER=decoder, SPECULATION=speculation, PREFIX_REUSE=True, **SMALL), ending)
        made = [
            (run.sequence(prompt, seed=number, prediction=[9] * 5 if number % 3 == 0 else None, **wish), at)
            for number, (prompt, wish, at) in enumerate(plan)
        ]
        for step in range(14):
            for sequence, at in made:
                if at == step:
                    run.submit(sequence)
            run.engine.step()
        run.finish()
        seen.append([(run.tokens(s), run.text(s), run.finishes(s)) for s, _ in made])
        assert all(len(finishes) == 1 for _, _, finishes in seen[-1])
        assert run.engine.pool.free == run.engine.pool.total
        assert run.engine.idle
    assert seen[0] == seen[1]


def test_a_step_ahead_that_is_too_large_is_planned_again_when_nothing_is_on_its_way() -> None:
    run = Run(toy.stack(DECODER="cuda", **SMALL))
    first = run.sequence([10], max_tokens=8)
    run.submit(first)
    run.engine.step()
    run.decoder.room = 4
    second = run.sequence([20 + i for i in range(14)], max_tokens=4)
    run.submit(second)
    run.finish()
    for sequence, count in ((first, 8), (second, 4)):
        assert run.tokens(sequence) == toy.plain(sequence.prompt, toy.scattered, count)
    assert run.engine.pool.free == run.engine.pool.total


@pytest.mark.parametrize("dropped", [False, True])
def test_a_result_that_comes_after_its_sequence_has_gone_is_nobodys(dropped: bool) -> None:
    """Who ends, or hangs up, with a row on its way: its pages go to the next, and its token to nobody."""
    run = Run(toy.stack(DECODER="cuda", **{**SMALL, "KV_PAGES": 2, "MAX_SEQUENCES": 1}), ending)
    prompt = next([p] for p in range(3, 400) if toy.plain([p], ending, 6)[1:2] == [toy.EOS])
    gone = run.sequence(prompt, max_tokens=6)
    after = run.sequence([77, 78, 79], max_tokens=5, ignore_eos=True)
    run.submit(gone, after)
    run.engine.step()
    run.engine.step()  # one step was looked at, one is on its way
    if dropped:
        run.engine.cancel([gone])
    run.finish()
    assert run.tokens(gone) == toy.plain(prompt, ending, 6)[: 0 if dropped else 2]
    plain = [77, 78, 79]
    for _ in range(5):
        plain.append(ending(plain))
    assert run.tokens(after) == plain[3:]
    assert run.engine.pool.free == run.engine.pool.total


def test_the_time_of_steps_is_counted_once_though_they_overlap() -> None:
    """A step begins when the device has ended the one before it, not when it was given to the device."""
    run = Run(toy.stack(DECODER="cuda"))
    now = iter(float(second) for second in range(1000))
    run.engine = run.made.engine.Engine(run.decoder, run._deliver, run.stats, clock=lambda: next(now))
    run.submit(run.sequence([10], max_tokens=6))
    run.finish()
    assert 0 < run.stats.step_seconds <= next(now)


def test_an_engine_that_stops_waits_for_what_is_on_its_way() -> None:
    run = Run(toy.stack(DECODER="cuda"))
    run.submit(run.sequence([10], max_tokens=100))
    run.engine.step()
    run.engine.step()
    assert len(run.decoder.launched) == 1
    run.engine._stopping = True
    run.engine.start()
    assert run.engine.stop()
    assert run.decoder.launched == []


def test_nothing_that_was_made_is_lost_when_a_device_fails() -> None:
    run = Run(toy.stack(DECODER="cuda", **SMALL))
    run.decoder.fail_at = 3
    done = threading.Event()
    short, long = run.sequence([10], max_tokens=3), run.sequence([11], max_tokens=9)
    received = run.deltas[id(long)]
    long.receive = lambda delta: (received.append(delta), done.set() if delta.finish else None)[0]
    run.submit(short, long)
    run.engine.start()
    assert done.wait(20)
    assert run.tokens(short) == toy.plain([10], toy.scattered, 3)
    assert run.finishes(short) == ["length"]
    assert run.tokens(long) == toy.plain([11], toy.scattered, 3)
    assert run.finishes(long) == ["error"]
    run.engine.stop()


def test_an_engine_is_not_idle_before_the_last_text_has_left() -> None:
    run = Run(toy.stack(DECODER="cuda"))
    run.submit(run.sequence([10], max_tokens=1))
    run.engine.step()
    run.engine.step()
    assert not run.engine.idle and run.calls == 0
    assert run.engine.step() is False
    assert run.engine.idle and run.calls == 1


def test_who_hangs_up_while_a_text_waits_gets_it_no_more() -> None:
    run = Run(toy.stack(DECODER="cuda"))
    doomed, other = run.sequence([10], max_tokens=6), run.sequence([11], max_tokens=6)
    run.submit(doomed, other)
    for _ in range(3):
        run.engine.step()
    run.engine.cancel([doomed])
    run.finish()
    assert len(run.tokens(doomed)) == 1  # of the two that were made
    assert run.tokens(other) == toy.plain([11], toy.scattered, 6)
