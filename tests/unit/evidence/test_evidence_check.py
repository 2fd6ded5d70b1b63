"""A bundle of an honest run holds; every way to change one is found, and the sentence names it."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from evidence_world import World, journal_lines, resealed, with_journal, with_samples

from sartor_agents.evidence import archive, origin, signing
from sartor_agents.evidence.check import check
from sartor_agents.evidence.contents import read_contents
from sartor_agents.evidence.errors import BundleUnreadableError
from sartor_agents.evidence.history import HistoryError, parse_tree
from sartor_agents.evidence.statement import ENVELOPE, PROVENANCE
from sartor_agents.measurement.samples import Sample
from sartor_agents.run.repository import RunRepository

Files = dict[str, bytes]


def failures(content: bytes | Files, **options: Any) -> list[str]:
    packed = archive.pack(content) if isinstance(content, dict) else content
    found = check(packed, **options).findings
    return [f"{finding.check}: {finding.message}" for finding in found.all if finding.outcome == "fails"]


# --- honest -----------------------------------------------------------------------------------------------------------


def test_an_honest_bundle_holds_in_everything(world: World) -> None:
    checked = check(world.content, model_dir=world.model_dir)
    assert not checked.findings.failed, failures(world.content)
    unchecked = [finding.check for finding in checked.findings.all if finding.outcome == "unchecked"]
    assert unchecked == ["signature"]
    held = {finding.check for finding in checked.findings.all if finding.outcome == "holds"}
    assert {"confirm-figures", "evaluate-figures", "confirm-prompts", "confirm-samples", "order", "choice"} <= held


def test_the_same_run_gives_the_same_bytes_named_by_their_hash_and_kept_in_its_repository(world: World) -> None:
    assert world.again() == world.content
    assert world.evidence.name == f"{hashlib.sha256(world.content).hexdigest()}.tar"
    repository = RunRepository(world.layout.repository)
    kept = dict(repository._files("evidence"))  # pyright: ignore[reportPrivateUsage]
    assert kept == {world.evidence.name: world.content}


def test_the_statement_is_in_toto_with_slsa_and_names_stack_model_baseline_and_run(world: World) -> None:
    statement = json.loads(world.files[PROVENANCE])
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"][0]["digest"]["sha256"] == world.finished.content_hash
    definition, details = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    assert [one["name"] for one in definition["resolvedDependencies"]] == ["model", "baseline", "run", "parent"]
    assert definition["externalParameters"]["intentSha256"] and details["builder"]["id"]
    assert {one["name"] for one in details["byproducts"]} == set(world.files) - {PROVENANCE}


# --- changed without making the hashes anew ------------------------------------------------------------------------------


def quick(files: Files) -> list[str]:
    """What is found by hashes alone: enough for what was changed behind their back."""
    try:
        return list(origin.digests(read_contents(files)))
    except BundleUnreadableError as error:
        return [str(error)]


def test_every_file_that_is_changed_or_taken_away_is_named(world: World) -> None:
    for path in sorted(set(world.files) - {PROVENANCE}):
        assert any(path in said for said in quick({**world.files, path: world.files[path] + b" "})), path
        assert any(path in said for said in quick({k: v for k, v in world.files.items() if k != path})), path


def test_a_file_that_is_added_is_named(world: World) -> None:
    assert any("stack/more.py" in said for said in quick({**world.files, "stack/more.py": b""}))


def leaves(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every leaf of a JSON value; of a long list the first and the last."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, (*where, key))
    elif isinstance(value, list):
        for number in sorted({0, len(value) - 1}) if value else ():
            yield from leaves(value[number], (*where, number))
    else:
        yield where


def changed(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value * 1.5 + 1 if isinstance(value, float) else value + 1
        case str():
            flipped = "0" if value[:1] != "0" else "1"
            return flipped + value[1:] if value else "x"
        case _:
            return "x"


@pytest.mark.parametrize("path", [*(f"steps/{kind}.json" for kind in ("baseline", "plan", "implement", "judge")),
                                  "steps/evaluate.json", "steps/confirm.json", "run.json", "seeds.json"])  # fmt: skip
def test_every_field_that_is_changed_is_found_although_the_hashes_were_made_anew(world: World, path: str) -> None:
    whole = json.loads(world.files[path])
    places = list(leaves(whole))
    assert len(places) >= 5
    for place in places:
        edited = json.loads(world.files[path])
        at = edited
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = changed(at[place[-1]])
        files = resealed({**world.files, path: json.dumps(edited, indent=1).encode() + b"\n"})
        try:
            bundle = read_contents(files)
            history = origin.read_history(bundle)
            found = [*origin.candidate(bundle), *origin.seeds(bundle), *origin.order(bundle, history)]
        except (BundleUnreadableError, HistoryError) as error:
            found = [str(error)]
        assert found, place


# --- changed consistently: hashes made anew ------------------------------------------------------------------------------


def drop_pair(files: Files) -> Files:
    last = journal_lines(files)[-2]["index"]
    files = with_journal(files, lambda lines: [line for line in lines if line.get("index") != last])
    return with_samples(files, lambda samples: [s for s in samples if s.window != last])


def drop_first_pair_and_number_anew(files: Files) -> Files:
    def renumber(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = [line for line in lines if line.get("index") != 0]
        return [{**line, "index": line["index"] - 1} if "index" in line else line for line in kept]

    files = with_journal(files, renumber)
    return with_samples(files, lambda samples: [replace(s, window=s.window - 1) for s in samples if s.window])


def call_a_pair_void(files: Files) -> Files:
    def void(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lines[1] = {**lines[1], "void": "Contended", "why": "busy"}
        lines[-1] = {**lines[-1], "void": lines[-1]["void"] + 1, "pairs": lines[-1]["pairs"] - 1}
        return lines

    return with_journal(files, void)


def swap_arms(files: Files) -> Files:
    other = {"candidate": "baseline", "baseline": "candidate"}
    return with_samples(files, lambda samples: [replace(s, arm=other[s.arm]) for s in samples])


def edit_time(files: Files) -> Files:
    def edit(samples: list[Sample]) -> list[Sample]:
        at = next(i for i, s in enumerate(samples) if s.purpose == "scored" and s.arm == "baseline")
        samples[at] = replace(samples[at], end=samples[at].end + 0.5)
        return samples

    return with_samples(files, edit)


def edit_tokens(files: Files) -> Files:
    def edit(samples: list[Sample]) -> list[Sample]:
        at = next(i for i, s in enumerate(samples) if s.purpose == "scored" and s.arm == "candidate")
        time, n = samples[at].arrivals[-1]
        arrivals = (*samples[at].arrivals[:-1], (time, n + 40))
        samples[at] = replace(samples[at], arrivals=arrivals, tokens=samples[at].tokens + 40)
        return samples

    return with_samples(files, edit)


def drop_sample(files: Files) -> Files:
    def edit(samples: list[Sample]) -> list[Sample]:
        at = next(i for i, s in enumerate(samples) if s.purpose == "scored" and s.arm == "candidate")
        return samples[:at] + samples[at + 1 :]

    return with_samples(files, edit)


def double_sample(files: Files) -> Files:
    return with_samples(files, lambda samples: [*samples, samples[-1]])


def backwards(files: Files) -> Files:
    def edit(samples: list[Sample]) -> list[Sample]:
        samples[0] = replace(samples[0], end=samples[0].sent - 1)
        return samples

    return with_samples(files, edit)


def not_a_number(files: Files) -> Files:
    return with_samples(files, lambda samples: [replace(samples[0], end=float("nan")), *samples[1:]])


def other_policy(files: Files) -> Files:
    def weaker(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lines[0]["policy"]["confidence"] = 0.55
        return lines

    return with_journal(files, weaker)


def other_order(files: Files) -> Files:
    def swap(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lines[1]["first"] = "baseline" if lines[1]["first"] == "candidate" else "candidate"
        return lines

    return with_journal(files, swap)


def other_prompt(files: Files) -> Files:
    def edit(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lines[1]["requests"] = dict.fromkeys(lines[1]["requests"], "0" * 32)
        return lines

    return with_journal(files, edit)


def hide_behind_a_trace(files: Files) -> Files:
    def claim(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lines[0]["trace_digest"] = "0" * 64
        return lines

    return with_journal(files, claim)


def call_a_void_pair_by_another_name(files: Files) -> Files:
    def disturb(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lines[1]["void"] = "Throttled"
        lines[1]["baseline"]["disturbances"] = [{"reason": "ClockStepped", "message": "by an hour"}]
        return lines

    return with_journal(files, disturb)


def count_a_disturbed_pair(files: Files) -> Files:
    def disturb(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lines[1]["baseline"]["idle_arms"] = {"candidate": 1.5}
        return lines

    return with_journal(files, disturb)


def cut_journal(files: Files) -> Files:
    return with_journal(files, lambda lines: lines[:-1])


def other_end(files: Files) -> Files:
    return with_journal(files, lambda lines: [*lines[:-1], {**lines[-1], "stop": "exhausted"}])


def replace_seed(files: Files) -> Files:
    seeds = json.loads(files["seeds.json"])
    value = "ab" * 32
    seeds["steps"][-1]["seed"] = {"digest": hashlib.sha256(value.encode()).hexdigest(), "value": value}
    return {**files, "seeds.json": json.dumps(seeds).encode()}


def hide_key(files: Files) -> Files:
    seeds = json.loads(files["seeds.json"])
    return {**files, "seeds.json": json.dumps({**seeds, "key": {"digest": seeds["key"]["digest"]}}).encode()}


def other_stack(files: Files) -> Files:
    return {**files, "stack/__main__.py": b"print('another')\n"}


def other_difference(files: Files) -> Files:
    return {**files, "diff.patch": files["diff.patch"].replace(b"+print(2)", b"+print(3)")}


def other_parent(files: Files) -> Files:
    return {**files, "parent/stack/__main__.py": b"print(0)\n"}


def other_tokenizer(files: Files) -> Files:
    return {**files, "model/tokenizer.json": files["model/tokenizer.json"].replace(b'"', b'"', 1) + b"\n"}


def odd_evaluator(files: Files) -> Files:
    record = json.loads(files["steps/confirm.json"])
    record["result"]["fingerprint"]["evaluator"] = [{}]
    return {**files, "steps/confirm.json": json.dumps(record).encode()}


def cut_history(files: Files) -> Files:
    return {**files, "history.git": files["history.git"][:-10]}


def empty_history(files: Files) -> Files:
    return {**files, "history.git": b""}


def without(files: Files, words: bytes) -> Files:
    """The proof without the objects that have these words in them."""
    proof, objects, at = files["history.git"], list[bytes](), 0
    while at < len(proof):
        head = proof.index(b"\0", at) + 1
        size = int(proof[at : head - 1].split()[1])
        objects.append(proof[at : head + size])
        at = head + size
    left = [one for one in objects if words not in one]
    assert len(left) < len(objects)
    return {**files, "history.git": b"".join(left)}


def hide_a_record(files: Files) -> Files:
    return without(files, b'"step": "evaluate",\n "round": 1,')


def hide_rounds(files: Files) -> Files:
    return without(files, b"-evaluate-1.json\0")


CONSISTENT: list[tuple[Callable[[Files], Files], str]] = [
    (drop_pair, "confirm-pairs"),
    (drop_first_pair_and_number_anew, "confirm-prompts"),
    (call_a_pair_void, "was dropped"),
    (swap_arms, "stated as"),
    (edit_time, "stated as"),
    (edit_tokens, "its text has"),
    (drop_sample, "was left out"),
    (double_sample, "twice"),
    (backwards, "run backwards"),
    (not_a_number, "no numbers"),
    (other_policy, "not measured by the policy"),
    (other_order, "by lot"),
    (other_prompt, "is not the one that the seed gives"),
    (hide_behind_a_trace, "requests of a trace"),
    (call_a_void_pair_by_another_name, "by its samples it is for ClockStepped"),
    (count_a_disturbed_pair, "is void (IdleArmBusy)"),
    (cut_journal, "was cut off"),
    (other_end, "the stop rule ends with"),
    (replace_seed, "not derived from the run's key"),
    (hide_key, "does not reveal the key"),
    (other_stack, "the bundled stack has the content"),
    (other_difference, "diff.patch"),
    (other_parent, "parent/stack"),
    (other_tokenizer, "model/tokenizer.json"),
    (odd_evaluator, "different versions of the evaluator"),
    (cut_history, "damaged"),
    (empty_history, "lacks the commit"),
    (hide_a_record, "-evaluate-1.json, so it does not show all records"),
    (hide_rounds, "lacks the tree"),
]


@pytest.mark.parametrize(("tamper", "words"), CONSISTENT, ids=[tamper.__name__ for tamper, _ in CONSISTENT])
def test_a_consistent_change_is_found_and_named(world: World, tamper: Callable[[Files], Files], words: str) -> None:
    edited = tamper(dict(world.files))
    assert edited != world.files
    said = failures(resealed(edited))
    assert any(words in one for one in said), said


def test_a_tree_whose_modes_are_not_as_git_writes_them_is_refused_for_it_would_hide_a_folder() -> None:
    entry = b"rounds\0" + bytes(20)
    assert parse_tree(b"40000 " + entry)["rounds"].folder
    with pytest.raises(HistoryError, match="damaged"):
        parse_tree(b"040000 " + entry)


# --- the archive -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_bundle_that_was_cut_off_is_refused(world: World, share: float) -> None:
    assert failures(world.content[: int(len(world.content) * share)])


def test_every_class_of_bytes_is_guarded(world: World) -> None:
    """One bit in each field of a tar header, in the padding, in the end, and something after it."""
    content = world.content
    offsets = [0, 100, 108, 116, 124, 136, 148, 156, 157, 257, 263, 265, 297, 329, 337, 345, 500, len(content) - 1]
    first = 512 + len(world.files[sorted(world.files)[0]])
    for at in [*offsets, first, len(content) - 700]:
        broken = bytearray(content)
        broken[at] ^= 1
        assert failures(bytes(broken)), at
    assert failures(content + b"\0") and failures(content + b"more")


def test_other_archives_links_and_paths_are_refused(world: World) -> None:
    def tar(name: str, kind: bytes = tarfile.REGTYPE, size: int = 1) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as made:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, size if kind == tarfile.REGTYPE else 0, "/etc/passwd"
            made.addfile(member, io.BytesIO(b"x" * size))
        return out.getvalue()

    for content, words in (
        (tar("../evil"), "no path"),
        (tar("/etc/cron.d/evil"), "no path"),
        (tar("stack/../../evil"), "no path"),
        (tar("other/file"), "no path"),
        (tar("stack//a"), "no path"),
        (tar("run.json", tarfile.SYMTYPE), "not a plain file"),
        (tar("run.json", tarfile.LNKTYPE), "not a plain file"),
        (tar("run.json", tarfile.CHRTYPE), "not a plain file"),
        (gzip.compress(world.content), "no tar"),
        (b"PK\x03\x04", "no tar"),
        (b"", "empty"),
    ):
        said = failures(content)
        assert len(said) == 1 and ("no tar" in said[0] or "empty" in said[0] or words in said[0]), (words, said)


def test_a_header_that_promises_more_than_there_is_does_not_make_anybody_wait() -> None:
    member = tarfile.TarInfo("run.json")
    member.size = 1 << 40
    assert failures(member.tobuf() + b"\0" * 1024)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"null", b'{"name": NaN}'])
def test_json_that_is_none_or_too_deep_is_a_sentence(world: World, content: bytes) -> None:
    said = failures(resealed({**world.files, "run.json": content}))
    assert len(said) == 1 and "run.json" in said[0]


# --- signatures ------------------------------------------------------------------------------------------------------


def test_a_signature_is_checked_with_the_key_that_is_given(world: World) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    files = world.files
    signed = {**files, ENVELOPE: signing.sign(files[PROVENANCE], key)}
    assert failures(signed, key=key.public_key()) == []
    assert any("no signature" in said for said in failures(signed, key=other.public_key()))
    assert any("not signed" in said for said in failures(files, key=key.public_key()))
    # Everything rewritten consistently, the old signature kept: what was signed is something else.
    edited = resealed({**other_stack(dict(files)), ENVELOPE: signed[ENVELOPE]})
    assert any("what was signed" in said for said in failures(edited, key=key.public_key()))


def test_every_byte_of_an_envelope_counts(world: World) -> None:
    key = Ed25519PrivateKey.generate()
    envelope = json.loads(signing.sign(world.files[PROVENANCE], key))
    for field, value in (
        ("payload", envelope["payload"][:-8] + "AAAA" + envelope["payload"][-4:]),
        ("payloadType", "application/json"),
        ("signatures", [{**envelope["signatures"][0], "sig": "A" + envelope["signatures"][0]["sig"][1:]}]),
        ("signatures", []),
        ("more", 1),
    ):
        content = json.dumps({**envelope, field: value}).encode()
        said = failures({**world.files, ENVELOPE: content}, key=key.public_key())
        assert any(one.startswith("signature") for one in said), field


def test_keys_that_cannot_be_used_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("not a key")
    for read in (signing.read_private_key, signing.read_public_key):
        with pytest.raises(signing.SignatureError, match="PEM"):
            read(tmp_path / "key")
        with pytest.raises(signing.SignatureError, match="cannot be read"):
            read(tmp_path / "missing")


# --- the model -------------------------------------------------------------------------------------------------------


def test_another_model_is_told_from_the_one_that_was_measured(world: World, tmp_path: Path) -> None:
    for path in world.model_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert failures(world.content, model_dir=tmp_path) == []
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert any("not the model that was measured" in said for said in failures(world.content, model_dir=tmp_path))
