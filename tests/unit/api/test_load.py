"""Reading YAML: everything wrong is said at once, with file, line, field and what is allowed; never a traceback."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor_api import (
    KINDS,
    LOCAL,
    AgentProfile,
    HardwareTarget,
    LoadError,
    ServingSynthesis,
    dump_yaml,
    load_file,
    load_text,
)

from .cases import FULL_SYNTHESIS, GOOD, Good

EXAMPLES = Path(__file__).parents[3] / "examples"

GOOD_TEXT = """\
# a comment
apiVersion: sartor.dev/v1alpha1
kind: ServingSynthesis
metadata: {name: editor}
spec:
  model:
    source: {synthetic: {size: 52m}}
  workload:
    scenario: code-edit
  hardware: {targetRef: {name: local}}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(LoadError) as refused:
        load_text(text, "f.yaml")
    assert str(refused.value) == "\n".join(map(str, refused.value.problems))
    return [str(problem) for problem in refused.value.problems]


def test_the_shortest_manifest() -> None:
    [synthesis] = load_text(GOOD_TEXT)
    assert isinstance(synthesis, ServingSynthesis)
    assert synthesis.name == "editor"
    parameters = synthesis.spec.workload.effective_parameters()
    assert (parameters.match_rates, parameters.file_tokens, parameters.output_tokens) == ((0, 50, 90, 95), 400, 400)
    assert synthesis.spec.correctness_mode() == "exactGreedy"
    assert synthesis.spec.budget.wall_clock.seconds == 8 * 3600


def test_everything_wrong_is_said_at_once_in_the_order_of_lines() -> None:
    text = GOOD_TEXT.replace("code-edit", "chta").replace("targetRef: {name: local}", "targetRef: {}")
    text = text.replace("52m}}\n", "52m}}\n    dtpye: bfloat16\n")
    assert problems(text) == [
        'f.yaml:8: spec.model.dtpye: unknown field; did you mean "dtype"?;'
        " known here: source, dtype, weightQuantization, servedName",
        'f.yaml:10: spec.workload.scenario: "chta" is not allowed; allowed: chat, code-edit, shared-prefix,'
        ' streaming-asr, json-schema, image-generation, custom; did you mean "chat"?',
        "f.yaml:11: spec.hardware.targetRef.name: is required (its name)",
    ]


def test_python_names_are_not_yaml_names() -> None:
    assert problems(GOOD_TEXT.replace("hardware: {targetRef", "hardware: {target_ref"))[-1].startswith(
        'f.yaml:10: spec.hardware.target_ref: unknown field; did you mean "targetRef"?'
    )


def test_a_document_after_a_bad_one_is_checked_too() -> None:
    found = problems(f"kind: x\n---\n{GOOD_TEXT}---\n{GOOD_TEXT.replace('52m', '52 m')}")
    assert len(found) == 2
    assert found[0].startswith("f.yaml:1: apiVersion missing")
    assert found[1].startswith('f.yaml:20: spec.model.source.synthetic.size: "52 m" is not a size')


def test_several_resources_and_empty_documents() -> None:
    text = f"---\n{GOOD_TEXT}---\n# nothing\n---\n{dump_yaml(LOCAL)}---\n"
    assert [type(r).__name__ for r in load_text(text)] == ["ServingSynthesis", "HardwareTarget"]


