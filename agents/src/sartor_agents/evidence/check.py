"""Everything about a bundle that can be checked offline, in the order in which one would ask. Runs nothing of it."""

import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ConfigDict, TypeAdapter

from sartor_agents.evidence import archive, origin, prompts
from sartor_agents.evidence.build import MODEL_FILES, chosen, model_digest
from sartor_agents.evidence.cluster import CLUSTER_BUILDER
from sartor_agents.evidence.contents import Contents, read_contents
from sartor_agents.evidence.errors import BundleUnreadableError, EvidenceError
from sartor_agents.evidence.findings import Findings
from sartor_agents.evidence.history import HistoryError
from sartor_agents.evidence.replay import claims, replay
from sartor_agents.measurement.environment import evaluator_digest
from sartor_agents.measurement.journal import JOURNAL, Journal, JournalError, read_journal
from sartor_agents.measurement.peak import FIRST_OF_SWEEP
from sartor_agents.measurement.sample_file import read_samples
from sartor_agents.measurement.samples import Sample
from sartor_agents.measurement.tokens import TokenCounter
from sartor_agents.run.errors import BadRequestError
from sartor_agents.run.requests import measurement_policy, scenario_spec
from sartor_agents.scenarios import Scenario, ScenarioError, Stage, open_scenario
from sartor_api.search.budget import Ledger
from sartor_api.search.records import Measurement, StepKind, StepRecord
from sartor_api.search.state import RunState

_MEASURED = (StepKind.EVALUATE, StepKind.CONFIRM)
_SAMPLES = TypeAdapter(list[Sample], config=ConfigDict(revalidate_instances="always", strict=True))
LARGEST_REQUEST = 1 << 21
"""Tokens of a prompt or an answer that is made again."""


@dataclass(frozen=True)
class Checked:
    """The findings, and the bundle as far as it could be read."""

    findings: Findings
    bundle: Contents | None
    digest: str


def check(content: bytes, *, key: Ed25519PublicKey | None = None, model_dir: Path | None = None) -> Checked:
    """Check the bytes of a bundle. `model_dir`: the checkpoint itself, to compare the bundled tokenizer and weights with.

    Whatever is wrong is a finding; nothing of the bundle is run, and nothing is written but to a temporary folder.
    """
    findings, name = Findings(), archive.digest(content)
    try:
        bundle = read_contents(archive.unpack(content))
    except BundleUnreadableError as error:
        findings.fails("form", str(error))
        return Checked(findings, None, name)
    findings.holds("form", f"{len(bundle.files)} files, as Sartor packs and names them")
    findings.settle("digests", origin.digests(bundle), "every file has the hash that the provenance names")
    origin.signature(bundle, key, findings)
    findings.settle("candidate", origin.candidate(bundle), "stack, difference, plan and verdicts belong together")
    findings.settle("seeds", origin.seeds(bundle), "the revealed seeds are those of their steps, and of the run's key")
    _history(bundle, findings)
    _model(bundle, model_dir, findings)
    for kind in _MEASURED:
        try:
            _measurement(bundle, kind, findings)
        except (ValueError, ArithmeticError, TypeError, LookupError, RecursionError, MemoryError) as error:
            # Whatever a forger put there, what cannot be computed does not hold.
            findings.fails(
                kind.value, f"the figures of {kind.value} cannot be computed: {error or type(error).__name__}"
            )
    _evaluator(bundle, findings)
    return Checked(findings, bundle, name)


def _history(bundle: Contents, findings: Findings) -> None:
    try:
        history = origin.read_history(bundle)
        order = list(origin.order(bundle, history))
        if order or bundle.statement.predicate.run_details.builder.id != CLUSTER_BUILDER:
            findings.settle("order", order, "every seed was committed to before its step, the key before the run")
        else:
            findings.unchecked(
                "order", "put together from a cluster: when seeds were settled is its API server's word, not git's"
            )
        records = origin.all_records(history, history.commits[0])
        problems = [*origin.parent_is(bundle, records), *_follows(bundle, records)]
        findings.settle("choice", problems, f"the candidate follows from all {len(records)} records of the run")
    except HistoryError as error:
        findings.fails("order", str(error))


