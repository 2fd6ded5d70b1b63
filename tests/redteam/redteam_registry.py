"""The cheats, what each must meet with, and why. The page docs/measurement/red-team.md is made from this table.

`Meets` says how a cheat ends:

- `Rejected(reason)`: a gate names it by this documented reason.
- `Worthless(limit)`: no gate has to name it, since it gains nothing: its measured speed is at most `limit` times its twin's.
- `Denied()`: the sandbox refuses every attempt, and what the attempts were to cover is rejected by `reason`.
"""

from dataclasses import dataclass, field
from typing import Literal

Gate = Literal["judge", "evaluate", "confirm"]


@dataclass(frozen=True)
class Rejected:
    reason: str


@dataclass(frozen=True)
class Worthless:
    limit: float = 1.25


@dataclass(frozen=True)
class Denied:
    """`reason` None: without its attempts the candidate is honest, so it passes as that."""

    reason: str | None


@dataclass(frozen=True)
class Cheat:
    """One cheat. `name` is its file in cheats/; `rows` are the lines of the table of cheats that it plays (none: found
    here). `open` says why it still gets through, where it does."""

    name: str
    does: str
    caught_by: str
    meets: Rejected | Worthless | Denied
    gate: Gate = "judge"
    scenario: str = "chat"
    rows: tuple[int, ...] = ()
    quick: bool = False
    guardrail: tuple[str, float] | None = None
    starts: int = 1
    open: str = ""
    policy: dict[str, float] = field(default_factory=dict[str, float])


