"""An engineer that gets there: looks, writes, makes a mistake, sees it, mends it, checks, and says what it did.

It follows the conversation alone: what it does next depends on what it was told and on the results of its calls, so it goes
on where it was when a call is repeated. It works with Sartor's own tools, and with the shell that the Codex CLI gives it.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scripted_provider.wire import Call, Seen, Turn

SHELL = "exec_command"
"""The tool of the Codex CLI."""
AT_ONCE = 16
"""Files written in one turn."""

BROKEN = "def main(:\n    pass\n"
"""What the first version of the entry point looks like."""

Files = Mapping[str, str]
"""Of a working stack: content by path below `stack/`."""


@dataclass
class Engineer:
    """`stack` gives the files for a round (1, 2, …), None where it has no further idea. `checks`: it starts the candidate
    and runs the smoke check before it ends, if it has the tools."""

    stack: Callable[[int], Files | None]
    checks: bool = False
    entry: str = "__main__.py"
    talks: list[str] = field(default_factory=list)

    def __call__(self, seen: Seen) -> Turn:
        return self._plan(seen) if planned_round(seen) else self._implement(seen)

    # --- the planner --------------------------------------------------------------------------------------------------

    def _plan(self, seen: Seen) -> Turn:
        number = planned_round(seen)
        if not seen.results:
            looks = [Call(name, {}) for name in ("history", "roofline") if name in seen.tools]
            if SHELL in seen.tools:
                looks.append(_run(seen, "cat /model/config.json"))
            return Turn(text="First I look at what limits.", calls=tuple(looks))
        more = self.stack(number) is not None
        return _answer(seen, {
            "action": "build" if more else "stop",
            "parent": None,
            "hypothesis": f"idea {number}: a decoder without the engine's generality is faster for this one workload"
            if more
            else "nothing is left that could gain",
            "changes": [f"stack/{self.entry}: the server", "the decoder specialised to the model"],
            "evidence_active": "its own counters in /metrics",
            "refuted_by": "a speed-up below 1.05",
            "forecast_speedup": 2.0,
            "threshold_speedup": 1.05,
        })  # fmt: skip

    # --- the implementer ----------------------------------------------------------------------------------------------

    def _implement(self, seen: Seen) -> Turn:
        number = _last_number(r"idea (\d+):", seen)
        files = self.stack(number)
        assert files is not None, "a plan was made for it"
        done = seen.turns
        if done == 0:
            return Turn(text="I look before I write.", calls=_looks(seen))
        first = list({**files, self.entry: BROKEN}.items())
        writing = -(-len(first) // AT_ONCE)
        if done <= writing:
            part = first[AT_ONCE * (done - 1) : AT_ONCE * done]
            return Turn(calls=tuple(_write(seen, path, content) for path, content in part))
        step = done - writing - 1
        compiles = _run(seen, "python -m compileall -q stack && echo compiles")
        if step == 0:
            return Turn(calls=(compiles,))
        if step == 1:
            assert "SyntaxError" in seen.last, f"the mistake was not seen: {seen.last}"
            mended = _write(seen, self.entry, files[self.entry])
            return Turn(text="A slip in the signature; I mend it.", calls=(mended, compiles))
        if step == 2:
            assert "compiles" in seen.last, f"it does not compile: {seen.last}"
            if self.checks and "smoke_check" in seen.tools:
                return Turn(calls=(Call("start_candidate", {}), Call("smoke_check", {}), Call("stop_candidate", {})))
        self.talks.append(seen.results[-2].text if len(seen.results) > 1 else "")
        summary = f"Wrote the stack of idea {number}; it compiles and was checked."
        return _answer(seen, {"summary": summary, "skills_used": []})


def planned_round(seen: Seen) -> int:
    """The round that a planner is asked to plan; 0 in a conversation with somebody else."""
    found = re.findall(r"\b[Pp]lan round (\d+)\b", _told(seen))
    return int(found[-1]) if found else 0


def _looks(seen: Seen) -> tuple[Call, ...]:
    if SHELL in seen.tools:
        return (_run(seen, "ls -R stack; cat /model/config.json"),)
    looks = [Call("list_files", {}), Call("read_file", {"path": "/model/config.json"})]
    if "list_skills" in seen.tools:
        looks.append(Call("list_skills", {}))
    return tuple(looks)


def _run(seen: Seen, command: str) -> Call:
    if SHELL in seen.tools:
        return Call(SHELL, {"cmd": command, "yield_time_ms": 30_000})
    return Call("run_command", {"command": command, "seconds": 60})


def _write(seen: Seen, path: str, content: str) -> Call:
    if SHELL in seen.tools:
        text = f"mkdir -p $(dirname stack/{path})\ncat >stack/{path} <<'END OF FILE'\n{content}"
        return _run(seen, text + ("" if content.endswith("\n") else "\n") + "END OF FILE\n")
    return Call("write_file", {"path": f"stack/{path}", "content": content})


def _answer(seen: Seen, content: dict[str, object]) -> Turn:
    """The Codex CLI is given a strict schema: it takes the object alone, with all of its fields."""
    if SHELL not in seen.tools:
        return Turn(text=f"```json\n{json.dumps(content)}\n```")
    schema = seen.body["text"]["format"]["schema"]
    nothing = {name: [] if one.get("type") == "array" else None for name, one in schema["properties"].items()}
    return Turn(text=json.dumps({**nothing, **content}))


def _told(seen: Seen) -> str:
    return "\n".join(item.text for item in seen.items if item.kind == "user")


def _last_number(pattern: str, seen: Seen) -> int:
    found = re.findall(pattern, _told(seen))
    assert found, f"nothing like {pattern} in what was told"
    return int(found[-1])