def _follows(bundle: Contents, records: list[StepRecord]) -> Iterator[str]:
    """Whether the records of the run lead to this candidate by the rules of the search."""
    if [record.sequence for record in records] != list(range(1, len(records) + 1)):
        yield "the records of the run are not numbered without gaps: one was left out"
        return
    run = RunState(spec=bundle.spec, records=tuple(records), ledger=Ledger(), session_started=0.0)
    try:
        found = chosen(run)
    except (EvidenceError, ValueError, IndexError) as error:
        yield f"the records of the run lead to no candidate: {error}"
        return
    if found is None:
        yield "no confirmation in the run's records reaches the speed-up that was asked for"
    elif found.records != bundle.records:
        yield f"by the run's records another candidate was confirmed (round {found.candidate.round})"


def _model(bundle: Contents, model_dir: Path | None, findings: Findings) -> None:
    stated = bundle.statement.dependency("model")
    files = (stated.annotations or {}).get("files") if stated is not None else None
    known: dict[str, object] = dict(files) if isinstance(files, dict) else {}

    def problems() -> Iterator[str]:
        for path, data in bundle.files.items():
            name = path.removeprefix("model/")
            if path.startswith("model/") and (name not in MODEL_FILES or known.get(name) != archive.digest(data)):
                yield f"{path} is not the model's file that the provenance names"
        for name in MODEL_FILES:
            if name in known and f"model/{name}" not in bundle.files:
                yield f"model/{name} is missing from the bundle"
        if model_dir is not None and stated is not None and model_digest(model_dir) != stated.digest.get("sha256"):
            yield f"{model_dir} is not the model that was measured"

    checked = "configuration and tokenizer are as stated" + (", and all of it is the checkpoint's" if model_dir else "")
    if findings.settle("model", problems(), checked) and model_dir is None:
        findings.unchecked("model", "the checkpoint itself was not looked at; give --model DIR to compare it")


def _measurement(bundle: Contents, kind: StepKind, findings: Findings) -> None:
    """One measurement: prompts, tokens, figures."""
    name, claimed = kind.value, bundle.measurement(kind)
    seed = claimed.seed.value if claimed.seed is not None else None
    if seed is None:
        findings.fails(name, f"the record of {name} reveals no seed")
        return
    with tempfile.TemporaryDirectory(prefix="sartor-verify-") as folder:
        try:
            journal, samples = _raw(bundle, kind, claimed, Path(folder))
        except (JournalError, BundleUnreadableError) as error:
            findings.fails(name, f"steps/{name}: {error}")
            return
        if problem := _as_asked(bundle, kind, journal):
            findings.fails(name, problem)
            return
        try:
            scenario, counter = _scenario(bundle, journal, seed, Path(folder))
            stages = _stages(scenario, claimed)
        except ScenarioError as error:
            findings.fails(name, f"the workload of {name} cannot be made again: {error}")
            return
    pairs = samples
    if scenario.sweep is not None:
        pairs = [sample for sample in samples if sample.window < FIRST_OF_SWEEP]
        findings.unchecked(f"{name}-peak", "that this load is the sustainable peak is taken as stated")
    if scenario.count_tolerance and _documents_differ(bundle):
        findings.unchecked(f"{name}-prompts", "prompts come from documents of another Python than this one")
    else:
        findings.settle(
            f"{name}-prompts",
            prompts.asked(journal, pairs, scenario, stages),
            "all requests are those that the seed gives",
        )
    findings.settle(
        f"{name}-samples",
        prompts.counted(samples, counter),
        f"tokens and times of {len(samples)} samples hold together",
    )
    found = replay(journal, pairs, stages, seed)
    findings.settle(
        f"{name}-pairs",
        found.problems,
        f"{len(found.table.pairs)} of {len(journal.pairs)} pairs count, the others are void for their reasons, and the stop "
        "rule was followed",
    )
    findings.settle(
        f"{name}-figures",
        claims(found, claimed, journal, seed, bundle.spec.guardrails),
        f"{_interval(claimed)} and every other figure follow from the samples",
    )


def _stages(scenario: Scenario, claimed: Measurement) -> tuple[Stage, ...]:
    """What every window ran: the scenario's stages, and the one at the peak that both arms sustain."""
    if scenario.sweep is None:
        if claimed.peaks:
            raise ScenarioError("the record has peaks that run.json does not ask for")
        return scenario.stages
    if set(claimed.peaks) != {"candidate", "baseline"}:
        raise ScenarioError("the record does not say which peak each arm has")
    return (*scenario.stages, scenario.sweep(min(peak.concurrency for peak in claimed.peaks.values())))


