"""Folding keeps exactly the branch that the spec takes; pruning drops what nothing uses and nothing else."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor_agents.backends.playbook.specialize import fold, prune


def code(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


CHAIN = code(
    """
    def step(x):
        # which way
        if spec.MODE == "a":
            y = 1
        elif spec.MODE == "b" and x:
            y = 2
        elif spec.MODE == "c":
            y = 3  # three
        else:
            y = 4
        return y
    """
)


@pytest.mark.parametrize("mode", ["a", "b", "c", "d"])
@pytest.mark.parametrize("x", [0, 1])
def test_folded_code_behaves_as_the_general_code(mode: str, x: int) -> None:
    class Spec:
        MODE = mode

    general: dict[str, object] = {"spec": Spec}
    exec(CHAIN, general)
    special: dict[str, object] = {}
    folded = fold(CHAIN, {"MODE": mode})
    exec(folded, special)  # no `spec` in scope: every condition must be gone
    assert special["step"](x) == general["step"](x)  # type: ignore[operator]
    assert "# which way" in folded


def test_a_decided_elif_becomes_the_else() -> None:
    source = code(
        """
        if flag:
            run()
        elif spec.ON:
            walk()
        else:
            stand()
        """
    )
    assert fold(source, {"ON": True}) == "if flag:\n    run()\nelse:\n    walk()\n"
    assert fold(source, {"ON": False}) == "if flag:\n    run()\nelse:\n    stand()\n"


def test_a_false_head_lets_the_elif_stand_for_itself() -> None:
    source = "if spec.ON:\n    a()\nelif flag:\n    b()\n"
    assert fold(source, {"ON": False}) == "if flag:\n    b()\n"


@given(st.booleans(), st.booleans())
def test_boolean_operations_keep_the_undecided_side(on: bool, flag: bool) -> None:
    source = "r = (spec.ON and flag, spec.ON or flag, not spec.ON, 1 if spec.ON else 2)\n"
    special: dict[str, object] = {"flag": flag}
    exec(fold(source, {"ON": on}), special)
    assert special["r"] == (on and flag, on or flag, not on, 1 if on else 2)


def test_values_that_are_not_conditions_stay_named() -> None:
    assert fold("pages = tokens // spec.PAGE_TOKENS\n", {"PAGE_TOKENS": 16}) == "pages = tokens // spec.PAGE_TOKENS\n"


def test_conditional_imports_become_plain_ones_or_go() -> None:
    source = "if spec.SPECULATION != 'none':\n    from .speculation import Draft\n"
    assert fold(source, {"SPECULATION": "prediction"}) == "from .speculation import Draft\n"
    assert fold(source, {"SPECULATION": "none"}).strip() == ""


def test_prune_drops_what_nothing_uses_to_a_fixed_point() -> None:
    modules = {
        "__main__": "from . import app\n\napp.serve()\n",
        "app": code(
            """
            LIMIT = 3
            DEAD = 4

            def serve():
                return Server()._used() + LIMIT

            def dead():
                return only_used_by_the_dead()

            def only_used_by_the_dead():
                return dead_too()

            def dead_too():
                return 1

            class Server:
                def _used(self):
                    return 1

                def _unused(self):
                    return self._unused()

                def public(self):
                    return 2
            """
        ),
        "lonely": "X = 1\n",
    }
    out = prune(modules, "__main__")
    assert set(out) == {"__main__", "app"}
    for gone in ("DEAD", "def dead", "only_used_by_the_dead", "dead_too", "_unused"):
        assert gone not in out["app"]
    for kept in ("LIMIT = 3", "def serve", "def _used", "def public"):
        assert kept in out["app"]


def test_a_module_that_lost_its_last_use_goes_with_it() -> None:
    modules = {
        "__main__": "from .a import f\n\n\ndef g():\n    from .b import h\n    return h\n\n\nf()\n",
        "a": "def f(): ...\n",
        "b": "h = 1\n",
    }
    assert set(prune(modules, "__main__")) == {"__main__", "a"}
