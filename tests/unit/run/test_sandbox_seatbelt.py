"""The profile's text. It was never given to a Mac."""

from pathlib import Path

import pytest

from sartor_agents.run.sandbox import seatbelt


def parsed(text: str) -> list[str]:
    """The forms of the profile; fails where brackets do not close."""
    forms: list[str] = []
    depth, quoted, begin, escaped = 0, False, 0, False
    for at, character in enumerate(text):
        if quoted:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                quoted = False
        elif character == '"':
            quoted = True
        elif character == "(":
            begin = at if depth == 0 else begin
            depth += 1
        elif character == ")":
            depth -= 1
            assert depth >= 0
            if depth == 0:
                forms.append(" ".join(text[begin : at + 1].split()))
    assert depth == 0 and not quoted
    return forms


def test_everything_is_denied_but_what_is_named() -> None:
    text = seatbelt.profile(readable=[Path("/opt/python")], writable=[Path("/runs/1/worktree")])
    forms = parsed(text)
    assert forms[:2] == ["(version 1)", "(deny default)"]
    assert all(form.startswith("(allow ") for form in forms[2:])
    writing = [form for form in forms if form.startswith("(allow file-write")]
    assert writing == ['(allow file-write* (literal "/dev/null") (subpath "/runs/1/worktree"))']
    reading = next(form for form in forms if form.startswith("(allow file-read* "))
    assert '(subpath "/opt/python")' in reading and '(subpath "/")' not in reading and "/Users" not in text
    assert "network" not in text and "iokit" not in text and "mach" not in text


def test_ways_are_ports_of_this_machine_and_the_gpu_is_asked_for() -> None:
    forms = parsed(seatbelt.profile(readable=[], writable=[Path("/w")], ports=(8080,), metal=True))
    assert [form for form in forms if "network" in form] == ['(allow network-outbound (remote tcp "localhost:8080"))']
    assert any("iokit-open" in form for form in forms)


def test_a_path_cannot_add_rules() -> None:
    hostile = '/w")) (allow default) (allow file-write* (subpath "/'
    forms = parsed(seatbelt.profile(readable=[], writable=[Path(hostile)]))
    assert "(allow default)" not in forms
    with pytest.raises(ValueError, match="control characters"):
        seatbelt.profile(readable=[Path("/a\nb")], writable=[])


def test_the_command_is_passed_on_as_it_is() -> None:
    assert seatbelt.confined(("make", "all"), "(version 1)") == (
        "/usr/bin/sandbox-exec", "-p", "(version 1)", "make", "all",
    )  # fmt: skip