HEAD = "apiVersion: sartor.dev/v1alpha1\nkind: AgentProfile\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f.yaml: is empty; it should hold at least one resource of sartor.dev"),
        ("# only a comment\n---\n", "f.yaml: is empty; it should hold at least one resource of sartor.dev"),
        ("word\n", "f.yaml:1: is a single value; a resource is a mapping with apiVersion, kind, metadata and spec"),
        ("- 1\n", "f.yaml:1: is a list; a resource is a mapping with apiVersion, kind, metadata and spec"),
        (
            "kind: AgentProfile",
            "f.yaml:1: apiVersion missing; a resource of Sartor begins with apiVersion: sartor.dev/v1alpha1 and kind",
        ),
        (
            "\napiVersion: v1\nkind: Pod\n",
            'f.yaml:2: apiVersion: "v1" is not a version of Sartor\'s API; write sartor.dev/v1alpha1',
        ),
        (
            "apiVersion: sartor.dev/v1alpha1\nkind: ServingSyntesis\n",
            f'f.yaml:2: kind: "ServingSyntesis" is not a kind of sartor.dev/v1alpha1; kinds: {", ".join(KINDS)}'
            '; did you mean "ServingSynthesis"?',
        ),
        (HEAD + "spec: {}\nspec: {}\n", 'f.yaml:4: has the key "spec" twice (first in line 3); keep one'),
        (HEAD + "spec:\n\tmodel: x\n", "f.yaml:4: is indented by a tab; YAML allows spaces only"),
        (HEAD + "spec: [1\nkind: x", "f.yaml:4: is not YAML: expected ',' or ']', but got ':'"),
        (HEAD + "spec: *nope\n", "f.yaml:3: is not YAML: found undefined alias 'nope'"),
        (HEAD + "spec: &a [*a]\n", "f.yaml:3: is nested more than 64 levels deep"),
        (HEAD + "x: .nan\n", "f.yaml:3: has the number .nan, which JSON and Kubernetes cannot hold"),
        (HEAD + "? [a]\n: 1\n", "f.yaml:3: has a list or mapping as a key; keys are text"),
        (
            HEAD + "x: !!python/object:os.system y\n",
            "f.yaml:3: has the tag tag:yaml.org,2002:python/object:os.system; resources are plain data without tags",
        ),
        (
            HEAD + "x: &b {a: 1}\ny: {<<: *b}\n",
            "f.yaml:4: uses a merge key (<<), which YAML 1.2 and kubectl do not know; write it out",
        ),
        ("a\x07b", "f.yaml:1: has the control character U+0007; is it a YAML file?"),
        (HEAD + "spec:\n", "f.yaml:3: spec: must be a mapping, is empty; give it a value or remove it"),
        (HEAD + "spec: {codexVersion: 1.2}\n",
         'f.yaml:3: spec.codexVersion: must be text, is the number 1.2; write it in quotes: "1.2"'),
        (HEAD + "spec: {model: yes, backend: on}\n",
         'f.yaml:3: spec.backend: "on" is not allowed; allowed: playbook, openai, codex'),
        (HEAD + "metadata: {name: true}\n", 'f.yaml:3: metadata.name: must be text, is true; write it in quotes: "true"'),
    ],
)  # fmt: skip
def test_bad_text(text: str, said: str) -> None:
    assert problems(text) == [said]


def test_a_billion_laughs_are_not_laughed() -> None:
    levels = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))
    assert problems(f"a: &a [1]\n{levels}")[0].endswith("write less, or use fewer aliases")


def test_files(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(LoadError) as refused:
            load_file(path)
        [problem] = refused.value.problems
        return str(problem).removeprefix(str(path))

    binary = tmp_path / "binary"
    binary.write_bytes(b"\n\n\x80\x81")
    huge = tmp_path / "huge"
    huge.write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    assert said(tmp_path / "none.yaml") == ": there is no such file"
    assert said(tmp_path) == ": is a folder; name a YAML file in it"
    assert said(binary) == ":3: is not UTF-8 text; is it a YAML file?"
    assert said(huge) == ": is larger than 4 MiB; no manifest is"
    assert said(tmp_path / "a\0b").endswith("cannot be read: embedded null byte")
    assert said(binary / "below").startswith(": cannot be read: ")


def test_a_byte_order_mark_and_windows_lines_are_borne(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD_TEXT.replace("\n", "\r\n").encode())
    assert load_file(path)[0].name == "editor"


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_what_is_dumped_reads_back(case: Good) -> None:
    [resource] = load_text(json.dumps(case.object))
    assert load_text(dump_yaml(resource)) == [resource]
    [filled] = load_text(dump_yaml(resource, defaults=True))
    assert filled.to_dict(defaults=True) == resource.to_dict(defaults=True)


def test_a_dump_says_only_what_was_said() -> None:
    [synthesis] = load_text(GOOD_TEXT)
    assert dump_yaml(synthesis).splitlines()[:3] == [
        "apiVersion: sartor.dev/v1alpha1",
        "kind: ServingSynthesis",
        "metadata:",
    ]
    assert "budget" not in dump_yaml(synthesis)
    assert "budget" in dump_yaml(synthesis, defaults=True)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_whatever_the_text_there_is_a_resource_or_a_sentence(text: str) -> None:
    try:
        load_text(text)
    except LoadError as error:
        assert error.problems


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_whatever_stands_in_a_field_there_is_a_resource_or_a_sentence(data: st.DataObject) -> None:
    broken = copy.deepcopy(FULL_SYNTHESIS)
    place = broken
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(VALUES)
        break
    try:
        load_text(json.dumps(broken))
    except LoadError as error:
        for problem in error.problems:
            assert problem.message


def examples() -> list[Path]:
    return sorted(EXAMPLES.glob("*/*.yaml"))


@pytest.mark.parametrize("path", examples(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_examples_are_good_and_listed(path: Path) -> None:
    resources = load_file(path)
    wanted = HardwareTarget if path.stem == "hardware" else ServingSynthesis
    assert [type(resource) for resource in resources] in ([wanted], [AgentProfile, wanted], [HardwareTarget, wanted])
    assert f"({path.relative_to(EXAMPLES)})" in (EXAMPLES / "README.md").read_text()


def test_there_are_examples() -> None:
    assert len(examples()) >= 6
