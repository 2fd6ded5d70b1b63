"""Checks of what a bundle says about itself: hashes, signature, the candidate, seeds, and the order of events."""

import hashlib
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sartor_agents.evidence import signing
from sartor_agents.evidence.archive import digest
from sartor_agents.evidence.build import SEALED_STEPS, difference
from sartor_agents.evidence.contents import Contents
from sartor_agents.evidence.findings import Findings
from sartor_agents.evidence.history import Commit, History, HistoryError
from sartor_agents.evidence.signing import SignatureError
from sartor_agents.evidence.statement import ENVELOPE, PROVENANCE
from sartor_agents.run.content import content_hash
from sartor_agents.run.record_paths import RECORD_FOLDERS, is_record, record_path
from sartor_agents.run.seals import KEY_COMMITMENT, seed_of, seed_path
from sartor_api.search.records import Implementation, SeedCommitment, StepKind, StepRecord


def digests(bundle: Contents) -> Iterator[str]:
    """Files that are not what the statement names."""
    stated: dict[str, str | None] = {}
    for one in bundle.statement.predicate.run_details.byproducts:
        if one.name in stated:
            yield f"{PROVENANCE} names {one.name!r} twice"
        stated[one.name] = one.digest.get("sha256")
    held = {path: digest(data) for path, data in bundle.files.items() if path not in (PROVENANCE, ENVELOPE)}
    for path in sorted({*stated, *held}):
        if path not in held:
            yield f"{path} is missing from the bundle; {PROVENANCE} names it"
        elif path not in stated:
            yield f"{path} is in the bundle, but {PROVENANCE} does not name it"
        elif stated[path] != held[path]:
            yield f"{path} was changed: its SHA-256 is {held[path][:12]}…, {PROVENANCE} says {str(stated[path])[:12]}…"


def signature(bundle: Contents, key: Ed25519PublicKey | None, findings: Findings) -> None:
    """Whether the statement is signed, and by whom."""
    content = bundle.files.get(ENVELOPE)
    if content is None:
        if key is not None:
            findings.fails("signature", "the bundle is not signed, and a public key was given")
        else:
            findings.unchecked(
                "signature",
                "the bundle is not signed: who rewrites all of it consistently cannot be told from its author",
            )
        return
    try:
        envelope, payload = signing.open_envelope(content)
    except SignatureError as error:
        findings.fails("signature", str(error))
        return
    if payload != bundle.files[PROVENANCE]:
        findings.fails("signature", f"what was signed is not {PROVENANCE}")
    elif key is None:
        names = ", ".join(one.keyid[:16] for one in envelope.signatures)
        findings.unchecked("signature", f"signed with key {names}…; give --key PUBLIC.pem to check it")
    elif signing.holds(envelope, payload, key):
        findings.holds("signature", f"signed with the key {signing.key_id(key)[:16]}…")
    else:
        findings.fails("signature", f"no signature in {ENVELOPE} is of the key that was given")


def candidate(bundle: Contents) -> Iterator[str]:
    """Whether the bundled stack is the one that was proposed, judged and measured."""
    done, subject = bundle.implementation, bundle.statement.subject[0]
    found = content_hash(bundle.stack)
    if subject.digest.get("sha256") != found:
        about = subject.digest.get("sha256", "")
        yield f"the bundled stack has the content {found[:12]}…, the provenance is about {about[:12]}…"
    if done.content_hash != found:
        yield f"the bundled stack has the content {found[:12]}…, committed was {done.content_hash[:12]}…"
    if subject.digest.get("gitCommit") != done.commit:
        yield f"the provenance names another commit than steps/implement.json ({done.commit[:12]})"
    if difference(bundle.parent, bundle.stack) != bundle.files["diff.patch"]:
        yield "diff.patch is not the difference between parent/stack and stack"
    if (bundle.plan.parent is None) != (not bundle.parent):
        yield "parent/stack is not what the plan builds on"
    if not bundle.judgement.passed:
        yield "the judgement has a verdict that did not pass"
    rounds = {
        bundle.records[kind].round for kind in (StepKind.PLAN, StepKind.IMPLEMENT, StepKind.JUDGE, StepKind.EVALUATE)
    }
    if len(rounds) != 1:
        yield f"plan, implementation, judgement and evaluation are of several rounds ({sorted(rounds)})"
    spec, parameters = bundle.spec, bundle.statement.predicate.build_definition.external_parameters
    if parameters.get("intentSha256") != spec.content_hash() or parameters.get("intent") != spec.synthesis:
        yield "the provenance is about another intent than run.json"
    stated = bundle.statement.dependency("baseline")
    baseline = bundle.baseline
    said = {
        "engine": baseline.engine,
        "version": baseline.version,
        "arguments": list(baseline.arguments),
        "environment": dict(baseline.environment),
    }
    if stated is None or stated.annotations != said:
        yield "the provenance names another baseline than steps/baseline.json"