def _interval(claimed: Measurement) -> str:
    one = claimed.speedup
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" if one is not None else "nothing"


def _raw(bundle: Contents, kind: StepKind, claimed: Measurement, folder: Path) -> tuple[Journal, list[Sample]]:
    """Journal and samples. Raises `JournalError`, `BundleUnreadableError`."""
    beside = bundle.samples(kind)
    content = beside.get(JOURNAL)
    if content is None:
        raise BundleUnreadableError(f"{JOURNAL} is missing")
    named = [name for name in beside if name.startswith("samples.")]
    if len(named) != 1 or Path(claimed.samples or "").name != named[0]:
        raise BundleUnreadableError(f"the samples that the record names ({claimed.samples}) are not there")
    path = folder / named[0]
    path.write_bytes(beside[named[0]])
    try:
        return read_journal(content), _SAMPLES.validate_python(list(read_samples(path)))
    except JournalError:
        raise
    except (ValueError, KeyError, TypeError, OSError, EOFError, RecursionError) as error:
        raise BundleUnreadableError(f"{named[0]} cannot be read: {error}") from None


def _as_asked(bundle: Contents, kind: StepKind, journal: Journal) -> str | None:
    """What is wrong with what the evaluator was asked, compared with the run."""
    claimed = bundle.measurement(kind)
    assert claimed.seed is not None, "looked at before"
    try:
        wanted = scenario_spec(bundle.spec)
    except BadRequestError as error:
        return f"run.json asks for a workload that there is not: {error}"
    if journal.asked.scenario != wanted:
        return f"{kind.value} measured another workload than run.json asks for"
    policy = measurement_policy(bundle.spec, kind, wall_clock=journal.asked.policy.wall_clock)
    if journal.asked.policy != policy:
        return f"{kind.value} was not measured by the policy that run.json asks for"
    if journal.asked.trace_digest is not None:
        return f"{kind.value} measured requests of a trace, which run.json does not ask for"
    if journal.asked.seed_digest != claimed.seed.digest:
        return f"{kind.value} was measured with another seed than its record has"
    if journal.asked.confirmation != (kind is StepKind.CONFIRM) or claimed.confirmation != journal.asked.confirmation:
        return f"steps/{kind.value} is not the measurement of that step"
    return None


def _scenario(bundle: Contents, journal: Journal, seed: str, folder: Path) -> tuple[Scenario, TokenCounter]:
    """The workload over the bundled tokenizer. Raises `ScenarioError`.

    A chat template is a program. It decides nothing that is compared, so an empty one stands in for it.
    """
    model = folder / "model"
    model.mkdir()
    for path, data in bundle.files.items():
        if path.startswith("model/") and path != "model/chat_template.jinja":
            (model / path.removeprefix("model/")).write_bytes(data)
    if (model / "tokenizer_config.json").is_file():
        (model / "tokenizer_config.json").write_text('{"chat_template": ""}', encoding="utf-8")
    scenario, counter = open_scenario(journal.asked.scenario, model, seed)
    if max(scenario.envelope.input_tokens, scenario.envelope.output_tokens) > LARGEST_REQUEST:
        raise ScenarioError(f"its requests have more than {LARGEST_REQUEST} tokens")
    return scenario, counter


def _documents_differ(bundle: Contents) -> bool:
    """Whether documents of this machine's Python are others than those that prompts were drawn from."""
    return bundle.statement.predicate.run_details.builder.version.get("python") != platform.python_version()


def _evaluator(bundle: Contents, findings: Findings) -> None:
    stated = {str(bundle.measurement(kind).fingerprint.get("evaluator")) for kind in _MEASURED}
    if len(stated) != 1:
        findings.fails("evaluator", "the two measurements were made by different versions of the evaluator")
    elif stated == {evaluator_digest()}:
        findings.holds("evaluator", "measured by the very code that checked it here")
    else:
        findings.unchecked(
            "evaluator", "measured by another version of Sartor's evaluator than the one that checks here"
        )
