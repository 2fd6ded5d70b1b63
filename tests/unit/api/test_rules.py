"""Every rule has an object that breaks it and objects that keep it, and says what to change."""

import json
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from sartor_api import KINDS, LoadError, broken_transitions, load_text
from sartor_api.base import ApiModel, Rule, TransitionRule

from .cases import BAD, GOOD, UPDATES, Bad, Good, Update


def _models(model: type[ApiModel] = ApiModel) -> Iterator[type[ApiModel]]:
    for below in model.__subclasses__():
        yield below
        yield from _models(below)


RULES: list[Rule] = [rule for model in _models() for rule in model.rules]
TRANSITIONS: list[TransitionRule] = [rule for model in _models() for rule in model.transitions]


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_good_objects_are_taken_and_come_back_unchanged(case: Good) -> None:
    [resource] = load_text(json.dumps(case.object))
    assert resource.to_dict() == case.object


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_bad_objects_are_refused_where_they_are_bad(case: Bad) -> None:
    with pytest.raises(LoadError) as refused:
        load_text(json.dumps(case.object))
    problems = refused.value.problems
    assert [(p.path, case.message in p.message) for p in problems] == [(case.path, True)], problems


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.message[:50])
def test_every_rule_is_broken_by_a_case(rule: Rule) -> None:
    assert any(case.both and case.message in rule.message for case in BAD)


@pytest.mark.parametrize("rule", TRANSITIONS, ids=lambda rule: rule.message[:50])
def test_every_transition_is_broken_by_a_case(rule: TransitionRule) -> None:
    assert any(case.broken and case.broken in rule.message for case in UPDATES)


@pytest.mark.parametrize("case", UPDATES, ids=lambda case: case.name)
def test_updates(case: Update) -> None:
    [old], [new] = load_text(json.dumps(case.old)), load_text(json.dumps(case.new))
    broken = broken_transitions(new, old)
    assert [case.broken in message for _, message in broken] == ([True] if case.broken else [])
    assert broken_transitions(old, old) == []


@pytest.mark.parametrize("rule", [*RULES, *TRANSITIONS], ids=lambda rule: rule.message[:50])
def test_a_message_says_what_to_change(rule: Rule | TransitionRule) -> None:
    verbs = ("set", "remove", "write", "make", "raise", "lower", "change", "choose", "name", "use", "put", "allows")
    assert any(f"{verb} " in f"{rule.message} " for verb in verbs)
    assert not rule.message.endswith(".")


def test_objects_cannot_be_changed_in_place() -> None:
    [resource] = load_text(json.dumps(GOOD[0].object))
    assert isinstance(resource, BaseModel)
    with pytest.raises(ValueError, match="frozen"):
        setattr(resource, "metadata", None)  # noqa: B010


def test_every_kind_has_a_good_case() -> None:
    assert {case.object["kind"] for case in GOOD} == set(KINDS)