CHEATS: tuple[Cheat, ...] = (
    # --- the table of cheats ------------------------------------------------------------------------------------------
    Cheat("echo_prediction", "answers a code edit with its prediction", "exact greedy match against the reference",
          Rejected("OutputDiverged"), scenario="code-edit", rows=(1,), quick=True),
    Cheat("completion_cache", "plays answers again by prompt and length",
          "prompts never repeat, and the novel-miss probe asks one of them twice",
          Rejected("CompletionCached"), rows=(4,)),
    Cheat("short_answers", "stops at 70 % of the length", "lengths are fixed",
          Rejected("OutputTooShort"), rows=(5,), quick=True),
    Cheat("inflated_usage", "reports three tokens for two", "our own count of the text",
          Rejected("TokenCountMismatch"), rows=(6,), quick=True),
    Cheat("doubled_chunks", "sends every chunk twice and counts both", "no answer may have more tokens than were asked for",
          Rejected("AnswerMislabelled"), rows=(6,)),
    Cheat("split_chunks", "splits chunks into single characters", "tokens are counted in the text, never chunks",
          Worthless(), gate="evaluate", rows=(6,)),
    Cheat("honest_first", "is right for as long as a judge asks, wrong afterwards",
          "answers of the scored windows are compared with the baseline's and the reference",
          Rejected("OutputDiverged"), gate="evaluate", rows=(7,)),
    Cheat("load_shedder", "refuses all but one request at a time", "a refused request is a failed one",
          Rejected("RequestFailed"), rows=(8,), quick=True),
    Cheat("delayed_admission", "lets requests wait unseen at its door",
          "time counts from when a request was due; the guardrail on TTFT", Rejected("GuardrailBroken"),
          gate="evaluate", rows=(8,), guardrail=("ttftP99", 0.9)),
    Cheat("int8_weights", "rounds every matrix to eight bits", "divergence of logprobs from the reference",
          Rejected("LogprobsDiverged"), rows=(9,)),
    Cheat("fewer_layers", "leaves the last layer out", "divergence of logprobs from the reference",
          Rejected("LogprobsDiverged"), rows=(9,)),
    Cheat("keeps_on_disk", "writes answers wherever it can, to find them at its next start",
          "its file system is read-only and its home new at every start", Denied(None), rows=(10,), starts=2),
    Cheat("tampers", "goes for results, packages, start-up hooks, ports, priorities, the clock",
          "the sandbox: nothing of that can be reached", Denied("OutputDiverged"), rows=(11,)),
    Cheat("attacks_on_import", "attacks whoever imports it", "judge and evaluator never import candidates",
          Denied("OutputDiverged"), rows=(12,), quick=True),
    Cheat("reads_sealed_data", "searches the file system and /proc for seeds, prompts and siblings",
          "the sandbox: none of it is there", Denied("OutputDiverged"), rows=(13,)),
    Cheat("prefix_poison", "serves a prompt from the state of another one that begins alike",
          "prompts with a common prefix, interleaved", Rejected("PrefixPoisoned"), rows=(15,)),
    Cheat("wrong_under_load", "is right alone and wrong in a batch",
          "accuracy is drawn from the benchmark's stream at its concurrency",
          Rejected("OutputDiverged"), rows=(16,)),
    Cheat("idle_work", "works ahead whenever nobody asks it for anything",
          "its CPU time in the baseline's windows", Rejected("IdleArmBusy"), gate="evaluate", rows=(17, 19)),
    Cheat("flattering_metrics", "is slow, and ten times as good by its own /metrics", "self-reports never choose",
          Rejected("NoGain"), gate="evaluate", rows=(18,)),
    Cheat("handover", "hands to the baseline what it should serve", "the baseline's own counter",
          Rejected("HandedOver"), rows=(20,)),
    # --- found here ---------------------------------------------------------------------------------------------------
    Cheat("hidden_handover", "lets the baseline write, and hangs up before a request is counted as finished",
          "broken-off requests are counted too", Rejected("HandedOver")),
    Cheat("answer_key", "reads the answers that the checkpoint's maker left beside the weights",
          "the sandbox shows that file empty", Denied("OutputDiverged")),
    Cheat("learned_bigrams", "learns which token follows which, and leaves the model out unless logprobs are asked",
          "requests with and without logprobs must take about the same time",
          Rejected("LogprobsComputedElsewhere"), gate="confirm"),
    Cheat("long_answers", "writes half as much again as was asked, so that prompts cost less per token",
          "lengths are fixed upwards too", Rejected("AnswerMislabelled")),
    Cheat("finish_lie", "says `stop` where the length ran out", "the reason must be the one that the length gives",
          Rejected("AnswerMislabelled")),
    Cheat("early_done", "says `[DONE]` after half of the answer", "our own count of the text",
          Rejected("TokenCountMismatch")),
    Cheat("error_text", "answers 200 with an apology", "lengths are fixed", Rejected("OutputTooShort")),
    Cheat("one_lump", "keeps an answer back and sends it whole", "chunks must come while the answer is written",
          Rejected("NotStreamed"), gate="evaluate"),
    Cheat("hoarding", "keeps tokens back in the ramp and sends them into the window",
          "tokens of a request that began before the window count at most in proportion",
          Worthless(), gate="evaluate", policy={"replicates_min": 4, "replicates_max": 4}),
    Cheat("sheds_some", "refuses every tenth request once it was judged, so that latencies have no 99th percentile",
          "a failed request is infinitely slow, and breaks every bound on the percentile", Rejected("GuardrailBroken"),
          gate="evaluate", guardrail=("ttftP99", 2.0)),
    Cheat("throttle_baseline", "burns CPU in short-lived processes while the baseline is measured",
          "its CPU time in the baseline's windows", Rejected("IdleArmBusy"), gate="evaluate"),
    Cheat("flood_baseline", "keeps the baseline busy with requests for /metrics while it is measured",
          "the kernel's count of what others sent it", Rejected("ForeignTraffic"), gate="evaluate"),
    Cheat("streaming_differs", "saves half of the work where nobody watches it come",
          "streamed and whole texts are compared", Rejected("StreamingChangedOutput")),
    Cheat("stale_after_disconnect", "does not clean up after a client that went away",
          "texts before and after disconnects are compared", Rejected("DisconnectChangedOutput")),
    Cheat("accepts_anything", "checks nothing and answers 200", "the battery of bad input",
          Rejected("BadInputAccepted")),
    Cheat("falls_over", "ends at a field that it does not know", "the battery of bad input",
          Rejected("BadInputCrashed")),
)  # fmt: skip

BY_NAME = {cheat.name: cheat for cheat in CHEATS}

NOT_PLAYED: dict[int, str] = {
    2: "canned image: there is no image scenario yet, so no candidate could be judged by it",
    3: "instant empty ASR partial: there is no speech scenario yet",
    14: "skipped diffusion steps: there is no image scenario yet",
}
"""Lines of the table that cannot be played today."""
