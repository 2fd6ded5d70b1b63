"""Exact match is about text: another spelling in tokens is the same answer, another text is not."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from sartor_agents.judge.accuracy import check_answer, mislabelled, reason_of, same_answer
from sartor_agents.judge.reference_check import ReferenceCheck
from sartor_agents.measurement.messages import Reason
from sartor_agents.measurement.samples import ErrorClass, GenerationRequest, Sample
from sartor_agents.measurement.tokens import TokenCounter

A, B, C, AB, END = 0, 1, 2, 3, 4
PIECES = {A: "a", B: "b", C: "c", AB: "ab", END: ""}
REQUEST = GenerationRequest("r", "c", "/v1/completions", {"ignore_eos": True}, (C,), 6)


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> TokenCounter:
    """A vocabulary that merges "ab", which a model need not write so."""
    folder = tmp_path_factory.mktemp("bpe")
    tokenizer = Tokenizer(BPE({"a": A, "b": B, "c": C, "ab": AB, "<end>": END}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<end>", normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return TokenCounter(folder)


class Writes:
    """A model that writes `tokens` whatever the prompt, as long as what stands there already has that text.

    `ties`: positions of its own path where its second choice, `other`, is as good. `step`: of bfloat16 at its logits.
    """

    def __init__(self, tokens: Sequence[int], *, other: int = C, ties: Sequence[int] = (), step: float = 0.0) -> None:
        self.tokens, self.other, self.ties, self.step, self.passes = list(tokens), other, ties, step, 0

    def check(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        self.passes += 1
        choices: list[int] = []
        tied: list[bool] = []
        for place in range(len(output_ids)):
            # Where an answer has taken tokens of its own, the model goes on from the same text.
            done = "".join(PIECES[token] for token in output_ids[:place])
            own = next(
                (i for i in range(len(self.tokens) + 1) if "".join(PIECES[t] for t in self.tokens[:i]) == done
                 and (i == 0 or place == 0 or self.tokens[i - 1] != END or output_ids[place - 1] == END)),
                None,
            )  # fmt: skip
            if own is not None and own < len(self.tokens) and self.tokens[own] == END and output_ids[place - 1] == END:
                own += 1
            choices.append(self.tokens[own] if own is not None and own < len(self.tokens) else self.other)
            tied.append(own in self.ties)
        seconds = [self.other if choice != self.other else A for choice in choices]
        logprobs = [-0.7 if choice == token else -0.701 if tie and token == second else -8.0
                    for choice, token, tie, second in zip(choices, output_ids, tied, seconds, strict=True)]  # fmt: skip
        return ReferenceCheck(
            tuple(choice == token for choice, token in zip(choices, output_ids, strict=True)),
            tuple(-0.7 - value if value != -0.7 else 5.0 for value in logprobs),
            tuple(choices),
            tuple(logprobs),
            (self.step,) * len(logprobs),
            tuple(zip(choices, seconds, strict=True)),
            tuple((-0.7, -0.701 if tie else -8.0) for tie in tied),
        )

    def rounded(
        self, prompt_ids: Sequence[int], output_ids: Sequence[int], *, layers: bool, logits: bool
    ) -> ReferenceCheck:
        return self.check(prompt_ids, output_ids)

    def products(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        return self.check(prompt_ids, output_ids)

    def generate(self, prompt_ids: Sequence[int], tokens: int) -> list[int]:
        return [END] * tokens


def test_the_models_own_spelling_is_followed(counter: TokenCounter) -> None:
    model = Writes([A, B, C, A, B])
    assert counter.encode("abcab") == [AB, C, AB], "the tokenizer spells it otherwise"
    verdict = check_answer(model, REQUEST, "abcab", counter, tolerance=0.05)
    assert verdict.right and verdict.output_ids == (A, B, C, A, B)


def test_special_tokens_are_not_in_the_text(counter: TokenCounter) -> None:
    verdict = check_answer(Writes([A, C, END, C, A]), REQUEST, "acca", counter, tolerance=0.05)
    assert verdict.right and verdict.output_ids == (A, C, END, C, A)


def test_another_text_is_wrong_in_every_spelling(counter: TokenCounter) -> None:
    verdict = check_answer(Writes([A, B, C, A, B]), REQUEST, "abcbb", counter, tolerance=0.05)
    assert not verdict.right and verdict.divergence == 3 and verdict.expected == A


def test_a_tie_may_go_on_in_the_other_tokens_spelling(counter: TokenCounter) -> None:
    model = Writes([A, A, A], other=C, ties=[1])
    verdict = check_answer(model, REQUEST, "ac", counter, tolerance=0.05)
    assert verdict.right and verdict.flips == 1 and verdict.margins[1] == pytest.approx(0.001)
    assert not check_answer(model, REQUEST, "ac", counter, tolerance=0.0005).right


def test_what_rounding_the_logits_takes_for_equal_is_a_tie(counter: TokenCounter) -> None:
    coarse = Writes([A, A, A], other=C, ties=[1], step=0.001)
    verdict = check_answer(coarse, REQUEST, "ac", counter, tolerance=0.0005)
    assert verdict.right and verdict.tolerances == pytest.approx((0.0015, 0.0015))
    assert same_answer(coarse, REQUEST, "aaa", "acc", counter, tolerance=0.0005)


def test_only_tokens_near_the_best_make_two_texts_the_same(counter: TokenCounter) -> None:
    model = Writes([A, A, A], other=C, ties=[1])
    assert same_answer(model, REQUEST, "aaa", "acc", counter, tolerance=0.05)
    assert not same_answer(model, REQUEST, "aaa", "aba", counter, tolerance=0.05), "b is far behind at that tie"
    assert not same_answer(model, REQUEST, "aaa", "aa", counter, tolerance=0.05)
    assert not same_answer(model, REQUEST, "aaa", "aca", counter, tolerance=0.05), "wrong right after the tie"
    assert not same_answer(model, REQUEST, "aba", "aaa", counter, tolerance=0.05), (
        "the first is wrong, and no tie parts them"
    )


def test_two_right_texts_that_are_spelled_otherwise_are_the_same(counter: TokenCounter) -> None:
    model = Writes([A, A, B], other=C, ties=[1])  # its own path: a, a, b
    one, other = "aab", "acc"
    assert counter.encode(one) == [A, AB], "the tokenizer merges what the model wrote as two tokens"
    assert same_answer(model, REQUEST, one, other, counter, tolerance=0.05)


def sample(tokens: int, finish: str | None) -> Sample:
    return Sample("r", "c", "candidate", "accuracy", 0, 0, 0, 1, 200, "x", (), tokens, finish_reason=finish)


def test_an_end_that_is_not_so_is_said(counter: TokenCounter) -> None:
    assert mislabelled(REQUEST, sample(6, "length"), counter) is None
    assert "7 tokens" in (mislabelled(REQUEST, sample(7, "length"), counter) or "")
    assert "'stop'" in (mislabelled(REQUEST, sample(6, "stop"), counter) or "")


@pytest.mark.parametrize(
    ("error", "tokens", "reason"),
    [
        (ErrorClass.COUNT, 6, Reason.TOKEN_COUNT_MISMATCH),
        (ErrorClass.COUNT, 7, Reason.ANSWER_MISLABELLED),
        (ErrorClass.SHORT, 3, Reason.OUTPUT_TOO_SHORT),
        (ErrorClass.EMPTY, 0, Reason.OUTPUT_TOO_SHORT),
        (ErrorClass.STREAM, 3, Reason.REQUEST_FAILED),
        (ErrorClass.STATUS, 0, Reason.REQUEST_FAILED),
    ],
)
def test_what_a_failed_answer_is_called(error: ErrorClass, tokens: int, reason: Reason) -> None:
    """REQUEST asks for 6 tokens."""
    assert reason_of(replace(sample(tokens, None), error=error), REQUEST) is reason
