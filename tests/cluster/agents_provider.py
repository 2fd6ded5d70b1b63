"""One scripted model in a cluster's network namespace: `python agents_provider.py CHARACTER PORT FOLDER`.

Writes FOLDER/CHARACTER.json when it is told to end: how many requests reached it, what was paid, what its tools said.
"""

import base64
import json
import signal
import sys
import threading
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "provider"))

from scripted_provider import Call, Program, Provider, Seen, Turn  # noqa: E402 - found by the line before
from scripted_provider.programs import cheat, honest, outage, sloppy, spendthrift  # noqa: E402

STACK = {"__main__.py": "print('a stack')\n", "notes.md": "# what was done\n"}
PADDING = "thinking about it " * 40_000
"""Of every answer of the talkative one: 0.7 MB."""


def files(number: int) -> dict[str, str] | None:
    return STACK | {"round.py": f"ROUND = {number}\n"} if number == 1 else None


class Prisoner:
    """Plans honestly, then runs the escape battery in its pod instead of an engineer's commands, and says it is done.

    Some attempts in each turn: the battery is part of the conversation, and is paid for with every turn.
    """

    AT_ONCE = 10

    def __init__(self, battery: str, world: str, attempts: list[str]) -> None:
        self._engineer = honest.Engineer(files)
        self._attempts = attempts
        encoded = base64.b64encode(world.encode()).decode()
        self._written = {**STACK, "attempts.py": battery, "world.txt": encoded}
        self.told: list[str] = []

    def __call__(self, seen: Seen) -> Turn:
        if "run_command" not in seen.tools:
            return self._engineer(seen)
        if seen.turns == 0:
            calls = (Call("write_file", {"path": f"stack/{p}", "content": c}) for p, c in self._written.items())
            return Turn(calls=tuple(calls))
        if names := self._attempts[self.AT_ONCE * (seen.turns - 1) : self.AT_ONCE * seen.turns]:
            commands = (f"python stack/attempts.py {name} @stack/world.txt" for name in names)
            return Turn(calls=tuple(Call("run_command", {"command": one, "seconds": 30}) for one in commands))
        self.told = [item.text for item in seen.results[len(self._written) :]]
        return Turn(text=json.dumps({"summary": "tried to get out"}))


def talkative(seen: Seen) -> Turn:
    """The honest one, who writes a lot around it."""
    turn = honest.Engineer(files)(seen)
    return Turn(text=f"{PADDING}\n{turn.text}", calls=turn.calls, piece=65536)


def character(name: str, folder: Path) -> Program:
    match name:
        case "honest" | "honest-shell" | "reviewed":
            return honest.Engineer(files)
        case "engineer" | "cheat":
            stacks = json.loads((folder / f"{name}-stacks.json").read_text())
            if name == "cheat":
                return cheat.Cheat(stacks)
            return honest.Engineer(lambda number: stacks[number - 1] if number <= len(stacks) else None, checks=True)
        case "talkative":
            return talkative
        case "prisoner":
            battery = (HERE.parent / "sandbox" / "attempts.py").read_text()
            given = json.loads((folder / "prisoner-world.json").read_text())
            return Prisoner(battery, json.dumps(given["world"]), given["attempts"])
        case "sloppy":
            return sloppy.never_valid
        case "outage":
            return outage.Before(honest.Engineer(files), outage.TROUBLE[:3])
        case "dead":
            return outage.dead
        case "spendthrift":
            engineer, spender = honest.Engineer(files), spendthrift.spender("read_file", tokens=1500)
            return lambda seen: spender(seen) if "write_file" in seen.tools else engineer(seen)
        case _:
            raise SystemExit(f"no character {name}")


def main(name: str, port: int, folder: Path) -> None:
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    program = character(name, folder)
    if isinstance(program, cheat.Cheat):
        program.port = port
    with Provider(program, port=port) as provider:
        print("ready", flush=True)
        over.wait()
        told = {
            "requests": len(provider.seen),
            "refused": provider.refused,
            "tokens": sum(one.input + one.output for one in provider.paid),
            "keys": sorted({seen.headers.get("authorization", "") for seen in provider.seen}),
            "told": getattr(program, "told", []),
            "talks": getattr(program, "talks", []),
            "heard": sorted({item.text for seen in provider.seen for item in seen.items if item.kind == "result"}),
        }
        (folder / f"{name}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
