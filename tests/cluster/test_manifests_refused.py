"""A bad manifest is refused with a sentence that says what to change; a good one is taken, and stays.

Two tables: `manifests/KIND.yaml` has what only the API server words (types, bounds, unknown fields, forms of text), and
`tests/unit/api/cases.py` has the rules, which Python and the API server say in the same words.
"""

import copy
import json
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults_support import Api
from operator_support import prepare

from sartor_api import KINDS, LoadError, load_text
from sartor_devcluster import DevCluster

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "unit"))

from api import cases  # noqa: E402 - found by the line before

EXAMPLES = sorted((HERE.parents[1] / "examples").rglob("*.yaml"))
NAMESPACE = "manifests"


@pytest.fixture(scope="module")
def prepared(cluster: DevCluster) -> Iterator[DevCluster]:
    prepare(cluster)
    cluster.kubectl("create", "namespace", NAMESPACE, check=True)
    yield cluster
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false", check=True)


def applied(cluster: DevCluster, manifest: dict[str, Any], *arguments: str) -> tuple[int, str]:
    """The exit code of `kubectl apply`, and what it said to whoever ran it."""
    done = cluster.kubectl("apply", "-n", NAMESPACE, *arguments, "-f", "-", input=json.dumps(manifest))
    return done.returncode, done.stdout + done.stderr


def table(kind: str) -> dict[str, Any]:
    return yaml.safe_load((HERE / "manifests" / f"{kind}.yaml").read_text(encoding="utf-8"))


def written(value: Any) -> Any:
    """A value of the tables: `{long: n}` is a text of n characters, `{repeat: value, times: n}` a list."""
    match value:
        case {"long": int(count), **rest} if not rest:
            return "n" * count
        case {"repeat": one, "times": int(count)}:
            return [copy.deepcopy(one) for _ in range(count)]
        case dict():
            return {key: written(below) for key, below in value.items()}
        case list():
            return [written(below) for below in value]
        case _:
            return value