def seeds(bundle: Contents) -> Iterator[str]:
    """Whether every revealed seed is that of its step, and of the key."""
    revealed = {one.step: one.seed for one in bundle.seeds.steps}
    wanted = {bundle.records[kind].id: kind for kind in SEALED_STEPS}
    if set(revealed) != set(wanted) or len(bundle.seeds.steps) != len(wanted):
        yield "seeds.json does not hold the seeds of exactly the judge, evaluate and confirm steps"
        return
    key = bundle.seeds.key
    if key is not None and key.value is None:
        yield "seeds.json does not reveal the key of the run's seeds"
    for step, seed in revealed.items():
        if seed.value is None:
            yield f"the seed of step {step} is not revealed"
        elif key is not None and key.value is not None and seed_of(key.value, step) != seed.value:
            yield f"the seed of step {step} is not derived from the run's key: it was chosen or replaced"
        if wanted[step] is not StepKind.JUDGE and bundle.measurement(wanted[step]).seed != seed:
            yield f"the record of step {step} has another seed than seeds.json"
    if len({seed.value for seed in revealed.values()}) != len(revealed):
        yield "two steps used one seed; the confirmation has to be on data that no round saw"


def read_history(bundle: Contents) -> History:
    """The proof of order. Raises `HistoryError`."""
    tip = bundle.statement.dependency("run")
    if tip is None:
        raise HistoryError("the provenance does not name the commit of the run's repository")
    return History(bundle.files["history.git"], tip.digest.get("gitCommit", ""))


def order(bundle: Contents, history: History) -> Iterator[str]:
    """Whether commitments came before results, and the bundled records are those of the run's repository."""
    tip, first = history.commits[0], history.commits[-1]
    for path, kept in (("run.json", "run.json"), *_kept(bundle)):
        if history.file(tip, path) != bundle.files[kept]:
            yield f"{kept} is not what the run's repository holds at {path}"
    if history.file(first, "run.json") != bundle.files["run.json"]:
        yield "run.json was changed after the run's first commit"
    if bundle.seeds.key is not None:
        committed = history.file(first, KEY_COMMITMENT)
        if not _commits_to(committed, bundle.seeds.key):
            yield "the run's first commit does not commit to the key of its seeds: they were not settled beforehand"
    for one in bundle.seeds.steps:
        record = next((r for r in bundle.records.values() if r.id == one.step), None)
        if record is None:
            continue  # told by `seeds`
        at = next((c for c in reversed(history.commits) if history.has_file(c, seed_path(one.step))), None)
        if at is None or not _commits_to(history.file(at, seed_path(one.step)), one.seed):
            yield f"no commit shows the hash of the seed of step {one.step} before the step"
        elif history.file(at, record_path(record)) is not None:
            yield f"the hash of the seed of step {one.step} was committed after its result"


def _kept(bundle: Contents) -> Iterator[tuple[str, str]]:
    for kind, record in bundle.records.items():
        yield record_path(record), f"steps/{kind.value}.json"


def _commits_to(content: bytes | None, seed: SeedCommitment) -> bool:
    if content is None or seed.value is None:
        return False
    try:
        commitment = SeedCommitment.model_validate_json(content)
    except ValueError:
        return False
    return commitment.value is None and commitment.digest == hashlib.sha256(seed.value.encode()).hexdigest()


def all_records(history: History, tip: Commit) -> list[StepRecord]:
    """Every record of the run at a commit, in order. Raises `HistoryError` when one is missing from the proof or damaged.

    The pages that are rendered from the records stand among them; they prove nothing, so the proof does without them.
    """
    found: list[StepRecord] = []
    for path in filter(is_record, history.paths(tip, RECORD_FOLDERS)):
        if not history.has_file(tip, path):
            raise HistoryError(f"history.git lacks {path}, so it does not show all records of the run")
        try:
            found.append(StepRecord.model_validate_json(history.file(tip, path) or b""))
        except ValueError:
            raise HistoryError(f"{path} of the run's repository is no record") from None
    return sorted(found, key=lambda record: record.sequence)


def parent_is(bundle: Contents, records: list[StepRecord]) -> Iterator[str]:
    """Whether the bundled parent is the candidate that the plan names."""
    if bundle.plan.parent is None:
        return
    made = [r.result for r in records if isinstance(r.result, Implementation) and r.result.commit == bundle.plan.parent]
    if not made or made[0].content_hash != content_hash(bundle.parent):
        yield "parent/stack is not the candidate that the plan builds on"
