"""`kubectl sartor`: look at a rollout, and say what you want of it. Each command is one plain patch of `spec.control`.

It is a front for `kubectl`, so that whatever that is told (kubeconfig, context, namespace, proxy) holds here, too. Nothing
here is needed: the patches are in docs/rollouts/control.md.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]
Control = Mapping[str, Any]

PATCHES: Mapping[str, Control] = {
    "pause": {"pause": True},
    "promote": {"promote": True, "pause": False, "abort": False, "undo": False},
    "abort": {"abort": True, "promote": False},
    "undo": {"undo": True, "promote": False},
}
"""What each command writes into `spec.control`. `resume` depends on what the rollout waits for."""

_SAID = {
    "pause": "stands still from now on; resume goes on",
    "resume": "goes on",
    "promote": "moves all traffic to the candidate, once it has the capacity",
    "abort": "gives all traffic back to the baseline",
    "undo": "returns to the baseline, as fast as that has the capacity",
}


class PluginError(Exception):
    """A command that cannot be carried out; the text says what to do instead."""


def resume_patch(rollout: Mapping[str, Any]) -> Control:
    """What makes a rollout go on: from a human's pause, or past a pause step without end."""
    spec, status = rollout.get("spec") or {}, rollout.get("status") or {}
    steps: list[dict[str, Any]] = (spec.get("policy") or {}).get("steps") or []
    number = int(status.get("step") or 0)
    patch: dict[str, Any] = {"pause": False}
    step = steps[number - 1] if 0 < number <= len(steps) else {}
    if status.get("phase") != "Paused" or (spec.get("control") or {}).get("pause"):
        return patch
    if "pause" in step and not (step["pause"] or {}).get("duration"):
        if number == len(steps):
            return {**patch, "promote": True, "abort": False, "undo": False}
        return {**patch, "skipToStep": number + 1}
    raise PluginError(f"{_name(rollout)} waits for a decision: {status.get('message', '')}; promote or abort it")


def shown(rollout: Mapping[str, Any]) -> str:
    """A rollout on one screen."""
    spec, status = rollout.get("spec") or {}, rollout.get("status") or {}
    steps = (spec.get("policy") or {}).get("steps") or []
    step = f", step {status['step']} of {len(steps)}" if status.get("step") else ""
    lines = [f"{_name(rollout)}: {status.get('phase', 'Pending')}{step}", f"  {status.get('message', '')}"]
    rows: list[tuple[str, ...]] = [("ARM", "SERVICE", "WEIGHT", "WANTED", "READY", "SAMPLES", "ERRORS", "HANDOVERS")]
    for arm in ("baseline", "candidate"):
        of = status.get(arm) or {}
        numbers = (of.get(k, 0) for k in ("weight", "wantedWeight", "readyReplicas", "samples", "errors", "handovers"))
        rows.append((arm, str((spec.get(arm) or {}).get("service", "")), *(str(n) for n in numbers)))
    lines += _table(rows)
    verdict = status.get("verdict") or {}
    if verdict:
        lines.append(f"  verdict: {verdict.get('outcome')} at {verdict.get('at')}: {verdict.get('message', '')}")
        guards: list[tuple[str, ...]] = [("GUARDRAIL", "OUTCOME", "BASELINE", "CANDIDATE", "SOURCE")]
        for one in verdict.get("guardrails") or ():
            keys = ("metric", "outcome", "baseline", "candidate", "source")
            guards.append(tuple(str(one.get(key) or "-") for key in keys))
        lines += _table(guards) if len(guards) > 1 else []
    for one in status.get("conditions") or ():
        if one.get("type") in ("Frozen", "Stalled") and one.get("status") == "True":
            lines.append(f"  {one['type']} since {one.get('lastTransitionTime')}: {one.get('reason')}")
    return "\n".join(lines)