def bad(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    manifest = getattr(cases, row.get("base") or table(kind)["base"])
    for path, value in row.get("set", {}).items():
        manifest = cases.changed(manifest, path, written(value))
    for path in row.get("remove", ()):
        manifest = cases.changed(manifest, path, cases.ABSENT)
    return manifest


ROWS = [(kind, row) for kind in KINDS for row in table(kind)["refused"]]
DURATIONS = ("1m", "60s", "59999ms", "0h59s", "1d", "1d59s", "99999d99999h", "0", "5", "7w", "1m1h")


@pytest.fixture(scope="module")
def answers(prepared: DevCluster, request: pytest.FixtureRequest) -> dict[int, tuple[int, str]]:
    """What the API server said of the manifests of all tests that are to run, by the identity of their case or row.

    Asked as `kubectl` asks, strictly, but without its start, which is a third of a second of a core for each;
    that it prints this very answer is seen in `test_kubectl_prints_what_the_server_says`.
    """
    wanted: dict[int, list[dict[str, Any]]] = {}
    for item in request.session.items:
        given = getattr(getattr(item, "callspec", None), "params", {})
        if "row" in given:
            wanted[id(given["row"])] = [bad(given["kind"], given["row"])]
        elif isinstance(case := given.get("case"), cases.Bad | cases.Update):
            steps = [case.object] if isinstance(case, cases.Bad) else [case.old, case.new]
            if "status" in steps[-1]:  # which is no part of what is created
                steps = [{key: value for key, value in steps[0].items() if key != "status"}, *steps]
            if len(steps) > 1:  # it will be there: under a name of its own
                steps = [cases.changed(one, "metadata.name", f"changing-{len(wanted)}") for one in steps]
            wanted[id(case)] = steps
    api = Api(prepared.kubeconfig)
    return {key: asked(api, manifests) for key, manifests in wanted.items()}


def collection(manifest: dict[str, Any]) -> str:
    """The path of all objects of its kind."""
    naming = KINDS[manifest["kind"]].naming
    place = "" if naming.cluster_scoped else f"/namespaces/{NAMESPACE}"
    return f"/apis/{manifest['apiVersion']}{place}/{naming.plural}"


def asked(api: Api, manifests: list[dict[str, Any]]) -> tuple[int, str]:
    """The status and the sentence of the answer to the last; those before are taken, and it changes them."""
    created: dict[str, Any] | None = None
    for manifest in manifests:
        path = collection(manifest)
        body, method = copy.deepcopy(manifest), "POST"
        if created is not None:
            path, method = f"{path}/{created['metadata']['name']}", "PUT"
            path += "/status" if "status" in manifest else ""
            body["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"]
        try:
            created = api.send(method, f"{path}?fieldValidation=Strict", body)
        except urllib.error.HTTPError as error:
            assert manifest is manifests[-1], error.__notes__
            return error.code, json.loads(error.__notes__[0])["message"]
    return 200, ""


@pytest.mark.parametrize(("kind", "row"), ROWS, ids=[f"{kind}: {row['name']}" for kind, row in ROWS])
def test_a_bad_manifest_is_refused_and_told_why(
    answers: dict[int, tuple[int, str]], kind: str, row: dict[str, Any]
) -> None:
    code, said = answers[id(row)]
    assert code in (400, 422) and kind in said, said
    assert [words for words in row["says"] if words not in said] == [], said
    unwanted = [*row.get("not", ()), "should match '", "evaluating rule", "no such overload"]
    assert [words for words in unwanted if words in said] == [], said
    assert len(said) < 2000, "an answer that nobody reads"


@pytest.mark.parametrize("kind", KINDS)
def test_kubectl_prints_what_the_server_says(prepared: DevCluster, kind: str) -> None:
    """Of a field that nobody knows, and of one that is missing."""
    unknown, missing, *_ = table(kind)["refused"]
    for row in (unknown, missing):
        code, said = applied(prepared, bad(kind, row))
        assert code == 1, said
        assert [words for words in row["says"] if words not in said] == [], said


@pytest.mark.parametrize("case", cases.BAD, ids=[f"{case.object['kind']}: {case.name}" for case in cases.BAD])
def test_a_broken_rule_is_said_where_it_is_broken(answers: dict[int, tuple[int, str]], case: cases.Bad) -> None:
    code, said = answers[id(case)]
    assert code in (400, 422), said
    if case.both:
        assert case.message in said and ("metadata" in case.path or case.path in said), said


@pytest.mark.parametrize("case", cases.UPDATES, ids=lambda case: case.name)
def test_what_may_not_change_is_refused_after_it_was_made(
    answers: dict[int, tuple[int, str]], case: cases.Update
) -> None:
    code, said = answers[id(case)]
    if case.broken is None:
        assert code == 200, said
    else:
        assert code == 422 and case.broken in said, said


@pytest.mark.parametrize("kind", KINDS)
def test_the_shortest_useful_manifest_is_taken_and_does_not_change(prepared: DevCluster, kind: str) -> None:
    meta = {"name": "shortest"}
    manifest = {"apiVersion": "sartor.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": table(kind)["shortest"]}
    try:
        assert applied(prepared, manifest) == (0, f"{kind.lower()}.sartor.dev/shortest created\n")
        assert applied(prepared, manifest) == (0, f"{kind.lower()}.sartor.dev/shortest unchanged\n")
        code, said = applied(prepared, manifest, "--server-side", "--force-conflicts")
        assert (code, said) == (0, f"{kind.lower()}.sartor.dev/shortest serverside-applied\n")
    finally:
        prepared.kubectl("delete", KINDS[kind].naming.plural, "shortest", "-n", NAMESPACE, "--wait=false", check=True)


@pytest.mark.parametrize("case", cases.GOOD, ids=lambda case: case.name)
def test_good_manifests_are_taken_with_the_defaults_that_python_has(prepared: DevCluster, case: cases.Good) -> None:
    path, manifest = collection(case.object), cases.changed(case.object, "metadata.name", "good")
    api = Api(prepared.kubeconfig)
    taken = api.send("POST", f"{path}?fieldValidation=Strict&dryRun=All", manifest)
    (resource,) = load_text(json.dumps(case.object))
    ours = resource.to_dict(defaults=True)
    assert taken["spec"] == ours["spec"]
    if "status" in manifest:
        created = api.send("POST", f"{path}?fieldValidation=Strict", manifest)
        manifest["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"]
        taken = api.send("PUT", f"{path}/good/status?fieldValidation=Strict", manifest)
        assert taken["status"] == ours["status"]


@pytest.mark.parametrize("text", DURATIONS)
def test_durations_mean_the_same(prepared: DevCluster, text: str) -> None:
    manifest = cases.changed(cases.SYNTHESIS, "spec.budget.wallClock", text)
    try:
        load_text(json.dumps(manifest))
        expected = 200
    except LoadError:
        expected = 422
    api = Api(prepared.kubeconfig)
    try:
        api.send("POST", f"{collection(manifest)}?fieldValidation=Strict&dryRun=All", manifest)
        code = 200
    except urllib.error.HTTPError as error:
        code = error.code
    assert code == expected


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(path.parents[2])))
def test_examples_are_taken_and_do_not_change(prepared: DevCluster, path: Path) -> None:
    """Each document of the file, in the namespace of the test; what only `sartor run` understands is taken as well."""
    documents = [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]
    assert documents
    ours = [one for one in documents if one.get("apiVersion") == "sartor.dev/v1alpha1"]
    for one in ours:
        one["metadata"].pop("namespace", None)
    for manifest in ours:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        try:
            assert applied(prepared, manifest) == (0, f"{kind.lower()}.sartor.dev/{name} created\n")
            assert applied(prepared, manifest) == (0, f"{kind.lower()}.sartor.dev/{name} unchanged\n")
        finally:
            plural = KINDS[kind].naming.plural
            prepared.kubectl("delete", plural, name, "-n", NAMESPACE, "--ignore-not-found", "--wait=false", check=True)
