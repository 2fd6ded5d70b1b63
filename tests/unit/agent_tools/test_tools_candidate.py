"""A real stack on a real model in the real sandbox: started, asked, checked, profiled, found out when wrong."""

from collections.abc import Iterator

import pytest

from sartor_agents.backends.playbook import facts
from sartor_agents.backends.playbook.compose import Selection, Target, compose
from sartor_agents.checkpoints import make
from sartor_agents.tools.roles import implementer_tools
from sartor_skills.catalog import load_catalog

from .conftest import Bench, implement_context, needs_sandbox, run_spec

pytestmark = needs_sandbox


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("candidate")
    make("chain", "llama", "tiny", 0, root / "model")
    recipes = load_catalog().recipes(architecture="llama", platform="cpu", scenario="code-edit")
    selection = Selection({name: recipes[name].defaults() for name in ("serving-core", "native-decoder")})
    target = Target(
        model_name="tiny", model=facts.model_spec(root / "model"), scenario="code-edit", platform="cpu",
        envelope={"MAX_MODEL_LEN": 1024, "MAX_INPUT_TOKENS": 768, "MAX_OUTPUT_TOKENS": 256}, concurrency=4,
        provenance={"run": "test"},
    )  # fmt: skip
    compose(selection, target, recipes, root / "worktree" / "stack")
    (root / "scratch").mkdir()
    run = run_spec(parameters={"file_tokens": 64, "output_tokens": 24})
    context = implement_context(root / "worktree", root / "model", run=run)
    with implementer_tools(context, scratch=root / "scratch", checkpoint=root / "model") as made:
        yield Bench(root, root / "worktree", made)


def test_it_is_started_asked_checked_and_stopped(bench: Bench) -> None:
    assert "not running" in bench.fails("smoke_check")
    assert "Ready after" in bench.ok("start_candidate")
    answer = bench.ok("send_request", path="/v1/completions", body={"model": "tiny", "prompt": "a", "max_tokens": 4})
    assert answer.startswith("[HTTP 200, application/json, first byte ") and '"completion_tokens":4' in answer.replace(
        " ", ""
    )
    assert bench.ok("send_request", path="/v1/models", method="GET").startswith("[HTTP 200")
    checks = bench.ok("smoke_check")
    assert checks.count("ok ") == 10 and "reference" in checks
    assert bench.ok("stop_candidate").startswith("Stopped")
    assert "not running" in bench.fails("send_request", path="/health", method="GET")


def test_a_wrong_answer_is_found_out(bench: Bench) -> None:
    """The text of another token: fluent, deterministic, and not the model's."""
    written = bench.worktree / "stack" / "detokenize.py"
    kept = written.read_text()
    bench.ok("edit_file", path="stack/detokenize.py", old="self._pieces[token])", new="self._pieces[token ^ 1])")
    bench.ok("start_candidate")
    assert "FAILED  reference: not the model's greedy answer" in bench.fails("smoke_check")
    written.write_text(kept)


def test_a_stack_that_does_not_start_says_so(bench: Bench) -> None:
    main = bench.worktree / "stack" / "__main__.py"
    kept = main.read_text()
    main.write_text("raise SystemExit('no such luck')\n")
    assert "no such luck" in bench.fails("start_candidate")
    main.write_text("import sys\nif 'serve' in sys.argv: raise SystemExit('not today')\n")
    assert "not today" in bench.fails("start_candidate")
    main.write_text(kept)


def test_where_its_time_goes(bench: Bench) -> None:
    text = bench.ok("profile", body={"prompt": "a", "max_tokens": 16}, seconds=2)
    assert "requests in 2 s at concurrency 1" in text and "anywhere in the stack:" in text and ".py:" in text