def _name(rollout: Mapping[str, Any]) -> str:
    meta = rollout.get("metadata") or {}
    return f"{meta.get('namespace', '')}/{meta.get('name', '')}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def documents(stream: Iterable[str]) -> Iterator[dict[str, Any]]:
    """JSON documents one after the other, as `kubectl get --watch -o json` writes them."""
    decoder, text = json.JSONDecoder(), ""
    for line in stream:
        text += line
        if not line.startswith("}"):
            continue  # a document of kubectl ends with a brace in the first column
        found, end = decoder.raw_decode(text.lstrip())
        text = text.lstrip()[end:]
        yield found


def parser() -> argparse.ArgumentParser:
    """The options; their help is the reference."""
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("-n", "--namespace", help="namespace of the rollout; by default that of the context")
    where.add_argument("--context", help="context of the kubeconfig")
    where.add_argument("--kubeconfig", help="kubeconfig")
    root = argparse.ArgumentParser(prog="kubectl sartor", description="Look at a rollout, and steer it.")
    commands = root.add_subparsers(dest="command", required=True)
    look = commands.add_parser("status", parents=[where], help="where a rollout stands")
    look.add_argument("-w", "--watch", action="store_true", help="show every change until interrupted")
    look.add_argument("name")
    for command in ("pause", "resume", "promote", "abort", "undo"):
        one = commands.add_parser(command, parents=[where], help=f"the rollout {_SAID[command]}")
        one.add_argument("--dry-run", action="store_true", help="print the kubectl command instead of running it")
        one.add_argument("name")
    return root


def _base(given: argparse.Namespace) -> list[str]:
    options = (("--kubeconfig", given.kubeconfig), ("--context", given.context), ("--namespace", given.namespace))
    return ["kubectl", *(part for flag, value in options if value for part in (flag, value))]


def _get(base: Sequence[str], name: str, run: Run) -> dict[str, Any]:
    done = run([*base, "get", "servingrollouts.sartor.dev", name, "-o", "json"])
    if done.returncode != 0:
        raise PluginError(done.stderr.strip() or f"kubectl ended with code {done.returncode}")
    return json.loads(done.stdout)


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _watch(command: Sequence[str], out: TextIO) -> int:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for found in documents(process.stdout):
                if found.get("kind") == "Status":  # the API server's last words in a watch
                    process.terminate()
                    raise PluginError(f"the watch ended: {found.get('message', '')}; begin another one")
                out.write(shown(found) + "\n\n")
                out.flush()
        except KeyboardInterrupt:
            process.terminate()
            return 0
    return process.returncode


def main(arguments: Sequence[str] | None = None, *, run: Run = _run, out: TextIO | None = None) -> int:
    """0: done; 1: refused or impossible, said on standard error; 2: wrong usage."""
    given = parser().parse_args(arguments)
    base, name = _base(given), str(given.name)
    screen = out or sys.stdout
    try:
        if given.command == "status":
            if given.watch:
                return _watch([*base, "get", "servingrollouts.sartor.dev", name, "-o", "json", "--watch"], screen)
            screen.write(shown(_get(base, name, run)) + "\n")
            return 0
        control = resume_patch(_get(base, name, run)) if given.command == "resume" else PATCHES[given.command]
        text = json.dumps({"spec": {"control": dict(control)}}, separators=(",", ":"))
        command = [*base, "patch", "servingrollouts.sartor.dev", name, "--type=merge", "-p", text]
        if given.dry_run:
            screen.write(" ".join([*command[:-1], f"'{text}'"]) + "\n")
            return 0
        done = run(command)
        if done.returncode != 0:
            raise PluginError(done.stderr.strip() or f"kubectl ended with code {done.returncode}")
    except PluginError as error:
        sys.stderr.write(f"kubectl sartor: {error}\n")
        return 1
    except FileNotFoundError:
        sys.stderr.write(
            "kubectl sartor: there is no kubectl in PATH; install it, or apply the patches by other means\n"
        )
        return 1
    screen.write(f"{name} {_SAID[given.command]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
